"""Cross-validated runs -> what of them is worth taking, tried on the cases that their folds held out; the file that says so.

    FILE.json               what was chosen, by what numbers, and why; `viscera predict --weights FILE.json` takes it
    FILE_out_of_fold/       labels of the runs' networks together, where they were tried

For a case, of each run only the network is asked that did not learn from it. What is chosen answers with all folds of its runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from viscera.config import Accelerator, Recipe
from viscera.config.inference import Postprocessing
from viscera.errors import RunError, SettingError
from viscera.evaluation.metrics import confusion, overlap
from viscera.evaluation.scores import OrganScore, evaluation_from_json
from viscera.inference.ensemble import disagreement, joined_sha256, mean_model
from viscera.inference.model import Model, load_model
from viscera.inference.postprocessing.edges_by_hu import Seen
from viscera.inference.postprocessing.tidying import tidy
from viscera.io.atomic import sha256, write_text
from viscera.io.json_codec import to_json
from viscera.json_text import read_json, read_text
from viscera.labels import LabelSpace
from viscera.learning.cross_validation.choosing import (
    Candidate,
    Decision,
    Finding,
    choose_candidate,
    choose_tidying,
    steps_of,
)
from viscera.learning.cross_validation.held_out import (
    FOLDER,
    SCORES,
    Maker,
    is_labelled,
    patient_of,
    read_labels,
    unlabelled,
    write_labels,
)
from viscera.learning.cross_validation.running import read_folds
from viscera.networks.find_weights import CHOICE_FORMAT, fold_folder
from viscera.networks.members import chosen_members, members_of_run
from viscera.networks.weights_header import read_header
from viscera.preparation.folds import Folds
from viscera.preparation.geometry import Geometry
from viscera.preparation.store import Case, Store, open_store
from viscera.volume import Turn

GO_ON = "Go on with it: viscera train RECIPE STORE RUN --resume."


@dataclass(frozen=True, eq=False)
class CrossRun:
    """A finished cross-validated run.

    Attributes:
        path: Its folder.
        folds: Who is held out where.
        store: What it was trained on.
        recipe: With what was measured.
        scans: {case: SHA-256 of its scan file}.
        scores: Of the cases by the folds that held them out.
    """

    path: Path
    folds: Folds
    store: Store
    recipe: Recipe
    scans: Mapping[str, str]
    scores: Sequence[OrganScore]

    @property
    def name(self) -> str:
        """The folder's name, for people."""
        return self.path.resolve().name

    def weights(self, case: str) -> Path:
        """Return the weights that did not learn from a case."""
        return fold_folder(self.path, self.folds.cases[case]) / "best.safetensors"


