"""viscera bench: how fast viscera is on this machine, and what limits it."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say, show_table
from viscera.config import Accelerator
from viscera.errors import FileError, SettingError
from viscera.io.same_file import refuse_inputs

if TYPE_CHECKING:
    from viscera.deployment.bench import Bench
    from viscera.deployment.elsewhere import Figure

ELSEWHERE = ("kind", "processor", "scan", "runtime", "whole command (s)", "file to file (s)", "viscera of")


@dataclass(frozen=True)
class Options:
    """Measure how fast scans are segmented on this machine, stage by stage, and say what limits it.

    A scan is segmented file to file, as `viscera predict` does it, in rounds that alternate between the runtimes; start-up
    and memory are those of the command in a process of its own. The network's speed is compared with what the same runtime
    reaches here on bare convolutions. What `viscera predict` took on other kinds of processor stands below it, as far as that
    was measured. Close other programs first. Nothing is kept but the JSON file, which names no scan.
    """

    scan: Annotated[Positional[Path | None], arg(metavar="SCAN")] = None
    """A .nii or .nii.gz file; a synthetic patient where none is given."""
    weights: Path | None = None
    """A run's folder (its best weights), a .safetensors file, or what `viscera export` wrote. Without it the network is
    untrained: its time is that of a trained one, but its labels are noise, which other stages take longer or shorter for."""
    recipe: str = "viscera2d-16"
    """Without weights: of which recipe the untrained network is (viscera info recipes)."""
    shape: tuple[int, int, int] = (275, 512, 512)
    """Without SCAN: slices, rows and columns of the synthetic one."""
    runtime: tuple[Literal["torch", "openvino", "onnx"], ...] = ()
    """Which to compare; all that are installed where none is named, of 3D networks and on a GPU torch."""
    rounds: Annotated[int, Ge(1)] = 5
    """How often each runtime segments the scan, after one round to get ready."""
    device: Accelerator = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    jobs: Annotated[int, Ge(0)] = 0
    """Cores; 0: all that this process may use."""
    json: Path | None = None
    """Also write all measurements, with machine and versions, to this file."""
    overwrite: bool = False
    """Replace the JSON file that stands there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera bench", config=(FlagCreatePairsOff,))
    if options.rounds < 1:
        raise SettingError(f"--rounds must be at least 1, got {options.rounds}.")
    refuse_inputs([options.json], [path for path in (options.scan, options.weights) if path])
    if options.json and options.json.exists() and not options.overwrite:
        raise FileError(f"{options.json} exists already", "Choose another name or pass --overwrite.")
    if options.weights and options.recipe != Options.recipe:
        raise SettingError(
            "--recipe is for untrained networks, and --weights has a recipe of its own", "Leave one of them out."
        )
    if options.scan and options.shape != Options.shape:
        raise SettingError(
            "--shape is for the synthetic scan, and SCAN has a shape of its own", "Leave one of them out."
        )
    from viscera.deployment.bench import Plan, bench, runtimes_here, runtimes_of, steps
    from viscera.io.atomic import write_json
    from viscera.networks.device import device_type, use_cores
    from viscera.recipes.catalogue import find_recipe

    use_cores(options.jobs)
    device = device_type(options.device)
    if options.weights:
        possible = runtimes_of(options.weights, device)
    else:
        possible = runtimes_here(find_recipe(options.recipe), device)
    plan = Plan(tuple(dict.fromkeys(options.runtime)) or possible, options.rounds, options.device, options.jobs)
    if options.weights is None:
        say("viscera: note: an untrained network is for its own time only; the stages behind it have noise to work on")
    with TemporaryDirectory(prefix="viscera-bench-") as folder, progress() as bar:
        scan, weights = inputs(options, Path(folder))
        task = bar.add_task("", total=steps(plan))
        begun = 0

        def watch(what: str) -> None:
            """Show what is measured now, and how much was."""
            nonlocal begun
            bar.update(task, completed=begun, description=what)
            begun += 1

        found = bench(scan, weights, plan=plan, folder=Path(folder), watch=watch)
        bar.update(task, completed=steps(plan), description="measured")
    shape = "x".join(map(str, found.shape))
    show_table(
        f"{shape}, {found.recipe.name}: median (range) of {options.rounds}", ("", *found.speeds), table_rows(found)
    )
    sys.stdout.write(conclusion(found) + "\n")
    elsewhere = show_elsewhere()
    if options.json:
        origin = {"trained": options.weights is not None, "synthetic_scan": options.scan is None}
        facts = {**origin, **found.to_json(), "conclusion": conclusion(found), **elsewhere}
        write_json(options.json, facts, overwrite=options.overwrite)
    return 0


def inputs(options: Options, folder: Path) -> tuple[Path, Path]:
    """Return the scan and the weights, made in the folder where the user has none."""
    from viscera.deployment.bench import write_synthetic_scan, write_untrained_weights
    from viscera.recipes.catalogue import find_recipe

    scan, weights = options.scan, options.weights
    if scan is None:
        say("making a synthetic scan of " + "x".join(map(str, options.shape)))
        scan = folder / "scan.nii.gz"
        write_synthetic_scan(scan, shape=options.shape)
    if weights is None:
        weights = folder / "untrained.safetensors"
        write_untrained_weights(weights, find_recipe(options.recipe))
    return scan, weights


