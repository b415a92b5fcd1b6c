"""The choices that the machine decides: which kind of network, how wide, what batch. Candidates are tried, the narrowest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

from viscera.config import Accelerator, Preparation, Recipe
from viscera.planning.choices import Kind
from viscera.planning.grounds import Grounds
from viscera.planning.length import Length, lengths
from viscera.planning.measurement import Measure, Measured, Trial
from viscera.preparation.store import Store

MEMORY_SHARE = 0.8
"""Of the free memory that a training may take at its measured peak: what is left is for what a short trial cannot see."""
WANTED: dict[Kind, dict[int, int]] = {
    "3D": {16: 5_000, 32: 10_000},
    "2.5D with context": {16: 2_000, 32: 4_000},
    "2D": {16: 770, 24: 2_000, 32: 4_000, 64: 20_000},
}
"""{kind: {width: steps that it is chosen for}}. With 770 steps viscera2d's parts were compared (benchmarks/results/ablation.json);
all others are rules of thumb, between that and nnU-Net's 250,000."""
LEAST_STEPS = 100
"""A plan of fewer steps is refused: nothing would be learnt. A rule of thumb."""
CONTEXT_STEPS = 500
"""That a context network is to have. A rule of thumb."""
SMALLEST_BATCH = 2
"""nnU-Net's."""


@dataclass(frozen=True)
class Try:
    """A candidate that was tried.

    Attributes:
        kind: Of its network.
        recipe: With the batch that it was tried with.
        measured: What it took; None where the memory did not suffice, or it was not begun.
        length: Of its training in the hours; None where it has none.
        first: Of its context network's.
        outcome: What came of it, for people.
        needs_mib: Of memory, where that was the reason.
    """

    kind: Kind
    recipe: Recipe
    measured: Measured | None
    length: Length | None = None
    first: Length | None = None
    outcome: str = ""
    needs_mib: float = 0.0

    @property
    def steps(self) -> int:
        """Passes in the hours."""
        return 0 if self.length is None else self.length.total

    @property
    def wanted(self) -> int:
        """Passes that the candidate is chosen for."""
        return WANTED[self.kind][self.recipe.network.widths[0]]

    @property
    def enough(self) -> bool:
        """Whether it has as many; or, for the narrowest 2D network, all that so few data give."""
        few = self.first is not None and self.first.total < CONTEXT_STEPS and not self.first.capped
        narrowest = self.kind == "2D" and self.recipe.network.widths[0] == min(WANTED[self.kind])
        capped = narrowest and self.length is not None and self.length.capped
        return (self.steps >= self.wanted or capped) and not few


