"""The plan: from data sets or a store, this machine and some hours to a recipe of which every choice is explained."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from math import prod
from pathlib import Path

from viscera.config import Accelerator, Preparation, Recipe, SpacedSlices
from viscera.config.recipe_json import check_recipe
from viscera.datasets.sources import Problem, Source
from viscera.errors import FileError, SettingError
from viscera.io.atomic import write_json
from viscera.io.free_memory import free_memory_mib
from viscera.networks.device import device_type
from viscera.planning.choices import (
    LARGEST_PATCH,
    SPACINGS_MM,
    Kind,
    choose_slice,
    choose_spacing,
    choose_window_hu,
    kinds_for,
    slice_recipes,
    standing_reason,
    volume_recipe,
)
from viscera.planning.fingerprint import Fingerprint
from viscera.planning.grounds import Grounds, Tell, grounds_of_data, grounds_of_store
from viscera.planning.length import with_lengths
from viscera.planning.measurement import Measure, measure
from viscera.planning.reasons import Reason
from viscera.planning.search import LEAST_STEPS, Search, Try, described
from viscera.planning.sentences import (
    notes_on,
    nothing_fits,
    reason_of_memory,
    reasons_of_kind,
    reasons_of_machine,
)
from viscera.preparation.own_splits import OwnSplits

TRIAL_S = 6.0
"""Of each candidate's timed steps."""


@dataclass(frozen=True)
class Request:
    """What a plan is made for.

    Attributes:
        hours: That training may take.
        device: Where it will be.
        memory_mib: That it may take; None: what is free.
        label_space: That is asked for; None: the one that fits the data.
        trial_s: Seconds of each candidate's timed steps.
        own: Which file divides data sets that are yet to be prepared; without one, those in their folders.
    """

    hours: float = 8.0
    device: Accelerator = "auto"
    memory_mib: float | None = None
    label_space: str | None = None
    trial_s: float = TRIAL_S
    own: OwnSplits = OwnSplits()

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not 0 < self.hours < 10_000:
            raise SettingError(f"hours must be more than 0 and less than 10000, got {self.hours:g}.")
        if self.memory_mib is not None and not self.memory_mib > 0:
            raise SettingError(f"max_memory must be more than 0 MiB, got {self.memory_mib:g}.")


@dataclass(frozen=True)
class Plan:
    """A recipe, and why it is as it is.

    Attributes:
        recipe: To prepare and train.
        because: A reason for each choice.
        fingerprint: Of the data.
        tries: Every candidate that was tried, the chosen one last.
        notes: What the user should know.
        machine: Where it was measured.
    """

    recipe: Recipe
    because: tuple[Reason, ...]
    fingerprint: Fingerprint
    tries: tuple[Try, ...]
    notes: tuple[str, ...]
    machine: dict[str, object]

    def to_json(self) -> dict[str, object]:
        """Return what plan.json holds; all but "recipe" is for people."""
        return {
            "recipe": asdict(self.recipe),
            "because": {one.setting: {"value": one.value, "why": one.why, "basis": one.basis} for one in self.because},
            "data": asdict(self.fingerprint),
            "measured": {
                **self.machine,
                "tries": [
                    {
                        "candidate": described(one.recipe),
                        "outcome": one.outcome,
                        **({} if one.measured is None else _rounded(asdict(one.measured))),
                    }
                    for one in self.tries
                ],
            },
            "viscera": version("viscera"),
        }


def plan_store(store: Path, request: Request, *, tell: Tell, trial: Measure = measure) -> Plan:
    """Plan for a store that is prepared.

    Args:
        store: Its folder.
        request: What for.
        tell: Whom to tell how far it is.
        trial: Tries a candidate.

    Raises:
        StoreError: It is not a store, or has no training cases.
        SettingError: The hours or the memory do not suffice; a label space other than the store's, or splits, are asked for.
    """
    device_type(request.device)
    if request.own != OwnSplits():
        raise SettingError(f"{store} is a store, whose cases are divided already", "Leave --splits and --fold out.")
    grounds = grounds_of_store(store, tell)
    if request.label_space not in (None, grounds.space.name):
        raise SettingError(
            f"{store} was prepared for label space '{grounds.space.name}', not '{request.label_space}'",
            "Leave --label-space out, or plan for the data sets themselves.",
        )
    with _folder() as folder:
        return make_plan(grounds, request, tell=tell, trial=trial, folder=folder)


def plan_data(
    sources: Sequence[Source], problems: Sequence[Problem], request: Request, *, tell: Tell, trial: Measure = measure
) -> Plan:
    """Plan for data sets that are yet to be prepared; a sample is prepared into a temporary folder, which is removed.

    Args:
        sources: Their cases.
        problems: What finding them brought up.
        request: What for.
        tell: Whom to tell how far it is.
        trial: Tries a candidate.

    Raises:
        DataSetError, LabelError: No case can be used, or no label space fits.
        SettingError: The hours or the memory do not suffice.
    """
    device_type(request.device)
    with _folder() as folder:
        grounds = grounds_of_data(
            sources, problems, space=request.label_space, folder=folder, tell=tell, own=request.own
        )
        return make_plan(grounds, request, tell=tell, trial=trial, folder=folder)


def require_place(file: Path, *, overwrite: bool) -> None:
    """Raise SettingError or FileError unless a plan can be written there: said before any work begins."""
    if file.suffix != ".json":
        raise SettingError(f"{file}: a plan is a .json file", "Name it so: --out plan.json.")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise SettingError(f"{file} is a folder, or lies in none that is there", "Choose another place: --out.")
    if file.exists() and not overwrite:
        raise FileError(f"{file} exists already", "Choose another name or pass --overwrite.", file=file)


