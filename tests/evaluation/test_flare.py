"""FLARE's scores against a second transcription of its published rules, on random label maps."""

import json
import math
import warnings

import nibabel
import numpy as np
import pytest
import surface_distance
from scipy.ndimage import gaussian_filter

from viscera.cli.command import main
from viscera.errors import SettingError
from viscera.evaluation.evaluate import Rules, evaluate, evaluate_pair, score_case
from viscera.evaluation.flare import FlareScores, flare_scores
from viscera.evaluation.pairing import Pair
from viscera.evaluation.scores import evaluation_from_json
from viscera.labels import LabelSpace
from viscera.volume import Volume

TARGETS = {
    "liver": 5,
    "kidney_right": 3,
    "spleen": 3,
    "pancreas": 5,
    "aorta": 2,
    "inferior_vena_cava": 2,
    "adrenal_gland_right": 2,
    "adrenal_gland_left": 2,
    "gallbladder": 2,
    "esophagus": 3,
    "stomach": 5,
    "duodenum": 7,
    "kidney_left": 3,
    "tumour": 2,
}
"""FLARE23's targets, numbered from 1, and the tolerance of each in mm."""
SPACE = LabelSpace("flare23", tuple(TARGETS))
TUBES = (5, 6, 10)


def published(truth, prediction, spacing_mm, target, tolerance_mm):
    """The rules, for arrays (x, y, z) as nibabel gives them and one target: DSC, NSD."""
    ours, theirs = truth == target, prediction == target
    if not ours.any() or not theirs.any():
        return (1.0, 1.0) if ours.any() == theirs.any() else (0.0, 0.0)
    if target in TUBES:
        levels = np.nonzero(ours)[2]
        window = slice(levels.min(), levels.max())
        ours, theirs = ours[..., window], theirs[..., window]
    if not ours.any() and not theirs.any():
        return math.nan, math.nan
    dsc = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    nsd = np.float64(0)
    if dsc >= 0.2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance asks SciPy by an old name
            distances = surface_distance.compute_surface_distances(ours, theirs, spacing_mm)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return float(round(dsc, 4)), float(round(nsd, 4))


def random_maps(seed):
    """Two label maps (x, y, z) with overlaps of all sizes, lost and made-up organs, tubes of a slice; spacing in mm."""
    generator = np.random.default_rng(seed)
    fields = generator.normal(size=(len(TARGETS) + 1, 18, 16, 14))
    fields = np.stack([gaussian_filter(field, 1.6) for field in fields])
    fields /= fields.std()
    fields[0] += 0.8  # background
    truth = fields.argmax(axis=0).astype(np.uint8)
    other = fields + generator.choice([0.1, 0.6, 1.5]) * np.stack(
        [gaussian_filter(field, 1.6) * 8 for field in generator.normal(size=fields.shape)]
    )
    prediction = np.roll(other.argmax(axis=0), generator.integers(-2, 3, 3), (0, 1, 2)).astype(np.uint8)
    for labels in (truth, prediction):
        labels[np.isin(labels, generator.choice(np.arange(1, 15), 3, replace=False))] = 0
    thin = TUBES[seed % 3]
    level = generator.integers(14)
    truth[truth == thin] = 0
    truth[4:7, 5:9, level] = thin
    prediction[4:8, 5:9, max(level - seed % 2, 0)] = thin
    return truth, prediction, tuple(generator.uniform(0.6, 6, 3).tolist())


def pair_of(truth, prediction, spacing_mm):
    affine = np.zeros((4, 4))
    for axis, step in enumerate(spacing_mm):  # of (x, y, z); our arrays are (z, y, x)
        affine[axis, 2 - axis] = step
    affine[3, 3] = 1
    volumes = [Volume(np.ascontiguousarray(labels.T), affine) for labels in (truth, prediction)]
    return Pair("case", "patient", volumes[0], volumes[1], SPACE, SPACE.organs)


@pytest.mark.parametrize("seed", range(36))
def test_scores_are_those_of_the_published_rules(seed):
    truth, prediction, spacing_mm = random_maps(seed)
    rules = Rules("flare", other_tolerance_mm=1.0 if seed % 6 == 5 else None)  # FLARE21's
    found = {score.organ: score.values for score in score_case(pair_of(truth, prediction, spacing_mm), rules)}
    assert list(found) == list(TARGETS)
    for target, (organ, tolerance_mm) in enumerate(TARGETS.items(), start=1):
        tolerance_mm = rules.other_tolerance_mm or tolerance_mm
        dsc, nsd = published(truth, prediction, spacing_mm, target, tolerance_mm)
        assert found[organ]["flare_dice"] == pytest.approx(dsc, abs=0, nan_ok=True)
        # Sums of areas in another order may be rounded to the next decimal.
        assert found[organ]["flare_nsd"] == pytest.approx(nsd, abs=1.01e-4, nan_ok=True)


