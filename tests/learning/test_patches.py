"""3D patches: what is read against padding and slicing of the whole scan, where they lie, distances against scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from viscera.config import PatchSampling
from viscera.labels import LabelSpace
from viscera.learning.sampling.patches import (
    PatchIndex,
    draw_patch_places,
    fixed_patch_places,
    patch_boundary_distance,
    patch_start,
    read_patches,
)
from viscera.learning.sampling.reading import step_generator
from viscera.learning.sampling.slices import NO_ORGAN_DISTANCE_PIXELS
from viscera.preparation.store import UNSURE

SPACE = LabelSpace("two", ("liver", "spleen"))
SHAPE = (7, 14, 19)


@pytest.fixture
def case(make_case):
    """A case with random labels, unknown voxels and pseudo-labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, SHAPE).astype(np.uint8)
    known = generator.random(SHAPE) > 0.2
    pseudo = np.where(labels == 0, generator.choice([0, 2, UNSURE], SHAPE), 0).astype(np.uint8)
    made = make_case("a__0", annotated=("liver",), labels=labels, known=known)
    return replace(made, pseudo=pseudo, pseudo_annotated=("spleen",))


def read(index: PatchIndex, places: np.ndarray, distance=None):
    return read_patches(index, np.zeros(len(places), int), space=SPACE, places=places, distance=distance)


def uniform_place(z: float, y: float, x: float) -> np.ndarray:
    """Return a place that is not about an organ."""
    return np.array([[0.999, 0.5, 0.5, z, y, x]])


# What is read


@pytest.mark.parametrize("size", [(4, 4, 4), (1, 1, 1), (7, 14, 19), (9, 4, 5), (10, 20, 30)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 4, 4), (2, 3, 5), (9, 1, 30)])
def test_what_is_read_is_the_scan_strided_and_its_last_voxels_repeat(case, size, stride):
    index = PatchIndex.of([case], PatchSampling(size=size, stride=stride, foreground_fraction=0.5))
    places = draw_patch_places(20, step_generator(1))
    batch = read(index, places)
    assert batch.image.shape == (20, 1, *size)
    assert batch.image.dtype == torch.int16
    for number, place in enumerate(places):
        start = patch_start(index, 0, place)
        wanted = [a + s * np.arange(n) for a, n, s in zip(start, size, stride, strict=True)]
        taken = [np.minimum(w, w[w < length].max()) for w, length in zip(wanted, SHAPE, strict=True)]
        z, y, x = (w < length for w, length in zip(wanted, SHAPE, strict=True))
        for name in ("labels", "pseudo", "image"):
            assert np.array_equal(getattr(batch, name)[number].reshape(size), getattr(case, name)[np.ix_(*taken)]), name
        known = case.known[np.ix_(*taken)]
        assert np.array_equal(batch.known[number], known & z[:, None, None] & y[:, None] & x)


def test_with_stride_1_a_patch_is_cut_from_the_scan_padded_with_its_edge(case):
    index = PatchIndex.of([case], PatchSampling(size=(9, 10, 30)))
    padded = np.pad(case.image, ((0, 2), (0, 0), (0, 11)), mode="edge")
    for y in range(5):
        batch = read(index, uniform_place(0.7, (y + 0.5) / 5, 0.2))
        assert np.array_equal(batch.image[0, 0], padded[:, y : y + 10])


def test_an_unlabelled_voxel_is_known_where_nothing_says_otherwise_and_filled_ones_are_not(make_case):
    case = make_case("a__0", annotated=("liver",), labels=np.ones((2, 3, 4), np.uint8))
    batch = read(PatchIndex.of([case], PatchSampling(size=(3, 3, 3))), uniform_place(0, 0, 0))
    assert batch.known[0, :2].all()
    assert not batch.known[0, 2].any()
    assert np.array_equal(batch.image[0, 0, 2], case.image[1, :, :3])
    assert batch.pseudo.sum() == 0


