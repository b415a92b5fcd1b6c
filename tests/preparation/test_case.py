import json
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from viscera.config import ResizedSlices, ScannerGrid, SpacedSlices, SpacedVolumes
from viscera.datasets.sources import Source
from viscera.errors import FileError, GeometryError, LabelError
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.preparation.body import coarse_scan
from viscera.preparation.case import (
    case_name,
    describe,
    hu_statistics,
    prepare_case,
    prepare_file,
    prepare_image,
    prepare_labels,
)
from viscera.preparation.geometry import Geometry, geometry_from_json, geometry_to_json
from viscera.preparation.intensity import hounsfield
from viscera.preparation.store import facts_to_json
from viscera.synthesis.patient import synthesize
from viscera.volume import Turn, Volume, axial_turn, turn_volume, with_voxels

SPACE = LabelSpace("three", ("liver", "kidney", "spleen"))
SMALL = ResizedSlices(size=(16, 16))
AFFINE = np.array([[0, 0, -0.8, 100], [0, -0.7, 0, 90], [2.5, 0, 0, -300], [0, 0, 0, 1]])
ORGANS = ((1, "liver"), (2, "kidney_right"), (3, "kidney_left"), (4, "gallbladder"))


def scan(shape: tuple[int, int, int] = (6, 32, 32), *, seed: int = 0) -> Volume:
    """Noise around air, with a block of noise around soft tissue."""
    rng = np.random.default_rng(seed)
    voxels = rng.normal(-1000, 15, shape)
    voxels[:, shape[1] // 4 : -shape[1] // 4, shape[2] // 4 :] = rng.normal(50, 15, shape)[
        :, shape[1] // 4 : -shape[1] // 4, shape[2] // 4 :
    ]
    return Volume(voxels.round().astype(np.int16), AFFINE)


def blocks(shape: tuple[int, int, int] = (6, 32, 32), values: tuple[int, ...] = (1, 2, 3, 4)) -> np.ndarray:
    """One 8x8 column per value, along the first rows."""
    labels = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        labels[:, :8, 8 * place : 8 * place + 8] = value
    return labels


def source_of(folder: Path, ct: Volume, labels: Volume | np.ndarray | None, **changes) -> Source:
    """Write the files of a case and say what they are."""
    (folder / "set" / "images").mkdir(parents=True, exist_ok=True)
    image = folder / "set" / "images" / "p1.nii.gz"
    nifti.write(image, ct, overwrite=True)
    label_file = None
    if labels is not None:
        label_file = folder / "set" / "labels" / "p1.nii.gz"
        volume = labels if isinstance(labels, Volume) else Volume(labels, ct.affine)
        nifti.write(label_file, volume, overwrite=True)
    annotated = tuple(organ for _, organ in ORGANS)
    return replace(Source("p1", "set", "p1", image, label_file, ORGANS, annotated), **changes)


def prepared(source: Source):
    return prepare_case(source, space=SPACE, preparation=SMALL)


