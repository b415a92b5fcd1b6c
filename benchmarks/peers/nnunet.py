"""nnU-Net beside `viscera plan`: the same patients, a core each, the same minutes; all organs annotated, and some left unknown.

    python -m venv NNUNET; NNUNET/bin/pip install nnunetv2        (its own environment: viscera's stays as it is)
    python -m benchmarks.peers.rivals train WORK --python NNUNET/bin/python --minutes 12

44 rich synthetic patients, all of them in axial order (nnU-Net does not turn scans): 24 to train on, 4 to validate, 16 to test. In
the setting *complete* every training patient annotates 11 organs; in *partial* every second one annotates 5 of them only. Of these
viscera gets annotated.json. nnU-Net gets its label ``ignore`` on each of their voxels that no annotated organ covers: it can say
"unknown", but not "unknown, and none of these five", so such a patient shows it what an organ is, never what is not.

nnU-Net plans and preprocesses by its own commands, its trainer's class is as it comes (nnunet_child.py), 2D; its epochs are set, by
CPU seconds per iteration measured before, so that its schedule ends in nine tenths of the minutes, as viscera's planned one does;
where other programs had a part of the core while viscera planned, in as much less, so that both get the same CPU seconds. One
number of its plan is changed, the batch's slices (``--batch``): it plans for a GPU of 8 GB, and with the batches of that there is
hardly a step in the time. Both arms run at the same time, a core each, and exchange cores for the second setting; each measures
its speed while the other does. ``--apart`` with ``--cores 0 0`` gives each the same one in turn. ``--times 4``: then nnU-Net
again, on both cores, for four times as many CPU seconds. Preparing and preprocessing do not count, planning is noted apart. What is
done is not done again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional

from benchmarks.machine import ROOT, facts, save
from benchmarks.peers.nnunet_data import (
    HALF,
    SETTINGS,
    SHAPE,
    SPLITS,
    TEST,
    TRAINING,
    VALIDATION,
    export,
    lay_out_real,
    make_data,
)
from viscera.evaluation.comparing import compare
from viscera.evaluation.scores import ALL, MEAN, OrganScore, evaluation_from_json
from viscera.evaluation.statistics import summarise
from viscera.io import nifti
from viscera.planning.length import USED

LONG = "nnunet_long"
"""nnU-Net with several times the CPU seconds."""
EPOCHS = 12
"""Of nnU-Net: its learning rate falls from epoch to epoch, so there must be some; each draws its curves, which takes seconds."""
TRIED = 10
"""Iterations of the epochs by which nnU-Net's speed is measured."""
METRICS = ("dice", "nsd")
PLAN = "plan.recipe.json"
PLANS = "nnUNetPlansSmall"
"""nnUNetPlans, the default, with smaller batches."""


@dataclass(frozen=True)
class Options:
    """Train nnU-Net and viscera on the same patients for the same time, and compare them on patients that none has seen."""

    work: Annotated[Positional[Path], tyro.conf.arg(metavar="WORK")]
    """Folder for data, runs and predictions; what is done there is not done again."""
    python: Path
    """Of an environment that has nnunetv2."""
    minutes: float = 12.0
    """Of each training."""
    batch: int = 12
    """Slices in nnU-Net's batches; 12 is the least that its planner takes in 2D."""
    cores: tuple[int, int] = (0, 1)
    """Those of nnU-Net and viscera in the first setting; in the second they are exchanged."""
    mirroring: bool = True
    """Let nnU-Net average its answers on mirrored slices, as it does by default: four times as many passes."""
    apart: bool = False
    """Run one arm after the other, instead of both at the same time."""
    settings: tuple[str, ...] = SETTINGS
    """Which settings."""
    default_plans: tuple[str, ...] = ()
    """Measure a step of networks as nnU-Net plans them by default, too: 2d, 3d_fullres."""
    prepare: bool = False
    """Only make the patients, and let nnU-Net preprocess them."""
    patients: Path | None = None
    """A data set in nnU-Net's layout, by `viscera synth --variety rich`: its first 44 patients are taken, smaller; none is made."""
    real: bool = False
    """Segment the real scans of ../shared/data, too."""
    times: float = 0.0
    """Train nnU-Net anew, for so many times the CPU seconds, on both cores; 0: not."""
    name: str = "nnunet"
    """Of the JSON in benchmarks/results."""


