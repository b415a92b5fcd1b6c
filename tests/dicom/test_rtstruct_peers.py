"""Structure sets as other people's programs take them: DICOM's validator, plastimatch (both from Debian), and back from it."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_series import write_series
from viscera.dicom.finding import find_series
from viscera.dicom.outputs import Maker
from viscera.dicom.rtstruct import write_rtstruct
from viscera.dicom.rtstruct_reading import read_rtstruct

MAKER = Maker("1.2.3", "starter 2", "ab" * 32)
NAMES = {1: "liver", 2: "kidney_left", 3: "spleen", 4: "pancreas", 5: "aorta"}
ROIS = {1: "Liver", 2: "Kidney_L", 3: "Spleen", 4: "Pancreas", 5: "A_Aorta"}

needs_dciodvfy = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
needs_plastimatch = pytest.mark.skipif(not shutil.which("plastimatch"), reason="plastimatch is not installed")

AXIAL = {
    "axial": {},
    "prone": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "feet first": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "anisotropic": {"spacing": (5.0, 0.9, 0.4), "origin": (-217.3, 13.7, 1042.25)},
}


def drawn(shape=(12, 48, 40)):
    """Return a label map of a blob, rings within rings, single voxels and diagonal touches, a chessboard, the border."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    labels[((z - 6) / 5) ** 2 + ((y - 14) / 10) ** 2 + ((x - 14) / 12) ** 2 < 1] = 1
    ring = np.hypot(y - 34, x - 26)
    labels[(z > 1) & (ring < 12) & ((ring > 8) | (ring < 5)) & (ring > 2)] = 2
    labels[3, 14, 14] = labels[3, 15, 15] = labels[3, 16, 14] = labels[8, 2, 30] = 3
    labels[3:6, 2:8, 30:38] = 4 * ((z + y + x)[3:6, 2:8, 30:38] % 2)
    labels[:, -1, :] = labels[:, 20:30, -1] = labels[0, 0, 0] = 5
    return labels


def scan(folder, **more):
    write_series(folder, **more)
    [series] = find_series(folder).series
    return series


def save_image(series, file):
    """Write the series' grid as plastimatch takes it, from its affine."""
    lps = np.diag([-1, -1, 1, 1]) @ series.affine
    spacing = np.linalg.norm(lps[:3, [2, 1, 0]], axis=0)
    image = sitk.GetImageFromArray(np.zeros(series.shape, np.int16))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, [2, 1, 0]] / spacing).ravel().tolist())
    sitk.WriteImage(image, file)


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_dciodvfy
@pytest.mark.parametrize("more", [{}, {"step": (0.0, 0.7, 2.5)}], ids=["axial", "tilted"])
def test_the_validator_finds_no_error(tmp_path, more):
    write_rtstruct(tmp_path / "out.dcm", drawn(), NAMES, scan(tmp_path / "scan", **more), MAKER)
    said = run("dciodvfy", "-new", tmp_path / "out.dcm")
    assert "RTStructureSet" in said
    assert "Error" not in said
    assert "Warning" not in said


@needs_plastimatch
@pytest.mark.parametrize("place", AXIAL)
def test_plastimatch_fills_every_organ_voxel_for_voxel(tmp_path, place):
    series = scan(tmp_path / "scan", **AXIAL[place])
    labels = drawn()
    write_rtstruct(tmp_path / "out.dcm", labels, NAMES, series, MAKER)
    save_image(series, tmp_path / "fixed.mha")
    run(
        *("plastimatch", "convert", "--input", tmp_path / "out.dcm", "--fixed", tmp_path / "fixed.mha"),
        *("--output-prefix", tmp_path / "masks", "--prefix-format", "mha"),
    )
    for value, name in ROIS.items():
        mask = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "masks" / f"{name}.mha")) > 0
        assert (mask == (labels == value)).all(), (name, int(mask.sum()), int((labels == value).sum()))


@needs_plastimatch
def test_contours_that_plastimatch_draws_are_read(tmp_path):
    """It draws its own contours of a mask: through what it takes for the edge, holes as it sees fit."""
    series = scan(tmp_path / "scan")
    mask = (drawn() == 1).astype(np.uint8)
    save_image(series, tmp_path / "fixed.mha")
    image = sitk.ReadImage(tmp_path / "fixed.mha")
    liver = sitk.GetImageFromArray(mask)
    liver.CopyInformation(image)
    (tmp_path / "masks").mkdir()
    sitk.WriteImage(liver, tmp_path / "masks" / "Liver.mha")
    run(
        *("plastimatch", "convert", "--input-prefix", tmp_path / "masks", "--referenced-ct", tmp_path / "scan"),
        *("--output-dicom", tmp_path / "theirs"),
    )
    [file] = [one for one in (tmp_path / "theirs").iterdir() if pydicom.dcmread(one).Modality == "RTSTRUCT"]
    found = read_rtstruct(file, series)
    assert found.names == {1: "liver"}
    dice = 2 * (found.labels & mask).sum() / (found.labels.sum() + mask.sum())
    assert dice == 1