def test_a_case_is_what_its_files_hold(tmp_path):
    ct = scan()
    case, facts = prepared(source_of(tmp_path, ct, blocks()))
    # 32 -> 16: image pixels are means of 2x2 blocks, label blocks of 8x8 become 4x4.
    means = ct.voxels.reshape(6, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.abs(case.image - means).max() <= 0.5
    expected = np.zeros((6, 16, 16), np.uint8)
    expected[:, :4, :4], expected[:, :4, 4:12] = 1, 2
    np.testing.assert_array_equal(case.labels, expected)
    assert case.known is None
    assert case.annotated == ("liver", "kidney")
    assert (case.name, case.dataset, case.patient) == ("set__p1", "set", "p1")
    assert facts.voxels == {"background": 6 * 256 - 6 * 48, "liver": 96, "kidney": 192, "spleen": 0}
    assert facts.geometry.spacing_mm == pytest.approx((2.5, 1.4, 1.6))
    assert facts.notes == (
        "kidney_right: merged into kidney",
        "kidney_left: merged into kidney",
        "not in label space 'three', so background: gallbladder",
    )


def test_facts_name_the_files_but_no_folder_above(tmp_path):
    source = source_of(tmp_path, scan(), blocks())
    _, facts = prepared(source)
    assert facts.source.image == "images/p1.nii.gz"
    assert facts.source.labels == ("labels/p1.nii.gz",)
    assert str(tmp_path) not in str(facts_to_json(facts))
    assert replace(facts.source, image_sha256="", labels_sha256=()) == describe(source)
    assert len(facts.source.image_sha256) == len(facts.source.labels_sha256[0]) == 64


def test_all_orientations_of_a_scan_give_the_same_bytes(tmp_path):
    ct = scan((6, 32, 40))
    labels = Volume(blocks((6, 32, 40)), AFFINE)
    expected = prepared(source_of(tmp_path, ct, labels))
    turns = [Turn(axes, flips) for axes in permutations(range(3)) for flips in product([False, True], repeat=3)]
    assert len(turns) == 48
    for turn in turns:
        case, facts = prepared(source_of(tmp_path, turn_volume(ct, turn), turn_volume(labels, turn)))
        assert case.image.tobytes() == expected[0].image.tobytes()
        assert case.labels.tobytes() == expected[0].labels.tobytes()
        assert facts.image_sha256 == expected[1].image_sha256
        np.testing.assert_allclose(facts.geometry.prepared_affine, expected[1].geometry.prepared_affine, atol=1e-4)
        assert facts.geometry.turn.undo(np.empty(facts.geometry.axial_shape)).shape == facts.geometry.shape


def test_an_oblique_scan_is_turned_but_not_resampled():
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique = AFFINE.copy()
    oblique[:3, :3] = rotation @ AFFINE[:3, :3]
    ct = scan()
    image, geometry = prepare_image(replace(ct, affine=oblique), SMALL)
    np.testing.assert_array_equal(image, prepare_image(ct, SMALL)[0])
    assert geometry.spacing_mm == pytest.approx((2.5, 1.4, 1.6))


def test_predicting_prepares_a_scan_as_preparing_did(tmp_path):
    ct = scan()
    case, _ = prepared(source_of(tmp_path, ct, None))
    image, geometry = prepare_image(replace(ct, voxels=ct.voxels.astype(np.float32)), SMALL)
    np.testing.assert_array_equal(image, case.image)
    assert geometry.shape == case.geometry.shape


def test_one_slice_is_enough(tmp_path):
    case, _ = prepared(source_of(tmp_path, scan((1, 32, 32)), blocks((1, 32, 32))))
    assert case.image.shape == (1, 16, 16)


def test_a_case_without_labels_is_prepared(tmp_path):
    case, facts = prepared(source_of(tmp_path, scan(), None, annotated=()))
    assert (case.labels, case.known, case.annotated, facts.voxels) == (None, None, (), {})
    assert facts.notes == ("no labels",)


def test_ignored_voxels_are_unknown(tmp_path):
    labels = blocks(values=(1, 255, 3, 2))
    case, facts = prepared(source_of(tmp_path, scan(), labels, unknown=(255,)))
    assert case.known is not None
    assert not case.known[:, :4, 4:8].any()
    assert case.known.sum() == case.known.size - 6 * 16
    assert facts.voxels["background"] == 6 * 256 - 6 * 16 * 4


def test_an_organ_that_is_not_annotated_is_not_in_the_case(tmp_path):
    case, facts = prepared(source_of(tmp_path, scan(), blocks(), annotated=("liver", "kidney_left")))
    assert case.annotated == ("liver",)
    assert facts.voxels["kidney"] == 0
    assert "kidney: not wholly annotated, so unknown in this case" in facts.notes


def test_annotated_but_absent_organs_are_said(tmp_path):
    _, facts = prepared(source_of(tmp_path, scan(), blocks(values=(0, 2, 3, 4))))
    assert "liver: annotated, but absent from the scan" in facts.notes
    _, facts = prepared(source_of(tmp_path, scan(), blocks(values=())))
    assert "the labels hold none of the annotated organs (liver, kidney): taken as absent from the scan" in facts.notes


def test_a_case_with_no_organ_of_the_space_is_said(tmp_path):
    case, facts = prepared(source_of(tmp_path, scan(), blocks(), annotated=("gallbladder",)))
    assert case.annotated == ()
    assert any("none of its annotated organs is in label space 'three'" in note for note in facts.notes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.uint16])
def test_labels_of_any_number_type_are_read(tmp_path, dtype):
    case, _ = prepared(source_of(tmp_path, scan(), blocks().astype(dtype)))
    assert case.labels.max() == 2


