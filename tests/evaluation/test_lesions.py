"""Lesions counted one by one: against a count by scipy, by hand, and through the verb."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from makers import call
from viscera.evaluation.lesions import lesion_scores
from viscera.evaluation.scores import OrganScore
from viscera.evaluation.statistics import summarise
from viscera.io import nifti
from viscera.volume import Volume

EVERY_WAY = np.ones((3, 3, 3), int)


def by_scipy(truth, prediction, voxel_ml):
    """Count one piece at a time."""
    lesions, count = ndimage.label(truth, EVERY_WAY)
    pieces, piece_count = ndimage.label(prediction, EVERY_WAY)
    found, large, both, dice = 0, 0, 0, []
    for number in range(1, count + 1):
        lesion = lesions == number
        there = np.isin(pieces, [one for one in np.unique(pieces[lesion]) if one])
        is_large = lesion.sum() * voxel_ml >= math.pi / 6 * 1.5**3
        is_found = (lesion & there).sum() / (lesion | there).sum() >= 0.1
        large, found, both = large + is_large, found + is_found, both + (is_large and is_found)
        dice += [2 * (lesion & there).sum() / (lesion.sum() + there.sum())] * int(is_found)
    false = sum((truth & (pieces == one)).sum() < 0.1 * (pieces == one).sum() for one in range(1, piece_count + 1))
    return [count, found, large, both, false, np.mean(dice) if dice else math.nan]


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_one_piece_at_a_time(seed):
    generator = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(generator.normal(size=(24, 30, 28)), 1.5) for _ in range(2)]
    truth = fields[0] > np.quantile(fields[0], 0.93)
    mixed = fields[0] + 0.7 * fields[1]
    prediction = mixed > np.quantile(mixed, 0.9)
    found = lesion_scores(truth, prediction, voxel_ml=0.05)
    assert [*found.values()] == pytest.approx(by_scipy(truth, prediction, 0.05), nan_ok=True)
    assert 0 < found["lesions_found"] < found["lesions"]
    assert found["false_lesions"] > 0


def boxes(*corners):
    mask = np.zeros((40, 40, 40), bool)
    for z, y, x, size in corners:
        mask[z : z + size, y : y + size, x : x + size] = True
    return mask


def test_fragments_find_a_lesion_together_and_are_not_false():
    truth = boxes((0, 0, 0, 10))
    fragments = boxes((0, 0, 0, 4), (5, 5, 5, 4), (0, 6, 6, 3))
    found = lesion_scores(truth, fragments, voxel_ml=1)
    assert (found["lesions_found"], found["false_lesions"]) == (1, 0)
    one = lesion_scores(truth, boxes((0, 0, 0, 4)), voxel_ml=1)  # 64 of 1000 voxels
    assert (one["lesions_found"], one["false_lesions"]) == (0, 0)


def test_a_blob_over_everything_finds_nothing_and_is_false():
    found = lesion_scores(boxes((3, 3, 3, 3), (20, 20, 20, 3)), np.ones((40, 40, 40), bool), voxel_ml=1)
    assert (found["lesions"], found["lesions_found"], found["false_lesions"]) == (2, 0, 1)


def test_lesions_that_touch_by_a_corner_are_one():
    assert lesion_scores(boxes((0, 0, 0, 3), (3, 3, 3, 3)), boxes(), voxel_ml=1)["lesions"] == 1


def test_large_is_by_the_ball_of_the_same_volume():
    side_mm = 15 * (math.pi / 6) ** (1 / 3)
    for factor, large in ((0.99, 0), (1.01, 1)):
        found = lesion_scores(boxes((0, 0, 0, 10)), boxes(), voxel_ml=(factor * side_mm / 10) ** 3 / 1000)
        assert found["large_lesions"] == large


def test_nothing_at_all_is_no_lesion_and_no_dice():
    found = lesion_scores(boxes(), boxes(), voxel_ml=1)
    assert math.isnan(found.pop("lesion_dice"))
    assert set(found.values()) == {0.0}


def test_the_mean_counts_each_lesion_once_and_each_scan_once():
    def score(case, lesions, found, false):
        values = {"lesions": lesions, "lesions_found": found, "large_lesions": 0, "large_lesions_found": 0}
        return OrganScore(case, case, "tumour", values | {"false_lesions": false, "lesion_dice": math.nan})

    rows = summarise([score("a", 3, 3, 0), score("b", 1, 0, 4), score("c", 0, 0, 2)], np.random.default_rng(0))
    means = {row.metric: (row.mean, row.cases) for row in rows if row.organ == "tumour"}
    assert means["lesion_sensitivity"] == (0.75, 2)
    assert means["false_lesions"] == (2.0, 3)
    assert "large_lesion_sensitivity" not in means
    assert "lesion_dice" not in means


def test_the_verb_counts_lesions_of_tumours_only(tmp_path):
    affine = np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    labels = boxes((0, 0, 0, 10), (20, 20, 20, 3)).astype(np.uint8)
    labels[30:, :5, :5] = 2
    predicted = labels.copy()
    predicted[20:24, 20:24, 20:24] = 0
    predicted[0:4, 30:34, 30:34] = 1
    for folder, voxels in (("T", labels), ("P", predicted)):
        nifti.write(tmp_path / folder / "c.nii.gz", Volume(voxels, affine))
        (tmp_path / folder / "c.json").write_text(json.dumps({"labels": {"1": "liver_tumour", "2": "spleen"}}))
    page = tmp_path / "page.html"
    code, said = call(f"evaluate {tmp_path}/T {tmp_path}/P --json {tmp_path}/scores.json --html {page}")
    assert code == 0, said
    rows = {row["organ"]: row for row in json.loads((tmp_path / "scores.json").read_text())["cases"]}
    tumour = rows["liver_tumour"]
    assert [tumour[name] for name in ("lesions", "lesions_found", "large_lesions", "large_lesions_found")] == [
        2,
        1,
        1,
        1,
    ]
    assert (tumour["false_lesions"], tumour["lesion_dice"]) == (1, 1.0)
    assert "lesions" not in rows["spleen"]
    assert "false lesions per scan" in page.read_text()