@dataclass(frozen=True)
class ChoiceWatch:
    """Whom to tell how far choosing is.

    Attributes:
        labelled: Called with the cases that the runs have labelled together, and all of them.
        tidied: Called with the cases that were tidied in the present trial, and all of them.
    """

    labelled: Callable[[int, int], None] = lambda done, cases: None
    tidied: Callable[[int, int], None] = lambda done, cases: None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        decision: Which run, or all together.
        postprocessing: What tidies its labels.
        tidying: By what numbers.
        notes: What was not tried, and why.
        cases: On how many cases.
        patients: Of how many patients.
        runs: All that were compared.
    """

    decision: Decision
    postprocessing: Postprocessing
    tidying: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    cases: int = 0
    patients: int = 0
    runs: tuple[str, ...] = ()


def choose(
    runs: Sequence[Path],
    out: Path,
    *,
    store: Path | None = None,
    accelerator: Accelerator = "auto",
    watch: ChoiceWatch | None = None,
) -> Choice:
    """Choose among cross-validated runs, together and with post-processing, and write what was chosen.

    Args:
        runs: Their folders.
        out: The JSON file.
        store: Where the cases are; None: where the runs were trained on them.
        accelerator: Where networks run.
        watch: Whom to tell.

    Raises:
        SettingError: A run is given twice, or they have no case in common; a case is another scan in another run.
        RunError: A folder is not a cross-validated run, or not finished.
        StoreError: The store is gone or another one.
    """
    if len({run.resolve() for run in runs}) < len(runs) or not runs:
        raise SettingError(
            "choose needs cross-validated runs, each once", "Give their folders: viscera choose RUN RUN2."
        )
    watch = watch or ChoiceWatch()
    opened = [open_run(run, store) for run in runs]
    names = shared_cases(opened)
    candidates = [
        Candidate(name, [score for score in run.scores if score.case in names], run.folds.count)
        for name, run in zip(_names(opened), opened, strict=True)
    ]
    base = opened[candidates.index(choose_candidate(candidates).chosen)]
    fitting, notes = those_that_fit(opened, base)
    ensemble, folder = None, out.with_name(f"{out.stem}_{FOLDER}")
    if len(fitting) > 1:
        label_together(folder, fitting, names, accelerator=accelerator, watch=watch.labelled)
        called = " + ".join(_names(opened)[opened.index(run)] for run in fitting)
        ensemble = Candidate(called, dice_of(folder, base.store, names), sum(run.folds.count for run in fitting))
    decision = choose_candidate(candidates, ensemble)
    together = ensemble is not None and decision.chosen.name == ensemble.name
    labels = folder if together else base.path / FOLDER

    def score(settings: Postprocessing) -> list[OrganScore]:
        return dice_of(labels, base.store, names, settings=settings, watch=watch.tidied)

    steps = steps_of(base.recipe.postprocessing.fitted(base.recipe.space), base.recipe.space)
    taken, findings = choose_tidying(steps, score)
    patients = len({patient_of(base.store.case(name)) for name in names})
    choice = Choice(decision, taken, findings, tuple(notes), len(names), patients, tuple(_names(opened)))
    _write(out, choice, fitting if together else [base])
    return choice


def _names(runs: Sequence[CrossRun]) -> list[str]:
    """Return a name for each run, told apart by number where folders are called alike."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, start=1)]


def open_run(run: Path, store: Path | None = None) -> CrossRun:
    """Open a finished cross-validated run.

    Args:
        run: Its folder.
        store: Where its cases are; None: where it was trained on them.

    Raises:
        RunError: It is not cross-validated, damaged, or a fold is not finished.
        StoreError: The store is gone, or another recipe's.
    """
    folds = read_folds(run)
    if folds is None:
        raise RunError(f"{run} is not a cross-validated run", "Train one: viscera train RECIPE STORE RUN --folds 5.")
    facts = fold_folder(run, 0) / "run.json"
    if not facts.is_file():
        raise RunError(f"{run} is not finished: fold_0 has not begun", GO_ON)
    found = read_json(facts, error=RunError, remedy="Copy the run again.")
    place, scans = found.get("store"), found.get("scans")
    if not isinstance(place, str) or not isinstance(scans, dict):
        raise RunError(
            f"{facts} is damaged: it does not say what the run was trained on", "Copy the run again.", file=facts
        )
    opened = open_store(store or Path(place))
    missing, file = unlabelled(run, opened, folds), run / FOLDER / SCORES
    if missing or not file.is_file():
        raise RunError(f"{run} is not finished: {len(missing)} held-out cases are not labelled, or not scored", GO_ON)
    recipe = read_header(fold_folder(run, 0) / "best.safetensors").recipe
    opened.require(space=recipe.space, preparation=recipe.preparation)
    scores = evaluation_from_json(read_text(file), where=str(file)).scores
    return CrossRun(run, folds, opened, recipe, scans, scores)


def shared_cases(runs: Sequence[CrossRun]) -> list[str]:
    """Return the cases that all runs hold out in a fold, sorted.

    Raises:
        SettingError: There is none, or one is another scan in another run.
    """
    names = sorted(set.intersection(*(set(run.folds.cases) for run in runs)))
    for run in runs[1:]:
        other = next((name for name in names if run.scans.get(name) != runs[0].scans.get(name)), None)
        if other is not None:
            raise SettingError(
                f"case '{other}' is another scan in {run.path} than in {runs[0].path}",
                "Compare runs on the same cases.",
            )
    if not names:
        raise SettingError("the runs have no case in common", "Compare runs on the same cases.")
    return names