def test_masks_become_labels_and_overlaps_are_said(tmp_path):
    source = source_of(tmp_path, scan(), None)
    masks = {"kidney_left": blocks() == 3, "liver": (blocks() == 1) | (blocks() == 3)}
    files = []
    for organ, mask in masks.items():
        file = tmp_path / "set" / "labels" / f"{organ}.nii.gz"
        nifti.write(file, Volume(mask.astype(np.uint8), AFFINE))
        files.append((organ, file))
    source = replace(source, labels=tuple(files), organs=((1, "kidney_left"), (2, "liver")), annotated=tuple(masks))
    case, facts = prepared(source)
    assert facts.source.labels == ("labels/kidney_left.nii.gz", "labels/liver.nii.gz")
    assert case.annotated == ("liver",)
    assert any(note.startswith("masks overlap") for note in facts.notes)


def test_disagreeing_forms_are_said(tmp_path):
    source = source_of(tmp_path, scan(), blocks())
    import nibabel

    for file in (source.image, source.labels):
        image = nibabel.load(file)
        moved = image.affine.copy()
        moved[0, 3] += 30
        image.header.set_qform(moved, 1)
        image.header.set_sform(image.affine, 1)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)
    _, facts = prepared(source)
    assert any(note.startswith("images/p1.nii.gz: sform and qform") for note in facts.notes)


def test_hu_statistics_are_those_of_sorted_voxels():
    image = np.random.default_rng(0).permutation(np.arange(-500, 500, dtype=np.int16)).reshape(10, 10, 10)
    assert hu_statistics(image) == {"minimum": -500, "maximum": 499, "mean": -0.5, "p10": -401, "p90": 399}