@dataclass(frozen=True)
class Search:
    """How candidates are tried.

    Attributes:
        grounds: The data.
        hours: That training may take.
        free_mib: Memory that training may take, before the margin.
        device: Where.
        seconds: Of a trial.
        measure: Runs one.
        tell: Told which candidate is tried.
        folder: For what trials write.
    """

    grounds: Grounds
    hours: float
    free_mib: float
    device: Accelerator
    seconds: float
    measure: Measure
    tell: Callable[[str], None]
    folder: Path | None = None

    def climb(self, kind: Kind, recipes: Sequence[Recipe]) -> list[Try]:
        """Try candidates of a kind, the narrowest first, for as long as the hours and the memory suffice for more."""
        tries: list[Try] = []
        for recipe in recipes:
            last = tries[-1] if tries else None
            if last is not None and last.steps < WANTED[kind][recipe.network.widths[0]]:
                break  # a wider network is never faster
            tries.append(self.try_slices(kind, recipe, last))
            if not tries[-1].enough:
                break
        return tries

    def try_slices(self, kind: Kind, recipe: Recipe, narrower: Try | None) -> Try:
        """Try a network of slices with the largest batch that fits, up to the recipe's own.

        A wider one must fit with the batch of the narrower: batch normalisation learns little from two slices.
        """
        store, whole = self.grounds.sample(recipe.preparation), recipe.training.batch_size
        batch, least = whole, SMALLEST_BATCH
        if narrower is None or narrower.measured is None:
            small = with_batch(recipe, SMALLEST_BATCH, whole=whole)
            known = self._measured(small, store, seconds=0.0)
            if known is None or not self._fits(known):
                return self._refused(kind, small, known)
            factor = 1 / SMALLEST_BATCH
        else:
            known = narrower.measured
            factor = recipe.network.widths[0] / narrower.recipe.network.widths[0]
            batch = least = narrower.recipe.training.batch_size
            factor /= batch
        while batch > least and not self._fits(expected(known, batch * factor)):
            batch //= 2
        if not self._fits(expected(known, batch * factor)):
            return self._refused(kind, with_batch(recipe, batch, whole=whole), expected(known, batch * factor))
        while True:
            tried = with_batch(recipe, batch, whole=whole)
            found = self._measured(tried, store, seconds=self.seconds)
            if found is not None and self._fits(found):
                return self._judged(kind, tried, found)
            if batch == least:
                return self._refused(kind, tried, found)
            batch //= 2

    def try_volume(self, made: Callable[[int], Recipe], most: int) -> Try:
        """Try a 3D network with the largest patch that fits.

        Args:
            made: Makes the recipe for a patch of so many voxels at most.
            most: Voxels to begin with.
        """
        small = made(most // 8)
        store = self.grounds.sample(small.preparation)
        known = self._measured(small, store, seconds=0.0)
        if known is None or not self._fits(known):
            return self._refused("3D", small, known)
        while True:
            recipe = made(most)
            voxels = prod(recipe.sampling.size or ()) / prod(small.sampling.size or ())
            if self._fits(expected(known, voxels)):
                found = self._measured(recipe, store, seconds=self.seconds)
                if found is not None and self._fits(found):
                    return self._judged("3D", recipe, found)
            if voxels <= 1:
                return self._judged("3D", small, known)
            most //= 2

    def _measured(self, recipe: Recipe, store: Store, *, seconds: float) -> Measured | None:
        self.tell(described(recipe))
        return self.measure(Trial(recipe, store, seconds, self.device, self.folder))

    def _fits(self, measured: Measured) -> bool:
        host = measured.peak_mib <= MEMORY_SHARE * self.free_mib
        return host and measured.gpu_mib <= MEMORY_SHARE * measured.gpu_free_mib

    def _refused(self, kind: Kind, recipe: Recipe, found: Measured | None) -> Try:
        if found is None:
            return Try(kind, recipe, None, outcome="out of memory while it was tried", needs_mib=self.free_mib)
        on_gpu = found.gpu_mib > MEMORY_SHARE * found.gpu_free_mib
        needs, free = (found.gpu_mib, found.gpu_free_mib) if on_gpu else (found.peak_mib, self.free_mib)
        outcome = f"takes {needs:.0f} MiB{' of the GPU' if on_gpu else ''}, of {free:.0f} free may be {MEMORY_SHARE:.0%} taken"
        return Try(kind, recipe, None, outcome=outcome, needs_mib=ceil(needs / MEMORY_SHARE))

    def _judged(self, kind: Kind, recipe: Recipe, measured: Measured) -> Try:
        length, first = lengths(recipe, self.grounds.fingerprint, measured, self.hours)
        found = Try(kind, recipe, measured, length, first)
        told = "enough" if found.enough else f"{found.wanted} are wanted"
        all_of_it = length is not None and length.capped
        limit = "are all that so few data are worth" if all_of_it else f"in {self.hours:g} h"
        return replace(found, outcome=f"{found.steps} steps {limit}: {told}")


def expected(measured: Measured, factor: float) -> Measured:
    """Return what a candidate should take whose activations are ``factor`` times as large as those measured."""
    grown = measured.held_mib + (measured.peak_mib - measured.held_mib) * max(factor, 1.0)
    return replace(measured, peak_mib=grown, gpu_mib=measured.gpu_mib * max(factor, 1.0))


def with_batch(recipe: Recipe, batch: int, *, whole: int) -> Recipe:
    """Return the recipe with a smaller batch, of which several make a step of the optimizer, so that it sees as many slices."""
    return replace(recipe, training=replace(recipe.training, batch_size=batch, accumulate=whole // batch))


def described(recipe: Recipe) -> str:
    """Return a candidate in a few words."""
    size = recipe.sampling.window or recipe.sampling.size or recipe.preparation.size
    sides = "whole slices" if size is None else "x".join(map(str, size))
    spacing = _spacing(recipe.preparation)
    return f"{recipe.name}, width {recipe.network.widths[0]}, {sides}{spacing}, batch {recipe.training.batch_size}"


def _spacing(preparation: Preparation) -> str:
    if preparation.pixel_mm is None:
        return ""
    sides = preparation.pixel_mm[:1] if preparation.slice_mm is None else (preparation.slice_mm, *preparation.pixel_mm)
    return " of " + "x".join(f"{mm:g}" for mm in sides) + " mm"
