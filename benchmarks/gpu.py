"""What a GPU does: slices and patches trained per second, scans segmented file to file, beside nnU-Net's machinery; with memory.

    python -m benchmarks.gpu [--scan FILE] [--out gpu.json]        one GPU, less than nine minutes
    python -m benchmarks.gpu --device cpu --quick                  the same code in tiny, to see that it runs

Each part is a process of its own with a limit of seconds: what fails, hangs or takes too long costs its own rows, and the JSON is
written after each part. Without a GPU it says so and ends with 0. Weights are untrained, but for the bundled ones: they cost what
trained ones cost. Rows of training are in gpu_training.py.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import viscera
from benchmarks.gpu_training import (
    Row,
    Work,
    card_rows,
    loops_2d,
    loops_3d,
    memory_of,
    recipe_of,
    step_rows,
    store_rows,
)
from benchmarks.machine import DATA, RESULTS, ROOT, facts
from benchmarks.peers.child import Order, competing
from viscera.config import ForegroundScore, Postprocessing
from viscera.networks.build import build_network
from viscera.networks.cards import find_shipped
from viscera.networks.weights import Weights, save_weights
from viscera.synthesis.patient import synthesize

LIDC = DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
MEASURED = (-160.0, 240.0, 80.0, 60.0)
"""HU of organs (low, high, mean, SD) for networks that were never trained."""
LIMIT_S = 530.0
"""Of all parts together."""
NOTES = [
    "loop: the training loop as `viscera train` runs it (reading, augmentation, loss, optimizer, average of the weights); batch in "
    "memory: the same step on one batch that lies on the device, over and over, nothing read and nothing augmented.",
    "peak_allocated_mib: what torch's tensors took at most; peak_reserved_mib: with what its allocator keeps. The context and "
    "cuDNN's own memory come on top (used_mib of 'card').",
    "tflop_per_s: of the convolutions, the backward pass counted as two forward passes; peak: a matrix product and a convolution "
    "that leave nothing to be desired, in the same run.",
    "Untrained networks label noise: the label map's compression takes longer than an organ's would.",
]


def main() -> None:
    """Run the parts one after the other, or one of them (which the script asks of itself)."""
    options = parsed()
    if options.part:
        work = Work(**json.loads(options.part[1]))
        with Path(options.part[2]).open("a", encoding="utf-8") as file:
            run_part(options.part[0], work, lambda row: print(json.dumps(row), file=file, flush=True))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "no GPU: torch finds no CUDA device here, so nothing was measured. To see that the script runs: --device cpu --quick"
        )
        return
    print(measure(options))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks, patients and times; says nothing about speed"
    )
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--scan", type=Path, default=LIDC, help="to segment; a synthetic one where there is none")
    parser.add_argument("--seconds", type=float, default=6.0, help="that each training is timed for")
    parser.add_argument("--nnunet-python", default=sys.executable, help="a Python that imports nnunetv2 and viscera")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for all parts together")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--part", nargs=3, metavar=("NAME", "WORK", "ROWS"), help="for the processes")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Path:
    """Run the parts; return the JSON, which is written after each of them."""
    began = time.perf_counter()
    content = facts("torch", "numpy", "lightning-fabric") | {
        "device": options.device,
        "quick": options.quick,
        "cuda": torch.version.cuda,
        "notes": NOTES,
    }
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        scan = str(options.scan.absolute()) if options.scan.is_file() and not options.quick else ""
        seconds = 0.05 if options.quick else options.seconds
        work = Work(options.device, folder, scan, seconds, options.nnunet_python, quick=options.quick)
        for name in options.parts:
            left = options.limit - (time.perf_counter() - began)
            rows += run_apart(name, work, limit_s=min(PARTS[name].limit_s, left))
            content |= {"seconds": round(time.perf_counter() - began, 1), "rows": rows}
            content["card"] = next((row["card"] for row in rows if "card" in row), None)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return options.out


def run_apart(part: str, work: Work, *, limit_s: float) -> list[dict]:
    """Run a part in a process of its own; return its rows, and one more that says why if it ended before its time."""
    if limit_s < 1:
        return [{"part": part, "failed": "no time was left"}]
    file, began = Path(work.folder) / f"{part}.jsonl", time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, json.dumps(asdict(work)), str(file)]
    failed = ""
    try:
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False, timeout=limit_s)
        if done.returncode:
            failed = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:500]
    except subprocess.TimeoutExpired:
        failed = f"stopped after {limit_s:.0f} s"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows += [{"part": part, "failed": failed}] if failed else []
    for row in rows:
        print(json.dumps(row), flush=True)
    print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    return rows


@dataclass(frozen=True)
class Part:
    """Rows that are measured in one process.

    Attributes:
        rows: Lists them.
        limit_s: How long they may take together.
    """

    rows: Callable[[Work], Iterator[Row]]
    limit_s: float


def run_part(name: str, work: Work, write: Callable[[Mapping[str, object]], object]) -> None:
    """Measure the rows of a part, and write each as soon as it is known."""
    for row, measure in PARTS[name].rows(work):
        began = time.perf_counter()
        try:
            found = dict(measure())
        except Exception as error:  # whatever a row raises is that row's result
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        write({"part": name, "name": row} | found | {"row_s": round(time.perf_counter() - began, 2)})
        gc.collect()
        if work.device == "cuda":
            torch.cuda.empty_cache()


# --- file to file


def scan_of(work: Work) -> Path:
    """Return the scan, or write a synthetic one."""
    if work.scan:
        return Path(work.scan)
    file = work.place / "synthetic.nii.gz"
    if not file.exists():
        shape = (16, 32, 32) if work.quick else (96, 384, 384)
        viscera.write(file, synthesize(np.random.default_rng(0), shape=shape).ct)
    return file


def weights_of(name: str, work: Work) -> Path:
    """Write an untrained network that looks at the whole scan, and whose labels are not tidied."""
    file = work.place / f"{name}.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        recipe = replace(recipe_of(name, work), postprocessing=Postprocessing())
        if isinstance(recipe.intensity, ForegroundScore):
            recipe = replace(recipe, intensity=replace(recipe.intensity, measured=MEASURED))
        recipe = replace(recipe, inference=recipe.inference.everywhere())
        network = build_network(recipe.network, classes=len(recipe.space.classes), softmax=recipe.softmax)
        save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))
    return file


def predictions_2d(work: Work) -> Iterator[Row]:
    """List scans segmented slice by slice."""
    starter = find_shipped().file
    yield "starter", partial(segmented, starter, work, rounds=3)
    yield "starter, as a command", partial(command, work)
    yield "starter, beside the CPU's labels", partial(agreement, starter, work)
    yield "zhang2d", lambda: segmented(weights_of("zhang2d", work), work, rounds=2)
    yield "viscera2d-64", lambda: segmented(weights_of("viscera2d-64", work), work, rounds=2)


def predictions_3d(work: Work) -> Iterator[Row]:
    """List scans segmented in windows."""
    for name in ("gao2step", "runet"):
        yield name, partial(untrained, name, work)


def untrained(name: str, work: Work) -> dict[str, object]:
    """Segment with an untrained network, once after a warm-up."""
    return segmented(weights_of(name, work), work, rounds=1)


def warm_scan(work: Work) -> Path:
    """Return a scan of a few slices, for what is set up at first sight."""
    file = work.place / "warm.nii.gz"
    if not file.exists():
        whole = viscera.read(scan_of(work))
        viscera.write(file, viscera.Volume(whole.voxels[:8].copy(), whole.affine))
    return file


def segmented(weights: Path, work: Work, *, rounds: int) -> dict[str, object]:
    """Time ``viscera.predict`` with a loaded model, file to file; the sidecar says what each stage took."""
    scan, out = scan_of(work), work.place / f"{weights.stem}_labels.nii.gz"
    began = time.perf_counter()
    model = viscera.load_model(weights, device=work.device)  # type: ignore[arg-type]
    loaded = time.perf_counter() - began
    viscera.predict(warm_scan(work), work.place / "warm_labels.nii.gz", model, organs="all", overwrite=True)
    seconds, runs = [], []
    with memory_of(work.device) as memory:
        for _ in range(1 if work.quick else rounds):
            began = time.perf_counter()
            viscera.predict(scan, out, model, organs="all", overwrite=True)
            seconds.append(round(time.perf_counter() - began, 3))
            runs.append(json.loads(out.with_name(f"{weights.stem}_labels.json").read_text())["run"])
    last = runs[-1]
    said = {"scan": scan.name, "shape": viscera.read(out).shape, "median_s": statistics.median(seconds)}
    said |= {"seconds": seconds, "load_s": round(loaded, 3), "stages_s": last["seconds"]}
    said |= {key: last[key] for key in ("runtime", "precision", "peak_memory_mib", "efficiency") if key in last}
    return said | memory


def command(work: Work) -> dict[str, object]:
    """Time `viscera predict` as a whole, in new processes."""
    out, seconds = work.place / "command.nii.gz", []
    words = [sys.executable, "-m", "viscera.cli", "predict", str(scan_of(work)), str(out)]
    words += ["--device", work.device, "--organs", "all", "--overwrite"]
    for _ in range(1 if work.quick else 3):
        began = time.perf_counter()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(round(time.perf_counter() - began, 3))
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-400:])
    return {"median_s": statistics.median(seconds), "seconds": seconds}


def agreement(weights: Path, work: Work) -> dict[str, object]:
    """Return the share of the voxels that the device labels otherwise than torch does on the CPU, and the CPU's seconds."""
    image, labels, seconds = viscera.read(scan_of(work)), {}, {}
    for device in ("cpu", work.device):
        model = viscera.load_model(weights, device=device, runtime="torch")  # type: ignore[arg-type]
        began = time.perf_counter()
        with warnings.catch_warnings(action="ignore"):
            labels[device] = viscera.segment(image, model, organs="all").voxels  # type: ignore[union-attr]
        seconds[f"{device}_s"] = round(time.perf_counter() - began, 3)
    unlike = float(np.mean(labels["cpu"] != labels[work.device]))
    return {"unlike_fraction": round(unlike, 7), "labelled_voxels": int(np.count_nonzero(labels["cpu"]))} | seconds


