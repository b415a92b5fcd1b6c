"""viscera predict --cluster with scans at s3:// (moto) and https:// (own certificate), on this machine: as from the disk."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from faults.verbs import steady
from makers import call
from url_servers import SECRET, Handler, make_authority, s3_means, s3_server, servers
from viscera.errors import FileError
from viscera.inference.manifest import read_manifest
from viscera.io import nifti
from viscera.volume import Volume

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A small scan."""
    hu = np.random.default_rng(0).integers(-100, 150, (6, 24, 24)).astype(np.int16)
    file = tmp_path_factory.mktemp("scans") / "a.nii.gz"
    nifti.write(file, Volume(hu, AFFINE))
    return file


@pytest.fixture(scope="module")
def local(scan) -> dict[str, object]:
    """What comes of the scan from the disk."""
    out = scan.parent.with_name(f"{scan.parent.name}-out")
    code, said = call(f"predict {scan} {out}/ --device cpu")
    assert code == 0, said
    return contents(out)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Let tables keep their cells whole."""
    monkeypatch.setenv("COLUMNS", "600")


def contents(folder: Path) -> dict[str, object]:
    """Return what stands in a folder; of JSON what is the same in every run."""
    return {
        file.name: steady(json.loads(file.read_text())) if file.suffix == ".json" else file.read_bytes()
        for file in folder.iterdir()
    }


def test_urls_that_would_do_something_else_are_told_in_the_list(tmp_path):
    rows = {
        f"s3://me:{SECRET}@bucket/a.nii.gz": "keys in s3:// URLs are not used",
        "https://host/a.nii.gz::file:///etc/b.nii.gz": "a URL with '::' in it is not taken",
        f"https://[{SECRET}/a.nii.gz": "it is not a URL",
        "s3:///a.nii.gz": "without a bucket",
        f"https://me:{SECRET}@host:x/a.nii.gz": "it is not a URL",
    }
    (tmp_path / "list.csv").write_text("\n".join(["input", *rows]))
    with pytest.raises(FileError) as raised:
        read_manifest(tmp_path / "list.csv")
    for number, reason in enumerate(rows.values(), start=2):
        assert re.search(f"row {number}: [^;]*{re.escape(reason)}", str(raised.value))
    assert SECRET not in str(raised.value)


@pytest.mark.slow  # workers in processes of their own
def test_a_scan_by_https_gives_the_bits_of_the_file_and_its_key_is_nowhere(scan, local, tmp_path, monkeypatch):
    pem, tls = make_authority(tmp_path)
    with servers() as serve:
        place = serve(partial(Handler, directory=str(scan.parent)), tls)
        url = f"{place.replace('//', f'//me:{SECRET}@')}/a.nii.gz?signature={SECRET}"
        (tmp_path / "list.csv").write_text(f"input\n{url}\n{place}/gone.nii.gz?signature={SECRET}\n")
        command = f"predict {tmp_path}/list.csv {tmp_path}/out --device cpu --cluster local:1"
        code, said = call(command)
        assert code == 2
        assert said.count("certificate is not to be trusted") == 2, said
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))  # read where workers start
        code, more = call(command)
        assert code == 2
        assert "gone.nii.gz cannot be fetched: it is not there" in more
        assert SECRET not in said + more
        found = contents(tmp_path / "out")
        assert found.pop("gone.failed.json")
        assert found == local
        assert not any(SECRET.encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())
        code, more = call(command)
        assert "1 of 2 scans segmented" in more
        assert "(1 of them before)" in more


@pytest.mark.slow  # workers in processes of their own
def test_a_scan_by_s3_gives_the_bits_of_the_file_and_keys_are_nowhere(scan, local, tmp_path, monkeypatch):
    with s3_server(scan) as url, s3_means(tmp_path, monkeypatch) as means:
        means(url)
        (tmp_path / "list.csv").write_text("input\ns3://bucket/scans/a.nii.gz\n")
        command = f"predict {tmp_path}/list.csv {tmp_path}/out --device cpu --cluster local:1"
        code, said = call(command)
        assert code == 0, said
        assert contents(tmp_path / "out") == local
        assert SECRET not in said
        assert not any(SECRET.encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())
        assert "(1 of them before)" in call(command)[1]
