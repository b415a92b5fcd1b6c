"""Does a scan look like HU once its padding is left out: a histogram of some of its voxels, and what it betrays.

Scanners and resampling fill what lies outside of the field of view with one value (-2000, -3024, 0 ...). Such a value is
no evidence: the lowest intensity says nothing of a scan that has it. What is left shows where air, fat and muscle lie.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

PLANE_STEPS = 128
"""Rows and columns of a plane that are looked at, at least; all of smaller ones: 1/16 of the voxels of a scan of 512x512."""
LOWEST, BINS = -32768, 65536
CONSTANT_SHARE = 0.01
"""Share of the voxels from which one value may be padding, or air that was set to a constant."""
CONSTANT_REACH_HU = 30
CONSTANT_PART = 0.6
"""Of the voxels within CONSTANT_REACH_HU of a constant, those at exactly it. The smoothest air of 6 real scans, and soft tissue
in 3 mm voxels, spread over tens of HU: the most frequent value has at most a tenth of them."""
LEAST_ALIVE = 0.03
"""Share of voxels that are no constants, below which nothing can be said of them: drawings, label maps in HU."""
LEAST_SHARE = 0.001
MUCH, MOST = 0.05, 0.5


@dataclass(frozen=True)
class Constant:
    """A value that so many voxels have, and hardly any has a similar one.

    Attributes:
        value: In the file's units.
        fraction: Share of all voxels.
    """

    value: int
    fraction: float


Reason = tuple[str, str]
"""What is wrong, and what to do."""


class Histogram:
    """Counts some voxels of a scan that is seen part by part, each part once and in any order."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)

    def add(self, part: Shaped[np.ndarray, "part y x"]) -> None:
        """Take in some of the scan's planes, finite ones."""
        rows, columns = (max(1, length // PLANE_STEPS) for length in part.shape[1:])
        some = part[:, ::rows, ::columns]
        if some.dtype.kind == "f":
            some = np.rint(some)
        if some.dtype not in (np.dtype(np.int16), np.dtype(np.int8), np.dtype(np.uint8)):
            some = some.clip(LOWEST, LOWEST + BINS - 1) if some.dtype.kind != "u" else some.clip(None, -LOWEST - 1)
        places = some.astype(np.int32, order="C").ravel()
        places -= LOWEST
        self._counts += np.bincount(places, minlength=BINS)

    def why_not_hu(self) -> Reason | None:
        """Say what the intensities look like instead of HU and what to do; None where they may be HU."""
        total = max(1, int(self._counts.sum()))
        constants = _constants(self._counts)
        alive = self._counts / total
        for one in constants:
            alive[one.value - LOWEST] = 0.0
        share = float(alive.sum())
        within = np.concatenate(([0.0], np.cumsum(alive / max(share, 1 / total))))
        look = _Look(within, constants)
        if reason := _bright_padding(look) or (_scaled(look) if look.constant(high=-21) else None):
            return reason
        looks = (_inverted, _offset, _too_low, _too_small, _other_image) if share >= LEAST_ALIVE else ()
        reason = next((reason for judge in looks if (reason := judge(look))), None)
        padding = " and ".join(f"{one.value:g} ({one.fraction:.0%})" for one in constants)
        return (f"apart from voxels at exactly {padding}, {reason[0]}", reason[1]) if reason and padding else reason


def _constants(counts: Int[np.ndarray, " bin"]) -> tuple[Constant, ...]:
    """Return the values that are padding, or were set."""
    total = max(1, int(counts.sum()))
    found = []
    for place in np.flatnonzero(counts >= CONSTANT_SHARE * total).tolist():
        around = counts[max(0, place - CONSTANT_REACH_HU) : place + CONSTANT_REACH_HU + 1]
        if counts[place] >= CONSTANT_PART * around.sum():
            found.append(Constant(place + LOWEST, float(counts[place] / total)))
    return tuple(found)


@dataclass(frozen=True)
class _Look:
    """A scan without its constants.

    Attributes:
        within: Share of its voxels below each bin.
        constants: What was left out.
    """

    within: Float[np.ndarray, " bin"]
    constants: tuple[Constant, ...]

    def share(self, low: int = LOWEST, high: int = -LOWEST - 1) -> float:
        """Return the share of the voxels in [low, high]."""
        return float(self.within[high + 1 - LOWEST] - self.within[low - LOWEST])

    def constant(self, low: int = LOWEST, high: int = -LOWEST - 1) -> float:
        """Return the share of all voxels at constants in [low, high]."""
        return sum(one.fraction for one in self.constants if low <= one.value <= high)


def _bright_padding(look: _Look) -> Reason | None:
    """Tell padding that a network would take for metal."""
    for one in look.constants:
        if one.value >= 1500 and one.fraction > MUCH:
            return (
                f"{one.fraction:.0%} of the voxels are exactly {one.value:g}: padding that is brighter than bone",
                "Replace it by -1024 (air).",
            )
    return None


def _scaled(look: _Look) -> Reason | None:
    """Tell an image from 0 to 1, or standardised, behind padding."""
    alive = 1.0 - look.constant()
    rest = 1.0 - look.constant(high=-21)
    near_0 = look.share(-5, 5) * alive + look.constant(-5, 5)
    one_value = len(look.constants) <= 2 and alive < LEAST_SHARE
    if rest < LEAST_ALIVE or one_value or near_0 < 0.98 * rest:
        return None
    return ("apart from padding, intensities are from -5 to 5: a scaled or standardised image", "Export the CT in HU.")


def _inverted(look: _Look) -> Reason | None:
    """Tell that air is bright and bone dark."""
    air = look.share(850, 1100) > MUCH or (look.constant(900, 1100) > MUCH and not look.constant(high=-200))
    bone = look.share(-1600, -200) > 0.002 and look.share(-150, 150) > MUCH
    if air and bone and look.share(1175) < 0.002 and look.share(high=-850) < 0.01:
        return (
            "intensities look inverted: air is near +1000 and bone below 0",
            "Multiply them by -1, or export the CT in HU.",
        )
    return None


def _offset(look: _Look) -> Reason | None:
    """Tell a CT whose intercept was not applied."""
    near = look.share(1024 - 150, 1024 + 150)
    if near > 2 * MUCH and near > 0.5 * look.share(601) and look.share(-1100, -150) < 0.1 * near:
        return (
            f"intensities look stored with an offset of 1024 ({near:.0%} of the voxels are within 150 of 1024, where water "
            "would be)",
            "Subtract 1024 from all but the padding, which becomes -1024, or export the CT in HU.",
        )
    return None


def _too_low(look: _Look) -> Reason | None:
    """Tell a CT whose intercept was applied twice, or that was multiplied."""
    air, water = look.share(-2150, -1850), look.share(-200, 200)
    body = look.share(-1250, -850)
    if (air > MUCH and body > 3 * water) or (look.share(-1250, -1080) > 0.03 and water < 0.015 and body > MOST):
        return (
            f"intensities look 1024 too low ({body:.0%} of the voxels are between -1250 and -850, {water:.1%} between -200 "
            "and 200, where tissue would be): the intercept was applied twice",
            "Add 1024, or export the CT in HU.",
        )
    if water < 0.005 and look.share(-1023, -850) > MOST and look.constant(-1100, -1000) > MUCH:
        return (
            f"only {water:.1%} of the voxels are between -200 and 200, where tissue would be: no patient, or intensities are "
            "1024 too low, because the intercept was applied twice",
            "Export the CT in HU.",
        )
    fat, twice_fat = look.share(-130, -75), look.share(-250, -150)
    if air > MUCH or (twice_fat > MUCH and twice_fat > 4 * fat):
        return (
            "intensities look multiplied by 2 (air near -2000, fat near -200)",
            "Divide them, or export the CT in HU.",
        )
    if look.share(-11500, -8500) > 0.02 or (look.constant(-10300, -9900) and look.share(300) > 0.3):
        return ("intensities look multiplied by 10 (air near -10000)", "Divide them, or export the CT in HU.")
    if (below := look.share(high=-1300)) > 2 * MUCH:
        return (
            f"{below:.0%} of the voxels are below -1300, where neither air nor padding is: not HU",
            "Export the CT in HU.",
        )
    return None


def _too_small(look: _Look) -> Reason | None:
    """Tell a CT that was divided."""
    fat, half_fat = look.share(-130, -75), look.share(-65, -38)
    air = look.share(-560, -440) > MUCH and look.share(-1100, -600) < 0.002 and half_fat > 3 * fat
    set_air = look.constant(-520, -480) > MUCH and look.share(high=-560) < 0.002 and half_fat > 5 * fat
    if half_fat > 0.01 and (air or set_air):
        return ("intensities look divided by 2 (air near -500, fat near -50)", "Multiply them, or export the CT in HU.")
    air_part, lung_part = look.share(-110, -85), look.share(-84, -31)
    narrow = look.share(high=-131) < 0.001 and look.share(351) < 0.001
    sharp = look.share(-15, 25) > 0.6 and bool(look.constant(high=-200) or air_part > 0.02)
    if narrow and (sharp or (air_part > 2 * MUCH and lung_part < 0.15 * air_part)):
        return ("intensities look divided by 10 (air near -100)", "Multiply them, or export the CT in HU.")
    return None


def _other_image(look: _Look) -> Reason | None:
    """Tell MR, PET and scaled images behind padding."""
    padded = look.constant(high=-200)
    if not padded or look.share(high=-31) >= 0.005:
        return None
    rest = 1.0 - padded
    alive = 1.0 - look.constant()
    bright = look.share(301) * alive / rest
    dark = (look.share(-20, 20) * alive + look.constant(-20, 20)) / rest
    if look.share(0, 255) > 0.999 and look.constant(0, 0):
        return ("intensities look like an 8-bit picture (0 to 255), not HU", "Export the CT in HU.")
    if bright > 0.4 or (bright > 0.2 and dark > 0.4):
        return (
            f"{bright:.0%} are above 300, where only bone is, beside {dark:.0%} within 20 of 0, and neither fat nor air: "
            "not HU, perhaps MR, PET, or a CT that was masked",
            "viscera segments CT only: give the CT, in HU.",
        )
    return None
