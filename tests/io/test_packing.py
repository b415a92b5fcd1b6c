"""Packing with gzip: what comes out decodes to what went in, and says nothing of when it was packed."""

import gzip
from itertools import pairwise

import numpy as np
import pytest

from viscera.io.packing import FIRST_BYTES, packed
from viscera.serving.nrrd import nrrd_bytes
from viscera.volume import Volume


@pytest.mark.parametrize("length", [0, 1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, 5_000_000])
@pytest.mark.parametrize("cuts", [(), (FIRST_BYTES, FIRST_BYTES + 7), (1_000_000, 4_000_000)])
def test_pythons_own_gzip_reads_what_was_packed(length, cuts):
    content = np.random.default_rng(0).integers(0, 3, length, np.uint8).tobytes()
    pieces = [memoryview(content)[start:end] for start, end in pairwise((0, *cuts, None))]
    assert gzip.decompress(b"".join(packed(pieces))) == content


def test_no_time_and_no_name_are_packed_into_a_nrrd_file():
    labels = Volume(np.eye(40, dtype=np.uint8)[None].repeat(8, axis=0), np.eye(4))
    content = nrrd_bytes(labels)
    stream = content[content.index(b"\n\n") + 2 :]
    flags, seconds = stream[3], stream[4:8]
    assert (flags, seconds) == (0, bytes(4))
    assert gzip.decompress(stream) == labels.voxels.tobytes()
