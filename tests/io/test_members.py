"""Gzip files of several members, whose border falls on the border of what is read at once."""

import gzip
import io
import struct
import zlib

import pytest

from viscera.io.unpacking import PART, _Members


def _member(content: bytes, length: int) -> bytes:
    """One member of just so many bytes: its header's extra fields fill it up."""
    packer = zlib.compressobj(1, wbits=-15)
    body = packer.compress(content) + packer.flush() + struct.pack("<II", zlib.crc32(content), len(content))
    fill = length - len(body) - 12
    assert 0 <= fill < 2**16
    found = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H", fill) + bytes(fill) + body
    assert gzip.decompress(found) == content
    return found


@pytest.mark.parametrize("short", [-1, 0, 1, 2, 9])
@pytest.mark.parametrize("zeros", [0, 3])
def test_a_second_member_is_found_wherever_the_first_one_ends_within_a_part(short, zeros):
    import random

    first = random.Random(0).randbytes(PART - 2000)
    packed = _member(first, PART - short) + bytes(zeros) + gzip.compress(b"second")
    members, found = _Members(io.BytesIO(packed)), bytearray()
    buffer = bytearray(100_000)
    while count := members.readinto(memoryview(buffer)):
        found += buffer[:count]
    assert bytes(found) == first + b"second"
    assert members.behind == 0


@pytest.mark.parametrize("behind", [b"x", b"xyz", b"\x1f"])
def test_what_stands_behind_the_last_member_is_counted_and_not_read(behind):
    members, buffer = _Members(io.BytesIO(gzip.compress(b"content") + behind)), bytearray(100)
    assert members.readinto(memoryview(buffer)) == 7
    assert members.readinto(memoryview(buffer)) == 0
    assert members.behind == len(behind)
    assert members.readinto(memoryview(buffer)) == 0