@pytest.mark.parametrize(
    ("labels", "changes", "error", "message"),
    [
        (
            blocks(values=(1, 7)),
            {},
            LabelError,
            r"p1: the labels hold 7 \(384 voxels\), but the data set names 0 backgr",
        ),
        (
            blocks().astype(np.int16) - 1,
            {},
            LabelError,
            r"holds values from -1 to .*, which are not labels \(0 to 65535\)",
        ),
        (
            blocks().astype(np.int32) * 40000,
            {},
            LabelError,
            r"holds values from 0 to 160000, which are not labels \(0 to 65535\)",
        ),
        (blocks() * 1.5, {}, LabelError, r"holds 1.5, but labels are whole numbers"),
        (blocks((5, 32, 32)), {}, GeometryError, r"p1: labels lie on another grid than the image \(5x32x32 voxels"),
        (
            Volume(blocks(), AFFINE * 2),
            {},
            GeometryError,
            r"labels lie on another grid .*1.60 mm against 2.50x0.70x0.80",
        ),
        (
            blocks(),
            {"annotated": ("pancreas",)},
            LabelError,
            r"'pancreas' is listed as annotated, but no label holds it",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        prepared(source_of(tmp_path, scan(), labels, **changes))
    assert str(caught.value.file).endswith("labels/p1.nii.gz")


def test_a_scan_that_is_no_ct_is_refused(tmp_path):
    ct = scan()
    with pytest.raises(FileError, match=r"p1: intensities from .* look stored with an offset of 1024") as caught:
        prepared(source_of(tmp_path, replace(ct, voxels=(ct.voxels + 1100).astype(np.int16)), blocks()))
    assert str(caught.value.file).endswith("images/p1.nii.gz")


def test_case_names_are_visible_folders():
    source = Source("p1", ".hidden", "p1", Path("x"), None, (), ())
    assert case_name(source) == "hidden__p1"


SPACED = SpacedSlices(spacing_mm=3, margin_mm=4)


def patient(shape: tuple[int, int, int] = (6, 96, 110)) -> Volume:
    """An ellipse of noisy tissue, a little off the middle, in slices of 2 mm by 1.9 mm pixels."""
    affine = np.array([[0, 0, -1.9, 100], [0, -2.0, 0, 90], [2.5, 0, 0, -300], [0, 0, 0, 1]])
    rng = np.random.default_rng(3)
    y, x = np.indices(shape[1:])
    body = ((y - 50) / 28) ** 2 + ((x - 60) / 38) ** 2 <= 1
    return Volume(np.where(body, rng.normal(40, 60, shape), rng.normal(-1000, 30, shape)).astype(np.int16), affine)


def itk(volume: Volume, axis_order: tuple[int, int, int] = (2, 1, 0)) -> sitk.Image:
    """The volume for SimpleITK, in whose eyes the world may as well be RAS+."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    directions = volume.affine[:3, list(axis_order)]
    lengths = np.linalg.norm(directions, axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((directions / lengths).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


def test_spaced_slices_are_cut_to_the_body_and_have_the_spacing():
    image, geometry = prepare_image(patient(), SPACED)
    # The body is 112 x 144 mm; 4 mm are kept around it, and at most 12 mm because the search is coarse.
    assert geometry.spacing_mm == pytest.approx((2.5, 3, 3), abs=1e-3)
    assert image.shape == geometry.prepared_shape == (6, 48, 64)
    tissue = (image > -480).mean(0) > 0.5  # half air, half tissue
    assert tissue.sum() * 9 == pytest.approx(np.pi * 28 * 2 * 38 * 1.9, rel=0.02)
    assert not tissue[[0, -1]].any()
    assert not tissue[:, [0, -1]].any()


@pytest.mark.parametrize("spacing_mm", [1.4, 3, 5])
def test_spaced_voxels_are_where_their_affine_says(spacing_mm):
    """SimpleITK resamples the scanner's labels onto the prepared grid, in the world."""
    ct = patient()
    labels = np.random.default_rng(5).integers(0, 4, (6, 24, 22)).astype(np.uint8).repeat(4, 1).repeat(5, 2)
    source = Source("p1", "set", "p1", Path("p1"), None, ORGANS, tuple(organ for _, organ in ORGANS))
    for turn in [Turn((0, 1, 2), (False,) * 3), Turn((2, 0, 1), (True, False, True))]:
        turned, turned_labels = (turn_volume(Volume(v, ct.affine), turn) for v in (ct.voxels, labels))
        _, geometry = prepare_image(turned, SpacedSlices(spacing_mm=spacing_mm, margin_mm=40))  # more than the scan
        space = LabelSpace("as they are", tuple(organ for _, organ in ORGANS))
        found = prepare_labels(turned_labels.voxels, source, space=space, geometry=geometry).labels
        grid = itk(Volume(np.zeros(geometry.prepared_shape, np.uint8), geometry.prepared_affine))
        expected = sitk.GetArrayFromImage(
            sitk.Resample(itk(turned_labels), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        )
        assert (found == expected).mean() > 0.995  # ties


def test_all_orientations_of_a_scan_are_cut_to_the_same_bytes():
    ct = patient()
    expected, straight = prepare_image(ct, SPACED)
    for axes, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        image, geometry = prepare_image(turn_volume(ct, Turn(axes, flips)), SPACED)
        assert image.tobytes() == expected.tobytes()
        assert (geometry.size, geometry.start, geometry.step) == (straight.size, straight.start, straight.step)
        np.testing.assert_allclose(geometry.prepared_affine, straight.prepared_affine, atol=1e-9)


def test_the_float32_of_an_oblique_file_changes_no_voxel():
    ct = patient()
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique = ct.affine.copy()
    oblique[:3, :3] = rotation @ ct.affine[:3, :3]
    image, geometry = prepare_image(replace(ct, affine=oblique.astype(np.float32).astype(float)), SPACED)
    expected, straight = prepare_image(ct, SPACED)
    np.testing.assert_array_equal(image, expected)
    assert geometry.step == straight.step


def test_a_scan_of_air_is_kept_whole():
    hu = np.full((2, 20, 30), -1000, np.int16)
    ct = Volume(hu, np.diag([-2.0, -2.0, 5.0, 1.0])[:, [2, 1, 0, 3]])
    image, geometry = prepare_image(ct, SpacedSlices(spacing_mm=2.0, margin_mm=0))
    assert geometry.pixel_grid.inside((20, 30)) == (slice(0, 20), slice(0, 30))
    assert image.shape == (2, 32, 32)


def test_labels_that_are_cut_off_are_counted(tmp_path):
    ct = patient()
    labels = np.zeros(ct.shape, np.uint8)
    labels[:, 45:55, 50:60] = 1
    labels[0, 2, :5] = labels[1, 50, 1] = 1
    labels[2, 95, 100:103] = 2
    labels[2, 95, 90:93] = 4  # not in the label space
    source = source_of(tmp_path, ct, labels)
    case, facts = prepare_case(source, space=SPACE, preparation=SPACED)
    assert case.labels.shape == case.image.shape == facts.geometry.prepared_shape
    assert facts.voxels["liver"] == pytest.approx(6 * 100 * 3.8 / 9, rel=0.1)
    note = "9 labelled voxels lie outside the body's box and are cut off (liver 6, kidney 3)"
    assert any(text.startswith(note) for text in facts.notes)
    _, facts = prepare_case(source, space=SPACE, preparation=SpacedSlices(spacing_mm=3, margin_mm=100))
    assert not any("cut off" in text for text in facts.notes)


@pytest.mark.parametrize("seed", range(3))
def test_no_label_of_a_synthetic_patient_is_cut_off(seed, tmp_path):
    made = synthesize(np.random.default_rng(seed), shape=(24, 96, 96))
    organs = tuple(made.organs.items())
    source = source_of(tmp_path, made.ct, made.labels, organs=organs, annotated=tuple(made.organs.values()))
    space = LabelSpace("all", tuple(made.organs.values()))
    case, facts = prepare_case(source, space=space, preparation=SpacedSlices(spacing_mm=5))
    assert not any("cut off" in note for note in facts.notes)
    assert facts.geometry.spacing_mm[1:] == pytest.approx((5, 5), abs=1e-3)
    voxel_ml = np.prod(facts.geometry.spacing_mm) / 1000
    liver = next(value for value, organ in organs if organ == "liver")
    assert facts.voxels["liver"] * voxel_ml == pytest.approx(
        (made.labels.voxels == liver).sum() * made.ct.voxel_ml, rel=0.03
    )
    assert case.image.shape[1] % 16 == case.image.shape[2] % 16 == 0


@pytest.mark.parametrize("name", ["ts_example_ct_3mm", "ts_example_dicom_20slices"])
def test_a_real_scan_is_cut_to_the_body_and_loses_no_organ(shared_data, name):
    folder = shared_data / "totalsegmentator_example"
    ct, labels = (nifti.read(folder / f"{name}_{kind}.nii.gz") for kind in ("ct", "label"))
    image, geometry = prepare_image(ct, SpacedSlices())
    rows, columns = geometry.pixel_grid.inside(geometry.axial_shape[1:])
    axial = turn_volume(labels, axial_turn(labels.affine)).voxels
    organs = json.loads((folder / f"{name}_labels.json").read_text())
    trunk = np.isin(axial, [int(value) for value, organ in organs.items() if not organ.startswith("humerus")])
    assert trunk[:, rows, columns].sum() == trunk.sum()
    assert geometry.spacing_mm == pytest.approx((ct.spacing_mm[0], 2.5, 2.5), abs=1e-3)
    assert image.shape[1] * 2.5 < 400
    assert image.shape[2] * 2.5 < 500


# --- volumes

WORLD = np.array([[0, 0, -1.9, 100], [0, -2.0, 0, 90], [2.5, 0, 0, -300], [0, 0, 0, 1]])
TURNED = [Turn((0, 1, 2), (False,) * 3), Turn((2, 0, 1), (True, False, True)), Turn((1, 2, 0), (False, True, True))]


def with_slices_of(slice_mm: float, count: int) -> Volume:
    """The patient with another slice distance."""
    affine = WORLD.copy()
    affine[2, 0] = slice_mm
    return Volume(patient((count, 96, 110)).voxels, affine)


def itk_resampled(volume: Volume, geometry: Geometry, method: int, default: float) -> np.ndarray:
    """SimpleITK's resampling of a volume onto the prepared grid, in the world."""
    grid = itk(Volume(np.zeros(geometry.prepared_shape, np.uint8), geometry.prepared_affine))
    return sitk.GetArrayFromImage(sitk.Resample(itk(volume), grid, sitk.Transform(), method, default))


def places_in(volume: Volume, geometry: Geometry) -> np.ndarray:
    """Where the centres of the prepared voxels lie in the file's voxels, by the affines alone."""
    index = np.indices(geometry.prepared_shape).reshape(3, -1)
    world = geometry.prepared_affine[:3, :3] @ index + geometry.prepared_affine[:3, 3:]
    there = np.linalg.inv(volume.affine) @ np.vstack([world, np.ones(world.shape[1])])
    return there[:3].reshape(3, *geometry.prepared_shape)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.5, 1.2), (3.0, 3.0, 3.0), (5.0, 1.9, 2.0)])
@pytest.mark.parametrize("turn", TURNED)
def test_spaced_volumes_are_itks_linear_resampling_in_the_world(spacing_mm, turn):
    ct = turn_volume(patient(), turn)
    image, geometry = prepare_image(ct, SpacedVolumes(spacing_mm=spacing_mm, margin_mm=0))
    assert geometry.spacing_mm == pytest.approx(spacing_mm, abs=1e-3)
    assert image.shape == geometry.prepared_shape
    expected = itk_resampled(
        replace(ct, voxels=ct.voxels.astype(np.float64)), geometry, method=sitk.sitkLinear, default=-1024
    )
    there, sides = places_in(ct, geometry), np.array(ct.shape)[:, None, None, None]
    inside = ((there >= 0) & (there <= sides - 1)).all(0)
    inside[:, [0, -1]] = inside[:, :, [0, -1]] = False  # the outermost of enlarged pixels see no others
    assert inside.mean() > 0.6
    assert np.abs(image - expected)[inside].max() <= 1 + 0.2  # rounded in the plane, then along z; steps of 1/4096


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.5, 1.2), (3.0, 3.0, 3.0), (4.0, 5.0, 5.0)])
@pytest.mark.parametrize("turn", TURNED)
def test_labels_of_spaced_volumes_are_those_of_the_nearest_voxel(spacing_mm, turn):
    labels = np.random.default_rng(5).integers(0, 4, (6, 24, 22)).astype(np.uint8).repeat(4, 1).repeat(5, 2)
    ct, turned = (turn_volume(Volume(v, WORLD), turn) for v in (patient().voxels, labels))
    _, geometry = prepare_image(ct, SpacedVolumes(spacing_mm=spacing_mm, margin_mm=40))
    source = Source("p1", "set", "p1", Path("p1"), None, ORGANS, tuple(organ for _, organ in ORGANS))
    space = LabelSpace("as they are", tuple(organ for _, organ in ORGANS))
    found = prepare_labels(turned.voxels, source, space=space, geometry=geometry).labels
    assert found.shape == geometry.prepared_shape
    expected = itk_resampled(turned, geometry, method=sitk.sitkNearestNeighbor, default=0)
    there, sides = places_in(ct, geometry), np.array(ct.shape)[:, None, None, None]
    inside = ((there >= 0) & (there <= sides - 1)).all(0)
    clear = inside & (np.abs(there % 1 - 0.5) > 0.01).all(0)  # no ties
    assert clear.mean() > 0.2
    assert (found == expected)[clear].all()


