import gc
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dicom_series import affine_of, ball, write_series
from viscera.dicom import packed
from viscera.dicom.finding import find_series
from viscera.errors import FileError


def zip_of(folder, file, names=None, *, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", compression) as target:
        for index, member in enumerate(sorted(one for one in folder.rglob("*") if one.is_file())):
            info = zipfile.ZipInfo("x")
            info.filename = names(index) if names else str(member.relative_to(folder))
            target.writestr(info, member.read_bytes(), compression)
    return file


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_read_like_a_folder(tmp_path, method):
    write_series(tmp_path / "series" / "deep" / "er")
    (tmp_path / "series" / "README").write_text("hello" * 100)
    found = find_series(zip_of(tmp_path / "series", tmp_path / "scan.zip", compression=method))
    [series] = found.series
    assert (series.read().voxels == ball()).all()
    assert series.affine == pytest.approx(affine_of())
    assert series.name == "scan"
    assert found.notes == ("1 file is not a CT slice and was left out (not DICOM 1)",)
    assert series.sha256() == find_series(tmp_path / "series").series[0].sha256()


def test_several_series_of_a_zip_are_called_like_their_folders_made_safe(tmp_path):
    write_series(tmp_path / "in" / "a", uids=("1.2.3", "1.2.4", "1.2.5"))
    write_series(tmp_path / "in" / "b", uids=("1.2.3", "1.2.6", "1.2.5"))
    names = [f"{'liver: 1' if index < 12 else 'x<y>|'}/{index}" for index in range(24)]
    found = find_series(zip_of(tmp_path / "in", tmp_path / "scan.zip", lambda index: names[index]))
    assert [one.name for one in found.series] == ["liver_ 1", "x_y"]


def test_only_this_user_can_read_what_was_unpacked_and_it_goes_with_the_last_series(tmp_path):
    write_series(tmp_path / "in")
    found = find_series(zip_of(tmp_path / "in", tmp_path / "scan.zip"))
    folder = found.series[0].files[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    series = found.series[0]
    del found
    gc.collect()
    assert (series.read().voxels == ball()).all()
    del series
    gc.collect()
    assert not folder.exists()


def test_it_goes_when_the_program_ends(tmp_path):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip")
    code = (
        "import sys; from pathlib import Path; from viscera.dicom.finding import find_series\n"
        "found = find_series(Path(sys.argv[1])); print(found.series[0].files[0].parent)\n"
        "assert found.series[0].files[0].exists()"
    )
    said = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout
    assert "viscera_" in said
    assert not Path(said.strip()).exists()


@pytest.fixture
def unpacked_nothing(tmp_path, monkeypatch):
    """Check that nothing is left behind, inside or outside of the temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield
    if list(temporary.iterdir()):
        gc.collect()  # an error's traceback may hold what holds the folder
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "..\\evil", "a\\..\\..\\evil"])
@pytest.mark.usefixtures("unpacked_nothing")
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip", lambda index: name if index == 5 else f"{index}")
    with pytest.raises(FileError, match="names that lead out of its folder"):
        find_series(file)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.usefixtures("unpacked_nothing")
def test_encrypted_zips_are_refused(tmp_path):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip")
    content = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    file.write_bytes(content)
    with pytest.raises(FileError, match="the ZIP is encrypted. Unpack it yourself"):
        find_series(file)


@pytest.mark.usefixtures("unpacked_nothing")
def test_zip_bombs_are_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target, target.open("0", "w") as member:
        member.write(b"\0" * 128 + b"DICM")
        for _ in range(100):
            member.write(bytes(1 << 20))
    with pytest.raises(FileError, match="times its size, as no scan does"):
        find_series(file)
    monkeypatch.setattr(packed, "MOST_BYTES", 1000)
    with pytest.raises(FileError, match="would unpack to 0 GiB, which is more"):
        find_series(file)
    monkeypatch.setattr(packed, "MOST_MEMBERS", 0)
    with pytest.raises(FileError, match="would unpack to 1 files"):
        find_series(file)


@pytest.mark.usefixtures("unpacked_nothing")
def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100})())
    with pytest.raises(FileError, match="free. Make room, or point TMPDIR"):
        find_series(file)


@pytest.mark.usefixtures("unpacked_nothing")
def test_members_that_are_longer_or_other_than_they_promise_are_refused(tmp_path):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip")
    good = file.read_bytes()
    central = good.find(b"PK\1\2")
    size = struct.unpack_from("<I", good, central + 24)[0]
    for promised in (size - 1000, size + 1000):
        content = bytearray(good)
        struct.pack_into("<I", content, central + 24, promised)
        file.write_bytes(content)
        with pytest.raises(FileError, match="the ZIP is damaged"):
            find_series(file)


@pytest.mark.usefixtures("unpacked_nothing")
def test_damaged_zips_are_refused_and_never_raise_anything_else(tmp_path):
    write_series(tmp_path / "in")
    good = zip_of(tmp_path / "in", tmp_path / "scan.zip").read_bytes()
    random = np.random.default_rng(5)
    file = tmp_path / "bad.zip"
    for length in (2, 4, 30, len(good) // 2, len(good) - 5):
        file.write_bytes(good[:length])
        with pytest.raises(FileError):
            find_series(file)
    for _ in range(60):
        content = bytearray(good)
        for at in random.integers(0, len(good), 8):
            content[at] = random.integers(256)
        file.write_bytes(content)
        try:
            found = find_series(file)
        except FileError:
            continue
        assert found.series or found.problems
        del found


@pytest.mark.usefixtures("unpacked_nothing")
def test_a_zip_without_ct_is_an_error_that_leaves_nothing_behind(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello")
    with pytest.raises(FileError, match="has no CT series: 1 file is not a CT slice"):
        find_series(zip_of(tmp_path / "in", tmp_path / "scan.zip"))


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    write_series(tmp_path / "in")
    file = zip_of(tmp_path / "in", tmp_path / "scan.zip")
    with zipfile.ZipFile(file, "a") as target:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        target.writestr(link, "/etc/passwd")
    found = find_series(file)
    assert len(found.series[0].files) == 12
    assert "not DICOM 1" in found.notes[0]