def test_the_batch_says_what_each_patchs_case_annotates(make_case, case):
    other = make_case("b__0", annotated=("liver", "spleen"), labels=np.zeros(SHAPE, np.uint8))
    index = PatchIndex.of([case, other], PatchSampling(size=(2, 2, 2)), per_case=2)
    assert len(index) == 4
    batch = read_patches(
        index, np.array([3, 0]), space=SPACE, places=draw_patch_places(2, step_generator(0)), distance=None
    )
    assert batch.annotated.tolist() == [[True, True, True], [True, True, False]]
    assert batch.pseudo_annotated.tolist() == [[False, False, False], [False, False, True]]


def test_memory_mapped_cases_are_read_as_those_in_memory(case, tmp_path):
    mapped = {}
    for name in ("image", "labels", "known", "pseudo"):
        np.save(tmp_path / f"{name}.npy", getattr(case, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    settings = PatchSampling(size=(3, 4, 9), stride=(1, 2, 1))
    places = draw_patch_places(10, step_generator(0))
    batches = [read(PatchIndex.of([one], settings), places, "boundary") for one in (case, replace(case, **mapped))]
    for name in ("image", "labels", "known", "pseudo", "distance"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name)), name


# Where patches lie


def starts_of(case, settings: PatchSampling, count: int) -> np.ndarray:
    index = PatchIndex.of([case], settings)
    return np.array([patch_start(index, 0, place) for place in draw_patch_places(count, step_generator(0))])


def test_512_columns_at_stride_4_and_128_voxels_have_their_four_phases_alike(make_case):
    case = make_case("a__0", annotated=("liver",), labels=np.zeros((3, 512, 512), np.uint8))
    starts = starts_of(case, PatchSampling(size=(1, 128, 128), stride=(1, 4, 4), foreground_fraction=0), 4000)
    for axis, count in enumerate((3, 4, 4)):
        assert len(np.bincount(starts[:, axis])) == count
        assert stats.chisquare(np.bincount(starts[:, axis])).pvalue > 1e-4


def test_rows_of_a_strided_patch_about_an_organ_have_the_phases_of_its_voxels(make_case):
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[0, 10:20, 7] = 1
    case = make_case("a__0", annotated=("liver",), labels=labels)
    settings = PatchSampling(size=(1, 10, 10), stride=(1, 4, 4), foreground_fraction=1)
    starts = starts_of(case, settings, 4000)
    phases = np.bincount(np.arange(10, 20) % 4) / 10
    deviation = np.sqrt(4000 * phases * (1 - phases))
    assert (np.abs(np.bincount(starts[:, 1]) - 4000 * phases) < 4 * deviation).all()
    assert (starts[:, 2] == 3).all()


def test_starts_anywhere_are_uniform_from_the_first_voxel_to_the_last_possible(make_case):
    case = make_case("a__0", annotated=("liver",), labels=np.zeros((12, 9, 5), np.uint8))
    starts = starts_of(case, PatchSampling(size=(4, 3, 8), stride=(1, 2, 1), foreground_fraction=0), 5000)
    for axis, places in enumerate((9, 5, 1)):  # 12 - 4 + 1; 9 - (2 * 2 + 1) + 1; shorter than the patch
        counts = np.bincount(starts[:, axis], minlength=places)
        assert len(counts) == places
        assert places == 1 or stats.chisquare(counts).pvalue > 1e-4


def test_a_case_without_organs_gives_patches_from_anywhere(make_case):
    case = make_case("a__0", annotated=("liver",), labels=np.zeros((8, 8, 8), np.uint8))
    anywhere, about = (
        starts_of(case, PatchSampling(size=(4, 4, 4), foreground_fraction=share), 50) for share in (0.0, 1.0)
    )
    assert np.array_equal(anywhere, about)
    assert len(np.unique(about, axis=0)) > 20


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_a_patch_about_an_organ_holds_its_voxel_even_where_it_is_moved_into_the_scan(make_case, size, stride):
    for voxel in np.ndindex(2, 3, 8):
        labels = np.zeros((2, 3, 8), np.uint8)
        labels[voxel] = 1
        case = make_case("a__0", annotated=("liver",), labels=labels)
        settings = PatchSampling(size=(size,) * 3, stride=(stride,) * 3, foreground_fraction=1)
        index = PatchIndex.of([case], settings)
        places = draw_patch_places(1, step_generator(*voxel))
        batch = read(index, places)
        assert (batch.labels * batch.known).sum() == 1
        for start, length in zip(patch_start(index, 0, places[0]), (2, 3, 8), strict=True):
            assert 0 <= start <= max(length - (size - 1) * stride, min(length, stride)) - 1


def test_a_patch_with_room_about_it_has_the_organs_voxel_in_its_middle(make_case):
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[9, 10, 11] = 1
    case = make_case("a__0", annotated=("liver",), labels=labels)
    batch = read(
        PatchIndex.of([case], PatchSampling(size=(4, 5, 4), stride=(1, 2, 3), foreground_fraction=1)),
        draw_patch_places(1, step_generator(0)),
    )
    assert batch.labels[0].nonzero().tolist() == [[2, 2, 2]]


def drawn_voxels(case, count: int, **settings) -> np.ndarray:
    """Count how often each voxel of the case is in a patch of one voxel."""
    starts = starts_of(case, PatchSampling(size=(1, 1, 1), foreground_fraction=1, **settings), count)
    counts = np.zeros(case.image.shape, int)
    np.add.at(counts, tuple(starts.T), 1)
    return counts


def seen_organs(case) -> np.ndarray:
    shown = np.where((case.pseudo > 0) & (case.pseudo != UNSURE), case.pseudo, case.labels)
    return np.where(case.known, shown, 0)


def test_every_organ_voxel_is_drawn_alike_pseudo_labels_too_but_none_unsure_or_unknown(case):
    small = replace(case, **{name: getattr(case, name)[:4, :5, :6] for name in ("image", "labels", "known", "pseudo")})
    counts, organ = drawn_voxels(small, 8000), seen_organs(small) > 0
    assert organ.any()
    assert counts[~organ].sum() == 0
    assert stats.chisquare(counts[organ]).pvalue > 1e-4


def test_organs_alike_draws_each_organ_as_often_and_its_voxels_alike(make_case):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[:3], labels[3, 2, 1:4] = 1, 2
    counts = drawn_voxels(make_case("a__0", annotated=("liver", "spleen"), labels=labels), 8000, organs_alike=True)
    assert counts[labels == 2].sum() == pytest.approx(4000, abs=4 * np.sqrt(8000 / 4))
    assert counts[labels == 0].sum() == 0
    for organ in (1, 2):
        assert stats.chisquare(counts[labels == organ]).pvalue > 1e-4


def test_organ_voxels_are_counted_per_slice_and_class(case):
    counts = PatchIndex.of([case], PatchSampling()).organ_voxels(0)
    organs = seen_organs(case)
    assert counts.tolist() == [[0, (slice_ == 1).sum(), (slice_ == 2).sum()] for slice_ in organs]


def test_the_share_of_patches_about_organs_is_the_stated_one(make_case):
    labels = np.zeros((50, 50, 50), np.uint8)
    labels[25, 25, 25] = 1
    case = make_case("a__0", annotated=("liver",), labels=labels)
    starts = starts_of(case, PatchSampling(size=(1, 1, 1), foreground_fraction=0.3), 4000)
    about = (starts == 25).all(1).sum()
    assert about == pytest.approx(1200, abs=4 * np.sqrt(4000 * 0.3 * 0.7))


def test_fixed_places_follow_from_the_patch_alone(make_case):
    cases = [make_case(f"a__{n}", annotated=("liver",), labels=np.zeros(SHAPE, np.uint8)) for n in range(3)]
    index, more = (PatchIndex.of(cases, PatchSampling(size=(2, 2, 2)), per_case=count) for count in (2, 4))
    places = fixed_patch_places(index, np.arange(6))
    assert np.array_equal(fixed_patch_places(index, np.array([5, 0])), places[[5, 0]])
    assert np.array_equal(fixed_patch_places(more, np.array([0, 1, 4, 5, 8, 9])), places)
    assert len(np.unique(places)) == places.size
    assert ((places >= 0) & (places < 1)).all()


# Distances


@pytest.mark.parametrize("distance", ["boundary", "organ"])
def test_distance_is_scipys_exact_euclidean_transform(distance):
    coarse = ndimage.gaussian_filter(np.random.default_rng(3).random((12, 20, 25)), 2)
    labels = (coarse > np.quantile(coarse, 0.8)).astype(np.uint8) * 2
    expected = ndimage.distance_transform_edt(labels == 0)
    if distance == "boundary":
        expected += ndimage.distance_transform_edt(labels > 0)
    assert np.allclose(patch_boundary_distance(labels, distance), expected, atol=1e-4)


@pytest.mark.parametrize("distance", ["boundary", "organ"])
def test_a_patch_without_organs_is_far_everywhere_and_one_full_of_an_organ_is_finite(distance):
    assert (patch_boundary_distance(np.zeros((3, 8, 9), np.uint8), distance) == NO_ORGAN_DISTANCE_PIXELS).all()
    full = patch_boundary_distance(np.ones((3, 8, 9), np.uint8), distance)
    assert (full == (NO_ORGAN_DISTANCE_PIXELS if distance == "boundary" else 0)).all()


def test_pseudo_labels_bound_organs_and_unsure_voxels_do_not(make_case):
    labels, pseudo = np.zeros((2, 4, 16, 4), np.uint8)
    pseudo[:, 4:8], pseudo[:, 12:] = 2, UNSURE
    case = replace(make_case("a__0", annotated=("liver",), labels=labels), pseudo=pseudo, pseudo_annotated=("spleen",))
    index = PatchIndex.of([case], PatchSampling(size=(4, 16, 4)))
    batch = read(index, uniform_place(0, 0, 0), "boundary")
    assert batch.distance[0, 0, :, 0].tolist() == [4, 3, 2, 1, 1, 2, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (read(index, uniform_place(0, 0, 0)).distance == NO_ORGAN_DISTANCE_PIXELS).all()
    assert read(index, uniform_place(0, 0, 0)).distance.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 3)])
def test_off_the_centre_an_organs_voxel_lies_anywhere_alike_within_its_share_of_the_patch(make_case, stride):
    labels = np.zeros((200, 200, 200), np.uint8)
    labels[100, 101, 99] = 1
    case = make_case("a__0", annotated=("liver",), labels=labels, image=np.broadcast_to(np.int16(0), labels.shape))
    settings = PatchSampling(size=(17, 17, 17), stride=stride, foreground_fraction=1.0, off_centre=0.5)
    index = PatchIndex.of([case], settings)
    starts = np.array([patch_start(index, 0, place) for place in draw_patch_places(3000, step_generator(3))])
    at = (np.array([100, 101, 99]) - starts) / stride
    assert np.array_equal(at, np.round(at))  # the voxel's own phase
    for axis in range(3):
        places, counts = np.unique(at[:, axis], return_counts=True)
        assert places.tolist() == list(range(4, 13))  # 8 in the middle, half of 8 to each side
        assert stats.chisquare(counts).pvalue > 1e-4
    middle = PatchIndex.of([case], replace(settings, off_centre=0.0))
    assert patch_start(middle, 0, np.full(6, 0.3)) == tuple(
        v - 8 * s for v, s in zip((100, 101, 99), stride, strict=True)
    )
