"""Templates of a whole body: what is told apart by place or by the scan, what organs hold, and rays around metal."""

from dataclasses import replace

import numpy as np
import pytest

from viscera.synthesis.canvas import ORGANS, VALUE, Tissue, blank_canvas
from viscera.synthesis.patient import synthesize
from viscera.synthesis.scanner.protocol import add_metal_streaks_
from viscera.synthesis.shapes import Grid
from viscera.synthesis.template.label_maps import read_label_map
from viscera.synthesis.template.patient import synthesize_from
from viscera.synthesis.template.template import UNCHANGED, read_template
from viscera.synthesis.variety import PLAIN
from viscera.volume import Volume

NAMES = dict(enumerate(ORGANS, start=1))
HEADS = ("femoral_head_left", "femoral_head_right")
AFFINE = np.array([[0, 0, -4.0, 0], [0, -4.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def whole():
    """A whole abdomen, its voxels 5 mm high or so."""
    return synthesize(np.random.default_rng(2), shape=(100, 72, 84), scan="abdomen", orientation="axial").labels


def _merged(labels):
    """The femoral heads as part of the femora, the rectum as part of the colon, and no spinal cord."""
    voxels = labels.voxels.copy()
    voxels[np.isin(voxels, [VALUE[head] for head in HEADS])] = VALUE["femur"]
    voxels[voxels == VALUE["rectum"]] = VALUE["colon"]
    voxels[voxels == VALUE["spinal_cord"]] = 0
    left_out = (*HEADS, "rectum", "spinal_cord")
    return Volume(voxels, labels.affine), {value: name for value, name in NAMES.items() if name not in left_out}


@pytest.fixture(scope="module")
def template(whole):
    return read_template(*_merged(whole))


def test_femoral_heads_and_rectum_are_told_from_what_they_were_labelled_with(whole):
    labels, names = _merged(whole)
    found = read_label_map(labels, names)
    assert {*HEADS, "rectum", "femur", "colon"} <= set(found.annotated)
    assert any(note.startswith("femoral heads: the largest ball") for note in found.notes)
    assert any(note.startswith("rectum: the colon below") for note in found.notes)
    for head in HEADS:
        mine, true = found.label == VALUE[head], whole.voxels == VALUE[head]
        assert 2 * (mine & true).sum() / (mine.sum() + true.sum()) > 0.5, head
    rectum, true = found.label == VALUE["rectum"], whole.voxels == VALUE["rectum"]
    assert (rectum & true).sum() > 0.5 * rectum.sum()


def test_a_colon_without_a_pelvis_and_a_sliver_of_a_femur_stay_whole():
    voxels = np.zeros((12, 24, 24), np.uint8)
    voxels[2:9, 4:12, 4:12] = 1
    voxels[0, 20, 20] = 2
    found = read_label_map(Volume(voxels, AFFINE), {1: "colon", 2: "femur"})
    assert set(np.unique(found.label)) == {0, VALUE["colon"], VALUE["femur"]}
    assert not {"rectum", *HEADS} & set(found.annotated)
    assert found.notes == ()


def test_the_spinal_cord_and_the_discs_are_made_up_within_the_column_of_vertebrae(template):
    assert "spinal_cord" in template.annotated
    assert "spinal cord: made up in the spinal canal" in template.notes
    cord, bones = template.label == VALUE["spinal_cord"], template.label == VALUE["vertebrae"]
    levels = np.flatnonzero(bones.any(axis=(1, 2)))
    held = np.flatnonzero(cord.any(axis=(1, 2)))
    assert len(held) > 0.5 * len(levels)
    assert levels[0] - 2 <= held[0]
    assert held[-1] <= levels[-1] + 2
    # Behind the middle of the bodies (rows grow towards the back), and in the middle between the sides.
    assert np.argwhere(cord)[:, 1].mean() > np.argwhere(bones)[:, 1].mean()
    assert abs(np.argwhere(cord)[:, 2].mean() - np.argwhere(bones)[:, 2].mean()) < 6
    assert (template.tissue == Tissue.DISC).any()


def _patient(template, **options):
    varied = replace(PLAIN, **dict.fromkeys(options.pop("variety", ()), True))
    still = replace(template, reshaping=replace(UNCHANGED, variety=varied))
    return synthesize_from(
        still, np.random.default_rng(1), **({"shape": (40, 48, 56), "orientation": "axial"} | options)
    )


def test_a_pelvic_scan_of_a_template_ends_below_the_liver(template):
    patient = _patient(template, scan="pelvis")
    found = set(np.unique(patient.labels.voxels))
    assert VALUE["urinary_bladder"] in found
    assert VALUE["spleen"] not in found


def test_a_heart_with_chambers_has_the_same_outline_and_more_than_one_density(template):
    plain = _patient(template, scan="upper", variety=("contrast",))
    chambers = _patient(template, scan="upper", variety=("contrast", "heart"))
    heart = plain.labels.voxels == VALUE["heart"]
    assert np.array_equal(heart, chambers.labels.voxels == VALUE["heart"])
    assert heart.sum() > 50
    assert chambers.ct.voxels[heart].mean() > 80  # as bright as blood in the portal phase, not 0 HU
    assert chambers.ct.voxels[heart].std() > plain.ct.voxels[heart].std() + 5


def test_what_lies_outside_a_round_field_of_view_has_no_label(template):
    patient = _patient(template, variety=("scan_range", "view"))
    outside = patient.ct.voxels == patient.ct.voxels.min()
    assert not patient.labels.voxels[outside & (patient.ct.voxels < -1024)].any()
    assert set(np.unique(patient.labels.voxels)) <= {0, *patient.organs}


def test_unlabelled_tumours_bear_the_label_of_the_organ_around_them(template):
    healthy, ill = _patient(template, tumours="none"), _patient(template, tumours="unlabelled")
    labelled = _patient(template, tumours="labelled")
    assert "tumour" not in ill.organs.values()
    tumour = next(value for value, name in labelled.organs.items() if name == "tumour")
    grown = labelled.labels.voxels == tumour
    assert grown.any()
    assert np.array_equal(ill.labels.voxels[~grown], labelled.labels.voxels[~grown])
    assert ill.labels.voxels[grown].all()
    assert not np.array_equal(ill.ct.voxels, healthy.ct.voxels)


def test_air_within_the_body_is_lung_where_it_is_large_or_reaches_the_top_and_gas_elsewhere():
    hu = np.full((24, 56, 56), -1000, np.int16)
    hu[:, 8:48, 8:48] = 45
    labels = np.zeros(hu.shape, np.uint8)
    labels[4:12, 14:20, 14:20] = 1
    hu[14:, 24:34, 12:18] = -850  # up to the last slice
    hu[4:7, 36:40, 36:40] = -900  # a bubble of a few ml
    found = read_template(Volume(labels, AFFINE), {1: "liver"}, image=Volume(hu, AFFINE))
    pieces = {tissue: np.argwhere(found.tissue == tissue) for tissue in (Tissue.LUNG, Tissue.GAS)}
    heights = {tissue: places[:, 0].mean() / len(found.tissue) for tissue, places in pieces.items()}
    assert heights[Tissue.LUNG] > 0.6 > 0.4 > heights[Tissue.GAS]


def test_metal_streaks_leave_slices_without_metal_alone_and_darken_what_lies_between_two_pieces():
    grid = Grid(5.0 * np.arange(4), 2.0 * np.arange(40), 2.0 * np.arange(60), 0.02)
    canvas = blank_canvas(grid)
    canvas.tissue[2, 18:23, 12:16] = canvas.tissue[2, 18:23, 44:48] = Tissue.METAL
    image = np.zeros(grid.shape, np.float32)
    add_metal_streaks_(np.random.default_rng(0), image, canvas, (5.0, 2.0, 2.0))
    assert not image[[0, 1, 3]].any()
    assert image[2].any()
    # One metal, and whoever is far away sees less of it.
    assert image[2, 18:23, 20:40].mean() < -50 + image[2, [0, -1]].mean()
