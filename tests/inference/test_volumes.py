"""3D windows with a network whose answer is known: thresholds of HU. Windows, phases, regions, memory, two steps."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates, maximum_filter
from torch import nn

import makers
from viscera.config import (
    PatchSampling,
    PlainUNetShape,
    Postprocessing,
    Preparation,
    Recipe,
    ScannerGrid,
    SpacedVolumes,
    VolumeAugmentation,
    Window,
    WindowInference,
)
from viscera.errors import SettingError
from viscera.inference import plans
from viscera.inference.model import Model, with_others, with_region
from viscera.inference.plans import Plan, holds, places, smaller, sums_type
from viscera.inference.region import blocks_of, widened, windows_of
from viscera.inference.segment import prepare_scan, segment, segment_prepared, sought_organs
from viscera.inference.volumes import read_logits
from viscera.inference.windows import finished_planes, first_look, gaussian
from viscera.labels import ABDOMENCT1K, TUMOUR_ONLY, LabelSpace
from viscera.networks.torch_runner import TorchRunner
from viscera.preparation.case import prepare_image
from viscera.volume import Volume

CENTRES_HU = (-1000.0, -100.0, 0.0, 100.0, 300.0)


AS_IT_IS = ScannerGrid()


class Nearest(nn.Module):
    """The class whose centre is nearest to the voxel's HU; counts its calls and the voxels it is given."""

    stride, dimensions = 4, 3

    def __init__(self, centres=CENTRES_HU, *, most_voxels=10**9):
        super().__init__()
        self.centres, self.most_voxels, self.sizes = torch.tensor(centres), most_voxels, []

    def forward(self, image):
        if image.numel() > self.most_voxels:
            raise torch.OutOfMemoryError("no memory")
        self.sizes.append(tuple(image.shape[2:]))
        return -((image * 2000 - 1000 - self.centres[None, :, None, None, None]) ** 2) / 1e4


def model(
    size=(8, 8, 8),
    *,
    stride=(1, 1, 1),
    network: nn.Module | None = None,
    preparation: Preparation = AS_IT_IS,
    **inference,
) -> Model:
    recipe = Recipe(
        name="threshold",
        label_space="abdomenct1k",
        preparation=preparation,
        intensity=Window(-1000, 1000),
        network=PlainUNetShape(),
        sampling=PatchSampling(size=size, stride=stride),
        augmentation=VolumeAugmentation(),
        inference=WindowInference(**({"region": "whole"} | inference)),
    )
    return Model(TorchRunner(network or Nearest()), recipe, ABDOMENCT1K, "cpu", "hash")


def scan(shape=(19, 24, 21), spacing=(2.0, 1.0, 1.0), seed=0) -> Volume:
    hu = np.random.default_rng(seed).choice([-1000, -90, 5, 120, 333], shape).astype(np.int16)
    z, y, x = spacing
    affine = np.array([[0, 0, -x, 20.0], [0, -y, 0, 30.0], [z, 0, 0, -50.0], [0, 0, 0, 1]])
    return Volume(hu, affine)


def nearest(hu: np.ndarray) -> np.ndarray:
    return np.abs(hu[..., None] - np.array(CENTRES_HU)).argmin(-1).astype(np.uint8)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("size", [(8, 8, 8), (16, 12, 8), (32, 32, 32), (4, 40, 8)])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_of_a_voxelwise_network_give_its_answer_at_every_voxel(size, overlap, mirror):
    ct = scan()
    assert np.array_equal(segment(ct, model(size, overlap=overlap, mirror=mirror)).voxels, nearest(ct.voxels))


