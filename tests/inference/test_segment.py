"""Segmenting with a network whose answer is known: thresholds of HU. Geometry, upsampling, organs."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from makers import CENTRES_HU, Nearest, nearest
from makers import nearest_model as model
from viscera.config import (
    SpacedSlices,
    UNetShape,
)
from viscera.inference.segment import only_organs, segment
from viscera.inference.slices import decide, slice_logits
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.case import prepare_image
from viscera.volume import Turn, Volume, to_axial, turn_volume


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
    found = slice_logits(image, network, range(1, 4))
    labels = decide(found, (37, 41))
    logits = Nearest()(((torch.from_numpy(image)[1:4, None].float()) + 400) / 800)
    torch.testing.assert_close(torch.from_numpy(found), logits)
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


class Sure(Nearest):
    """As sure of the nearest class as can be."""

    def forward(self, image):
        nearest = super().forward(image).argmax(1)
        return nn.functional.one_hot(nearest, len(CENTRES_HU)).movedim(-1, 1).float()


class Bright(nn.Module):
    """The first organ where a pixel is brighter than 100 HU."""

    stride, dimensions = 1, 2

    def forward(self, image):
        first = image * 800 - 500
        return torch.cat([torch.zeros_like(first), first, *[torch.full_like(first, -1e4)] * 3], 1)


def patient(shape=(5, 90, 100)) -> Volume:
    """Blocks of all classes in an elliptic body, on an oblique grid."""
    rng = np.random.default_rng(2)
    blocks = np.array(CENTRES_HU)[rng.integers(1, 5, (shape[0], -(-shape[1] // 9), -(-shape[2] // 8)))]
    y, x = np.indices(shape[1:])
    body = ((y - 46) / 30) ** 2 + ((x - 48) / 36) ** 2 <= 1
    hu = np.where(body, blocks.repeat(9, 1).repeat(8, 2)[:, : shape[1], : shape[2]], -1000).astype(np.int16)
    angle = np.deg2rad(15)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.array([[0, 0, -1.5, 20.0], [0, -1.3, 0, 30.0], [4.0, 0, 0, -50.0], [0, 0, 0, 1]])
    affine[:3, :3] = rotation @ affine[:3, :3]
    return Volume(hu, affine)


def itk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Voxels for SimpleITK, in whose eyes the world may as well be RAS+."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    directions = affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(directions, axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((directions / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@pytest.mark.parametrize("spacing_mm", [0.7, 2.5, 4.0])
@pytest.mark.parametrize("turn", [Turn((0, 1, 2), (False,) * 3), Turn((1, 2, 0), (True, False, True))])
def test_labels_of_cut_slices_return_to_their_place_in_the_world(spacing_mm, turn):
    """SimpleITK resamples what the network says, class by class, from the prepared grid to the scanner's."""
    scan, preparation = turn_volume(patient(), turn), SpacedSlices(spacing_mm=spacing_mm, margin_mm=4)
    network = replace(model(preparation=preparation), network=TorchRunner(Sure()))
    labels = segment(scan, network)
    assert np.array_equal(labels.affine, scan.affine)
    image, geometry = prepare_image(scan, preparation)
    said = nearest(image)
    grid = itk(scan.voxels, scan.affine)
    shares = []
    for index in range(5):
        channel = itk((said == index).astype(np.float64), geometry.prepared_affine)
        beyond = float(index == 0)
        shares.append(sitk.GetArrayFromImage(sitk.Resample(channel, grid, sitk.Transform(), sitk.sitkLinear, beyond)))
    first, second = np.sort(shares, axis=0)[[-1, -2]]
    clear = first - second > 1e-3
    assert clear.mean() > 0.95
    assert np.array_equal(labels.voxels[clear], np.argmax(shares, axis=0)[clear])
    assert (labels.voxels > 0).sum() > 0.9 * (scan.voxels > -900).sum()


