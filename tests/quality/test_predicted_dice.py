"""Predicted Dice: monotone in certainty, given only by a calibration of the same weights, and written where users find it."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from math import exp

import pytest

from quality.test_judging import GOOD, LOOK, kinds
from viscera.errors import WeightsError
from viscera.inference.predict import organ_statistics
from viscera.networks.cards import FOLDER, find_shipped
from viscera.quality.certainty import Edge, Handedness
from viscera.quality.judging import signs
from viscera.quality.predicted_dice import (
    DOUBTS,
    FOLDER_NAME,
    FORMAT,
    Additive,
    Calibration,
    Curve,
    OrganScore,
    doubts_of,
    read_calibration,
    scan_doubts,
)

SURE = Edge(500, 0.9, 0.3, 0.0, mean_probability=0.98, uncertain_fraction=0.02, expected_dice=0.97)
UNSURE = Edge(500, 0.5, 1.5, 0.0, mean_probability=0.7, uncertain_fraction=0.5, expected_dice=0.6)


def additive(score: float) -> Additive:
    """Return a score that the expected Dice lowers by 4 from .98 to .5, and in the liver by 1 more."""
    own = {"liver": OrganScore(score, {"edge": Curve((0.1, 0.5), (1.0,))}), "spleen": OrganScore(score, {})}
    return Additive(own, {"expects_less": Curve((0.02, 0.26, 0.5), (3.0, 1.0))})


CALIBRATION = Calibration(
    FORMAT, "abc", "two organs", 0.8, 0.5, {"liver": 1500.0, "spleen": 200.0}, additive(2.0), additive(2.0)
)


def doubts(edge: Edge) -> dict[str, float]:
    """Return the doubts of a liver without any other fault."""
    scan = scan_doubts((), {"liver": edge}, Handedness(0.8, 0.7))
    return doubts_of(GOOD["liver"], edge, None, (), organ="liver", usual_ml=1500.0, scan=scan)


def test_a_curve_drops_from_knot_to_knot_and_no_further():
    curve = Curve((0.02, 0.26, 0.5), (3.0, 1.0))
    assert [curve(value) for value in (0.0, 0.02, 0.14, 0.26, 0.38, 0.5, 0.9)] == pytest.approx(
        [0, 0, 1.5, 3, 3.5, 4, 4]
    )


def test_the_prediction_is_the_logistic_of_the_score():
    # expects 1 - .98 = .02 less: no drop; edge .9: .1, no drop.
    sure = replace(SURE, expected_dice=0.98)
    assert CALIBRATION.dice("liver", doubts(sure)) == pytest.approx(1 / (1 + exp(-2)))
    # expects .4 less: 3 + 14/24; edge .5: the liver's own drop of 1.
    assert CALIBRATION.dice("liver", doubts(UNSURE)) == pytest.approx(1 / (1 + exp(-(2 - 3 - 14 / 24 - 1))))


@pytest.mark.parametrize("model", ["dice", "good"])
def test_less_certainty_never_predicts_a_better_dice(model):
    file = FOLDER / FOLDER_NAME / "starter.json"
    shipped = read_calibration(file, weights_sha256=json.loads(file.read_text())["weights_sha256"])
    assert shipped is not None
    for organ in shipped.volumes_ml:
        usual = dict.fromkeys(doubts(SURE), 0.0) | {"expects_less": 0.1, "edge": 0.2, "entropy": 0.5}
        for name in usual:
            found = [getattr(shipped, model)(organ, usual | {name: step / 20}) for step in range(41)]
            assert all(after <= before for before, after in pairwise(found)), (organ, name)
        assert getattr(shipped, model)(organ, usual | {"expects_less": 0.5}) < getattr(shipped, model)(organ, usual)


def test_the_calibration_that_ships_is_that_of_the_weights_that_ship():
    shipped = find_shipped()
    file = FOLDER / FOLDER_NAME / f"{shipped.card.name}.json"
    found = read_calibration(file, weights_sha256=shipped.card.sha256)
    assert found is not None, "the weights were replaced: python -m benchmarks.studies.trust starter --write"
    assert set(found.volumes_ml) <= set(shipped.card.organs)
    assert len(found.volumes_ml) > 10


def test_without_a_calibration_there_is_no_predicted_dice(tmp_path):
    trust = signs(GOOD, LOOK, edges=dict.fromkeys(GOOD, SURE))
    assert trust.predicted_dice == {}
    assert organ_statistics(GOOD, predicted_dice=trust.predicted_dice)["liver"]["predicted_dice"] is None
    assert read_calibration(tmp_path / "trust.json", weights_sha256="abc") is None


def test_organs_that_were_found_and_are_known_get_a_prediction():
    organs = {name: GOOD[name] for name in ("liver", "aorta")} | {"spleen": replace(GOOD["spleen"], volume_ml=0.0)}
    trust = signs(organs, LOOK, edges=dict.fromkeys(organs, SURE), calibration=CALIBRATION)
    assert list(trust.predicted_dice) == ["liver"]
    written = organ_statistics(organs, predicted_dice=trust.predicted_dice)
    assert written["liver"]["predicted_dice"] == round(trust.predicted_dice["liver"], 3)
    assert written["spleen"]["predicted_dice"] is None
    assert (
        list(signs(GOOD, LOOK, calibration=CALIBRATION).predicted_dice) == []
    )  # nobody knows how sure the network was


def test_a_low_prediction_is_a_sign_and_a_good_one_overrules_a_limit_for_all_organs():
    organs = {"liver": GOOD["liver"], "spleen": GOOD["spleen"]}
    edges = {"liver": UNSURE, "spleen": replace(SURE, probability=0.6)}
    trust = signs(organs, LOOK, edges=edges, calibration=CALIBRATION)
    assert kinds(trust.organs["liver"]) == ["edge_probability", "edge_entropy", "predicted_dice"]
    assert "predicted Dice 0.07, at least 0.80 with a probability of 7%" in trust.organs["liver"][-1].message
    assert kinds(trust.organs["spleen"]) == []
    assert kinds(signs(organs, LOOK, edges=edges).organs["spleen"]) == ["edge_probability"]


def test_a_calibration_is_read_as_it_was_written_and_only_for_its_weights(tmp_path):
    file = tmp_path / "trust.json"
    file.write_text(json.dumps(asdict(CALIBRATION)))
    assert read_calibration(file, weights_sha256="abc") == CALIBRATION
    assert read_calibration(file, weights_sha256="abd") is None


def damaged(curve: dict[str, list[float]]) -> dict:
    """Return the calibration with another curve of its shared doubt."""
    good = asdict(CALIBRATION.good)
    return asdict(CALIBRATION) | {"good": good | {"shared": {"expects_less": curve}}}


def test_the_names_of_all_doubts_are_known():
    assert tuple(doubts(SURE)) == DOUBTS
    with pytest.raises(ValueError, match="'wisdom' is not one of expects_less"):
        Additive({}, {"wisdom": Curve((0.0, 1.0), (1.0,))})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not a calibration"),
        (json.dumps(asdict(CALIBRATION) | {"format": 2}), "format 2 is not 1"),
        (json.dumps(damaged({"knots": [0.5, 0.1], "drops": [1.0]})), "knots must rise"),
        (json.dumps(damaged({"knots": [0.1, 0.5], "drops": [-1.0]})), "no drop may be below 0"),
        (json.dumps(asdict(CALIBRATION) | {"volumes_ml": {"colon": 700.0}}), "needs a usual volume and both scores"),
        (json.dumps({key: value for key, value in asdict(CALIBRATION).items() if key != "good"}), "good is missing"),
    ],
)
def test_a_damaged_calibration_is_refused_with_the_way_out(tmp_path, text, match):
    file = tmp_path / "trust.json"
    file.write_text(text)
    with pytest.raises(WeightsError, match=match) as found:
        read_calibration(file, weights_sha256="abc")
    assert "benchmarks.studies.trust" in str(found.value)