def table_rows(found: "Bench") -> list[tuple[str, ...]]:
    """Return the rows of the table: what, then its value for each runtime; seconds as the median and (least-most)."""
    from viscera.deployment.bench import WHOLE

    speeds = list(found.speeds.values())
    stages = dict.fromkeys(stage for speed in speeds for stage in speed.seconds if stage != WHOLE)
    parts = [speed.peak_fraction for speed in speeds]
    return [
        *((f"{stage} (s)", *(spread(speed.seconds.get(stage, [])) for speed in speeds)) for stage in (*stages, WHOLE)),
        ("slices per second", *(f"{found.shape[0] / speed.median(WHOLE):.1f}" for speed in speeds)),
        ("start-up (s)", *(spread(speed.start_up_s) for speed in speeds)),
        ("peak memory (MiB)", *(f"{speed.peak_memory_mib:.0f}" for speed in speeds)),
        ("network alone (s)", *(spread(speed.network_s) for speed in speeds)),
        ("network (GFLOP/s)", *(f"{speed.flop_per_s / 1e9:.0f}" for speed in speeds)),
        ("convolution peak (GFLOP/s)", *(f"{speed.peak_flop_per_s / 1e9:.0f}" for speed in speeds)),
        ("network, of that peak", *("-" if part is None else f"{part:.0%}" for part in parts)),
        ("precision", *(str(speed.facts["precision"]) for speed in speeds)),
        ("threads", *(str(speed.facts["threads"]) for speed in speeds)),
    ]


def show_elsewhere() -> dict[str, object]:
    """Show what this processor can do and what `viscera predict` took on others; return that for JSON."""
    from viscera.deployment.elsewhere import about_kinds, measured_figures
    from viscera.networks.processor import this_processor

    processor, figures = this_processor(), measured_figures()
    about = about_kinds(processor, figures)
    sys.stdout.write(f"Processor: {processor}.\n")
    show_table("`viscera predict` elsewhere, bundled weights: medians", ELSEWHERE, elsewhere_rows(figures))
    sys.stdout.write(about + "\n")
    return {"elsewhere": [asdict(figure) for figure in figures], "elsewhere_kinds": about}


def elsewhere_rows(figures: Sequence["Figure"]) -> list[tuple[str, ...]]:
    """Return the rows of the table of other processors."""
    return [
        (
            one.kind,
            f"{one.processor}, {one.cores} cores",
            one.scan,
            f"{one.runtime} {one.precision or ''}".strip(),
            f"{one.command_s:.1f}",
            "-" if one.file_to_file_s is None else f"{one.file_to_file_s:.1f}",
            f"{one.date} ({one.commit})",
        )
        for one in figures
    ]


def spread(seconds: Sequence[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})" if seconds else "-"


def conclusion(found: "Bench") -> str:
    """Say what limits the usual runtime here, and what would help."""
    from viscera.deployment.bench import WHOLE

    speed = found.speeds[found.usual]
    whole = speed.median(WHOLE)
    medians = {stage: speed.median(stage) for stage in speed.seconds if stage != WHOLE}
    largest = max(medians, key=medians.__getitem__)
    text = f"With {found.usual} the scan takes {whole:.2f} s, {medians[largest] / whole:.0%} of it in the stage '{largest}'"
    if largest == "network" and speed.peak_fraction is not None:
        text += f", where the network reaches {speed.peak_fraction:.0%} of this machine's convolution peak"
    return f"{text}. {advice(found, largest)}"


def advice(found: "Bench", largest: str) -> str:
    """Say what would help most.

    Args:
        found: What was measured.
        largest: The stage that takes longest.
    """
    from viscera.deployment.bench import WHOLE
    from viscera.io.cores import usable_cores
    from viscera.networks.runners import missing_packages

    speed, whole = found.speeds[found.usual], found.speeds[found.usual].median(WHOLE)
    medians = {name: one.median(WHOLE) for name, one in found.speeds.items()}
    quickest = min(medians, key=medians.__getitem__)
    start, cores, threads = statistics.median(speed.start_up_s), usable_cores(), speed.facts["threads"]
    if medians[quickest] < 0.9 * whole:
        return f"{quickest} takes {medians[quickest] / whole:.0%} of that: --runtime {quickest}."
    if start > whole:
        return f"Starting takes longer, {start:.2f} s: give predict a folder of scans, and it starts once for all."
    if largest == "network" and found.device == "cpu":
        if isinstance(threads, int) and threads < cores:
            return f"It had {threads} of {cores} cores: pass --jobs 0 if nothing else runs here."
        if found.recipe.inference.whole_slices and missing_packages("openvino"):
            return "OpenVINO may be quicker: pip install 'viscera[openvino]', then measure again."
    return {
        "network": "A smaller network, more cores or a GPU would help.",
        "read": "A scan that is a .nii needs no decompressing.",
        "write": "Labels that are a .nii need no compressing.",
    }.get(largest, "No setting changes that.")
