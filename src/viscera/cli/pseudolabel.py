"""viscera pseudolabel: trained runs fill in the organs that the cases of a store do not annotate."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from viscera.cli.clusters import Where, cluster_at, workers_at
from viscera.cli.console import counted, progress, say, show_table
from viscera.config import Accelerator
from viscera.errors import SettingError
from viscera.learning.pseudolabels.acceptance import Acceptance, Verdict

if TYPE_CHECKING:
    from viscera.io.clusters import Address
    from viscera.preparation.store import Store


@dataclass(frozen=True)
class Options:
    """Fill in the organs that training cases do not annotate, where two or more trained runs agree and are confident.

    Unlabelled scans (prepared with the layout images) get all organs in the same way, and are then trained on as well.
    An organ of a case is accepted or rejected as a whole, with a reason; what is rejected stays unknown. The annotations
    themselves, and the validation and test cases, stay as they are. Each case gets pseudo.npy and pseudo.json, and
    STORE/pseudolabels.csv lists every case and organ. Cases that are done are skipped, so the same command goes on after
    an interruption.
    """

    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...] STORE")]
    """Two or more runs (their folders, or .safetensors files), trained with other seeds or on other folds; then the store.
    With --remove the store alone."""
    acceptance: Annotated[Acceptance, arg(name="")] = field(default_factory=Acceptance)
    """When the runs are believed."""
    device: Accelerator = "auto"
    """Where the networks run; auto takes a GPU where there is one."""
    cluster: Where = None
    overwrite: bool = False
    """Replace pseudo-labels that other runs or settings gave."""
    remove: bool = False
    """Take all pseudo-labels out of the store."""


def main(arguments: list[str]) -> int:
    """Run the verb."""
    options = tyro.cli(Options, args=arguments, prog="viscera pseudolabel", config=(FlagCreatePairsOff,))
    from viscera.preparation.store import open_store

    if not options.paths:
        raise SettingError("name two or more runs and a store: viscera pseudolabel RUN RUN STORE.")
    *runs, path = options.paths
    store = open_store(path)
    address = cluster_at(options.cluster)
    if options.remove:
        if address:
            raise SettingError("--remove takes no time, so no --cluster", "Leave it out.")
        return remove(runs, store)
    return pseudolabel(options, runs, store, address)


def remove(runs: Sequence[Path], store: "Store") -> int:
    """Take the pseudo-labels out again."""
    from viscera.learning.pseudolabels.filling import remove_all

    if runs:
        raise SettingError(f"--remove takes the store alone, got {counted(len(runs), 'run')} as well.")
    say(f"pseudo-labels of {counted(remove_all(store), 'case')} removed from {store.path}")
    return 0


def pseudolabel(options: Options, runs: Sequence[Path], store: "Store", address: "Address | None") -> int:
    """Let the runs label the store, and show what was accepted."""
    from viscera.learning.pseudolabels.filling import TABLE, Watch, open_organs, pseudolabel_store
    from viscera.learning.pseudolabels.teachers import find_teacher
    from viscera.preparation.splits import unlabelled_cases

    lacking = open_organs(store)
    free, shown = unlabelled_cases(store)
    if shown:
        first = ", ".join(f"{name} ({other})" for name, other in list(shown.items())[:3])
        say(
            f"note: {counted(len(shown), 'unlabelled scan')} left out: the same scan or patient as a labelled case: "
            f"{first}{' ...' * (len(shown) > 3)}"
        )
    if not lacking:
        say(
            f"nothing to fill in: every case of {store.path} to be learnt from annotates all organs of '{store.space.name}'. "
            "Train on it as it is."
        )
        return 0
    # workers may have a GPU, this machine need not
    teachers = [find_teacher(run, accelerator="cpu" if address else options.device) for run in runs]
    with workers_at(address) if address else nullcontext() as cluster, progress() as bar:
        cases = bar.add_task("cases", total=len(lacking))
        slices = bar.add_task("slices", total=None, visible=not cluster)
        there = None
        if cluster:
            from viscera.learning.pseudolabels.on_cluster import fill_over

            there = partial(fill_over, cluster, runs, teachers, options.device)
        watch = Watch(
            case=lambda name: bar.advance(cases),
            slices=lambda done, total: bar.update(slices, completed=done, total=total),
        )
        rows = pseudolabel_store(
            store, teachers, settings=options.acceptance, overwrite=options.overwrite, watch=watch, fill_all=there
        )
    partly, wholly = ([row for row in rows if (row[0] in free) == all_] for all_ in (False, True))
    for title, part in (("Pseudo-labels", partly), ("Pseudo-labels of unlabelled scans", wholly)):
        if part:
            show_table(title, ("organ", "accepted", "absent", "rejected", "mostly rejected for"), summary(part))
    filled = len({name for name, row in rows if row.verdict != "rejected"})
    say(f"{filled} of {counted(len(lacking), 'case')} filled in; each case and organ is in {store.path / TABLE}")
    say(f"next: viscera train RECIPE {store.path} NEWRUN   (--loss.pseudo 0 to 1: how much they count beside truth)")
    return 0


def summary(rows: Sequence[tuple[str, Verdict]]) -> list[tuple[str, ...]]:
    """Count the verdicts of each organ; give them with the most frequent reason of rejection."""
    lines = []
    for organ in dict.fromkeys(row.organ for _, row in rows):
        own = [row for _, row in rows if row.organ == organ]
        counts = Counter(row.verdict for row in own)
        reasons = Counter(row.reason.partition(":")[0] for row in own if row.verdict == "rejected")
        why = reasons.most_common(1)[0][0] if reasons else ""
        lines.append((organ, *(str(counts[word]) for word in ("accepted", "absent", "rejected")), why))
    return lines
