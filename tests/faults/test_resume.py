"""--resume refuses what would make another run of it, and says what a longer plan does to the learning rate."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from faults.verbs import RECIPE, furnish
from makers import call, same, tensors
from viscera.config import AddedBoundaryLoss, Training
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import RunError
from viscera.io.atomic import write_json
from viscera.learning.contents import changes, contents_of
from viscera.learning.run_folder import claim_run, require_same, write_facts
from viscera.learning.sampling.slices import boundary_distance
from viscera.learning.schedule import learning_rate, plan_change
from viscera.preparation.store import facts_to_json, open_store

CASE = "a__a"


def other_labels(store: Path, facts):
    """As `viscera prepare` leaves a case whose label file was corrected."""
    return replace(facts, source=replace(facts.source, labels_sha256=("other",)), voxels={**facts.voxels, "liver": 1})


def other_annotations(store: Path, facts):
    return replace(facts, annotated=("liver",))


def other_scan(store: Path, facts):
    return replace(facts, image_sha256="other")


def other_values(store: Path, facts):
    return replace(facts, source=replace(facts.source, organs=((1, "spleen"),)))


def pseudo_labels(store: Path, facts):
    np.save(store / "cases" / CASE / "pseudo.npy", np.zeros((4, 16, 16), np.uint8))
    write_json(store / "cases" / CASE / "pseudo.json", {"organs": ["pancreas"]})
    return facts


def other_split(store: Path, facts):
    splits = json.loads((store / "splits.json").read_text())
    splits["cases"][CASE] = "test"
    write_json(store / "splits.json", splits)
    return facts


CHANGES = {
    other_labels: "case a__a has other labels$",
    other_values: "case a__a has other labels$",
    other_annotations: r"case a__a annotates liver \(before: liver, kidney, spleen, pancreas\)$",
    other_scan: "case a__a has another scan$",
    pseudo_labels: "case a__a has other pseudo-labels$",
    other_split: "1 training or validation cases came or went$",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_does_not_go_on_with_a_store_that_holds_something_else(change, small_store, tmp_path):
    shutil.copytree(small_store, tmp_path / "store")
    run, path = tmp_path / "run", tmp_path / "store"

    def begin():
        store = open_store(path)
        cases = [store.case(name) for name in store.names("training")]
        return write_facts(run, store, training=cases, device="cpu", precision="32-true")

    begin()
    (run / "state.safetensors").touch()
    begin()  # as it was
    facts = open_store(path).facts(CASE)
    stamps = replace(facts, source=replace(facts.source, stamps=((1, 1),)))  # touched, and prepared once more
    write_json(path / "cases" / CASE / "case.json", facts_to_json(stamps))
    begin()
    write_json(path / "cases" / CASE / "case.json", facts_to_json(change(path, facts)))
    with pytest.raises(RunError) as refused:
        begin()
    assert re.search(f"has changed since .*run was begun: {CHANGES[change]}", refused.value.what)
    assert refused.value.remedy == "Train anew in another folder, or give the store as it was."


def test_what_changed_is_counted_and_cases_that_came_or_went_are_named(small_store):
    store = open_store(small_store)
    now = contents_of(store, store.names())
    before = {name: {**facts, "labels": "other"} for name, facts in now.items()}
    assert len(changes(before, now)) == 6
    assert changes(now, {name: facts for name, facts in now.items() if name != CASE}) == ["case a__a went"]
    with pytest.raises(RunError, match=r"case a__a has other labels \(and 5 more cases\)"):
        require_same(Path("run"), store, before, now)


def test_a_run_of_an_older_viscera_goes_on_with_a_note(small_store):
    with pytest.warns(UserWarning, match="whether its store still holds the same labels is not checked"):
        require_same(Path("run"), open_store(small_store), None, {})


def test_a_run_whose_state_is_gone_is_not_begun_anew_by_resume(tmp_path):
    claim_run(tmp_path, RECIPE, resume=False, overwrite=False)
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(RunError, match=r"state.safetensors is gone\). Put it back, or pass --overwrite"):
        claim_run(tmp_path, RECIPE, resume=True, overwrite=False)
    assert (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("plan", "epochs", "step", "found"),
    [
        (Training(epochs=2, schedule="cosine"), 4, 20, r"goes on at 0.0003; its last was 3.69e-06"),
        (Training(epochs=2, schedule="cosine"), 4, 10, r"goes on at 0.000512 instead of 0.0003"),
        (Training(epochs=2, schedule="poly"), 8, 20, r"goes on at 0.000463; its last was 0.000322"),
        (Training(epochs=4, schedule="cosine"), 2, 10, r"goes on at 0.0003 instead of 0.000512"),
        (Training(epochs=4), 2, 20, "epochs was 4, now 2, and 2 are done: nothing is left to train"),
        (Training(epochs=2, warm_up=0.5), 4, 5, r"goes on at .* instead of"),
        (Training(epochs=2), 4, 20, None),  # steps know of no end
        (Training(epochs=2, schedule="poly", poly_epochs=5), 4, 20, None),
        (Training(epochs=2, schedule="cosine"), 2, 10, None),
        (Training(epochs=2, schedule="cosine"), 4, 0, None),
    ],
)
def test_what_another_plan_does_to_the_learning_rate_is_said(plan, epochs, step, found):
    said = plan_change(plan, replace(plan, epochs=epochs), step=step, steps=10)
    assert bool(re.search(found, said)) if found else said == ""
    if found and "goes on" in found:
        rate = learning_rate(replace(plan, epochs=epochs), step, steps=10)
        assert f"goes on at {rate:.3g}" in said


def test_the_note_on_the_learning_rate_comes_before_the_training_goes_on(small_store, tmp_path):
    cosine = replace(RECIPE, training=replace(RECIPE.training, epochs=1, schedule="cosine", visits_per_slice=0.2))
    (tmp_path / "recipe.json").write_text(recipe_to_json(cosine))
    train = f"train {tmp_path}/recipe.json {small_store} {tmp_path}/run"
    assert call(train)[0] == 0
    code, said = call(f"{train} --resume --training.epochs 2")
    assert code == 0
    note = "note: run: epochs was 1, now 2: the learning rate (cosine, over all epochs) goes on at 0.0003"
    assert said.index(note.removeprefix("note: run: ")) < said.index("epoch 2: training loss")


@pytest.mark.parametrize("distance", ["boundary", "organ"])
def test_distances_are_those_of_scipy_to_the_bit_and_of_any_number_of_calls(distance):
    generator = np.random.default_rng(0)
    for shape in ((64, 80), (1, 7), (257, 129)):
        for share in (0.001, 0.02, 0.5, 0.999):
            organ = ndimage.binary_dilation(generator.random(shape) < share / 4, iterations=3)
            labels = organ.astype(np.uint8) * 3
            outside, inside = (ndimage.distance_transform_edt(one).astype(np.float32) for one in (~organ, organ))
            found = boundary_distance(labels, distance)
            if not organ.any() or organ.all():
                continue
            expected = outside + inside if distance == "boundary" else outside
            np.testing.assert_array_equal(found, np.minimum(expected, found.max() if found.max() > 900 else np.inf))
            np.testing.assert_array_equal(found, boundary_distance(np.asfortranarray(labels), distance))


@pytest.mark.slow
def test_three_processes_prepare_and_train_to_the_same_bits(small_store, tmp_path):
    furnish(tmp_path, small_store)
    (tmp_path / "recipe.json").write_text(recipe_to_json(replace(RECIPE, loss=AddedBoundaryLoss())))
    code = "import sys; from viscera.cli.command import main; sys.exit(main())"
    for number in range(3):
        for command in (
            f"prepare store{number} --data abdomenct1k=data --recipe recipe.json --jobs 2",
            f"train recipe.json store{number} trained{number}",
        ):
            words = [sys.executable, "-c", code, *command.split()]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    first = tensors(tmp_path / "trained0")
    assert first
    assert same(first, tensors(tmp_path / "trained1"))
    assert same(first, tensors(tmp_path / "trained2"))
    prepared = [{file.relative_to(tmp_path / f"store{number}"): file.read_bytes()
                 for file in (tmp_path / f"store{number}").rglob("*.npy")} for number in range(3)]  # fmt: skip
    assert prepared[0] == prepared[1] == prepared[2]
