"""The signs of a whole scan, from a glance and from all voxels."""

from dataclasses import replace

import numpy as np
import pytest

from viscera.preparation.body import coarse_scan
from viscera.quality.glance import scan_doubts
from viscera.quality.judging import signs
from viscera.quality.measuring import measure_organs, measure_scan
from viscera.volume import Volume

NAMES = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "stomach"}
AFFINE = np.array([[0, 0, -1.5, 0], [0, -1.5, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1.0]])


def trunk() -> tuple[Volume, Volume]:
    """A body of 300 x 240 mm with four organs in plausible places, and their labels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :240]
    hu = np.where(((y - 100) / 80) ** 2 + ((x - 120) / 100) ** 2 < 1, 40, -1000) + rng.normal(0, 10, (60, 200, 240))
    labels = np.zeros(hu.shape, np.uint8)
    labels[15:50, 60:140, 40:110] = 1
    labels[20:45, 80:130, 175:205] = 2
    labels[5:35, 120:150, 150:170] = 3
    labels[25:50, 60:90, 125:165] = 4
    hu[:, 150:165, 110:130] += 600
    return Volume(hu.round().astype(np.int16), AFFINE), Volume(labels, AFFINE)


def glance(ct: Volume, labels: Volume) -> list[object]:
    return [sign["kind"] for sign in scan_doubts(coarse_scan(ct), labels, NAMES)]


def all_voxels(ct: Volume, labels: Volume) -> list[str]:
    return [sign.kind for sign in signs(measure_organs(ct, labels.voxels, NAMES), measure_scan(ct)).scan]


def test_a_good_result_has_no_doubt():
    assert glance(*trunk()) == []


@pytest.mark.parametrize("axis", range(3))
def test_a_flipped_scan_is_doubtful_at_a_glance_as_from_all_voxels(axis):
    ct, labels = (replace(one, voxels=np.flip(one.voxels, axis)) for one in trunk())
    assert glance(ct, labels) == all_voxels(ct, labels)
    assert (axis != 2) or "mirrored" in glance(ct, labels)


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0])
def test_wrong_spacing_is_doubtful_at_a_glance_as_from_all_voxels(factor):
    ct, labels = (replace(one, affine=AFFINE @ np.diag([factor, factor, factor, 1])) for one in trunk())
    assert glance(ct, labels) == all_voxels(ct, labels) != []


def test_an_empty_map_is_nothing_and_centimetres_are_named():
    ct, labels = trunk()
    empty = replace(labels, voxels=np.zeros_like(labels.voxels))
    assert glance(ct, empty) == ["nothing"]
    small = AFFINE @ np.diag([0.1, 0.1, 0.1, 1])
    doubts = scan_doubts(coarse_scan(replace(ct, affine=small)), replace(empty, affine=small), NAMES)
    assert any("perhaps the header counts in centimetres" in str(sign["message"]) for sign in doubts)


def test_an_organ_too_small_to_be_met_by_a_glance_is_not_nothing():
    ct, labels = trunk()
    few = np.zeros_like(labels.voxels)
    few[1, 51, 51] = 9  # a name without a plausible range, one voxel
    names = {9: "nodule"}
    found = scan_doubts(coarse_scan(ct), replace(labels, voxels=few), names)
    assert "nothing" not in [sign["kind"] for sign in found]


def test_other_axis_orders_change_nothing():
    ct, labels = trunk()
    turned = [
        Volume(np.ascontiguousarray(one.voxels.transpose(1, 2, 0)[::-1]), AFFINE[:, [1, 2, 0, 3]] @ back(200))
        for one in (ct, labels)
    ]
    assert glance(*turned) == glance(ct, labels)


def back(count: int) -> np.ndarray:
    """The first axis runs backwards."""
    step = np.eye(4)
    step[0, 0], step[0, 3] = -1, count - 1
    return step