def test_all_orientations_of_a_scan_give_the_same_volume():
    ct, settings = patient(), SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0), margin_mm=4)
    expected, straight = prepare_image(ct, settings)
    for axes, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        image, geometry = prepare_image(turn_volume(ct, Turn(axes, flips)), settings)
        assert image.tobytes() == expected.tobytes()
        assert geometry.slice_grid == straight.slice_grid
        np.testing.assert_allclose(geometry.prepared_affine, straight.prepared_affine, atol=1e-9)


def test_voxels_that_have_the_spacing_are_only_cut():
    ct = Volume(patient().voxels, np.diag([1.0, 1.0, 1.0, 1.0]) @ WORLD)
    image, geometry = prepare_image(ct, SpacedVolumes(spacing_mm=(2.5, 2.0, 1.9), margin_mm=0))
    assert geometry.slice_grid is not None
    assert (geometry.slice_grid.size, geometry.slice_grid.step, geometry.pixel_grid.step) == (6, 1, (1, 1))
    top, left = geometry.start
    rows, columns = geometry.size
    np.testing.assert_array_equal(image, ct.voxels[:, top : top + rows, left : left + columns])


def test_thick_slices_become_thin_ones_between_them():
    ct = with_slices_of(5.0, 6)
    image, geometry = prepare_image(ct, SpacedVolumes(spacing_mm=(1.25, 2.0, 1.9), margin_mm=0))
    assert len(image) == 24
    top, left = geometry.start
    cut = ct.voxels[:, top : top + geometry.size[0], left : left + geometry.size[1]]
    np.testing.assert_array_equal(image[:2], cut[[0, 0]])  # beyond the first one's centre it repeats
    for number, share in enumerate((1 / 8, 3 / 8, 5 / 8, 7 / 8), 2):
        between = (1 - share) * cut[0].astype(float) + share * cut[1]
        assert np.abs(image[number] - between).max() <= 0.5


