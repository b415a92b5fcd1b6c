"""`viscera predict` as a whole: how fast and in how much memory, a scan, a folder, a very large scan.

    python -m benchmarks.predict speed [--before CHECKOUT] the command with the bundled weights, three real scans, new processes
    python -m benchmarks.predict folder RUN [--copies 2]   a folder: one scan after the other, against reading ahead
    python -m benchmarks.predict dicom [--rounds 5]        from DICOM (plastimatch writes it) with SEG and RTSTRUCT, beside NIfTI
    python -m benchmarks.predict tidying CHECKOUT          post-processing beside that of another checkout; labels must be equal
    python -m benchmarks.predict memory WORK               512x512x824 voxels, 14 classes, gao2step at full width
    python -m benchmarks.predict installation NAME=VENV .. size and start of each virtual environment with viscera in it

On a quiet machine. `speed` replaces this kind of processor's rows of results/speed.json and leaves those of others, which README
shows side by side. The memory's weights are untrained: they cost what trained ones cost, and label noise all over, the worst case
for post-processing. Its windows do not overlap, which changes the time (by 6 to 8 times) but not the memory: a slab is as thick as
one window either way.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import torch

from benchmarks.machine import DATA, RESULTS, ROOT, alternate, commit, facts, replaced, save
from viscera.inference.jobs import ScanJob
from viscera.inference.model import Model, load_model
from viscera.inference.predict import predict_all, predict_file
from viscera.io import nifti
from viscera.networks.build import build_network
from viscera.networks.processor import this_processor
from viscera.networks.unet import parameter_count
from viscera.networks.weights import Weights, save_weights
from viscera.recipes.gao2step import GAO2STEP
from viscera.synthesis.patient import synthesize
from viscera.volume import Volume

SCANS = {
    "HCC_048, 512x512x89": "hcc_tace/HCC_048_portal_venous_ct.nii.gz",
    "LIDC-IDRI-0314, 512x512x275": "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
    "HCC_006, 512x512x109": "hcc_tace/HCC_006_LIVER_3PHASE_ct.nii.gz",
}
FOLDER = (*SCANS.values(), "msd_spleen/spleen_8_ct.nii.gz")
WAYS = {
    "default": (),
    "--runtime torch": ("--runtime", "torch"),
    "--organs all": ("--organs", "all"),
    "--statistics": ("--statistics",),
}
MEASURED = ("command_s", "file_to_file_s", "cpu_s", "peak_mib")
QUIET_LOAD = 1.5
TIDYING_WAYS = ("default", "--organs all")
DICOM_WAYS = {
    "NIfTI": (),
    "DICOM": (),
    "DICOM, SEG and RTSTRUCT": ("--write", "seg", "rtstruct"),
    "DICOM, label map SEG": ("--write", "seg", "--seg-type", "labelmap"),
}
SMALL_SCAN = "totalsegmentator_example/ts_example_dicom_20slices_ct.nii.gz"
OF_EVERY_VENV = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
"""How the names of what Python puts into every environment begin: not counted."""
STARTS = {"help": ("--help",), "info": ("info",), "predict help": ("predict", "--help")}
SHAPE = (824, 512, 512)
SPACING_MM = (1.0, 0.78, 0.78)


def main() -> None:
    """Run a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("speed")
    several = verbs.add_parser("folder")
    several.add_argument("run", type=Path)
    several.add_argument("--copies", type=int, default=2)
    verbs.add_parser("memory").add_argument("work", type=Path)
    series, two, places = (verbs.add_parser(name) for name in ("dicom", "tidying", "installation"))
    two.add_argument("checkout", type=Path)
    places.add_argument("venvs", nargs="+", metavar="NAME=VENV")
    for verb in (one, several, series, two, places):
        verb.add_argument("--rounds", type=int, default=5)
        verb.add_argument("--data", type=Path, default=DATA, help="folder of the real scans")
    one.add_argument("--before", type=Path, help="another checkout, whose command takes turns with ours")
    one.add_argument(
        "--large", type=Path, metavar="FILE", help="only a synthetic scan of 512x512x824, which is made there"
    )
    one.add_argument("--ways", nargs="+", choices=WAYS, default=["default", "--runtime torch"], metavar="WAY")
    options = parser.parse_args()
    if options.verb == "speed":
        sources = {"before": options.before.absolute()} if options.before else {}
        scans = {title: options.data / scan for title, scan in SCANS.items()}
        if options.large:
            make_scan(options.large)
            scans = {"synthetic, 512x512x824": options.large}
        rows = speed(scans, sources | {"after": ROOT}, options.ways, options.rounds)
        old = json.loads((RESULTS / "speed.json").read_text())
        print(save("speed", replaced(old, rows, ("scan", "state", "way"))))
    elif options.verb == "folder":
        model = load_model(options.run, accelerator="cpu", runtime="auto")
        scans = [options.data / scan for scan in FOLDER]
        content = folder(model, scans, copies=options.copies, rounds=options.rounds)
        print(save("folder", facts("torch", "openvino") | {"recipe": model.recipe.name} | content))
    elif options.verb == "dicom":
        content = {scan: dicom(options.data / scan, options.rounds) for scan in SCANS.values()}
        print(save("dicom", facts("torch", "pydicom") | {"rounds": options.rounds, "scans": content}))
    elif options.verb == "tidying":
        print(save("tidying", facts("torch", "openvino") | tidying(options.checkout, options.data, options.rounds)))
    elif options.verb == "installation":
        scan = options.data / SMALL_SCAN
        rows = [installation(*words.split("=", 1), scan=scan, rounds=options.rounds) for words in options.venvs]
        about = facts() | {"load": round(os.getloadavg()[0], 2), "rounds": options.rounds, "scan": scan.name}
        print(save("installation", about | {"rows": rows}))
    else:
        print(save("volume_memory", facts("torch") | memory(options.work.absolute())))


