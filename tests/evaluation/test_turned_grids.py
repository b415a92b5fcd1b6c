"""Surface distances of files on turned grids: those of surface-distance with the header's spacing, at every angle."""

import json
import warnings

import nibabel
import numpy as np
import pytest
import surface_distance

from viscera.evaluation.evaluate import Rules, evaluate_pair
from viscera.io import nifti
from viscera.io.spacing import header_spacing_mm
from viscera.volume import Volume

ANGLES = [0, 3, 10, 17.5, 30, 45]


def turned(spacing_mm, degrees):
    """Return an affine of (x, y, z, 1), turned about z, then tilted a little about x."""
    a, b = np.deg2rad([degrees, degrees / 3])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing_mm)
    return affine


def files(folder, spacing_mm, degrees, axis, steps):
    """Save a box and the same box some voxels along an axis; return the files and their masks in nibabel's order."""
    box = np.zeros((20, 22, 18), np.uint8)
    box[5:12, 6:13, 4:11] = 1
    masks = box, np.roll(box, steps, axis)
    for name, mask in zip("tp", masks, strict=True):
        nibabel.Nifti1Image(mask, turned(spacing_mm, degrees)).to_filename(folder / f"{name}.nii.gz")
        (folder / f"{name}.json").write_text(json.dumps({"labels": {"1": "spleen"}}))
    return folder / "t.nii.gz", folder / "p.nii.gz", [mask > 0 for mask in masks]


@pytest.mark.parametrize("degrees", ANGLES)
@pytest.mark.parametrize(
    ("spacing_mm", "axis", "steps"),
    [
        ((1.5, 1.5, 1.5), 0, 2),
        ((0.7, 0.7, 5.0), 1, 1),
        ((0.3, 0.3, 2.5), 0, 3),
        ((0.9, 0.8, 1.1), 2, 1),
        ((0.6, 0.6, 3.0), 1, 3),
    ],
)
def test_scores_at_the_tolerance_are_those_of_surface_distance_at_every_angle(
    tmp_path, monkeypatch, degrees, spacing_mm, axis, steps
):
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # surface-distance 0.1 uses names that NumPy 2 dropped
    tolerance_mm = steps * spacing_mm[axis]
    truth, prediction, masks = files(tmp_path, spacing_mm, degrees, axis, steps)
    zooms_mm = [float(size) for size in nibabel.load(truth).header.get_zooms()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = surface_distance.compute_surface_distances(*masks, zooms_mm)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
        hd95_mm = surface_distance.compute_robust_hausdorff(distances, 95)
    [score] = evaluate_pair(truth, prediction, rules=Rules(other_tolerance_mm=tolerance_mm))[0]
    assert score.values["nsd"] == pytest.approx(nsd, abs=1e-9)
    assert score.values["hd95_mm"] == pytest.approx(hd95_mm, abs=1e-9)


def test_a_box_moved_by_the_tolerance_is_within_it_at_every_angle(tmp_path):
    for degrees in ANGLES:
        truth, prediction, _ = files(tmp_path, (1.5, 1.5, 1.5), degrees, 0, 2)
        [score] = evaluate_pair(truth, prediction, rules=Rules(other_tolerance_mm=3.0))[0]
        assert (score.values["nsd"], score.values["hd95_mm"]) == (1, 3)


@pytest.mark.parametrize("degrees", ANGLES)
def test_the_spacing_is_the_headers_or_the_affines_without_its_last_digits(tmp_path, degrees):
    affine = turned((0.7, 0.8, 2.5), degrees)[:, [2, 1, 0, 3]]
    volume = Volume(np.zeros((3, 3, 3), np.uint8), affine.astype(np.float32).astype(float))
    assert header_spacing_mm(volume) == (2.5, 0.8, 0.7)
    nifti.write(tmp_path / "a.nii.gz", volume)
    kept = header_spacing_mm(nifti.read(tmp_path / "a.nii.gz"))
    assert kept == tuple(float(np.float32(size)) for size in (2.5, 0.8, 0.7))


def test_a_header_that_contradicts_the_affine_is_not_believed(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header.set_qform(None, 0)
    image.header["pixdim"][1:4] = 3
    image.header.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)
    image.to_filename(tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[80:92] = np.array([3, 3, 3], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.warns(nifti.GridWarning, match="sform and pixdim disagree"):
        assert header_spacing_mm(nifti.read(tmp_path / "a.nii")) == (2, 2, 2)


def test_spacings_of_many_digits_stay_as_they_are(tmp_path):
    size = 500 / 512  # 0.9765625 mm
    volume = Volume(np.zeros((3, 3, 3), np.uint8), np.diag([2.0, size, size, 1.0])[[2, 1, 0, 3]])
    nifti.write(tmp_path / "a.nii.gz", volume)
    assert header_spacing_mm(volume) == header_spacing_mm(nifti.read(tmp_path / "a.nii.gz")) == (2, size, size)