# --- nnU-Net's machinery


def peer_rows(work: Work) -> Iterator[Row]:
    """List scans that nnU-Net segments with the same networks; viscera's rows have the same names."""
    for name in ("zhang2d", "gao2step"):
        yield f"{name}, nnU-Net", partial(peer, name, work)


def peer(name: str, work: Work) -> dict[str, object]:
    """Let nnU-Net segment; its process measures its memory on the device."""
    if work.nnunet_python == sys.executable and find_spec("nnunetv2") is None:
        return {"left_out": "nnunetv2 is not installed here; give --nnunet-python"}
    scan, out = scan_of(work), work.place / f"{name}_nnunet.nii.gz"
    order = Order(
        str(scan), str(out), run=str(weights_of(name, work)), how={"device": work.device}, warm=str(warm_scan(work))
    )
    return competing("rivals nnunet", order, python=work.nnunet_python)


PARTS = {
    "card": Part(card_rows, 30.0),
    "stores": Part(store_rows, 75.0),
    "training_2d": Part(loops_2d, 110.0),
    "training_3d": Part(loops_3d, 100.0),
    "prediction_2d": Part(predictions_2d, 75.0),
    "prediction_3d": Part(predictions_3d, 80.0),
    "steps": Part(step_rows, 110.0),
    "nnunet": Part(peer_rows, 90.0),
}
"""{name: what is measured, in how many seconds}; the most needed first, as the last ones get what time is left."""


if __name__ == "__main__":
    main()
