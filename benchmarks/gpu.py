"""What a GPU does: slices and patches trained per second, scans segmented file to file, beside nnU-Net's machinery; with memory.

    python -m benchmarks.gpu [--scan FILE] [--out gpu.json]        one GPU, less than nine minutes
    python -m benchmarks.gpu --device cpu --quick                  the same code in tiny, to see that it runs

Each part is a process of its own with a limit of seconds: what fails, hangs or takes too long costs its own rows, and the JSON is
written after each part. Without a GPU it says so and ends with 0. Weights are untrained, but for the bundled ones: they cost what
trained ones cost. The parts' rows are in gpu_rows.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu_rows import PARTS, Work, run_part
from benchmarks.machine import DATA, RESULTS, ROOT, facts

LIDC = DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"
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


if __name__ == "__main__":
    main()
