"""Where a series lies: against the analytic truth, and where they are right (untilted) against SimpleITK and dcm2niix."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from dicom_series import affine_of, ball, write_series
from viscera.dicom.finding import find_series

COS, SIN = np.cos(np.radians(20)), np.sin(np.radians(20))
C2, S2 = np.cos(np.radians(-35)), np.sin(np.radians(-35))
PLACES = {
    "axial": {},
    "prone": {"orientation": (-1, 0, 0, 0, -1, 0), "origin": (150.0, 120.0, -300.0)},
    "feet first": {"orientation": (-1, 0, 0, 0, 1, 0), "origin": (150.0, -120.0, 40.0)},
    "feet first prone": {"orientation": (1, 0, 0, 0, -1, 0)},
    "mirrored": {"orientation": (-1, 0, 0, 0, 1, 0), "step": (0, 0, 2.5)},
    "downwards": {"step": (0, 0, -2.5)},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "coronal upside down": {"orientation": (-1, 0, 0, 0, 0, 1)},
    "oblique": {"orientation": (COS, SIN, 0, -SIN * C2, COS * C2, S2)},
    "anisotropic": {"spacing": (7.3, 0.41, 1.9)},
    "rows along the body": {"orientation": (0, 0, 1, 0, 1, 0)},
}
TILTED = {degrees: {"step": (0, 2.5 * np.tan(np.radians(degrees)), 2.5)} for degrees in (15, -15, 5, -28)}


def read(folder):
    found = find_series(folder)
    assert not found.problems
    return found.series[0], found.series[0].read()


def at(voxels, affine, world):
    """Return HU at world points (4, n) that lie on voxels."""
    index = np.linalg.solve(affine, world)[:3]
    assert np.abs(index - np.rint(index)).max() < 0.01
    return voxels[tuple(np.rint(index).astype(int))]


def random_points(affine, shape, count=1000):
    random = np.random.default_rng(17)
    index = np.vstack([*(random.integers(0, side, count) for side in shape), np.ones(count)])
    return affine @ index


@pytest.mark.parametrize("name", PLACES)
def test_a_volume_lies_where_the_scanner_said(tmp_path, name):
    place = PLACES[name]
    write_series(tmp_path, slope=1, edit=per_slice, name=shuffled, **place)
    series, volume = read(tmp_path)
    truth = affine_of(**place)
    world = random_points(truth, ball().shape)
    assert np.abs(at(volume.voxels, volume.affine, world) - at(ball(), truth, world)).max() == 0
    assert series.tilt_degrees == 0
    # Along the normal, that is to the side to which rows x columns points.
    assert np.linalg.det(lps_axes(volume.affine)) > 0


def lps_axes(affine):
    """Return the directions of x, y, z of a grid in LPS, in that order."""
    return np.diag([-1.0, -1.0, 1.0]) @ affine[:3, [2, 1, 0]]


@pytest.mark.parametrize("name", PLACES)
def test_simpleitk_and_dcm2niix_find_the_same_hu_at_the_same_points(tmp_path, name):
    write_series(tmp_path / "series", edit=per_slice, name=shuffled, **PLACES[name])
    _, volume = read(tmp_path / "series")
    world = random_points(volume.affine, volume.shape)
    ours = at(volume.voxels, volume.affine, world)
    for voxels, affine in (by_simpleitk(tmp_path / "series"), by_dcm2niix(tmp_path / "series", tmp_path / "nifti")):
        assert np.abs(at(voxels, affine, world) - ours).max() <= 0.1


def per_slice(dataset, index):
    """Give every slice another intercept, with the same HU."""
    shift = 7 * (index % 3)
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<i2") - shift).astype("<i2").tobytes()
    dataset.RescaleIntercept = f"{float(dataset.RescaleIntercept) + shift:g}"


def shuffled(index):
    return f"{(index * 7) % 12}"


def by_simpleitk(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    affine = np.diag([-1.0, -1, 1, 1]) @ lps
    return SimpleITK.GetArrayFromImage(image), affine[:, [2, 1, 0, 3]]


def by_dcm2niix(folder, output):
    program = shutil.which("dcm2niix", path=f"{Path(sys.executable).parent}:{Path('/usr/bin')}")
    if program is None:
        pytest.skip("dcm2niix is not installed")
    output.mkdir()
    subprocess.run([program, "-b", "n", "-z", "n", "-f", "x", "-o", output, folder], check=True, capture_output=True)
    [file] = output.glob("*.nii")
    image = nibabel.load(file)
    return np.asanyarray(image.dataobj).transpose(2, 1, 0), image.affine[:, [2, 1, 0, 3]]


@pytest.mark.parametrize("degrees", TILTED)
def test_a_tilted_gantry_shears_the_grid_and_is_named(tmp_path, degrees):
    write_series(tmp_path, name=shuffled, **TILTED[degrees])
    series, volume = read(tmp_path)
    assert volume.affine == pytest.approx(affine_of(**TILTED[degrees]), abs=1e-6)
    assert (volume.voxels == ball()).all()
    assert series.tilt_degrees == pytest.approx(degrees, abs=1e-3)
    assert series.notes == ()


def test_a_tilted_gantry_is_told_where_slices_are_oblique_and_the_table_goes_straight(tmp_path):
    # As scanners write it: rows along x, columns leant, the table along z.
    angle = np.radians(15)
    place = {"orientation": (1, 0, 0, 0, np.cos(angle), np.sin(angle)), "step": (0, 0, 2.5)}
    write_series(tmp_path, **place)
    series, volume = read(tmp_path)
    assert volume.affine == pytest.approx(affine_of(**place), abs=1e-6)
    assert series.tilt_degrees == pytest.approx(15, abs=1e-3)


def test_a_tilt_that_only_headers_speak_of_is_noted_and_positions_are_believed(tmp_path):
    def tilt(dataset, _):
        dataset.GantryDetectorTilt = "12"

    write_series(tmp_path, edit=tilt)
    series, volume = read(tmp_path)
    assert volume.affine == pytest.approx(affine_of())
    assert "tilted by 12.0 degrees, but its slices are not shifted" in series.notes[0]


def test_a_table_that_drifts_by_a_fraction_of_a_pixel_is_not_a_tilt(tmp_path):
    write_series(tmp_path, step=(0, 0.004, 2.5))
    series, volume = read(tmp_path)
    assert series.tilt_degrees == 0
    assert np.abs(volume.affine @ [11, 0, 0, 1] - affine_of() @ [11, 0, 0, 1]).max() < 0.05


def moved(**by_index):
    """Return an edit that moves slices (LPS mm)."""

    def edit(dataset, index):
        if f"s{index}" in by_index:
            position = np.array(dataset.ImagePositionPatient, float) + by_index[f"s{index}"]
            dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]

    return edit


def problem(folder, **arguments):
    write_series(folder, **arguments)
    found = find_series(folder)
    assert not found.series
    [(name, error)] = found.problems.items()
    assert str(error).startswith((f"{name}: ", f"{folder}"))
    return str(error)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (
            (4,),
            "1 slice is missing: slices are 2.5 mm apart, but 5 mm after slice 4 of 11, at (-100.0, -120.0, -292.5) mm",
        ),
        ((4, 5), "2 slices are missing: slices are 2.5 mm apart, but 7.5 mm after slice 4 of 10"),
        ((1, 10), "2 slices are missing: slices are 2.5 mm apart, but 5 mm after slice 1 of 10"),
        ((2, 3, 4, 6, 8), "5 slices are missing"),
    ],
)
def test_a_missing_slice_is_named_and_not_stretched_over(tmp_path, missing, said):
    for file in np.array(write_series(tmp_path / "series"))[list(missing)]:
        file.unlink()
    found = find_series(tmp_path / "series")
    assert not found.series
    assert said in str(found.problems["series"])


def test_every_second_slice_is_a_series_of_twice_the_distance(tmp_path):
    for file in write_series(tmp_path)[1::2]:
        file.unlink()
    _, volume = read(tmp_path)
    assert volume.spacing_mm[0] == pytest.approx(5)
    assert (volume.voxels == ball()[::2]).all()


def test_slices_off_the_regular_grid_are_refused(tmp_path):
    assert "unevenly spaced: 2.5 mm apart, but 3.5 mm after slice 6" in problem(
        tmp_path / "one", edit=moved(s6=(0, 0, 1.0))
    )
    thick = {f"s{index}": (0, 0, 2.5 * (index - 6)) for index in range(7, 12)}
    found = problem(tmp_path / "two", edit=moved(**thick))
    assert "slices" in found
    assert "5 mm after slice 7 of 12" in found
    creeping = {f"s{index}": (0, 0, 0.01 * index**2) for index in range(12)}
    assert "unevenly spaced" in problem(tmp_path / "three", edit=moved(**creeping))
    assert "the tilt of the gantry varies" in problem(tmp_path / "four", edit=moved(s5=(0, 3.0, 0)))
    bent = {f"s{index}": (0, 0.5 * (index - 6), 0) for index in range(7, 12)}
    assert "the tilt of the gantry varies" in problem(tmp_path / "five", edit=moved(**bent))


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_forgiven_with_a_note(tmp_path):
    def rounded(dataset, _):
        position = [float(value) for value in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = [f"{value:.1f}" for value in position]

    write_series(tmp_path, spacing=(1.25, 0.8, 0.7), edit=rounded)
    series, volume = read(tmp_path)
    assert volume.spacing_mm[0] == pytest.approx(1.25, abs=0.01)
    assert "slices lie up to 0.0" in series.notes[0]


def test_slices_that_differ_are_refused(tmp_path):
    def other(**values):
        def edit(dataset, index):
            if index == 7:
                for keyword, value in values.items():
                    setattr(dataset, keyword, value)

        return edit

    turned = [f"{value:.6f}" for value in (0.9999, 0.0141, 0, -0.0141, 0.9999, 0)]
    assert "differ in orientation" in problem(tmp_path / "turned", edit=other(ImageOrientationPatient=turned))
    assert "differ in orientation" in problem(
        tmp_path / "flipped", edit=other(ImageOrientationPatient=["-1", "0", "0", "0", "1", "0"])
    )
    assert "differ in the distance of their pixels" in problem(
        tmp_path / "wide", edit=other(PixelSpacing=["0.8", "0.71"])
    )
    assert "differ in size (40x48 and 48x40 pixels)" in problem(tmp_path / "size", edit=other(Rows=40, Columns=48))
    assert "not at right angles" in problem(
        tmp_path / "skew", edit=lambda d, i: setattr(d, "ImageOrientationPatient", ["1", "0", "0", "0.5", "0.866", "0"])
    )
    assert "not at right angles" in problem(
        tmp_path / "long", edit=lambda d, i: setattr(d, "ImageOrientationPatient", ["2", "0", "0", "0", "2", "0"])
    )
    assert "not positive" in problem(tmp_path / "flat", edit=lambda d, i: setattr(d, "PixelSpacing", ["0", "0.7"]))
    assert "larger than any body" in problem(tmp_path / "huge", spacing=(250.0, 0.8, 0.7))


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, "", ["1", "2", "3", "4"]])
def test_images_that_do_not_say_where_they_lie_are_refused(tmp_path, keyword, value):
    def edit(dataset, index):
        if index == 3:
            del dataset[keyword]
            if value is not None:
                setattr(dataset, keyword, value)

    assert "1 of its 12 images have no" in problem(tmp_path / "x", edit=edit)


def test_a_single_slice_is_no_volume(tmp_path):
    assert "single slice" in problem(tmp_path / "x", hu=ball()[:1])


def test_slices_that_lie_beside_each_other_are_no_stack(tmp_path):
    assert "not stacked" in problem(tmp_path / "x", step=(0, 50.0, 2.5))


def test_two_images_at_a_position_are_one_if_they_are_the_same_and_refused_if_not(tmp_path):
    files = write_series(tmp_path / "copies")
    (tmp_path / "copies" / "again").mkdir()
    for file in files[2:5]:
        shutil.copy(file, tmp_path / "copies" / "again")
    series, volume = read(tmp_path / "copies")
    assert (volume.voxels == ball()).all()
    assert series.notes == ("3 images are there twice, and were read once",)
    uids = ("1.2.3", "1.2.4", "1.2.5")
    write_series(tmp_path / "phases" / "a", uids=uids)
    write_series(tmp_path / "phases" / "b", ball() + 1, uids=uids)
    found = find_series(tmp_path / "phases")
    assert not found.series
    assert "it has 12 images too many" in str(found.problems["phases"])
    assert "several phases or reconstructions" in str(found.problems["phases"])


def test_phases_that_take_turns_are_no_volume_even_on_a_regular_grid_and_regions_one_after_another_are(tmp_path):
    uids = ("1.2.3", "1.2.4", "1.2.5")
    for keyword, values in (
        ("AcquisitionNumber", (1, 2)),
        ("ConvolutionKernel", ("B30f", "B60f")),
        ("TemporalPositionIdentifier", (1, 2)),
    ):
        for value, z in zip(values, (-300.0, -298.75), strict=True):
            write_series(
                tmp_path / keyword,
                origin=(-100.0, -120.0, z),
                uids=uids,
                edit=lambda dataset, _, k=keyword, v=value: setattr(dataset, k, v),
                name=lambda index, v=value: f"{v}{index}",
            )
        found = find_series(tmp_path / keyword)
        assert "phases or reconstructions are mixed in it" in str(found.problems[keyword])
    rotations = tmp_path / "rotations"
    write_series(rotations, edit=lambda dataset, index: setattr(dataset, "AcquisitionNumber", 9 - index // 4))
    assert (read(rotations)[1].voxels == ball()).all()


def test_positions_that_almost_meet_are_uneven_and_not_thousands_of_missing_slices(tmp_path):
    assert "unevenly spaced: 2.5 mm apart, but 0.02 mm after slice 5" in problem(
        tmp_path / "x", edit=moved(s5=(0, 0, -2.48))
    )


def test_the_real_series_is_where_its_nifti_says(tmp_path):
    folder = Path("/work/shared/data/totalsegmentator_example")
    if not folder.is_dir():
        pytest.skip("the example of TotalSegmentator is not here")
    series, volume = read(folder / "dicom_20slices")
    image = nibabel.load(folder / "ts_example_dicom_20slices_ct.nii.gz")
    world = random_points(volume.affine, volume.shape)
    nifti = np.asanyarray(image.dataobj).transpose(2, 1, 0)
    assert (
        np.abs(at(nifti, image.affine[:, [2, 1, 0, 3]], world) - at(volume.voxels, volume.affine, world)).max() <= 0.1
    )
    assert "no valid SOP, study and series UID" in series.cannot_be_referenced
    assert all(one.sop_instance_uid for one in series.slices)


def test_the_other_real_series_is_what_simpleitk_reads(tmp_path):
    folder = Path("/work/shared/data/dcmqi_liver/ct-3slice")
    if not folder.is_dir():
        pytest.skip("dcmqi's example is not here")
    series, volume = read(folder)
    voxels, affine = by_simpleitk(folder)
    assert affine == pytest.approx(volume.affine, abs=1e-4)
    # GE marks what lies outside its view by -2000, which with the intercept would be -3024 HU.
    assert (volume.voxels == np.where(voxels == -3024, -1024, voxels)).all()
    assert series.cannot_be_referenced == ""
