"""viscera and its peers on the same scans with the same weights, file to file, each pass in a process of its own.

    python -m benchmarks.peers.speed RUN [RUN ...] [--wide RUN] [--nnunet-python PATH] [--scan FILE ...] [--synthetic 824 512 512]

Peers (nnU-Net, MONAI, the notebook's way: rivals.py) can take a run whose recipe resizes slices, as zhang2d's; others are
timed with viscera alone. With --wide, or made from the first such run (``save_widened``), a network of 31 M parameters is
timed too. A pass counts from the file to the written labels, after start-up, which is said beside it. Rivals take turns, so
that a busy machine slows all alike. Then the 3D export (export.py) and post-processing
(../label_maps.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import DATA, ROOT, facts, save
from benchmarks.peers import export
from benchmarks.peers.child import Order, competing
from viscera.config import ResizedSlices, UNetShape, Window
from viscera.io import nifti
from viscera.networks.build import build_network
from viscera.networks.unet import parameter_count
from viscera.networks.weights import Weights, find_weights, load_weights, save_weights
from viscera.synthesis.patient import synthesize
from viscera.volume import Volume, with_voxels

SCANS = (
    DATA / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
    DATA / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz",
)
OURS = "viscera"
EXACT = "viscera, torch fp32, every slice"
WARM = 16
"""Slices of the warm-up: so many that viscera meets its batches of 4 and smaller ones, which OpenVINO compiles at first sight."""
PARTS = ("scans", "export", "tidy")


@dataclass(frozen=True)
class Rival:
    """Who segments a scan.

    Attributes:
        name: For tables.
        loader: Its name in rivals.py.
        rounds: How often.
        how: See ``Order``.
        python: Which runs it.
    """

    name: str
    loader: str
    rounds: int
    how: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable


def main() -> None:
    """Run the command."""
    options = parsed()
    content = facts("torch", "openvino", "monai", "numpy", "scipy", "nibabel", "simpleitk") | {
        "threads": options.threads or os.cpu_count(),
        "rounds": options.rounds,
        "slow_rounds": options.slow_rounds,
        "nnunet": nnunet_version(options.nnunet_python),
        "notes": NOTES,
    }
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name).absolute()
        if "scans" in options.parts:
            content["cases"] = cases = []
            for scan in scans_of(options, folder):
                for run, about in runs_of(options, folder):
                    cases.append(timed_case(scan, run, about, options=options, folder=folder))
                    save(options.name, content)  # hours of work are not lost to what comes later
        if "export" in options.parts:
            content["export"] = export.compare(folder, options)
            save(options.name, content)
        if "tidy" in options.parts:
            report = folder / "tidy.json"
            rounds = ["--rounds", str(options.rounds), "--slow-rounds", str(options.slow_rounds)]
            words = [sys.executable, "-m", "benchmarks.label_maps", "tidy", "--out", str(report), *rounds]
            subprocess.run(words, check=True, cwd=ROOT)
            content["tidy"] = json.loads(report.read_text())
    print(save(options.name, content))


NOTES = [
    "A pass is file to file in a fresh process, after start-up (imports, weights, compiling) and a warm-up (a few slices of "
    "the same scan), which are said beside it; peak memory is the process's, start_up_mib what of it was held before the pass.",
    "network_s: seconds within the network's calls, over the number of calls that may run at once. outside_s: all else.",
    "Peers get the network as torch has it, in fp32, as they run it on a CPU; viscera runs it in bf16 where the CPU can.",
    "viscera skips slices that hold nothing; 'every slice' does not, and does the peers' work.",
    "labels_unlike_exact_fraction: voxels other than those of viscera in fp32, every slice. The same steps on the same grid: "
    "MONAI; nnU-Net with linear interpolation, but windows before it. Else it interpolates cubically; the notebook aligns corners.",
]


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="weights files or run folders")
    parser.add_argument(
        "--wide", type=Path, help="a trained zhang2d of width 64; else one is made of the first run that can be"
    )
    parser.add_argument("--int8", type=Path, help="the wide network, exported with --int8")
    parser.add_argument("--no-wide", action="store_true", help="leave the network of 31 M parameters out")
    parser.add_argument("--scan", type=Path, action="append", help="may be said several times")
    parser.add_argument("--synthetic", type=int, nargs=3, metavar=("Z", "Y", "X"), help="also a synthetic patient")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="only these rivals, by the names in the tables"
    )
    parser.add_argument("--slices", type=int, help="only this many slices from the middle of each scan")
    parser.add_argument(
        "--nnunet-python", default="", help="a Python that imports nnunetv2 and viscera; else nnU-Net is left out"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--slow-rounds", type=int, default=1, help="of the peers with the wide network, and of slow parts"
    )
    parser.add_argument("--threads", type=int, default=0, help="of each process; 0: as many as it takes")
    parser.add_argument("--most-gib", type=float, default=16.0, help="memory that a process may take; it fails above")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--export-grid", type=int, nargs=3, help=f"of the 3D export; {export.GRID} if not said")
    parser.add_argument("--name", default="speed_avx2", help="of the JSON in benchmarks/results")
    parser.add_argument("--work", type=Path, help="where temporary files go")
    return parser.parse_args()


def nnunet_version(python: str) -> str:
    """Return nnU-Net's version, or why it was left out."""
    if not python:
        return "left out: --nnunet-python was not said"
    words = [python, "-c", "from importlib.metadata import version; import viscera; print(version('nnunetv2'))"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"--nnunet-python {python}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def scans_of(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Return the scans, the synthetic one and crops written first."""
    scans = list(options.scan or (SCANS if not options.synthetic else ()))
    if options.synthetic:
        shape = tuple(options.synthetic)
        scans.append(folder / f"synthetic_{'x'.join(map(str, shape))}.nii.gz")
        nifti.write(scans[-1], synthetic(shape))
    if options.slices:
        scans = [cropped(scan, folder / f"{nifti.stem(scan)}_crop.nii.gz", slices=options.slices) for scan in scans]
    return scans


def cropped(scan: Path, file: Path, *, slices: int) -> Path:
    """Write the middle slices of a scan."""
    whole = nifti.read(scan)
    first = max(0, (whole.shape[0] - slices) // 2)
    nifti.write(file, Volume(whole.voxels[first : first + slices], whole.affine), overwrite=True)
    return file


def synthetic(shape: tuple[int, int, int]) -> Volume:
    """Return a synthetic patient; beyond 103 slices every slice is repeated, since drawing takes minutes."""
    often = -(-shape[0] // 103)
    patient = synthesize(np.random.default_rng(0), shape=(-(-shape[0] // often), *shape[1:]), orientation="axial")
    affine = patient.ct.affine.copy()
    affine[:3, 0] /= often
    return Volume(np.repeat(patient.ct.voxels, often, axis=0)[: shape[0]], affine)


def runs_of(options: argparse.Namespace, folder: Path) -> list[tuple[Path, dict[str, object]]]:
    """Return the networks: (weights, what is to be said of them)."""
    runs = [*options.runs, *([options.wide] if options.wide else [])]
    found = [(run, about(run)) for run in runs]
    narrow = next((run for run, said in found if said["peers"]), None)
    if narrow and not options.wide and not options.no_wide:
        file = folder / "wide.safetensors"
        if not file.exists():
            save_widened(narrow, file)
        note = f"the trained network of {find_weights(narrow).parent.name} within one of width 64: its labels, the wide one's work"
        found.append((file, about(file) | {"weights": note}))
    return found


def about(run: Path) -> dict[str, object]:
    """Say what a run's network is, and whether peers can do its work."""
    weights = load_weights(find_weights(run))
    recipe = weights.recipe
    plain = isinstance(recipe.network, UNetShape) and recipe.network.slices == 1 and recipe.contrast.method == "none"
    network = build_network(recipe.network, classes=len(weights.space.classes))
    return {
        "recipe": recipe.name,
        "classes": len(weights.space.classes),
        "parameters": parameter_count(network),
        "weights": "trained",
        "peers": plain and isinstance(recipe.preparation, ResizedSlices) and isinstance(recipe.intensity, Window),
    }


def rivals_of(said: dict[str, object], options: argparse.Namespace) -> list[Rival]:
    """List who segments with a network."""
    rounds, slow = options.rounds, options.slow_rounds
    openvino, skipping = {"runtime": "openvino"}, {"every_slice": "yes"}
    wide = int(said["parameters"]) > 10e6  # type: ignore[call-overload]
    beside = slow if wide else rounds
    found = [
        Rival(OURS, "viscera", rounds, openvino),
        Rival("viscera, every slice", "viscera", rounds, openvino | skipping),
        Rival("viscera, torch", "viscera", rounds, {"runtime": "torch"}),
        Rival(EXACT, "viscera", slow, {"runtime": "torch", "exact": "yes"} | skipping),
    ]
    if wide and options.int8:
        found.append(Rival("viscera, int8", "viscera", rounds, openvino | {"weights": str(options.int8.absolute())}))
    if not said["peers"]:
        return found
    found += [Rival("MONAI", "monai", beside), Rival("the notebook's way", "notebook", beside)]
    if options.nnunet_python:
        found.append(Rival("nnU-Net", "nnunet", beside, python=options.nnunet_python))
        if not wide:
            linear = {"order": "1"}
            found.append(Rival("nnU-Net, linear", "nnunet", slow, linear, python=options.nnunet_python))
    return found


def timed_case(
    scan: Path, run: Path, said: dict[str, object], *, options: argparse.Namespace, folder: Path
) -> dict[str, object]:
    """Let all segment one scan with one network."""
    rivals = [rival for rival in rivals_of(said, options) if rival.name in options.only or not options.only]
    warm = cropped(scan, folder / "warm_up.nii.gz", slices=WARM)
    reports: dict[str, list[dict]] = {rival.name: [] for rival in rivals}
    outs = {rival.name: folder / f"labels_{number}.nii.gz" for number, rival in enumerate(rivals)}
    for number in range(max(rival.rounds for rival in rivals)):
        first = number % len(rivals)  # nobody always comes after the same one
        for rival in (*rivals[first:], *rivals[:first]):
            if number >= rival.rounds or (reports[rival.name] and "failed" in reports[rival.name][-1]):
                continue
            order = Order(
                str(scan.absolute()),
                str(outs[rival.name]),
                run=str(find_weights(run).absolute()),
                how=rival.how,
                warm=str(warm),
                most_gib=options.most_gib,
            )
            report = competing(f"rivals {rival.loader}", order, python=rival.python, threads=options.threads)
            reports[rival.name].append(report)
            told = report.get("failed") or f"{report['seconds']:.2f} s, {report['peak_mib']:.0f} MiB"
            print(nifti.stem(scan), said["recipe"], rival.name, told, flush=True)
    rows = [row_of(rival, reports[rival.name]) for rival in rivals]
    add_ratios_(rows)
    add_agreement_(rows, outs)
    grid = nifti.read(scan).shape
    return {"scan": nifti.stem(scan), "shape": "x".join(map(str, grid[::-1])), **said, "rows": rows}


def row_of(rival: Rival, reports: list[dict]) -> dict[str, object]:
    """Sum a rival's rounds up."""
    failed = next((report["failed"] for report in reports if "failed" in report), None)
    if failed:
        return {"name": rival.name, "rounds": len(reports), "failed": failed}
    stages = {
        name: round(statistics.median(one["stages"].get(name, 0.0) for one in reports), 3)
        for name in reports[0]["stages"]
    }
    network = statistics.median(one.get("network_s", one["stages"].get("network", 0.0)) for one in reports)
    median = statistics.median(one["seconds"] for one in reports)
    row: dict[str, object] = {
        "name": rival.name,
        "rounds": len(reports),
        "median_s": median,
        "seconds": [one["seconds"] for one in reports],
        "start_up_s": statistics.median(report["start_up_s"] for report in reports),
        "warm_up_s": statistics.median(report["warm_up_s"] for report in reports),
        "network_s": round(network, 3),
        "outside_s": round(median - network, 3),
        "stages_s": stages,
        "peak_mib": max(report["peak_mib"] for report in reports),
        "start_up_mib": max(report["start_up_mib"] for report in reports),
    }
    return row | {name: reports[0][name] for name in ("slices_seen", "runtime", "precision") if name in reports[0]}


def add_ratios_(rows: list[dict]) -> None:
    """Say how many times as much of each a rival takes as viscera."""
    ours = rows[0]
    if "failed" in ours:
        return
    for row in rows:
        if "failed" not in row:
            row["times_ours"] = round(row["median_s"] / ours["median_s"], 1)
            row["times_ours_outside"] = round(row["outside_s"] / max(ours["outside_s"], 1e-3), 1)
            row["times_our_memory"] = round(row["peak_mib"] / ours["peak_mib"], 1)


def add_agreement_(rows: list[dict], outs: dict[str, Path]) -> None:
    """Say how many voxels each labels otherwise than viscera in fp32 on every slice."""
    if EXACT not in outs or not outs[EXACT].exists():
        return
    exact = nifti.read(outs[EXACT])
    for row in rows:
        if "failed" not in row:
            labels = with_voxels(exact, nifti.read(outs[row["name"]]).voxels)
            row["labels_unlike_exact_fraction"] = round(float(np.mean(labels.voxels != exact.voxels)), 7)


def save_widened(run: Path, file: Path, *, width: int = 64) -> int:
    """Write weights of 31 M parameters that segment, without the GPU hours of training them; return how many parameters.

    A trained narrow network's weights become some channels of a wide one; its other channels keep their random weights, and the
    narrow one's do not look at them. So the wide network gives the narrow one's logits, but for rounding, and costs what every
    network of its width costs: dense convolutions know no zeros. Random weights alone would not do: they label noise, on which no
    label map is enlarged, tidied or compressed as on organs.
    """
    weights = load_weights(find_weights(run))
    shape = weights.recipe.network
    if not isinstance(shape, UNetShape):
        raise SystemExit(f"{run}: only a 2D U-Net can be widened.")
    factor = width // shape.widths[0]
    recipe = replace(weights.recipe, network=replace(shape, widths=tuple(factor * old for old in shape.widths)))
    torch.manual_seed(0)
    network = build_network(recipe.network, classes=len(weights.space.classes))
    tensors = {name: set_in(weights.tensors[name], wide, name) for name, wide in network.state_dict().items()}
    save_weights(file, Weights(recipe, weights.space, tensors, {}))
    return parameter_count(network)


def set_in(narrow: Tensor, wide: Tensor, name: str) -> Tensor:
    """Return a wide tensor with a narrow one in its first channels."""
    result = wide.clone()
    if narrow.ndim == 0:  # how many batches were seen
        return narrow.clone()
    if narrow.ndim == 1:  # biases, and batch normalisation
        result[: len(narrow)] = narrow
        return result
    if name.startswith("raise_"):  # transposed: inputs first
        result[:, : narrow.shape[1]] = 0
        result[: narrow.shape[0], : narrow.shape[1]] = narrow
        return result
    outputs, inputs = narrow.shape[:2]
    result[:outputs] = 0
    if name.startswith("up.") and name.split(".")[2] == "0":  # skipped channels, then raised ones
        half, wide_half = inputs // 2, wide.shape[1] // 2
        result[:outputs, :half] = narrow[:, :half]
        result[:outputs, wide_half : wide_half + half] = narrow[:, half:]
    else:
        result[:outputs, :inputs] = narrow
    return result


if __name__ == "__main__":
    main()