def speed(scans: Mapping[str, Path], sources: Mapping[str, Path], ways: Sequence[str], rounds: int) -> list[Mapping]:
    """Time the command with the bundled weights of each checkout in each way, in turn; return medians, a row for each.

    Args:
        scans: {title: file}.
        sources: {"before" or "after": checkout}.
        ways: Of WAYS.
        rounds: Of each, after one that keeps the graph and warms the disk's cache.
    """
    processor = this_processor()
    if processor.limits:
        raise SystemExit(f"{processor}: unset that, a row is of the whole processor")
    runtimes = [package for package in ("openvino", "onnxruntime") if find_spec(package)]
    about = facts("torch", *runtimes) | {"key": processor.key, "kind": processor.kind, "cores": processor.cores}
    about |= {"model": processor.model, "abilities": processor.abilities, "load": round(os.getloadavg()[0], 2)}
    if os.getloadavg()[0] > QUIET_LOAD:
        print(f"note: load is {about['load']}: the seconds will be those of a busy machine", file=sys.stderr)
    commits = {state: commit(checkout) for state, checkout in sources.items()}
    rows = []
    for title, scan in scans.items():
        taken: dict[tuple[str, str], list[dict]] = {(way, state): [] for way in ways for state in sources}
        for number in range(rounds + 1):
            for way, state in taken:
                found = run_noted(scan, *WAYS[way], source=sources[state] / "src")
                taken[way, state] += [found] if number else []
        for (way, state), runs in taken.items():
            medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in MEASURED}
            which = {"state": state, "scan": title, "way": way, "rounds": rounds, "commit": commits[state]}
            rows.append(about | which | {key: runs[0][key] for key in ("runtime", "precision")} | medians)
            print(rows[-1], flush=True)
    return rows


