"""Tumours of synthetic patients: the same patient but for them, in or at their organ, with the contrast that was drawn."""

import itertools
import json

import numpy as np
import pytest
from scipy import ndimage

from viscera.cli import synth
from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.datasets.synthetic import Cohort, default_organs, make_patient, write_cohort
from viscera.errors import LabelError, SettingError
from viscera.labels import FLARE14, TUMOUR
from viscera.synthesis.appearance.tissues import PHASES
from viscera.synthesis.appearance.tumours import (
    BULGE_MM,
    MOST,
    PHASE_CONTRAST,
    RADIUS_MM,
    SITES,
    TUMOUR_VALUE,
    paint_tumours_,
)
from viscera.synthesis.canvas import VALUE, Tissue, blank_canvas
from viscera.synthesis.patient import synthesize
from viscera.synthesis.shapes import Grid
from viscera.volume import Volume

SMALL = (32, 80, 80)


def _patient(seed, tumours, **options):
    return synthesize(np.random.default_rng(seed), shape=SMALL, orientation="axial", tumours=tumours, **options)


@pytest.fixture(scope="module")
def patients():
    """The same three patients without tumours, with, and with tumours that nobody labelled."""
    return [tuple(_patient(seed, tumours) for tumours in ("none", "labelled", "unlabelled")) for seed in range(3)]


def test_the_patient_is_the_same_but_for_the_tumours(patients):
    for without, labelled, _ in patients:
        tumour = labelled.labels.voxels == TUMOUR_VALUE
        assert tumour.any()
        assert np.array_equal(without.ct.affine, labelled.ct.affine)
        assert without.phase == labelled.phase
        assert np.array_equal(without.labels.voxels[~tumour], labelled.labels.voxels[~tumour])
        # The scanner blurs by less than a pixel, and takes in the slices beside a slice.
        near = ndimage.binary_dilation(tumour, np.ones((3, 9, 9)))
        assert np.array_equal(without.ct.voxels[~near], labelled.ct.voxels[~near])
        assert not np.array_equal(without.ct.voxels[tumour], labelled.ct.voxels[tumour])


def test_the_label_is_listed_only_where_tumours_are_labelled(patients):
    for without, labelled, unlabelled in patients:
        assert labelled.organs == without.organs | {TUMOUR_VALUE: TUMOUR}
        assert unlabelled.organs == without.organs
        assert TUMOUR not in without.organs.values()


def test_unlabelled_tumours_are_the_same_ones_and_belong_to_their_organs(patients):
    sites = [VALUE[organ] for organ in SITES]
    for without, labelled, unlabelled in patients:
        tumour = labelled.labels.voxels == TUMOUR_VALUE
        assert np.array_equal(labelled.ct.voxels, unlabelled.ct.voxels)
        assert np.array_equal(labelled.labels.voxels[~tumour], unlabelled.labels.voxels[~tumour])
        assert set(np.unique(unlabelled.labels.voxels[tumour])) <= set(sites)
        beneath = without.labels.voxels[tumour]
        within = np.isin(beneath, sites)
        assert np.array_equal(unlabelled.labels.voxels[tumour][within], beneath[within])


def test_tumours_lie_in_their_organ_or_bulge_a_little_into_fat(patients):
    for without, labelled, _ in patients:
        tumour = labelled.labels.voxels == TUMOUR_VALUE
        organs = np.isin(without.labels.voxels, [VALUE[organ] for organ in SITES])
        assert set(np.unique(without.labels.voxels[tumour & ~organs])) <= {VALUE["fat"]}
        away_mm = ndimage.distance_transform_edt(~organs, sampling=without.labels.spacing_mm)
        assert away_mm[tumour].max() <= BULGE_MM[1] * 1.06  # a patient's millimetre has up to 1.06 standard ones
        parts, count = ndimage.label(tumour)
        assert 1 <= count <= MOST
        for part in range(1, count + 1):
            assert organs[parts == part].any()


def _liver(*, step=2.0):
    """A block of liver, 100 HU, in fat, -100 HU."""
    axis = np.arange(-60, 62, step, dtype=np.float32)
    canvas = blank_canvas(Grid(axis, axis, axis, step**3 / 1000))
    canvas.tissue[...], canvas.label[...] = Tissue.FREE, VALUE["fat"]
    block = (slice(5, -5),) * 3
    canvas.tissue[block], canvas.label[block] = Tissue.LIVER, VALUE["liver"]
    return canvas, np.where(canvas.label == VALUE["liver"], 100, -100).astype(np.float32)


@pytest.mark.parametrize("phase", PHASES)
def test_a_lesion_differs_from_its_organ_by_the_contrast_that_was_drawn(phase):
    kinds = set()
    for seed in range(8):
        canvas, image = _liver()
        lesions = paint_tumours_(np.random.default_rng(seed), canvas, image, phase)
        for lesion in lesions:
            low, high = (PHASE_CONTRAST[phase] * bound for bound in SITES["liver"].contrast_hu)
            assert low <= lesion.contrast_hu <= high
            assert lesion.organ_hu == pytest.approx(100)
            kind = "rim" if lesion.rim_hu is not None else "necrotic" if lesion.core_hu else "plain"
            kinds.add(kind)
            difference = np.median(image[lesion.box][lesion.mask]) - 100
            match kind:
                case "plain":  # its texture has 6 HU, and lumps of 5.5 mm
                    assert difference == pytest.approx(lesion.contrast_hu, abs=7)
                case "necrotic":
                    assert lesion.contrast_hu + lesion.core_hu - 7 < difference < lesion.contrast_hu + 7
                case "rim":
                    assert image[lesion.box][lesion.mask].max() > 100 + lesion.rim_hu - 10
        untouched = canvas.label != TUMOUR_VALUE
        assert np.array_equal(image[untouched], _liver()[1][untouched])
    assert kinds == {"plain", "rim", "necrotic"}