def train_both(arguments: Sequence[str]) -> None:
    """Read the command line, run all, write the result."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.peers.rivals train")
    make_data(options.work, options.cores, options.patients)
    if options.real:
        lay_out_real(options.work)
    for setting in options.settings:
        preprocess(options, setting)
    if options.prepare:
        return
    found = {}
    for number, setting in enumerate(options.settings):
        own, other = map(str, options.cores if number % 2 == 0 else options.cores[::-1])
        with ThreadPoolExecutor(1 if options.apart else 2) as pool:
            first = pool.submit(prepare, options, setting, other), pool.submit(speed_of_nnunet, options, setting, own)
            for one in first:
                one.result()
            arms = {
                "nnunet": pool.submit(run_nnunet, options, setting, own),
                "viscera": pool.submit(run_viscera, options, setting, other),
            }
        found[setting] = {"arms": {name: arm.result() for name, arm in arms.items()}} | compared(options, setting)
        if options.times:
            cores = ",".join(sorted({own, other}))
            found[setting][LONG] = {"arm": run_nnunet(options, setting, cores, LONG, options.times)}
            found[setting][LONG] |= compared(options, setting, LONG)
    patients = {"training": TRAINING, "validation": VALIDATION, "test": TEST}
    versions = json.loads(nnunet(options, "-c", VERSIONS, cores=str(options.cores[0])))
    about = {name: getattr(options, name) for name in ("minutes", "batch", "apart", "times", "mirroring")}
    about |= {"used": USED, "patients": patients, "shape": SHAPE, "half": HALF, "nnunet": versions, "settings": found}
    print(save(options.name, facts("torch", "numpy") | about))


VERSIONS = (
    "import json, importlib.metadata as m; "
    "print(json.dumps({n: m.version(n) for n in ('nnunetv2', 'torch', 'dynamic-network-architectures', 'batchgenerators')}))"
)


def pinned(command: Sequence[object], cores: str, note: Path | None = None, **environment: object) -> str:
    """Run a command; return what it printed, and note its seconds, CPU seconds and peak memory.

    Args:
        command: What to run.
        cores: Those it may use, as taskset takes them: 1, or 0,1.
        note: A .json file; a command that has one already is not run again.
        environment: Besides this process's.
    """
    if note is not None and note.exists():
        return ""
    added = {name: str(value) for name, value in environment.items()}
    added |= {"OMP_NUM_THREADS": str(len(cores.split(","))), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    words = ["taskset", "-c", cores, *map(str, command)]
    load, begun = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | added, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {status}\n{said[-3000:]}")
    if note is not None:
        wall_s = time.perf_counter() - begun
        took = {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
        loads = {"cores": cores, "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)}
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({key: round(value, 1) for key, value in took.items()} | loads))
        note.with_suffix(".log").write_text(said)
        print(f"{note}: {wall_s:.0f} s", file=sys.stderr)
    return said


def noted(*notes: Path) -> dict[str, object]:
    """Return what stands in some .json files, together."""
    return {key: value for note in notes for key, value in json.loads(note.read_text()).items()}


def nnunet(options: Options, *arguments: object, cores: str, note: Path | None = None, results: str = "tried") -> str:
    """Run nnU-Net's Python, or one of its commands, on some cores."""
    home = options.work / "nnunet"
    places = {f"nnUNet_{name}": home / name for name in ("raw", "preprocessed")} | {"nnUNet_results": home / results}
    # its planner takes this number of threads, and no threads are an error; a training augments in its own process with 0
    planned = any("plan" in str(one) for one in arguments[:1])
    quiet = {"nnUNet_n_proc_DA": int(planned), "nnUNet_def_n_proc": 1, "nnUNet_compile": "f", "MPLBACKEND": "agg"}
    return pinned([options.python.absolute(), *arguments], cores, note, **places, **quiet)