def test_thin_slices_are_averaged_so_that_their_noise_falls():
    ct = with_slices_of(0.7, 59)
    image, geometry = prepare_image(ct, SpacedVolumes(spacing_mm=(3.0, 2.0, 1.9), margin_mm=0))
    assert len(image) == 14  # 41.3 mm
    assert geometry.spacing_mm[0] == pytest.approx(3, abs=1e-3)
    middle = np.s_[2:-2, 20:30, 20:30]
    assert image[middle].std() == pytest.approx(60 / np.sqrt(3 / 0.7), rel=0.15)  # the patient's noise has 60 HU


@pytest.mark.parametrize(("spacing_mm", "slices"), [(1.0, 4), (4.0, 1), (20.0, 1)])
def test_one_slice_is_a_volume_of_equal_slices(spacing_mm, slices, tmp_path):
    ct = with_slices_of(4.0, 1)
    labels = np.zeros(ct.shape, np.uint8)
    labels[0, 40:60, 50:70] = 1
    settings = SpacedVolumes(spacing_mm=(spacing_mm, 2.0, 1.9), margin_mm=0)
    case, facts = prepare_case(source_of(tmp_path, ct, labels), space=SPACE, preparation=settings)
    assert case.image.shape[0] == case.labels.shape[0] == slices
    assert (case.image == case.image[:1]).all()
    assert facts.voxels["liver"] == 400 * slices


