"""The plan in sentences: why this kind, width, batch and length; what speaks against it; why there is none."""

from collections.abc import Iterator, Sequence

from viscera.errors import SettingError
from viscera.labels import readable
from viscera.planning.choices import Kind
from viscera.planning.fingerprint import Fingerprint
from viscera.planning.length import USED, Length
from viscera.planning.measurement import Measured
from viscera.planning.reasons import Reason, numbers
from viscera.planning.search import LEAST_STEPS, MEMORY_SHARE, WANTED, Try, described

BUSY = 0.6
"""Of the cores' time: with less, other programs decide how long a step takes."""


def nothing_fits(tries: Sequence[Try], hours_given: float, allowed: float) -> SettingError:
    """Say what does not suffice, and what would."""
    ran = [one for one in tries if one.measured is not None]
    if not ran:
        least = min(tries, key=lambda one: one.needs_mib)
        return SettingError(
            f"the memory does not suffice: {described(least.recipe)}, the smallest candidate, {least.outcome}",
            f"About {max(least.needs_mib, allowed):.0f} MiB are needed: free or allow so much (--max-memory).",
        )
    best = max(ran, key=lambda one: one.steps)
    step_s = min(one.measured.step_s for one in ran if one.measured is not None)
    hours = 1.2 * LEAST_STEPS * step_s / USED / 3600
    return SettingError(
        f"{hours_given:g} hours are too short: {described(best.recipe)} would make {best.steps} steps, and fewer than "
        f"{LEAST_STEPS} teach nothing",
        f"Pass --hours {max(hours, 1.1 * hours_given):.2g} or more; {WANTED['2D'][16]} steps are worth the while.",
    )


def reasons_of_kind(chosen: Try, tries: Sequence[Try], kinds: Sequence[Kind]) -> Iterator[Reason]:
    """Explain why it is this kind of network and not another."""
    for kind in kinds:
        if kind == chosen.kind:
            break
        told = "; ".join(f"{described(one.recipe)}: {one.outcome}" for one in tries if one.kind == kind)
        yield Reason(f"not {kind}", "tried", f"{told}.", "measured")
    only = (
        "the only kind that was not ruled out" if len(kinds) == 1 else "the first kind with enough steps in the hours"
    )
    why = f"It is {only}, in the order 3D, 2.5D with context, 2D."
    yield Reason("kind", chosen.kind, why, "rule of thumb")


def reasons_of_machine(
    chosen: Try, length: Length, measured: Measured, tries: Sequence[Try], *, hours: float
) -> Iterator[Reason]:
    """Explain width, batch and length."""
    recipe = chosen.recipe
    width, wider = recipe.network.widths[0], [one for one in WANTED[chosen.kind] if one > recipe.network.widths[0]]
    failed = [one.outcome for one in tries if one.kind == chosen.kind and one.recipe.network.widths[0] in wider]
    if failed:
        next_one = f"Width {wider[0]}: {failed[0]}."
    elif wider:
        next_one = f"Width {wider[0]} is taken from {WANTED[chosen.kind][wider[0]]} steps on (a rule of thumb)."
    else:
        next_one = "It is the widest candidate."
    yield Reason(
        "network.widths",
        numbers(recipe.network.widths, " "),
        f"With width {width} the hours allow {length.total} steps. {next_one}",
        "measured",
    )
    plan = recipe.training
    why = "viscera2d's." if recipe.dimensions == 2 else "nnU-Net's smallest: the patch is the larger for it."
    if plan.accumulate > 1:
        why = f"The largest that fits the memory; {plan.accumulate} batches make a step of the optimizer, {why}"
    basis = "measured" if plan.accumulate > 1 else "rule of thumb" if recipe.dimensions == 2 else "nnU-Net's rule"
    yield Reason("training.batch_size", str(plan.batch_size), why, basis)
    per_epoch = f"{length.passes} steps of {measured.step_s:.3g} s"
    limit = "; more visits would teach little (a rule of thumb)" if length.capped else ""
    yield Reason(
        "training.epochs",
        str(length.epochs),
        f"Each has {per_epoch} and validates; all take {length.seconds / 3600:.2g} of {hours:g} h, of which {USED:.0%} "
        f"are planned{limit}.",
        "measured",
    )
    yield Reason(
        "training.visits_per_slice",
        f"{length.visits:g}",
        f"It makes {length.passes} batches of {plan.batch_size} an epoch.",
        "measured",
    )
    if chosen.first is not None:
        yield Reason(
            "context.training.epochs",
            str(chosen.first.epochs),
            f"A quarter of the time (a rule of thumb): {chosen.first.total} steps of {measured.context_step_s:.3g} s.",
            "measured",
        )


def reason_of_memory(measured: Measured, allowed: float) -> Reason:
    """Say what the training will take."""
    peak, free = (measured.gpu_mib, measured.gpu_free_mib) if measured.gpu_mib else (measured.peak_mib, allowed)
    why = f"The peak of real training steps and a validation; up to {MEMORY_SHARE:.0%} of {free:.0f} MiB may be taken."
    return Reason("memory", f"{peak:.0f} MiB", why, "measured")


def notes_on(fingerprint: Fingerprint, chosen: Try) -> Iterator[str]:
    """Say what the user should know beside the choices."""
    measured = chosen.measured
    if measured is not None and not measured.gpu_mib and measured.cpu_share < BUSY:
        yield (
            f"the machine was busy: the steps had {measured.cpu_share:.0%} of their cores' time. Plan anew when it is as "
            "free as it will be in training"
        )
    if fingerprint.never:
        never = ", ".join(map(readable, fingerprint.never))
        yield f"no data set annotates {never}: the network will never find them"
    if not chosen.enough:
        remedy = "more scans" if chosen.length is not None and chosen.length.capped else "more --hours"
        yield f"{chosen.steps} steps are few: {chosen.wanted} are wanted. A network worth using needs {remedy}"