def run_noted(scan: Path, *options: str, source: Path) -> dict[str, object]:
    """Run the command of a checkout in a new process; return what it took and, of what it notes, what ran the network."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        found = run_once(scan, out, *options, source=source)
        run = json.loads(out.with_name("labels.json").read_text())["run"]
    return {
        "command_s": found["wall_s"],
        "file_to_file_s": run["efficiency"]["seconds"],  # of the wall: stages may overlap
        "cpu_s": found["cpu_s"],
        "peak_mib": run["peak_memory_mib"],  # its own: the system's of a child begins with what its parent had held
        "runtime": run["runtime"],
        "precision": run["precision"],
    }


def installation(name: str, venv: str, *, scan: Path, rounds: int) -> dict[str, object]:
    """Return the size of an environment in MiB, its number of packages, and how quickly its command starts.

    Args:
        name: Of the row.
        venv: A virtual environment.
        scan: Small, so that starting is most of the time.
        rounds: Of each start, of which the best counts; the scan is segmented twice, first without anything kept from before.
    """
    (packages,) = Path(venv).glob("lib/python*/site-packages")
    ours = [place for place in packages.iterdir() if not place.name.startswith(OF_EVERY_VENV)]
    said = subprocess.run(["du", "-smc", *ours], capture_output=True, text=True, check=True).stdout.splitlines()
    sizes = {Path(place).name: int(mib) for mib, place in (line.split("\t") for line in said)}
    total = sizes.pop("total")
    largest = dict(sorted(sizes.items(), key=lambda pair: -pair[1])[:8])
    count = sum(place.suffix == ".dist-info" for place in ours)
    row: dict[str, object] = {"name": name, "mib": total, "packages": count, "largest_mib": largest}
    command = Path(venv).absolute() / "bin" / "viscera"
    with tempfile.TemporaryDirectory() as folder:
        place = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"XDG_CACHE_HOME": folder}

        def run(*words: str | Path) -> tuple[float, float]:
            """Return wall and CPU seconds."""
            begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([command, *words], cwd=folder, env=place, capture_output=True, check=True)
            wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return round(wall, 2), round(cpu, 2)

        try:
            taken = {what: [run(*words) for _ in range(rounds)] for what, words in STARTS.items()}
            taken |= {f"{which} predict": [run("predict", scan, f"{which}.nii.gz")] for which in ("first", "second")}
        except subprocess.CalledProcessError as error:
            taken, row["refused"] = {}, error.stderr.decode().splitlines()[-1]
    for place, key in enumerate(("wall_s", "cpu_s")):
        row[key] = {what: min(times[place] for times in runs) for what, runs in taken.items()}
    print(row, flush=True)
    return row


def tidying(checkout: Path, data: Path, rounds: int) -> dict[str, object]:
    """Run the command of two checkouts in turn; return medians, and whether label maps are equal.

    Args:
        checkout: The earlier one.
        data: Folder of the real scans.
        rounds: Of both.
    """
    sources = {"before": checkout.absolute() / "src", "after": ROOT / "src"}
    cases = []
    for scan in SCANS.values():
        for way in TIDYING_WAYS:
            taken: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
            with tempfile.TemporaryDirectory() as name:
                outs = {which: Path(name) / which / "labels.nii.gz" for which in sources}
                for _ in range(rounds):
                    for which, source in sources.items():
                        found = run_once(data / scan, outs[which], "--overwrite", *WAYS[way], source=source)
                        run = json.loads(outs[which].with_name("labels.json").read_text())["run"]
                        found |= {"postprocess_s": run["seconds"]["postprocess"], "run_mib": run["peak_memory_mib"]}
                        taken[which].append(found | {"file_to_file_s": sum(run["seconds"].values())})
                equal = np.array_equal(*map(upright, outs.values()))
            medians = {
                which: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
                for which, runs in taken.items()
            }
            cases.append({"scan": scan, "way": way, "equal_label_maps": equal} | medians)
            print(json.dumps(cases[-1]), flush=True)
    before = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return {"before_commit": before.stdout.strip(), "rounds": rounds, "load": os.getloadavg()[2], "cases": cases}


def folder(model: Model, scans: Sequence[Path], *, copies: int, rounds: int) -> dict[str, object]:
    """Time a folder in both ways; who begins alternates. Peak memory is of the whole process, so only seconds are compared."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        tasks = [ScanJob(scan, out / f"{number}_{scan.name}") for number in range(copies) for scan in scans]
        one_by_one(tasks[:1], model)  # warm
        seconds: dict[str, list[float]] = {"one by one": [], "overlapped": []}
        for number in range(rounds):
            rivals = {
                "one by one": (partial(one_by_one, tasks, model), 1),
                "overlapped": (partial(overlapped, tasks, model), 1),
            }
            for way, times in alternate(dict(reversed(rivals.items())) if number % 2 else rivals).items():
                seconds[way] += times
            for file in out.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "scans": [scan.name for scan in scans],
        "copies": copies,
        "rows": [{"way": way, "median_s": medians[way], "seconds": times} for way, times in seconds.items()],
        "ratio_of_medians": round(medians["one by one"] / medians["overlapped"], 3),
    }


def one_by_one(tasks: Sequence[ScanJob], model: Model) -> None:
    """Segment each scan, reading, working and writing in turn."""
    for task in tasks:
        predict_file(task, model)
        task.output.unlink()
        task.sidecar.unlink()


