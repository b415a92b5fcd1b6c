"""SEGs before real programs: highdicom, dcmqi, ITK, dciodvfy. Those that are not installed are skipped."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from dicom_labels import MAKER, NAMES, ORIENTATIONS, SHAPE, series_at, shapes
from viscera.dicom.read_seg import read_seg
from viscera.dicom.seg import write_seg

KINDS = ["binary", "labelmap"]
SEGMENTS = {1: 1, 2: 2, 3: 3, 4: 7, 5: 200, 6: 255}
"""{segment number: label of ``shapes``}."""
# dcmqi 1.5.7 takes every stack for a straight one: at one sign of the tilt it shears the voxels without a word, at the other
# it exits 0 without a file. highdicom makes no volume of it. Both are right frame by frame.
UNTILTED = [name for name in ORIENTATIONS if "tilted" not in name]


def program(name):
    """Return the path of a program, or skip."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def numbered(labels):
    """Return the label map with the segments' numbers."""
    return sum(np.where(labels == label, number, 0) for number, label in SEGMENTS.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_highdicom_finds_each_voxel_by_its_source_image(tmp_path, kind, orientation):
    series = series_at(tmp_path / "ct", orientation)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    seg = highdicom.seg.segread(tmp_path / "a.dcm")
    uids = [one.sop_instance_uid for one in series.slices]
    found = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert (found == numbered(shapes())).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", UNTILTED)
def test_highdicom_finds_each_voxel_at_its_place_in_the_world(tmp_path, kind, orientation):
    series = series_at(tmp_path / "ct", orientation)
    labels = shapes()
    labels[4, 20, 15] = 1  # a whole stack without a gap
    write_seg(tmp_path / "a.dcm", labels, NAMES, series, MAKER, kind=kind)
    volume = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    inside = np.argwhere(volume.array)
    world = (volume.affine @ np.column_stack((inside, np.ones(len(inside)))).T)[:3] * [[-1], [-1], [1]]
    assert_same_voxels(world, volume.array[tuple(inside.T)], numbered(labels), series)


def assert_same_voxels(world, values, expected, series):
    """Raise unless points in the world (RAS+ mm) are exactly the voxels of a label map on the grid of a series."""
    index = (np.linalg.inv(series.affine) @ np.vstack((world, np.ones(world.shape[1]))))[:3]
    assert np.abs(series.affine[:3, :3] @ (index - np.rint(index))).max() < 0.01  # mm
    found = np.zeros(SHAPE, int)
    found[tuple(np.rint(index).astype(int))] = values
    assert (found == expected).all()
    assert world.shape[1] == np.count_nonzero(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", UNTILTED)
def test_dcmqi_finds_each_voxel_at_its_place_in_the_world(tmp_path, kind, orientation):
    series = series_at(tmp_path / "ct", orientation)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER, kind=kind)
    out = tmp_path / "out"
    out.mkdir()
    command = [program("segimage2itkimage"), "--inputDICOM", str(tmp_path / "a.dcm"), "--outputDirectory", str(out)]
    subprocess.run([*command, "-t", "nrrd"], check=True, capture_output=True)
    expected = numbered(shapes())
    images = sorted(out.glob("*.nrrd"))  # it exits 0 even where it wrote none
    assert len(images) == (len(SEGMENTS) if kind == "binary" else 1)
    for file in images:
        image = SimpleITK.ReadImage(str(file))
        voxels = SimpleITK.GetArrayFromImage(image)
        inside = np.argwhere(voxels)
        points = [image.TransformIndexToPhysicalPoint([int(i) for i in voxel[::-1]]) for voxel in inside]
        values = voxels[tuple(inside.T)]
        wanted = np.where(expected == values[0], expected, 0) if kind == "binary" else expected
        assert_same_voxels(np.array(points).T * [[-1], [-1], [1]], values, wanted, series)
    segments = [one for group in json.loads((out / "meta.json").read_text())["segmentAttributes"] for one in group]
    assert {one["SegmentLabel"] for one in segments} - {"Background"} == {NAMES[label] for label in SEGMENTS.values()}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_itk_reads_the_pixels_of_each_frame(tmp_path, orientation):
    """GDCM stacks the frames as they come; of BINARY only, 8 pixels a byte, so the rows are of a multiple of 8."""
    shape = (7, 32, 24)
    series = series_at(tmp_path / "ct", orientation, shape)
    write_seg(tmp_path / "a.dcm", shapes(shape), NAMES, series, MAKER)
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.dcm"))) > 0
    masks = [
        shapes(shape)[z] == label for label in SEGMENTS.values() for z in range(7) if (shapes(shape)[z] == label).any()
    ]
    assert (found == np.array(masks)).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dciodvfy_finds_no_error(tmp_path, orientation):
    """Of LABELMAP (2024) Debian's version of 2022 knows nothing."""
    series = series_at(tmp_path / "ct", orientation)
    write_seg(tmp_path / "a.dcm", shapes(), NAMES, series, MAKER)
    result = subprocess.run([program("dciodvfy"), str(tmp_path / "a.dcm")], capture_output=True, text=True)
    lines = (result.stdout + result.stderr).splitlines()
    assert "Segmentation" in lines  # it knew what it had before it
    assert [line for line in lines if line.startswith("Error")] == []
    warnings = {line for line in lines if line.startswith("Warning") and "99VISCERA" not in line}
    assert warnings == set()


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("orientation", ["axial", "feet first", "oblique", "tilted back"])
def test_segs_that_highdicom_writes_are_read(tmp_path, kind, orientation):
    series = series_at(tmp_path / "ct", orientation)
    described = [
        highdicom.seg.SegmentDescription(
            number, name, pydicom.sr.codedict.codes.cid7150.Tissue, pydicom.sr.coding.Code(*code), "MANUAL"
        )
        for number, (name, code) in enumerate(
            {
                "Segment A": ("10200004", "SCT", "Liver"),
                "Left kidney": ("64033007", "SCT", "Kidney"),
                "Bespoke thing": ("B1", "99MINE", "Bespoke"),
            }.items(),
            start=1,
        )
    ]
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:6] = np.random.default_rng(5).integers(0, 4, (5, *SHAPE[1:]))
    seg = highdicom.seg.Segmentation(
        series.headers(), labels, kind, described, highdicom.UID(), 4, highdicom.UID(), 1, "m", "n", "1", "2"
    )
    seg.save_as(tmp_path / "a.dcm")
    truth = read_seg(tmp_path / "a.dcm", series)
    assert (truth.labels == labels).all()
    assert dict(truth.names) == {1: "liver", 2: "kidney_left", 3: "bespoke_thing"}


