"""Voxels of intersections and unions, against sets of voxels and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from viscera.evaluation.counts import count_case, overlaps

CLASSES = ("background", "liver", "kidney", "spleen")


def label_maps():
    random = np.random.default_rng(0)
    truth, labels = random.integers(0, 4, (2, 4, 6, 7)).astype(np.uint8)
    return truth, np.where(random.random(truth.shape) < 0.5, truth, labels).astype(np.uint8)


def by_sets(truth, labels, index, known):
    ours, theirs = ({tuple(at) for at in np.argwhere((one == index) & known).tolist()} for one in (truth, labels))
    return len(ours & theirs), len(ours | theirs)


@pytest.mark.parametrize(
    "kept", [(True,) * 4, (False, True, True, True), (False, True, False, True), (True, False, True, False)]
)
@pytest.mark.parametrize("partly", [False, True])
def test_counts_are_those_of_sets_of_voxels_and_what_is_not_kept_is_background(kept, partly):
    truth, labels = label_maps()
    known = np.random.default_rng(1).random(truth.shape) < 0.7 if partly else None
    everywhere = np.ones(truth.shape, bool) if known is None else known
    both, union = overlaps(truth, labels, kept=np.array(kept), known=known)
    plain = [np.where(np.isin(one, np.flatnonzero(kept)), one, 0) for one in (truth, labels)]
    assert [(int(b), int(u)) for b, u in zip(both, union, strict=True)] == [
        by_sets(*plain, index, everywhere) for index in range(4)
    ]


def test_the_ratio_is_simpleitks_jaccard_coefficient():
    truth, labels = label_maps()
    both, union = overlaps(truth, labels, kept=np.ones(4, bool), known=None)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(labels))
    for index in range(1, 4):
        assert both[index] / union[index] == pytest.approx(measures.GetJaccardCoefficient(index))


def test_classes_that_are_in_neither_have_no_voxels():
    nothing = np.zeros((1, 2, 2), np.uint8)
    both, union = overlaps(nothing, nothing, kept=np.ones(4, bool), known=None)
    assert (both.tolist(), union.tolist()) == ([4, 0, 0, 0], [4, 0, 0, 0])


def test_the_last_of_many_classes_is_counted():
    # 200 * 256 + 200 does not fit into the labels' own bytes.
    full = np.full((1, 2, 2), 200, np.uint8)
    both, union = overlaps(full, full, kept=np.ones(256, bool), known=None)
    assert (int(both[200]), int(union[200]), int(both.sum())) == (4, 4, 4)


def test_a_case_counts_background_and_its_annotated_organs_over_known_voxels(make_case):
    truth, labels = label_maps()
    known = np.random.default_rng(1).random(truth.shape) < 0.7
    truth[truth == 2] = 0  # the kidney is not annotated
    case = make_case("set__a", annotated=("spleen", "liver"), labels=truth, known=known)
    counts = count_case(case, labels, classes=CLASSES)
    assert (counts.case, counts.patient) == ("set__a", "set/set__a")
    without_kidney = np.where(labels == 2, 0, labels)
    assert counts.voxels == {
        organ: by_sets(truth, without_kidney, index, known)
        for organ, index in (("background", 0), ("liver", 1), ("spleen", 3))
    }
    assert list(counts.voxels) == ["background", "liver", "spleen"]