def test_the_random_maps_hold_what_they_are_meant_to():
    rows = [
        (
            published(truth, prediction, spacing, target, 2),
            target,
            (truth == target).any(),
            (prediction == target).any(),
        )
        for truth, prediction, spacing in map(random_maps, range(36))
        for target in range(1, 15)
    ]
    assert sum(scores == (1, 1) for scores, *_ in rows) >= 10  # absent from both
    assert sum(here and not there for *_, here, there in rows) >= 10
    assert sum(there and not here for *_, here, there in rows) >= 10
    assert sum(0 < dsc < 0.2 for (dsc, _), *_ in rows) >= 10
    assert sum(0.2 <= dsc < 1 and 0 < nsd < 1 for (dsc, nsd), target, *_ in rows if target in TUBES) >= 10
    assert sum(math.isnan(dsc) for (dsc, _), *_ in rows) >= 5


def test_beside_the_quirks_stand_the_scores_of_mode_volume():
    pair = pair_of(*random_maps(0))
    plain = {score.organ: score.values for score in score_case(pair)}
    for score in score_case(pair, Rules("flare")):
        for metric, value in plain[score.organ].items():
            assert score.values[metric] == pytest.approx(value, abs=0, nan_ok=True)
        assert set(score.values) - set(plain[score.organ]) == {"flare_dice", "flare_nsd"}


def column(*levels):
    """A tube of 4x4 voxels on some of eight slices."""
    mask = np.zeros((8, 6, 6), bool)
    mask[list(levels), 1:5, 1:5] = True
    return mask


def scored(truth, prediction, organ="aorta", nsd=0.5):
    return flare_scores(truth, prediction, (5.0, 1.0, 1.0), organ=organ, tolerance_mm=2, nsd=nsd)


def test_a_tube_is_scored_without_its_last_slice_and_without_what_lies_beyond():
    # Of truth 2-5 slices 2, 3, 4 are left; 3 and 4 are found, those above do not count: 2 x 2 / (3 + 2).
    assert scored(column(2, 3, 4, 5), column(3, 4, 6, 7)).dice == 0.8
    assert scored(column(2, 3, 4, 5), column(2, 3, 4, 7)) == FlareScores(1.0, 1.0)
    # Any other organ counts whole: 2 x 3 / (4 + 4), and its NSD is the one given.
    assert scored(column(2, 3, 4, 5), column(2, 3, 4, 7), organ="liver") == FlareScores(0.75, 0.5)


def test_a_tube_on_one_slice_has_no_score_unless_it_is_missed():
    nothing, one = column(), column(3)
    found = scored(one, one)
    assert math.isnan(found.dice)
    assert math.isnan(found.nsd)
    assert scored(one, nothing) == FlareScores(0.0, 0.0)
    assert scored(nothing, nothing) == FlareScores(1.0, 1.0)
    assert scored(one, one, organ="stomach", nsd=1.0) == FlareScores(1.0, 1.0)


def test_surface_dice_is_zero_where_dice_is_below_a_fifth():
    one, far = column(0), column(0, 1, 2, 3, 4, 5, 6, 7)
    assert scored(one, far, organ="spleen", nsd=0.9) == FlareScores(0.2222, 0.9)  # 2 x 1 / 9
    far = np.concatenate([far, far[:3]])
    one = np.concatenate([one, column()[:3]])
    assert scored(one, far, organ="spleen", nsd=0.9) == FlareScores(0.1667, 0.0)  # 2 x 1 / 12
    assert scored(one[:9], np.ones_like(far[:9]) & far[:1], organ="spleen", nsd=0.9) == FlareScores(0.2, 0.9)  # 2 / 10


def test_ties_are_rounded_as_numpy_does():
    truth = np.zeros((1, 40, 40), bool)
    truth.flat[:797] = True
    prediction = np.zeros_like(truth)
    prediction.flat[796 : 796 + 803] = True  # 2 / 1600 = 0.00125, whose nearest double lies above
    assert scored(truth, prediction, organ="liver").dice == float(np.round(np.float64(0.00125), 4)) == 0.0012