@pytest.mark.parametrize("orientation", UNTILTED)
def test_segs_that_dcmqi_writes_are_read(tmp_path, orientation):
    series = series_at(tmp_path / "ct", orientation)
    labels = np.random.default_rng(6).integers(0, 2, SHAPE).astype(np.uint8)
    image = SimpleITK.GetImageFromArray(labels)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((lps[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    code = {"CodeValue": "78961009", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Spleen"}
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    segment = {"labelID": 1, "SegmentLabel": "x", "SegmentDescription": "x", "SegmentAlgorithmType": "MANUAL"}
    segment |= {"SegmentedPropertyCategoryCodeSequence": tissue, "SegmentedPropertyTypeCodeSequence": code}
    meta = {"ContentCreatorName": "A", "SeriesDescription": "S", "SeriesNumber": "5", "InstanceNumber": "1"}
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"segmentAttributes": [[segment]]}))
    command = [program("itkimage2segimage"), "--inputImageList", str(tmp_path / "a.nrrd")]
    command += ["--inputMetadata", str(tmp_path / "meta.json"), "--inputDICOMDirectory", str(tmp_path / "ct")]
    subprocess.run([*command, "--outputDICOM", str(tmp_path / "a.dcm")], check=True, capture_output=True)
    assert (tmp_path / "a.dcm").is_file()
    truth = read_seg(tmp_path / "a.dcm", series)
    assert (truth.labels == labels).all()
    assert dict(truth.names) == {1: "spleen"}