def write_plan(file: Path, plan: Plan, *, overwrite: bool) -> None:
    """Write plan.json, whole or not at all."""
    write_json(file, plan.to_json(), overwrite=overwrite)


def make_plan(grounds: Grounds, request: Request, *, tell: Tell, trial: Measure, folder: Path | None = None) -> Plan:
    """Choose, try and choose again.

    Args:
        grounds: The data.
        request: What for.
        tell: Whom to tell how far it is.
        trial: Tries a candidate.
        folder: For what trials write; None: the system's.

    Raises:
        SettingError: The hours or the memory do not suffice.
    """
    free = free_memory_mib()
    allowed = free if request.memory_mib is None else min(free, request.memory_mib)
    numbered = count(1)
    search = Search(
        grounds,
        request.hours,
        allowed,
        request.device,
        request.trial_s,
        trial,
        lambda what: tell(f"trying {what}", next(numbered), 0),
        folder,
    )
    kinds, refused = kinds_for(grounds.fingerprint, grounds.standing)
    window_hu, hu_reason = choose_window_hu(grounds.fingerprint)
    chosen, tries, reasons = _search(search, kinds, Recipe(label_space=grounds.space.name, intensity=window_hu))
    if chosen is None or chosen.length is None or chosen.measured is None:
        raise nothing_fits(tries, request.hours, allowed)
    because = (
        *reasons_of_kind(chosen, tries, kinds),
        *refused,
        grounds.space_reason,
        *reasons,
        hu_reason,
        *reasons_of_machine(chosen, chosen.length, chosen.measured, tries, hours=request.hours),
        reason_of_memory(chosen.measured, allowed),
    )
    machine = {"device": device_type(request.device), "hours": request.hours, "free_mib": round(allowed)}
    return Plan(
        recipe=check_recipe(with_lengths(chosen.recipe, chosen.length, chosen.first)),
        because=because,
        fingerprint=grounds.fingerprint,
        tries=(*(one for one in tries if one is not chosen), chosen),
        notes=(*grounds.notes, *notes_on(grounds.fingerprint, chosen)),
        machine=machine,
    )


def _search(search: Search, kinds: Sequence[Kind], base: Recipe) -> tuple[Try | None, list[Try], tuple[Reason, ...]]:
    """Return the candidate of the first kind that has enough steps, all that were tried, and the reasons for its sizes."""
    tries: list[Try] = []
    for kind in kinds:
        last = kind == kinds[-1]
        tried, reasons = _volume(search, base) if kind == "3D" else _slices(search, kind, base, coarsen=last)
        tries += tried
        chosen = _best(tried, last=last)
        if chosen is not None:
            return chosen, tries, reasons
    return None, tries, ()


def _slices(search: Search, kind: Kind, base: Recipe, *, coarsen: bool) -> tuple[list[Try], tuple[Reason, ...]]:
    """Try networks of slices; where even the narrowest is too slow and may be coarser, with larger pixels."""
    grounds = search.grounds
    ways: list[tuple[Preparation, Reason]]
    if grounds.standing is not None:
        ways = [(grounds.standing, standing_reason(grounds.standing))]
    else:
        spacing, reason = choose_spacing(grounds.fingerprint)
        coarser = [one for one in reversed(SPACINGS_MM) if one > spacing] if coarsen else []
        ways = [(SpacedSlices(spacing_mm=spacing), reason)]
        for one in coarser:
            why = f"{reason.why} But at {spacing:g} mm even the narrowest network is too slow for the hours."
            ways.append((SpacedSlices(spacing_mm=one), Reason(reason.setting, f"{one:g} mm", why, "measured")))
    every: list[Try] = []
    reasons: tuple[Reason, ...] = ()
    for preparation, reason in ways:
        store = grounds.sample(preparation)
        sizes = [store.facts(name).geometry.size for name in store.names("training")]
        reasons = (reason,)
        window = None
        if preparation.size is None:
            window, cut = choose_slice(sizes, preparation.pixel_mm)
            reasons = (reason, cut)
        tried = search.climb(kind, slice_recipes(kind, base, preparation, window=window))
        every += tried
        if tried[0].enough or preparation is ways[-1][0]:
            break
    return every, reasons


def _volume(search: Search, base: Recipe) -> tuple[list[Try], tuple[Reason, ...]]:
    """Try a 3D network."""
    grounds, device = search.grounds, device_type(search.device)

    def made(most: int) -> Recipe:
        return volume_recipe(base, grounds.fingerprint, grounds.standing, device=device, most=most)[0]

    tried = search.try_volume(made, LARGEST_PATCH[device])
    most = prod(tried.recipe.sampling.size or ())
    return [tried], volume_recipe(base, grounds.fingerprint, grounds.standing, device=device, most=most)[1]


def _best(tried: Sequence[Try], *, last: bool) -> Try | None:
    """Return the widest that has enough steps; of the last kind, the latest that has any worth the while."""
    enough = [one for one in tried if one.enough]
    if enough:
        return enough[-1]
    left = [one for one in tried if one.length is not None and one.steps >= LEAST_STEPS]
    return max(left, key=lambda one: one.steps) if last and left else None


def _rounded(values: dict[str, object]) -> dict[str, object]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="viscera-plan-") as folder:
        yield Path(folder)