def overlapped(tasks: Sequence[ScanJob], model: Model) -> None:
    """Segment all, as `viscera predict` does."""
    if failed := predict_all(tasks, model):
        raise SystemExit(str(failed))
    for task in tasks:
        task.output.unlink()
        task.sidecar.unlink()


def memory(work: Path) -> dict[str, object]:
    """Predict a very large scan in a process of its own; return what it took."""
    scan, weights, output = (work / name for name in ("scan.nii.gz", "organs.safetensors", "organs.nii.gz"))
    make_scan(scan)
    parameters = make_weights(weights)
    words = ["predict", scan, output, "--weights", weights, "--overwrite"]
    command = [sys.executable, "-m", "viscera.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    run = json.loads((work / "organs.json").read_text())["run"]
    return {
        "shape": SHAPE,
        "classes": len(GAO2STEP.space.classes),
        "parameters": parameters,
        "peak_memory_mib": run["peak_memory_mib"],
        "seconds": run["efficiency"]["seconds"],
        "stages": run["seconds"],
    }


def make_scan(file: Path) -> None:
    """Write a synthetic patient whose slices, each repeated 8 times, are said to be 1 mm apart, so that 824 planes are prepared."""
    if file.exists():
        return
    patient = synthesize(np.random.default_rng(0), shape=(103, 512, 512), orientation="axial")
    z, y, x = SPACING_MM
    affine = np.array([[0, 0, -x, 200.0], [0, -y, 0, 200.0], [z, 0, 0, 0.0], [0, 0, 0, 1]])
    file.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(file, Volume(np.repeat(patient.ct.voxels, 8, axis=0), affine))


def make_weights(file: Path) -> int:
    """Write untrained weights; return the number of parameters."""
    torch.manual_seed(0)
    measured = replace(GAO2STEP.intensity, measured=(-160.0, 240.0, 80.0, 60.0))
    inference = replace(GAO2STEP.inference, overlap=0.0, region="whole")
    recipe = replace(GAO2STEP, intensity=measured, inference=inference)
    network = build_network(recipe.network, classes=len(recipe.space.classes))
    save_weights(file, Weights(recipe, recipe.space, network.state_dict(), {}))
    return parameter_count(network)


def dicom(scan: Path, rounds: int) -> dict[str, object]:
    """Return what each way takes (medians), and whether the label maps are the same."""
    folder = Path(tempfile.mkdtemp())
    series = folder / "series"
    convert = ["plastimatch", "convert", "--input", str(scan), "--output-dicom", str(series)]
    subprocess.run(convert, check=True, capture_output=True)
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in DICOM_WAYS}
    for _ in range(rounds + 1):  # the first one warms the disk's cache, and is left out
        for way, options in DICOM_WAYS.items():
            out = folder / "out" / way
            shutil.rmtree(out, ignore_errors=True)
            taken[way].append(run_once(scan if way == "NIfTI" else series, out / "scan.nii.gz", *options))
    maps = {way: upright(folder / "out" / way / "scan.nii.gz") for way in DICOM_WAYS}
    found = {
        "equal_label_maps": all(bool((labels == maps["NIfTI"]).all()) for labels in maps.values()),
        "labelled_voxels": int(np.count_nonzero(maps["NIfTI"])),
        "ways": {
            way: {
                **{key: round(statistics.median(row[key] for row in rows[1:]), 2) for key in rows[0]},
                "objects_mb": {
                    file.name.split(".")[1]: round(file.stat().st_size / 1e6, 2)
                    for file in sorted((folder / "out" / way).glob("*.dcm"))
                },
            }
            for way, rows in taken.items()
        },
    }
    shutil.rmtree(folder)
    print(scan.name, json.dumps(found), flush=True)
    return found


def run_once(scan: Path, out: Path, *options: str, source: Path = ROOT / "src") -> dict[str, float]:
    """Run the command of a checkout in a new process; return its wall seconds, CPU seconds and peak memory (MiB)."""
    command = [sys.executable, "-m", "viscera.cli", "predict", str(scan), str(out), *options]
    begun = time.perf_counter()
    place = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=place)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said.decode())
    wall = time.perf_counter() - begun
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def upright(file: Path) -> np.ndarray:
    """Return a label map turned to RAS+, however its file is ordered."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj)


if __name__ == "__main__":
    main()
