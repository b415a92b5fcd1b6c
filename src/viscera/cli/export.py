"""viscera export: a trained network for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import progress, say, show_table
from viscera.errors import SettingError


@dataclass(frozen=True)
class Options:
    """Write a trained network as ONNX or for OpenVINO, for programs that know nothing of viscera.

    OUT holds network.onnx, or network.xml and network.bin, and model.json: labels and colours, how scans are prepared, what goes
    in and comes out. The files are run and compared with torch before they stand there; where an organ's Dice suffers, nothing
    is written. examples/segment_with_onnx.py is such a program, in 30 lines. viscera predict --weights OUT uses them, too.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run's folder (its best weights), a .safetensors file, or starter: the bundled weights."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to be written."""
    format: Literal["onnx", "openvino"] = "onnx"
    """onnx: for ONNX Runtime and many others. openvino: for OpenVINO, on CPUs of Intel and AMD."""
    int8: bool = False
    """Most of the network in whole numbers of 8 bits: 1.4 (width 16) to 2 times (width 64) as fast as bf16 on CPUs that have
    instructions for them (AMX, VNNI); 3D networks 1.5 to 1.9 times as fast as fp32 with AVX2 alone. Needs --format openvino and
    --data."""
    data: Path | None = None
    """A prepared store, on whose cases organs are compared; else random HU are, which show no loss of organs. --int8 takes its
    scales from its training cases."""
    split: Literal["training", "validation", "test"] = "validation"
    """Which of its cases."""
    dice_points: float = 0.5
    """The most that an organ's Dice may differ from torch's in fp32, in points (hundredths)."""
    overwrite: bool = False
    """Replace an earlier export."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera export", config=(FlagCreatePairsOff,))
    if not options.dice_points >= 0:
        raise SettingError(f"--dice-points must not be negative, got {options.dice_points:g}.")
    from viscera.deployment.export import Yardstick, export
    from viscera.inference.model import load_model
    from viscera.preparation.store import open_store

    store = open_store(options.data) if options.data else None
    model = load_model(options.run, accelerator="cpu")
    with progress() as bar:
        cases = bar.add_task("cases compared", total=None)
        found = export(
            model,
            options.out,
            kind=options.format,
            int8=options.int8,
            yardstick=Yardstick(store, options.split, options.dice_points),
            overwrite=options.overwrite,
            watch=lambda done, total: bar.update(cases, completed=done, total=total),
        )
    if found.dice_difference_points:
        rows = [
            (organ, f"{found.dice_torch[organ]:.4f}", f"{points:+.3f}")
            for organ, points in found.dice_difference_points.items()
        ]
        show_table(f"Agreement on {found.measured_on}", ("organ", "Dice, torch fp32", "difference (points)"), rows)
    else:
        say("viscera: note: only the share of differing voxels was measured, on random HU; name a store: --data STORE")
    say(f"{options.out}: {found.differing_fraction:.3%} of the voxels have another label than with torch in fp32")
    return 0