def test_a_case_of_a_volume_has_image_labels_and_unknown_voxels_of_one_shape(tmp_path):
    ct = with_slices_of(5.0, 8)
    labels = np.zeros(ct.shape, np.uint8)
    labels[2:5, 40:60, 50:70], labels[6:, 40:60, 50:70] = 1, 255
    source = source_of(tmp_path, ct, labels, unknown=(255,))
    settings = SpacedVolumes(spacing_mm=(2.5, 4.0, 3.8), margin_mm=8)
    case, facts = prepare_case(source, space=SPACE, preparation=settings)
    assert case.image.shape == case.labels.shape == case.known.shape == facts.geometry.prepared_shape
    assert np.flatnonzero((case.labels == 1).any((1, 2))).tolist() == list(range(4, 10))
    assert np.flatnonzero((~case.known).any((1, 2))).tolist() == list(range(12, 16))
    voxel_ml = np.prod(facts.geometry.spacing_mm) / 1000
    assert facts.voxels["liver"] * voxel_ml == pytest.approx(3 * 400 * 2 * 1.9 * 5 / 1000, rel=0.02)


@pytest.mark.parametrize("turn", TURNED)
def test_a_geometry_with_a_slice_grid_comes_back_from_json(turn):
    _, geometry = prepare_image(turn_volume(with_slices_of(0.7, 20), turn), SpacedVolumes(spacing_mm=(3.0, 1.5, 4.0)))
    found = geometry_from_json(json.loads(json.dumps(geometry_to_json(geometry))))
    for name in ("shape", "turn", "size", "start", "step", "slice_grid", "prepared_shape"):
        assert getattr(found, name) == getattr(geometry, name)
    np.testing.assert_array_equal(found.prepared_affine, geometry.prepared_affine)


@pytest.mark.parametrize("turn", TURNED)
def test_on_the_scanners_grid_every_voxel_stays(turn, tmp_path):
    ct, labels = (turn_volume(Volume(v, AFFINE), turn) for v in (scan().voxels, blocks()))
    case, facts = prepare_case(source_of(tmp_path, ct, labels), space=SPACE, preparation=ScannerGrid())
    np.testing.assert_array_equal(case.image, scan().voxels)
    assert case.image.flags.c_contiguous
    np.testing.assert_array_equal(case.labels, np.array([0, 1, 2, 2, 0], np.uint8)[blocks()])
    np.testing.assert_allclose(facts.geometry.prepared_affine, AFFINE, atol=1e-4)
    found = geometry_from_json(json.loads(json.dumps(geometry_to_json(facts.geometry))))
    assert (found.slice_grid, found.step, found.prepared_shape) == (None, None, (6, 32, 32))


# --- slab by slab

WAYS = [SMALL, SPACED, SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0), margin_mm=4), ScannerGrid()]
SLICE_BYTES = 96 * 110 * 2


def whole(path: Path, way) -> tuple[np.ndarray, Geometry]:
    """What reading all at once gives."""
    ct = nifti.read(path)
    return prepare_image(with_voxels(ct, hounsfield(ct, where="p1")), way)