def those_that_fit(runs: Sequence[CrossRun], base: CrossRun) -> tuple[list[CrossRun], list[str]]:
    """Return the runs whose networks can answer together with a run's, it included, and why others cannot."""
    fitting, notes = [], []
    for run in runs:
        difference = "" if run is base else disagreement(base.recipe, run.recipe)
        if difference:
            notes.append(f"{run.name} was not tried together with {base.name}: {difference}")
        else:
            fitting.append(run)
    return fitting, notes


def label_together(
    folder: Path,
    runs: Sequence[CrossRun],
    names: Sequence[str],
    *,
    accelerator: Accelerator,
    watch: Callable[[int, int], None],
) -> None:
    """Label cases by several runs together, of each the network that did not learn from the case; done cases are left alone."""
    loaded: dict[Path, Model] = {}
    hashes = {file: sha256(file) for file in {run.weights(name) for run in runs for name in names}}
    for done, name in enumerate(names):
        watch(done, len(names))
        files = [run.weights(name) for run in runs]
        maker = Maker(joined_sha256([hashes[file] for file in files]), runs[0].folds.cases[name])
        if is_labelled(folder, runs[0].store, name, maker):
            continue
        for file in files:
            if file not in loaded:
                loaded[file] = load_model(file, accelerator=accelerator, runtime="torch")
        model = mean_model([loaded[file] for file in files], names=[run.name for run in runs])
        write_labels(folder, runs[0].store, name, model, maker=maker)
    watch(len(names), len(names))


def dice_of(
    folder: Path,
    store: Store,
    names: Sequence[str],
    *,
    settings: Postprocessing | None = None,
    watch: Callable[[int, int], None] = lambda done, cases: None,
) -> list[OrganScore]:
    """Return the Dice of cases' labels, tidied or not, of annotated organs only.

    Args:
        folder: Where the labels are.
        store: The truth.
        names: Of the cases.
        settings: What tidies them first; None: nothing.
        watch: Told of the cases done, and all of them.
    """
    scores = []
    for done, name in enumerate(names, start=1):
        case = store.case(name)
        labels = read_labels(folder, case)
        if settings is not None:
            labels = tidied(case, labels, settings, space=store.space)
        scores += dice_scores(case, labels, space=store.space)
        watch(done, len(names))
    return scores


def tidied(
    case: Case, labels: UInt8[np.ndarray, "z y x"], settings: Postprocessing, *, space: LabelSpace
) -> UInt8[np.ndarray, "z y x"]:
    """Return a prepared case's labels tidied on its own grid."""
    geometry = case.geometry
    itself = Turn((0, 1, 2), (False, False, False))
    grid = Geometry(geometry.prepared_shape, geometry.prepared_affine, itself, geometry.size)
    return tidy(labels, geometry.spacing_mm, settings=settings, space=space, seen=Seen(np.asarray(case.image), grid))


def dice_scores(case: Case, labels: UInt8[np.ndarray, "z y x"], *, space: LabelSpace) -> list[OrganScore]:
    """Return the Dice of a prepared case's labels, one score per organ that it annotates."""
    truth = np.asarray(case.truth)
    if case.known is not None:
        truth, labels = truth * case.known, labels * case.known
    counts = confusion(truth, labels, len(space.classes))
    return [
        OrganScore(case.name, patient_of(case), organ, {"dice": overlap(counts, space.index(organ)).dice})
        for organ in case.annotated
    ]


def _write(out: Path, choice: Choice, runs: Sequence[CrossRun]) -> None:
    """Write what was chosen."""
    members = [members_of_run(run.path) for run in runs]
    names, files = ([one for each in members for one in getattr(each, part)] for part in ("names", "files"))
    decision = choice.decision
    written = {
        "format": CHOICE_FORMAT,
        "viscera": version("viscera"),
        "chosen": decision.chosen.name,
        "why": decision.why,
        "notes": choice.notes,
        "members": [asdict(member) for member in chosen_members(names, files, beside=out)],
        "postprocessing": asdict(choice.postprocessing),
        "cases": choice.cases,
        "patients": choice.patients,
        "mean_dice": decision.dice,
        "comparisons": decision.findings,
        "tidying": choice.tidying,
    }
    write_text(out, to_json(written))
