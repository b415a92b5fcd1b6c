"""viscera plan: data and this machine -> a recipe whose every choice is explained."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.console import counted, progress, say, show_table
from viscera.cli.inputs import data_sets
from viscera.config import Accelerator
from viscera.errors import SettingError

if TYPE_CHECKING:
    from viscera.planning.plan import Plan


@dataclass(frozen=True)
class Options:
    """Choose a recipe for your data, this machine and the hours that you have, and say why it is as it is.

    The data's fingerprint (spacings, sizes, HU, organs and which data set annotates them) rules out what does not suit them; of
    the rest, networks are trained for some steps here, in about a minute or two, to measure time and memory. PLAN.json holds the
    recipe and a sentence for each choice: what was measured, what is nnU-Net's rule, what a rule of thumb. Then:

      viscera prepare STORE --data LAYOUT=DIR --recipe plan.json
      viscera train plan.json STORE RUN

    Run it where you will train, with the machine as free as it will be then.
    """

    data: Annotated[Positional[tuple[str, ...]], arg(metavar="STORE|LAYOUT=DIR [LAYOUT=DIR ...]")]
    """A store that is prepared, whose preparation then stays as it is; or data sets, as for viscera prepare --data, of which a
    sample is prepared into a temporary folder."""
    out: Path = Path("plan.json")
    """Where to write the plan: a .json file."""
    hours: float = 8.0
    """That training may take; nine tenths of them are planned."""
    device: Accelerator = "auto"
    """Where you will train; auto takes a GPU where there is one."""
    max_memory: float | None = None
    """MiB that training may take; without it, what is free in the machine and in its container. A fifth of it is left over."""
    label_space: str | None = None
    """The organs to tell apart (viscera info organs); without it, those that hold most of what the data annotate."""
    splits: Path | None = None
    """The file that you will give viscera prepare --splits, so that the epochs fit the cases that it trains on."""
    fold: int | None = None
    """Which fold, from 0, where the file of splits lists folds."""
    overwrite: bool = False
    """Replace a plan that stands there."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera plan", config=(FlagCreatePairsOff,))
    from viscera.planning.plan import Request, plan_data, plan_store, require_place, write_plan
    from viscera.preparation.own_splits import OwnSplits

    own = OwnSplits(options.splits, options.fold)
    request = Request(options.hours, options.device, options.max_memory, options.label_space, own=own)
    require_place(options.out, overwrite=options.overwrite)
    sets = [text for text in options.data if "=" in text]
    if not options.data or (len(sets) < len(options.data) and len(options.data) > 1):
        raise SettingError(
            "plan takes one prepared store, or data sets as LAYOUT=DIR",
            "See viscera info layouts, and viscera plan --help.",
        )
    given, (sources, problems) = next(iter(options.data)), data_sets(sets)
    with progress() as bar:
        task = bar.add_task("looking", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        if sets:
            plan = plan_data(sources, problems, request, tell=tell)
        else:
            plan = plan_store(Path(given), request, tell=tell)
        bar.update(task, description="done", total=1, completed=1)
    write_plan(options.out, plan, overwrite=options.overwrite)
    show_plan(plan)
    say(f"plan: {options.out}")
    store = "STORE" if sets else given
    if sets:
        divided = "" if options.splits is None else f" --splits {options.splits}"
        divided += "" if options.fold is None else f" --fold {options.fold}"
        say(f"next: viscera prepare STORE --data {' '.join(sets)} --recipe {options.out}{divided}")
    say(f"{'then' if sets else 'next'}: viscera train {options.out} {store} RUN")
    return 0


def show_plan(plan: "Plan") -> None:
    """Show what the data are like, and each choice with its reason."""
    found = plan.fingerprint
    z, y, x = found.spacing_mm
    slices, rows, columns = found.shape
    partly = f", {counted(found.partly, 'case')} partly annotated" if found.partly else ""
    say(
        f"{counted(sum(found.cases.values()), 'case')} of {counted(len(found.cases), 'data set')}{partly}; median scan {slices} x "
        f"{rows} x {columns} voxels of {z:g} x {y:g} x {x:g} mm"
    )
    rows_of_table = [(one.setting, one.value, f"{one.why} ({one.basis})") for one in plan.because]
    show_table("why", ("choice", "is", "because"), rows_of_table, stderr=True)
    for note in plan.notes:
        say(f"note: {note}")