def require_same(path: Path, way, **settings) -> None:
    image, geometry, coarse = prepare_file(path, way, where="p1", **settings)
    grid = coarse.grid
    expected, straight = whole(path, way)
    scan = nifti.read(path)
    np.testing.assert_array_equal(coarse.hu, coarse_scan(with_voxels(scan, hounsfield(scan, where="p1"))).hu)
    assert image.dtype == np.int16
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)
    assert geometry_to_json(geometry) == geometry_to_json(straight)
    assert grid.voxels.strides == (0, 0, 0)
    assert geometry.shape == grid.shape
    np.testing.assert_array_equal(grid.affine, nifti.read(path).affine)


@pytest.mark.parametrize("way", WAYS)
def test_slab_by_slab_gives_the_same_image_however_the_file_is_oriented(tmp_path, way):
    path = tmp_path / "p1.nii.gz"
    turns = [Turn((0, 1, 2), flips) for flips in product([False, True], repeat=3)]
    for turn in [*turns, Turn((0, 2, 1), (True, False, True)), Turn((2, 0, 1), (True, False, True))]:
        nifti.write(path, turn_volume(patient((7, 96, 110)), turn), overwrite=True)
        require_same(path, way, slab_bytes=3 * SLICE_BYTES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slab_bytes", [1, SLICE_BYTES, 4 * SLICE_BYTES, 1 << 30])
@pytest.mark.parametrize("slice_mm", [0.7, 5.0])
def test_slabs_of_any_size_give_the_same_image(tmp_path, way, slab_bytes, slice_mm):
    ct = with_slices_of(slice_mm, 9)
    for flipped in (False, True):
        path = tmp_path / f"{flipped}.nii.gz"
        nifti.write(path, turn_volume(ct, Turn((0, 1, 2), (flipped, False, False))))
        require_same(path, way, slab_bytes=slab_bytes)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep_bytes", [0, 6 * SLICE_BYTES - 1, 6 * SLICE_BYTES])
def test_a_scan_that_may_be_kept_gives_the_same_image(tmp_path, way, keep_bytes):
    nifti.write(tmp_path / "p1.nii.gz", patient())
    require_same(tmp_path / "p1.nii.gz", way, keep_bytes=keep_bytes)


@pytest.mark.parametrize("way", WAYS)
def test_fractions_and_flecks_are_rounded_and_clipped_as_those_of_the_whole(tmp_path, way):
    voxels = patient().voxels * np.float32(1.0001) + np.float32(0.3)
    voxels[3, 50, 60] = 1e6
    nifti.write(tmp_path / "p1.nii.gz", Volume(voxels, WORLD))
    require_same(tmp_path / "p1.nii.gz", way, slab_bytes=1)


def with_nan() -> np.ndarray:
    voxels = scan().voxels.astype(np.float32)
    voxels[1, 2, 3:5] = np.nan
    voxels[4, 2, 3] = np.inf
    return voxels


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (with_nan(), r"p1: 3 of 6144 voxels are NaN or infinite"),
        ((scan().voxels + 1100).astype(np.int16), r"p1: intensities from .* look stored with an offset of 1024"),
        (scan().voxels.clip(-160, 240), r"p1: .* of the voxels are exactly -160, the lowest value"),
        (np.full((3, 8, 8), -1024, np.int16), r"p1: every voxel is -1024"),
    ],
)
def test_a_file_that_is_no_ct_is_refused_slab_by_slab_too(tmp_path, way, voxels, message):
    nifti.write(tmp_path / "p1.nii.gz", Volume(voxels, AFFINE))
    for refusing in (lambda path: prepare_file(path, way, where="p1", slab_bytes=1), lambda path: whole(path, way)):
        with pytest.raises(FileError, match=message):
            refusing(tmp_path / "p1.nii.gz")


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_ends_in_the_middle_of_a_slab_is_named(tmp_path, way):
    path = tmp_path / "p1.nii.gz"
    nifti.write(path, patient())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileError, match=r"p1\.nii\.gz is (truncated|damaged)"):
        prepare_file(path, way, where="p1", slab_bytes=1)


def test_real_scans_are_the_same_slab_by_slab(shared_data):
    for path in sorted(shared_data.glob("totalsegmentator_example/*_ct.nii.gz")):
        require_same(path, SpacedSlices(), slab_bytes=100_000)
