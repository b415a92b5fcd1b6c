"""How far a surface lies outside of another: derived from cubes; what is counted as found where nothing is."""

import numpy as np
import pytest

from benchmarks.studies.real_scans import RealScan, false_finds, named, scores_of, signed_distances_mm
from viscera.labels import LabelSpace
from viscera.volume import Volume

SPACE = LabelSpace("two", ("liver", "spleen"))


def cube(*sides):
    mask = np.zeros((16, 16, 16), bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def test_a_side_that_lies_further_out_counts_positive_and_one_further_in_negative():
    truth = cube((4, 12), (4, 12), (4, 12))
    wider = cube((4, 12), (4, 12), (4, 14))
    # Faces of 8x8 and 8x10 voxels of 2x1x1 mm. What is added: its far side (64 faces of 2 mm2) lies 2 mm out; of its four flanks,
    # 8x2 faces each, those beyond the truth's side lie sqrt(0.5^2 or 1.5^2) mm from the truth's nearest face centre in line.
    mean, median = signed_distances_mm(truth, wider, (2.0, 1.0, 1.0))
    assert mean > 0
    assert median == 0
    assert signed_distances_mm(wider, truth, (2.0, 1.0, 1.0)) == pytest.approx((-mean, 0))


def test_slabs_that_fill_the_scan_are_apart_by_exactly_their_offset():
    truth, thicker = (np.zeros((16, 100, 100), bool) for _ in range(2))
    truth[4:10], thicker[3:11] = True, True
    mean, median = signed_distances_mm(truth, thicker, (3.0, 1.0, 1.0))
    assert median == pytest.approx(3)  # one slice on either side: 40 000 of 56 800 mm2
    assert 2 < mean < 3  # of the slabs' flanks, those of one lie on those of the other


def test_what_is_moved_is_neither_too_large_nor_too_small():
    moved = signed_distances_mm(cube((4, 12), (4, 12), (4, 10)), cube((4, 12), (4, 12), (6, 12)), (1.0, 1.0, 1.0))
    assert moved[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("empty", [(0, 1), (1, 0), (0, 0)])
def test_an_organ_that_is_not_there_has_no_distance(empty):
    masks = [cube((4, 6), (4, 6), (4, 6)) * bool(there) for there in empty]
    assert np.isnan(signed_distances_mm(*masks, (1.0, 1.0, 1.0))).all()


def scan_of(name, truth):
    return RealScan(
        name, Volume(np.zeros(truth.shape, np.int16), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]]), truth, {7: "liver"}
    )


def test_a_perfect_label_map_has_dice_1_no_distance_and_its_own_volume():
    truth = np.where(cube((4, 12), (4, 12), (4, 12)), 7, 0).astype(np.uint8)
    scan = scan_of("20 slices", truth)
    labels = Volume((truth > 0).astype(np.uint8), scan.ct.affine)
    found = scores_of(scan, labels, SPACE)
    assert found == {
        "liver": {"dice": 1, "nsd": 1, "signed_mm": 0, "signed_median_mm": 0, "volume_ratio": 1, "truth_ml": 0.512}
    }


def test_an_organ_of_the_network_that_a_whole_truth_lacks_is_a_false_find():
    truth = np.zeros((16, 16, 16), np.uint8)
    labels = Volume(
        np.where(cube((0, 10), (0, 10), (0, 10)), 2, 0).astype(np.uint8), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]]
    )
    assert false_finds(scan_of("20 slices", truth), labels, SPACE) == {"spleen": 1.0}
    assert false_finds(scan_of("kidneys", truth), labels, SPACE) == {}


def test_weights_may_be_given_a_name():
    assert [named(text) for text in ("starter", "new=runs/a.safetensors")] == [
        ("starter", named("starter")[1]),
        ("new", named("runs/a.safetensors")[1]),
    ]