def test_lesions_have_the_size_that_was_drawn_and_do_not_overlap():
    for seed in range(8):
        canvas, image = _liver()
        before = canvas.label.copy()
        lesions = paint_tumours_(np.random.default_rng(seed), canvas, image, "portal")
        assert 1 <= len(lesions) <= MOST
        total = 0
        for lesion in lesions:
            assert RADIUS_MM[0] <= lesion.radius_mm <= RADIUS_MM[1]
            volume_ml = np.count_nonzero(lesion.mask) * canvas.grid.voxel_ml
            # Half of it and more may lie beyond the organ, and its surface is uneven.
            sphere_ml = 4 / 3 * np.pi * lesion.radius_mm**3 / 1000
            assert 0.1 * sphere_ml < volume_ml < 1.4 * sphere_ml
            assert ndimage.label(lesion.mask)[1] == 1
            total += np.count_nonzero(lesion.mask)
        assert np.count_nonzero(canvas.label == TUMOUR_VALUE) == total
        kept = canvas.label != TUMOUR_VALUE
        assert np.array_equal(canvas.label[kept], before[kept])


def test_a_scan_without_any_of_the_organs_has_no_tumour():
    canvas, image = _liver()
    canvas.label[canvas.label == VALUE["liver"]] = VALUE["stomach"]
    before = image.copy()
    assert paint_tumours_(np.random.default_rng(0), canvas, image, "portal") == ()
    assert np.array_equal(image, before)


def test_an_organ_of_one_voxel_gives_one_lesion_of_it():
    canvas, image = _liver()
    canvas.label[...], canvas.tissue[...] = VALUE["stomach"], Tissue.STOMACH_WALL
    canvas.label[9, 9, 9] = VALUE["colon"]  # but not of the colon's wall
    (lesion,) = paint_tumours_(np.random.default_rng(1), canvas, image, "none")
    assert lesion.organ == "colon"
    assert np.argwhere(canvas.label == TUMOUR_VALUE).tolist() == [[9, 9, 9]]


def test_tumours_come_in_every_organ_of_the_list():
    grown = set()
    for seed in range(24):
        canvas, image = _liver(step=4.0)
        for part, organ in enumerate(SITES):
            canvas.label[6:-6, 6:-6, 6 + 3 * part : 9 + 3 * part] = VALUE[organ]
        grown |= {lesion.organ for lesion in paint_tumours_(np.random.default_rng(seed), canvas, image, "portal")}
    assert grown == set(SITES)


@pytest.mark.slow
def test_every_patient_of_a_cohort_has_a_tumour_however_coarse_the_scan():
    for scan, shape in itertools.product(("abdomen", "upper", "pelvis"), ((16, 16, 16), (24, 64, 64))):
        cohort = Cohort("flare", cases=4, seed=5, shape=shape, scan=scan, tumours=True)
        for number in range(1, 3):
            assert (make_patient(cohort, number).labels.voxels == TUMOUR_VALUE).any(), (scan, shape, number)


def test_a_layout_without_a_label_for_tumours_gets_whole_organs():
    assert TUMOUR in default_organs("flare", tumours=True)
    assert TUMOUR in default_organs("nnunet", tumours=True)
    assert TUMOUR not in default_organs("abdomenct1k", tumours=True)
    assert TUMOUR not in default_organs("flare")
    whole, labelled = (
        make_patient(Cohort(layout, shape=SMALL, tumours=True), 1) for layout in ("abdomenct1k", "flare")
    )
    assert np.array_equal(whole.ct.voxels, labelled.ct.voxels)
    assert TUMOUR_VALUE not in whole.labels.voxels
    assert TUMOUR_VALUE in labelled.labels.voxels
    some = make_patient(Cohort("flare", annotate=("liver",), shape=SMALL, tumours=True), 1)
    assert np.array_equal(some.labels.voxels, whole.labels.voxels)


def test_the_command_writes_tumours_as_14_and_lists_them_as_annotated(tmp_path):
    out = tmp_path / "flare"
    shape = ["--shape", "16", "64", "64"]
    assert synth.main([str(out), "--layout", "flare", "--cases", "2", "--jobs", "1", "--tumours", *shape]) == 0
    listed = json.loads((out / "annotated.json").read_text())
    sources, problems = find_sources("flare", out)
    assert not problems
    assert {source.name for source in sources} == listed.keys()
    for source in sources:
        assert TUMOUR in listed[source.name]
        assert set(source.annotated) == set(FLARE14.organs)
        labels = read_labels(source)
        assert isinstance(labels, Volume)
        assert (labels.voxels == 14).any()
        assert labels.voxels.max() == 14


def test_tumours_cannot_be_annotated_where_there_are_none_or_the_layout_has_no_label(tmp_path):
    with pytest.raises(SettingError, match="patients have none"):
        write_cohort(tmp_path / "a", Cohort("flare", annotate=("liver", "tumor"), shape=SMALL), jobs=1)
    cohort = Cohort("abdomenct1k", annotate=("liver", "tumour"), cases=1, shape=(16, 16, 16), tumours=True)
    with pytest.raises(LabelError, match="no label for 'tumour'"):
        write_cohort(tmp_path / "b", cohort, jobs=1)


def test_a_misspelt_choice_is_named():
    with pytest.raises(SettingError, match=r"no choice of tumours 'labeled'.*mean 'labelled'"):
        synthesize.__wrapped__(np.random.default_rng(0), tumours="labeled")