def child(options: Options, step: str, order: Mapping[str, object], *, cores: str, note: Path, results: str) -> dict:
    """Do a step of nnunet_child.py; return what it and its process took."""
    inner = note.with_name(f"{note.stem}_inner.json").absolute()
    inner.parent.mkdir(parents=True, exist_ok=True)
    code = "import sys; from benchmarks.peers.nnunet_child import run; run(*sys.argv[1:])"
    nnunet(options, "-c", code, step, json.dumps(order), inner, cores=cores, note=note, results=results)
    return noted(note, inner)


def dataset_of(setting: str) -> tuple[int, str]:
    """Return the number and the name of nnU-Net's data set."""
    number = SETTINGS.index(setting) + 1
    return number, f"Dataset{number:03d}_{setting}"


def preprocess(options: Options, setting: str) -> None:
    """Export a setting to nnU-Net, let it plan and preprocess, and give it the split."""
    number, name = dataset_of(setting)
    home, note = options.work / "nnunet", options.work / setting / "nnunet" / "preprocess.json"
    if note.exists():
        return
    export(options.work / "data" / setting, home / "raw" / name)
    command = options.python.absolute().with_name("nnUNetv2_plan_and_preprocess")
    nnunet(options, command, "-d", number, "-c", "2d", "-np", 1, "-npfp", 1, cores=str(options.cores[-1]), note=note)
    plans = json.loads((home / "preprocessed" / name / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["batch_size"] = options.batch
    (home / "preprocessed" / name / f"{PLANS}.json").write_text(json.dumps(plans | {"plans_name": PLANS}))
    splits = json.loads((options.work / "data" / SPLITS).read_text())
    fold = [{"train": splits["training"], "val": splits["validation"]}]
    (home / "preprocessed" / name / "splits_final.json").write_text(json.dumps(fold))


def order_of(setting: str) -> dict[str, object]:
    """Return what nnU-Net is to train."""
    return {"dataset": str(dataset_of(setting)[0]), "configuration": "2d", "plans": PLANS}


def speed_of_nnunet(options: Options, setting: str, cores: str, arm: str = "nnunet") -> dict:
    """Train nnU-Net for two short epochs; return what they took."""
    tried = order_of(setting) | {"epochs": 2, "iterations": TRIED, "validations": 1}
    note = options.work / setting / arm / "speed.json"
    return child(options, "train", tried, cores=cores, note=note, results="tried")


def run_nnunet(
    options: Options, setting: str, cores: str, arm: str = "nnunet", times: float = 1.0
) -> dict[str, object]:
    """Train nnU-Net as long as its speed allows, segment; return what each took."""
    name = dataset_of(setting)[1]
    place, order, results = options.work / setting / arm, order_of(setting), f"results_{arm}"
    speed = speed_of_nnunet(options, setting, cores, arm)
    planned = json.loads((options.work / setting / "viscera" / PLAN).read_text())
    share = planned["measured"]["tries"][-1]["cpu_share"]  # of the core, when viscera planned: 1 on a quiet machine
    wanted = order | length_of(speed, times * options.minutes * 60 * USED * share)
    training = child(options, "train", wanted, cores=cores, note=place / "train.json", results=results)
    folder = options.work / "nnunet" / results / name / f"nnUNetTrainer__{PLANS}__2d"
    found: dict[str, object] = {
        "preprocess": noted(options.work / setting / "nnunet" / "preprocess.json"),
        "speed": speed,
        "train": training,
        "length": wanted,
    }
    for configuration in options.default_plans if arm != LONG else ():
        asked = order | {"configuration": configuration, "plans": "nnUNetPlans"}
        note = place / f"step_{configuration}.json"
        found[f"default_{configuration}"] = child(options, "step", asked, cores=cores, note=note, results="tried")
    for images in ("test", *(["real"] if options.real else [])):
        out = place / images
        asked = {
            "folder": str(folder.absolute()),
            "images": str((options.work / "data" / images / "imagesTr").absolute()),
        }
        asked |= {"out": str(out.absolute()), "mirroring": options.mirroring}
        note = place / f"predict_{images}.json"
        found[f"predict_{images}"] = child(options, "predict", asked, cores=cores, note=note, results=results)
    return found


def length_of(speed: Mapping[str, list[float]], seconds: float) -> dict[str, int]:
    """Return epochs, and iterations and validations of each, that end in some seconds.

    Args:
        speed: CPU seconds that training 2 epochs took: the second, TRIED iterations, and a validation at a third of one's cost.
        seconds: CPU seconds that training may take.
    """
    iteration_s = speed["epoch_cpu_s"][-1] / (TRIED + 1 / 3)
    between_s = speed["between_cpu_s"][-1]
    epochs = max(1, min(EPOCHS, int(seconds / (4 / 3 * iteration_s + between_s))))
    iterations = max(1, int((seconds / epochs - between_s - iteration_s / 3) / iteration_s))
    return {"epochs": epochs, "iterations": iterations, "validations": 1}


def viscera(place: Path, steps: Mapping[str, Sequence[object]], cores: str) -> dict[str, object]:
    """Run viscera's commands on one core; return what each took."""
    for step, words in steps.items():
        pinned([sys.executable, "-m", "viscera.cli", *words], cores, place / f"{step}.json")
    return {step: noted(place / f"{step}.json") for step in steps}


def prepare(options: Options, setting: str, cores: str) -> dict[str, object]:
    """Plan on the data, and prepare a store as that plan says; return what each took."""
    place, data = options.work / setting / "viscera", options.work / "data" / setting
    place.mkdir(parents=True, exist_ok=True)
    hours = options.minutes / 60
    plan = ("plan", f"nnunet={data}", "--hours", hours, "--device", "cpu", "--out", place / PLAN, "--overwrite")
    store = ("prepare", place / "store", "--data", f"nnunet={data}", "--recipe", place / PLAN, "--jobs", 1)
    return viscera(place, {"plan": plan, "prepare": store}, cores)


def run_viscera(options: Options, setting: str, cores: str) -> dict[str, object]:
    """Train and segment by viscera's commands, as the plan says; return what each took."""
    place = options.work / setting / "viscera"
    run, recipe = place / "run", place / PLAN
    steps: dict[str, Sequence[object]] = {"train": ("train", recipe, place / "store", run, "--overwrite")}
    for images in ("test", *(["real"] if options.real else [])):
        scans = options.work / "data" / images / "imagesTr"
        steps[f"predict_{images}"] = (
            *("predict", scans, place / images),
            *("--weights", run, "--jobs", 1, "--overwrite"),
        )
    found = {name: noted(place / f"{name}.json") for name in ("plan", "prepare")} | viscera(place, steps, cores)
    planned = json.loads(recipe.read_text())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    trained = {"training_s": round(sum(row["seconds"] for row in rows), 1), "epochs": len(rows)}
    return found | {
        "planned": {"recipe": planned["recipe"], "because": planned["because"]} | trained | planned["measured"]
    }


def scores_of(work: Path, setting: str, arm: str, images: str = "test") -> tuple[OrganScore, ...]:
    """Score an arm's label maps by `viscera evaluate`."""
    place, data = work / setting / arm, work / "data" / images
    file = place / f"scores_{images}.json"
    if not file.exists():
        values = json.loads((work / "data" / setting / "dataset.json").read_text())["labels"]
        labels = work / "labels.json"
        labels.write_text(json.dumps({str(value): organ for organ, value in values.items() if value}))
        meaning = ("--labels", labels) if arm != "viscera" else ()
        words = ("evaluate", f"nnunet={data}", place / images, *meaning, "--json", file, "--jobs", 1, "--keep-going")
        pinned([sys.executable, "-m", "viscera.cli", *words], cores=str(max(os.sched_getaffinity(0))))
    return evaluation_from_json(file.read_text(), where=str(file)).scores


def compared(options: Options, setting: str, theirs: str = "nnunet") -> dict[str, object]:
    """Return both arms' Dice and NSD per organ with their intervals, viscera minus nnU-Net, and what an oracle says."""
    work = options.work
    folders = {"nnunet": theirs, "viscera": "viscera"}
    scores = {arm: scores_of(work, setting, folder) for arm, folder in folders.items()}
    both = set.intersection(*({score.case for score in found} for found in scores.values()))
    scores = {arm: tuple(score for score in found if score.case in both) for arm, found in scores.items()}
    organs: dict[str, dict[str, object]] = {}
    for arm in scores:
        for row in summarise(scores[arm], np.random.default_rng(0)):
            if row.metric in METRICS and row.group == ALL:
                values = [round(float(value), 4) for value in (row.mean, row.low, row.high)]
                organs.setdefault(row.organ, {})[f"{arm}_{row.metric}"] = values
                organs[row.organ]["patients"] = row.cases
    for metric in METRICS:
        for row in compare(scores["nnunet"], scores["viscera"], np.random.default_rng(0), metric=metric):
            values = [round(float(value), 4) for value in (row.difference, row.low, row.high, row.p_value)]
            organs[row.organ][f"difference_{metric}"] = values
    mean = organs.pop(MEAN)
    found: dict[str, object] = {"organs": organs, "mean": mean, "patients": len(both)}
    found["oracle"] = {arm: oracle(work, setting, folder, scores[arm]) for arm, folder in folders.items()}
    if options.real:
        found["real"] = real_scores(work, setting, folders)
    return found


def oracle(work: Path, setting: str, arm: str, scores: Sequence[OrganScore]) -> dict[str, object]:
    """Return how far SimpleITK's Dice and DeepMind's surface Dice of the first test patient lie from viscera's, at most."""
    import SimpleITK
    from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

    truth_file = min((work / "data" / "test" / "labelsTr").iterdir())
    case = nifti.stem(truth_file)
    values = json.loads((work / "data" / "test" / "dataset.json").read_text())["labels"]
    found = SimpleITK.ReadImage(work / setting / arm / "test" / truth_file.name)
    said = work / setting / arm / "test" / f"{case}.json"
    own = values if arm != "viscera" else {one: int(v) for v, one in json.loads(said.read_text())["labels"].items()}
    truth = SimpleITK.ReadImage(truth_file)
    spacing_mm = truth.GetSpacing()[::-1]
    away: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for score in scores:
        if score.case != case or not score.values["truth_ml"] or not score.values["prediction_ml"]:
            continue
        masks = (truth == values[score.organ], found == own[score.organ])
        measured = SimpleITK.LabelOverlapMeasuresImageFilter()
        measured.Execute(masks[0], masks[1])  # pyright: ignore[reportCallIssue]
        away["dice"].append(abs(measured.GetDiceCoefficient(1) - score.values["dice"]))
        arrays = [SimpleITK.GetArrayFromImage(mask).astype(bool) for mask in masks]
        surfaces = compute_surface_distances(arrays[0], arrays[1], spacing_mm)
        nsd = compute_surface_dice_at_tolerance(surfaces, score.values["tolerance_mm"])
        away["nsd"].append(abs(nsd - score.values["nsd"]))
    worst: dict[str, object] = {metric: max(away[metric], default=None) for metric in METRICS}
    return worst | {"case": case, "organs": len(away["dice"])}


def real_scores(work: Path, setting: str, folders: Mapping[str, str]) -> list[dict[str, object]]:
    """Return Dice and NSD of both arms on the real scans, organ by organ."""
    names = json.loads((work / "data" / "real" / "names.json").read_text())
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for arm, folder in folders.items():
        for score in scores_of(work, setting, folder, "real"):
            row = rows.setdefault((score.case, score.organ), {"scan": names[score.case], "organ": score.organ})
            row |= {f"{arm}_{metric}": round(float(score.values[metric]), 4) for metric in METRICS}
    return [*rows.values()]