def save(path, labels, affine, names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(
        json.dumps({"labels": names or dict(SPACE.labels)})
    )
    return path


def test_slices_are_those_of_the_files_third_axis_whatever_way_it_points(tmp_path):
    truth, prediction, spacing_mm = random_maps(4)
    sagittal = np.zeros((4, 4))
    sagittal[1, 0], sagittal[2, 1], sagittal[0, 2], sagittal[3, 3] = *spacing_mm[:2], -spacing_mm[2], 1
    files = [
        save(tmp_path / name / "a.nii.gz", labels, sagittal)
        for name, labels in (("truth", truth), ("found", prediction))
    ]
    scores, notes = evaluate_pair(files[0], files[1], rules=Rules("flare"))
    for target, score in enumerate(scores, start=1):
        dsc, nsd = published(truth, prediction, spacing_mm, target, TARGETS[score.organ])
        assert score.values["flare_dice"] == pytest.approx(dsc, abs=0, nan_ok=True)
        assert score.values["flare_nsd"] == pytest.approx(nsd, abs=1.01e-4, nan_ok=True)
    thin = [score.organ for score in scores if math.isnan(score.values["flare_dice"])]
    assert thin
    assert [note for note in notes if "one slice" in note] == [
        f"a: {organ} is on one slice of the truth, so FLARE's code has no score" for organ in thin
    ]


def test_an_evaluation_sums_both_up_and_survives_its_json(tmp_path):
    for seed in (1, 2):
        truth, prediction, _ = random_maps(seed)
        save(tmp_path / "truth" / f"{seed}.nii.gz", truth, np.eye(4))
        save(tmp_path / "found" / f"{seed}.nii.gz", prediction, np.eye(4))
    found = evaluate(tmp_path / "truth", tmp_path / "found", rules=Rules("flare"))
    means = {(row.organ, row.metric): row.mean for row in found.summary}
    for metric in ("flare_dice", "flare_nsd", "dice", "nsd"):
        values = [score.values[metric] for score in found.scores if score.organ == "liver"]
        assert means["liver", metric] == pytest.approx(np.nanmean(values))
        assert ("mean", metric) in means
    assert found.confusion is not None
    again = evaluation_from_json(found.to_json(), where="x.json")
    assert again.mode == "flare"
    assert again.summary == found.summary


def test_the_command_shows_both_and_takes_one_tolerance(tmp_path, capsys):
    truth = np.zeros((8, 12, 10), np.uint8)
    truth[1:7, 2:10, 2:8] = 1
    files = [
        str(save(tmp_path / name / "a.nii.gz", labels, np.diag([1.5, 1, 1, 1]), {"1": "aorta"}))
        for name, labels in (("truth", truth), ("found", np.roll(truth, 1, axis=0)))
    ]
    assert main(["evaluate", *files, "--mode", "flare", "--html", str(tmp_path / "page.html")]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│ aorta" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["aorta", "1", "0.833", "1.000", "0.833", "1.000"]]
    assert "DSC and NSD per target" in (tmp_path / "page.html").read_text(encoding="utf-8")
    out = tmp_path / "e.json"
    assert main(["evaluate", *files, "--mode", "flare", "--tolerance-mm", "1", "--json", str(out)]) == 0
    values = json.loads(out.read_text())["cases"][0]
    assert values["tolerance_mm"] == 1
    assert values["flare_nsd"] < 1
    for words in (["--mode", "slices", "--tolerance-mm", "1"], ["--tolerance-mm", "-1"]):
        assert main(["evaluate", *files, *words]) == 2
    errors = capsys.readouterr().err
    assert "--tolerance-mm is for surfaces" in errors
    assert "is -1 mm. Give 0 mm or more" in errors


@pytest.mark.parametrize("tolerance_mm", [-1.0, math.nan, math.inf])
def test_a_tolerance_must_be_a_length(tolerance_mm):
    with pytest.raises(SettingError, match="tolerance of the surface Dice is .* mm. Give 0 mm or more"):
        Rules("flare", other_tolerance_mm=tolerance_mm)
    with pytest.raises(SettingError, match="Give 0 mm or more"):
        Rules(tolerances_mm={"liver": tolerance_mm})


def test_one_tolerance_holds_for_all_organs_that_have_none_of_their_own():
    rules = Rules(tolerances_mm={"liver": 4.0}, other_tolerance_mm=1.0)
    assert [rules.tolerance_mm(organ) for organ in ("liver", "duodenum", "kidney_left", "rectum")] == [4, 1, 1, 1]