def test_a_scan_that_has_the_spacing_gets_every_label_back():
    scan = patient()
    scan = replace(scan, affine=np.array([[0, 0, -2.5, 20.0], [0, -2.5, 0, 30.0], [4.0, 0, 0, -50.0], [0, 0, 0, 1]]))
    labels = segment(scan, model(preparation=SpacedSlices(spacing_mm=2.5)))
    assert np.array_equal(labels.voxels, nearest(scan.voxels.clip(-300)))


@pytest.mark.parametrize("pixel_mm", [0.7, 0.98, 1.5, 3.0])
def test_smooth_organs_survive_the_way_there_and_back(pixel_mm):
    shape = (4, round(330 / pixel_mm), round(360 / pixel_mm))
    y, x = np.indices(shape[1:]) * pixel_mm
    field = gaussian_filter(np.random.default_rng(4).normal(size=shape), (0, 16 / pixel_mm, 16 / pixel_mm))
    body = ((y - 160) / 130) ** 2 + ((x - 190) / 150) ** 2 <= 1
    inner = ((y - 160) / 115) ** 2 + ((x - 190) / 135) ** 2 <= 1
    organ = (field > np.quantile(field, 0.7)) & inner
    hu = np.where(organ, 300, np.where(body, -100, -1000)).astype(np.int16)
    scan = Volume(hu, np.diag([-pixel_mm, -pixel_mm, 5.0, 1.0])[:, [2, 1, 0, 3]])
    found = segment(scan, replace(model(preparation=SpacedSlices()), network=TorchRunner(Bright()))).voxels == 1
    assert 2 * (found & organ).sum() / (found.sum() + organ.sum()) > 0.97
    for axis in (1, 2):  # and do not move; a shift by half a pixel of the one grid or the other would be 0.35 to 1.5 mm
        centres = [(np.indices(shape)[axis] * mask).sum() / mask.sum() for mask in (found, organ)]
        assert abs(centres[0] - centres[1]) * pixel_mm < 0.2


def test_beyond_the_body_all_is_background():
    scan = patient()
    network = model(preparation=SpacedSlices(spacing_mm=2.0, margin_mm=0))
    everywhere = replace(network, network=TorchRunner(Everywhere()))
    labels = segment(scan, everywhere)
    _, geometry = prepare_image(scan, network.recipe.preparation)
    expected = np.zeros(scan.shape, np.uint8)
    rows, columns = geometry.pixel_grid.inside(scan.shape[1:])
    expected[:, rows, columns] = 3
    assert np.array_equal(labels.voxels, expected)
    assert 0.5 < (expected > 0).mean() < 0.9


class Everywhere(nn.Module):
    """The third organ, wherever it is asked."""

    stride, dimensions = 1, 2

    def forward(self, image):
        return torch.eye(5)[3][None, :, None, None] * torch.ones_like(image[:, :1])


class Neighbours(nn.Module):
    """Its input as it is."""

    stride, dimensions = 1, 2

    def forward(self, image):
        return image


@pytest.mark.parametrize("slices", [3, 5])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_neighbouring_slices_are_channels_and_the_last_ones_repeat(slices, count):
    image = np.random.default_rng(count).integers(-400, 400, (count, 16, 16)).astype(np.int16)
    network = replace(model(), network=TorchRunner(Neighbours()))
    network = replace(network, recipe=replace(network.recipe, network=UNetShape(slices=slices)))
    reach = slices // 2
    scaled = (np.pad(image, ((reach, reach), (0, 0), (0, 0)), mode="edge") + 400) / 800
    expected = np.stack([scaled[i : i + slices] for i in range(count)])
    for first in range(count):
        for last in range(first + 1, count + 1):
            found = slice_logits(image, network, range(first, last))
            np.testing.assert_allclose(found, expected[first:last], atol=1e-6)


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
    done = [slices for slices, _ in seen[1:]]
    assert seen[0] == (1, 1)
    assert done == sorted(done)
    assert seen[-1] == (7, 7)


def test_only_the_wanted_organs_stay():
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert only_organs(labels, [3, 1]).tolist() == [[[0, 1, 0, 3]]]
