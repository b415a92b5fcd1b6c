"""Segmenting with a network whose answer is known: thresholds of HU. Geometry, upsampling, organs."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from viscera.config import Inference, Preparation, Recipe, Window
from viscera.inference import Model, only_organs, segment, segment_slices
from viscera.labels import ABDOMENCT1K
from viscera.volume import Turn, Volume, to_axial, turn_volume

CENTRES_HU = (-300.0, -100.0, 0.0, 100.0, 300.0)


class Nearest(nn.Module):
    """The class whose centre is nearest to the pixel's HU."""

    def forward(self, image):
        centres = (torch.tensor(CENTRES_HU) + 400) / 800
        return -((image - centres[None, :, None, None]) ** 2)


def model(size: tuple[int, int], **inference) -> Model:
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=Preparation(size=size),
        intensity=Window(-400, 400),
        inference=Inference(batch_size=3, **inference),
    )
    return Model(Nearest(), recipe, ABDOMENCT1K, torch.device("cpu"), None, "hash")


def nearest(hu: np.ndarray) -> np.ndarray:
    return np.abs(hu[..., None] - np.array(CENTRES_HU)).argmin(-1).astype(np.uint8)


def axial_scan(shape=(7, 16, 32)) -> Volume:
    hu = np.random.default_rng(0).choice([-350, -310, -90, 5, 120, 333], shape).astype(np.int16)
    affine = np.array([[0, 0, -1.5, 20.0], [0, -0.8, 0, 30.0], [4.0, 0, 0, -50.0], [0, 0, 0, 1]])
    return Volume(hu, affine)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_whatever_the_order_of_the_file_each_voxel_gets_the_same_label_and_the_grid_stays(axes):
    scan = axial_scan()
    assert to_axial(scan)[1] == Turn((0, 1, 2), (False,) * 3)
    for flips in product((False, True), repeat=3):
        turned = turn_volume(scan, Turn(axes, flips))
        labels = segment(turned, model((16, 32)))
        assert np.array_equal(labels.voxels, nearest(turned.voxels))
        assert np.array_equal(labels.affine, turned.affine)


def test_labels_are_the_argmax_of_the_linearly_upsampled_logits():
    image = np.random.default_rng(1).integers(-400, 400, (5, 16, 16)).astype(np.int16)
    network = model((16, 16))
    labels = segment_slices(image, network, (37, 41))
    logits = Nearest()(((torch.from_numpy(image)[:, None].float()) + 400) / 800)
    expected = nn.functional.interpolate(logits, (37, 41), mode="bilinear", align_corners=False).argmax(1)
    assert np.array_equal(labels, expected.numpy())


def test_a_block_is_found_where_it_is_after_resizing_down_and_up():
    hu = np.full((3, 64, 64), -300, np.int16)
    hu[1, 16:32, 40:56] = 100
    labels = segment(Volume(hu, np.diag([5.0, -1.0, -1.0, 1.0])), model((16, 16))).voxels
    found = np.argwhere(labels == 3)
    assert set(found[:, 0]) == {1}
    # Linear steps of four pixels blur the edge by two at most; the centre must not move.
    assert found[:, 1:].mean(0) == pytest.approx([23.5, 47.5], abs=0.5)
    assert (labels == 3).sum() == pytest.approx(256, rel=0.3)


def test_components_are_kept_as_the_recipe_says():
    hu = np.full((4, 16, 16), -300, np.int16)
    hu[0, :4, :4] = hu[3, 0, 0] = 0
    assert (segment(Volume(hu, np.eye(4)), model((16, 16))).voxels == 2).sum() == 17
    kept = segment(Volume(hu, np.eye(4)), model((16, 16), largest_components={"kidney": 1})).voxels
    assert (kept == 2).sum() == 16


def test_one_slice_is_enough_and_progress_ends_at_its_end():
    seen = []
    labels = segment(
        axial_scan((1, 16, 32)), model((16, 32)), watch=lambda done, all_slices: seen.append((done, all_slices))
    )
    assert labels.shape == (1, 16, 32)
    segment(axial_scan(), model((16, 32)), watch=lambda done, all_slices: seen.append((done, all_slices)))
    assert seen == [(1, 1), (3, 7), (6, 7), (7, 7)]


def test_only_the_wanted_organs_stay():
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert only_organs(labels, [3, 1]).tolist() == [[[0, 1, 0, 3]]]