@pytest.mark.parametrize("stride", [(1, 4, 4), (1, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("shape", [(19, 24, 21), (5, 32, 32), (9, 3, 40)])
def test_all_phases_are_put_together_at_full_resolution(stride, shape):
    ct = scan(shape)
    assert np.array_equal(segment(ct, model((8, 8, 8), stride=stride)).voxels, nearest(ct.voxels))


def test_a_short_scan_sees_its_last_voxels_repeated_and_one_slice_is_enough():
    network = Nearest()
    ct = scan((1, 5, 6))
    assert np.array_equal(segment(ct, model((8, 8, 8), network=network)).voxels, nearest(ct.voxels))
    assert network.sizes == [(8, 8, 8)]


def test_flipped_and_transposed_scans_get_the_same_labels_on_their_own_grid():
    ct = scan()
    for axes, flips in (((0, 1, 2), (True, False, True)), ((2, 0, 1), (False, True, False)), ((1, 2, 0), (True,) * 3)):
        step = np.zeros((4, 4))
        step[3, 3] = 1
        part = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
        for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
            step[old, new] = -1 if flip else 1
            step[old, 3] = ct.shape[old] - 1 if flip else 0
        turned = Volume(ct.voxels.transpose(axes)[part], ct.affine @ step)
        assert np.array_equal(segment(turned, model()).voxels, nearest(turned.voxels))


def test_logits_of_windows_are_averaged_with_gaussian_weights():
    class Place(nn.Module):
        """Answers with how often it was asked before, everywhere."""

        stride, dimensions = 4, 3

        count = 0

        def forward(self, image):
            self.count += 1
            return torch.full((1, 5, *image.shape[2:]), float(self.count))

    image = np.zeros((12, 8, 8), np.int16)
    plan = Plan((8, 8, 8), overlap=0.5)
    chosen = places(image.shape, plan)
    assert chosen == [(0, 0, 0), (4, 0, 0)]
    found = list(finished_planes(image, model(network=Place()), plan, chosen=chosen))
    assert [plane for planes in found for plane in range(planes.start, planes.stop)] == list(range(12))
    weights = gaussian((8, 8, 8)).astype(float)
    sums, total = np.zeros((2, 12, 8, 8))
    for answer, first in ((1, 0), (2, 4)):
        sums[first : first + 8] += answer * weights
        total[first : first + 8] += weights
    got = np.concatenate([planes.logits[0] for planes in found])
    np.testing.assert_allclose(got, sums / total, rtol=3e-3)


def test_windows_lie_evenly_and_overlap_at_least_as_wanted():
    for length in (8, 9, 12, 13, 31, 64):
        for overlap in (0.0, 0.25, 0.5, 0.9):
            firsts = [z for z, _, _ in places((length, 8, 8), Plan((8, 8, 8), overlap=overlap))]
            assert firsts[0] == 0
            assert firsts[-1] == max(0, length - 8)
            steps = np.diff(firsts)
            assert (steps <= np.ceil(8 * (1 - overlap))).all()
            assert (steps > 0).all()


def test_no_more_than_a_slab_of_logits_is_ever_held_whatever_the_classes():
    image = np.zeros((200, 16, 16), np.int16)
    plan = Plan((8, 8, 8), overlap=0.5)
    thickest = max(
        planes.stop - planes.start for planes in finished_planes(image, model(), plan, chosen=places(image.shape, plan))
    )
    assert thickest <= 8


def organ_scan(shape=(64, 32, 32)) -> Volume:
    ct = scan(shape)
    voxels = np.full(shape, -1000, np.int16)
    voxels[40:50, 4:14, 4:14] = 120
    return Volume(voxels, ct.affine)


def test_only_windows_that_hold_organs_are_looked_at_twice_and_no_organ_is_lost():
    ct = organ_scan()
    networks = {region: Nearest() for region in ("find", "whole")}
    found = {
        region: segment(ct, model(network=network, region=region, margin_mm=0.0)).voxels
        for region, network in networks.items()
    }
    assert np.array_equal(found["find"], nearest(ct.voxels))
    assert np.array_equal(found["find"], found["whole"])
    every, first = len(places(ct.shape, Plan((8, 8, 8)))), len(places(ct.shape, Plan((8, 8, 8), overlap=0.0)))
    assert len(networks["whole"].sizes) == every
    assert first < len(networks["find"].sizes) < 0.4 * every


def test_a_scan_of_few_windows_gets_no_first_look():
    image = np.zeros((8, 8, 12), np.int16)
    assert first_look(image, model(), Plan((8, 8, 8))) is None
    network = Nearest()
    segment(Volume(image, np.diag([1.0, 1, 1, 1])), model(network=network, region="find"))
    assert len(network.sizes) == 2


def test_a_scan_without_organs_is_background():
    ct = Volume(np.full((40, 32, 32), -1000, np.int16), scan().affine)
    assert not segment(ct, model(region="find")).voxels.any()


def test_the_middle_slices_are_the_scanners_and_all_others_become_background():
    ct = scan((31, 16, 16))
    found = segment(ct, model(region="middle", middle_slices=10)).voxels
    assert np.array_equal(found[10:20], nearest(ct.voxels)[10:20])
    assert not found[:10].any()
    assert not found[20:].any()
    few = scan((7, 16, 16))
    assert np.array_equal(segment(few, model(region="middle", middle_slices=10)).voxels, nearest(few.voxels))


def test_a_finder_of_another_kind_says_where_to_look():
    ct = organ_scan()
    finder = model((16, 16, 16), stride=(2, 2, 2))
    network = Nearest()
    found = segment(ct, with_others(model(network=network, margin_mm=4.0), finder=finder))
    assert np.array_equal(found.voxels, nearest(ct.voxels))
    assert len(network.sizes) < 0.5 * len(places(ct.shape, Plan((8, 8, 8))))


def test_a_finder_looks_for_the_organs_that_are_wanted_and_for_all_where_it_does_not_know_them():
    assert sought_organs(ABDOMENCT1K, ABDOMENCT1K) == [1, 2, 3, 4]
    assert sought_organs(ABDOMENCT1K, ABDOMENCT1K, [3]) == [3]
    spine = LabelSpace("spine", ("spinal_cord", "kidney_left", "liver", "kidney_right", "spleen"))
    assert sought_organs(ABDOMENCT1K, spine, [1, 2]) == [2, 3, 4]  # both sides are the kidney
    assert sought_organs(ABDOMENCT1K, spine) == [1, 2, 3, 4, 5]  # it knows no pancreas, so anything may mean one
    assert sought_organs(TUMOUR_ONLY, spine) == [1, 2, 3, 4, 5]
    one_side = LabelSpace("one side", ("kidney_left", "spinal_cord"))
    assert sought_organs(ABDOMENCT1K, one_side, [2]) == [1, 2]
    assert sought_organs(one_side, ABDOMENCT1K, [1]) == [1, 2, 3, 4]


@pytest.mark.parametrize("preparation", [AS_IT_IS, SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0))], ids=["same", "other"])
def test_windows_without_a_wanted_organ_are_left_out_whatever_else_a_finder_sees_there(preparation):
    """The finder sees a second organ (-500 HU) all along the scan, as the spinal cord is; the network does not know it."""
    ct = organ_scan((96, 32, 32))
    ct.voxels[:, 28:31, 28:31] = -500
    finder = replace(
        model((16, 16, 16), network=Nearest((-1000.0, 5000.0, 5001.0, 120.0, -500.0)), preparation=preparation),
        space=LabelSpace("spine", ("liver", "kidney", "spleen", "spinal_cord")),
    )
    network = Nearest((-1000.0, 5000.0, 5001.0, 120.0))
    known = replace(model(network=network, margin_mm=0.0), space=LabelSpace("three", ("liver", "kidney", "spleen")))
    found = segment(ct, with_others(known, finder=finder)).voxels
    spleen = np.zeros(ct.shape, bool)
    spleen[40:50, 4:14, 4:14] = True
    assert np.array_equal(found[spleen], np.full(spleen.sum(), 3))
    wanted = len(network.sizes)
    assert 0 < wanted < 0.2 * len(places(ct.shape, Plan((8, 8, 8))))
    unknown = replace(known, space=LabelSpace("other", ("liver", "stomach", "spleen")))
    network.sizes.clear()
    segment(ct, with_others(unknown, finder=finder))
    assert len(network.sizes) > 1.2 * wanted


def test_what_was_found_is_widened_along_each_axis_by_the_margin_at_least():
    mask = np.zeros((64, 64, 64), bool)
    mask[33, 17, 40] = True
    blocks = widened(blocks_of(mask), margin_mm=10.0, spacing_mm=(5.0, 1.0, 2.0))
    assert np.argwhere(blocks).min(0).tolist() == [3, 0, 4]
    assert np.argwhere(blocks).max(0).tolist() == [5, 4, 6]
    assert holds((24, 0, 32), Plan((8, 8, 8)), blocks)
    assert not holds((0, 0, 0), Plan((8, 8, 8)), blocks)


@pytest.mark.parametrize("margin_mm", [0.0, 7.0, 30.0, 500.0])
def test_widened_blocks_are_those_of_scipys_maximum_filter(margin_mm):
    wanted = np.random.default_rng(1).random((9, 12, 5)) > 0.98
    spacing = (2.5, 0.7, 1.1)
    size = [2 * ceil(margin_mm / (8 * mm)) + 1 for mm in spacing]
    expected = maximum_filter(wanted, size=size, mode="constant")
    before = wanted.copy()
    assert np.array_equal(widened(wanted, margin_mm=margin_mm, spacing_mm=spacing), expected)
    assert np.array_equal(wanted, before)


def test_many_sums_are_kept_in_half_the_memory_and_give_the_same_logits_but_for_rounding(monkeypatch):
    image = np.random.default_rng(0).integers(-1000, 1000, (20, 24, 16)).astype(np.int16)
    plan = Plan((8, 8, 8), overlap=0.5)
    assert sums_type((14, 64, 140, 140), device="cpu") == "float32"
    assert sums_type((14, 128, 400, 400), device="cpu") == "float16"
    assert sums_type((1, 8, 8, 8), device="cuda") == "float16"

    def logits() -> np.ndarray:
        found = finished_planes(image, model(), plan, chosen=places(image.shape, plan))
        return np.concatenate([planes.logits for planes in found], axis=1)

    full = logits()
    centres = np.array(CENTRES_HU)[:, None, None, None]
    np.testing.assert_allclose(full, -((image - centres) ** 2) / 1e4, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(plans, "FULL_SUMS_BYTES", 0)
    half = logits()
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, rtol=5e-3, atol=1e-2)
    assert not np.array_equal(half, full)


def test_when_the_memory_runs_out_windows_become_smaller_with_a_word():
    ct = scan((20, 32, 32))
    network = Nearest(most_voxels=16**3 + 1)
    with pytest.warns(UserWarning, match="windows of 16x16x16 voxels are used from here on"):
        found = segment(ct, model((32, 32, 32), network=network)).voxels
    assert np.array_equal(found, nearest(ct.voxels))
    with (
        pytest.warns(UserWarning, match="windows of"),
        pytest.raises(SettingError, match="smallest that the network can halve"),
    ):
        segment(ct, model((32, 32, 32), network=Nearest(most_voxels=10)))


def test_smaller_windows_can_still_be_halved_by_the_network():
    plan = Plan((24, 24, 20))
    sizes = []
    while plan is not None:
        sizes.append(plan.size)
        plan = smaller(plan, 4)
    assert all(side % 4 == 0 for size in sizes for side in size)
    assert sizes[-1] == (4, 4, 4)


def test_prepared_volumes_go_back_to_the_scanners_grid_by_linear_interpolation_of_logits():
    z, y, x = np.mgrid[:30, :60, :60]
    hu = np.full((30, 60, 60), -1000, np.int16)
    hu[((y - 30) ** 2 + (x - 30) ** 2) < 26**2] = 5
    hu[((z - 15) * 4) ** 2 + (y * 2 - 60) ** 2 + (x * 2 - 60) ** 2 < 36**2] = 120
    ct = Volume(hu, np.array([[0, 0, -2.0, 0], [0, -2.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]]))
    preparation = SpacedVolumes(spacing_mm=(3.0, 3.0, 3.0), margin_mm=6.0)
    network = model((16, 16, 16), preparation=preparation)
    labels = segment(ct, network).voxels
    image, geometry = prepare_image(ct, preparation)
    assert geometry.spacing_mm == pytest.approx((3, 3, 3))
    logits = read_logits(image, network)(range(len(image))).astype(float)
    # Where each voxel of the scanner lies on the prepared grid, by the affines alone.
    corners = np.stack([z, y, x, np.ones_like(z)]).reshape(4, -1)
    places_ = np.linalg.inv(geometry.prepared_affine) @ (ct.affine @ corners)
    inside = np.all([(places_[i] >= 0) & (places_[i] <= s - 1) for i, s in enumerate(image.shape)], axis=0)
    mixed = [map_coordinates(logits[:, c], places_[:3, inside], order=1, mode="nearest") for c in range(5)]
    ordered = np.sort(mixed, axis=0)
    clear = ordered[-1] - ordered[-2] > 0.3
    assert clear.mean() > 0.7
    agree = labels.reshape(-1)[inside] == np.argmax(mixed, axis=0)
    assert agree[clear].all()


def test_the_second_networks_tumour_overrides_the_organ_and_is_reported():
    ct = organ_scan()
    ct.voxels[42:46, 6:9, 6:9] = 300
    organs = model(network=Nearest((-1000.0, -100.0, 0.0, 110.0, 5000.0)))
    tumour = replace(model(network=Nearest((-1000.0, 300.0))), space=TUMOUR_ONLY)
    tumour = replace(tumour, recipe=replace(tumour.recipe, label_space="tumour"))
    both = with_others(organs, tumour=tumour)
    found = segment_prepared(prepare_scan(ct, both), both)
    assert both.output_space.organs == (*ABDOMENCT1K.organs, "tumour")
    expected = np.where(ct.voxels == 300, 5, np.where(ct.voxels == 120, 3, 0))
    # 120 HU is nearer to 300 than to -1000 HU: the second network calls the whole organ tumour.
    assert np.array_equal(found.labels.voxels > 0, expected > 0)
    assert (found.labels.voxels[ct.voxels == 300] == 5).all()
    assert found.tumours["volume_ml"] == pytest.approx((found.labels.voxels == 5).sum() * ct.voxel_ml)
    assert found.tumours["overlap_ml"]["spleen"] > 0
    assert segment_prepared(prepare_scan(ct, organs), organs).tumours is None


def test_a_network_of_slices_that_knows_organs_beside_tumours_can_be_the_second_one():
    ct = organ_scan()
    ct.voxels[42:46, 6:9, 6:9] = round(makers.CENTRES_HU[4])
    organs = model(network=Nearest((-1000.0, -100.0, 0.0, 110.0, 5000.0)))
    flat = replace(makers.nearest_model(size=ct.voxels.shape[1:]), space=LabelSpace("four", ("a", "b", "c", "tumour")))
    found = segment(ct, with_others(organs, tumour=flat)).voxels
    assert np.array_equal(found == 5, makers.nearest(ct.voxels) == 4)
    assert np.array_equal(np.where(found == 5, 3, found), segment(ct, organs).voxels)


def test_networks_that_do_not_fit_together_are_refused():
    with pytest.raises(SettingError, match="no tumour. Train one"):
        with_others(model(), tumour=model())
    flat = replace(model(), recipe=Recipe())
    with pytest.raises(SettingError, match="nothing to find"):
        with_others(flat, finder=model())
    with pytest.raises(SettingError, match="slice by slice"):
        with_region(flat, "middle")


def test_organs_are_tidied_before_the_tumour_is_put_over_them():
    ct = organ_scan()
    ct.voxels[5, 20, 20] = 120
    tidy = model(region="whole")
    tidy = replace(tidy, recipe=replace(tidy.recipe, postprocessing=Postprocessing(largest_components={"spleen": 1})))
    assert segment(ct, model()).voxels[5, 20, 20] == 3
    assert segment(ct, tidy).voxels[5, 20, 20] == 0


def test_windows_are_laid_over_the_box_of_what_is_wanted_and_are_never_filled_up_where_the_scan_goes_on():
    wanted = np.zeros((8, 8, 8), bool)
    wanted[5, 2:4, 7] = True
    plan = Plan((16, 16, 16))
    found = windows_of((64, 64, 64), plan, wanted)
    assert found == [(36, 16, 48)]  # blocks of z 40 to 48, y 16 to 32, x 56 to 64: a window each way, inside the scan
    assert windows_of((64, 64, 64), plan, np.zeros((8, 8, 8), bool)) == []
    assert windows_of((9, 64, 12), plan, np.ones((2, 8, 2), bool))[0] == (0, 0, 0)
    everywhere = windows_of((64, 60, 61), plan, np.ones((8, 8, 8), bool))
    assert everywhere == places((64, 60, 61), plan)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 4, 4), (2, 1, 3)])
def test_windows_over_a_box_cover_every_wanted_voxel_in_every_phase(stride):
    wanted = np.zeros((6, 6, 6), bool)
    wanted[1:3, 2:5, 4] = True
    plan, shape = Plan((8, 8, 8), stride=stride), (48, 45, 41)
    seen = np.zeros(shape, bool)
    for place in windows_of(shape, plan, wanted):
        seen[tuple(slice(a, a + span, step) for a, span, step in zip(place, plan.span, stride, strict=True))] = True
    assert seen[8:24, 16:40, 32:40].all()
