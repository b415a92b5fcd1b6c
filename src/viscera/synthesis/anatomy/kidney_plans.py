"""How far the kidneys of one patient depart from the average: their place, what they look like, what lies at the hilum.

A plan's defaults change nothing. kidneys.py draws them; the other organs' plans are in plans.py.
"""

from dataclasses import dataclass, replace

import numpy as np

from viscera.synthesis.canvas import Tissue
from viscera.synthesis.variety import Streams, Variety

MISSING_KIDNEY = 0.03
LOW_KIDNEY = 0.06
TURNED_KIDNEY = 0.05
"""Share of patients with one kidney, and of kidneys that lie low or look the wrong way."""
HORSESHOE = 1 / 150
"""Share of patients: about 1 in 500 in truth, drawn more often."""
SUNK, APART, TWISTED, LYING, BARE = 0.18, 0.3, 0.22, 0.06, 0.4
"""With renal_places: share of kidneys that lie low, of patients whose kidneys lie at heights apart, of kidneys that look
another way or lie across, and that have no fat about them."""
SUNK_MM, APART_MM, LOWEST_MM = (25.0, 105.0), (20.0, 75.0), -115.0
"""How much lower a sunk kidney lies, by how much two lie apart, and how far below its usual place one may come to lie."""
FAR_MM = -45.0
"""Lower than this a kidney comes to lie in front of the psoas, rather than beside it."""
LARGE_CYST, TUMOUR_FRACTION, STASIS = 0.10, 0.08, 0.06
"""With renal_look: share of kidneys with a large cyst, with a tumour, and with urine that stands in a wide pelvis."""


@dataclass(frozen=True)
class Mass:
    """A cyst or a tumour of a kidney.

    Attributes:
        direction: From the kidney's centre, in its own semi-axes (z, y, x); length 1 is the surface.
        radius_mm: Its radius.
        tissue: What it is made of.
    """

    direction: tuple[float, float, float]
    radius_mm: float
    tissue: Tissue = Tissue.CYST


@dataclass(frozen=True)
class Hilum:
    """Sinus and vessels of a kidney.

    Attributes:
        lip_mm: How far beneath the kidney's smooth outline its label begins in the sinus.
        vein_mm: Radius of the renal vein.
        artery_mm: Radius of the renal artery.
        rise_mm: How much higher than the hilum they meet vena cava and aorta.
    """

    lip_mm: float
    vein_mm: float
    artery_mm: float
    rise_mm: float


@dataclass(frozen=True)
class Lip:
    """What bulges in front of or behind a kidney's sinus.

    Attributes:
        reach_mm: How far it reaches past the smooth outline, towards the middle.
        thick_mm: Half its thickness.
        long_mm: Half its length.
        up_mm: How much higher than the kidney's middle it lies.
    """

    reach_mm: float
    thick_mm: float
    long_mm: float
    up_mm: float


@dataclass(frozen=True)
class KidneyPlan:
    """One kidney.

    Attributes:
        shift_mm: Upwards, to the back, and away from the middle.
        turn: Radians about z, y and x, after those of an average kidney.
        size: Factor on its lengths.
        sinus: Factor on the lengths of its sinus.
        lobes: Factor on the unevenness of its surface.
        missing: Whether it is.
        masses: Its cysts and tumours.
        fat: Factor on the width of the fat about it.
        columns: How much cortex reaches between the pyramids: level of the noise that it takes the place of.
        stasis: Level of the noise above which the sinus holds urine.
        hilum: Vessels of it, and the sinus within the label; None for a bare sinus outside of the label.
        isthmus_mm: Half-height of the bridge to the other kidney; 0 for none.
        lips: In front of and behind the sinus; none where the outline is smooth.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 1.0
    sinus: float = 1.0
    lobes: float = 1.0
    missing: bool = False
    masses: tuple[Mass, ...] = ()
    fat: float = 1.0
    columns: float | None = None
    stasis: float = 0.35
    hilum: Hilum | None = None
    isthmus_mm: float = 0.0
    lips: tuple[Lip, ...] = ()


USUAL_KIDNEY = KidneyPlan()


def draw_kidney_plans(streams: Streams, variety: Variety) -> tuple[KidneyPlan, KidneyPlan]:
    """Draw left and right kidney with the ingredients that are on."""
    plans = _draw_kidneys(streams["kidneys"]) if variety.kidneys else (USUAL_KIDNEY, USUAL_KIDNEY)
    if variety.renal_look:
        plans = _draw_look(streams["renal_look"].spawn(1)[0], plans)
    if variety.renal_hilum:
        plans = _draw_hila(streams["renal_hilum"], plans)
    if variety.renal_places:
        plans = _draw_places(streams["renal_places"], plans)
    if variety.renal_lips:
        plans = _draw_lips(streams["renal_lips"], plans)
    return plans


def _draw_kidneys(generator: np.random.Generator) -> tuple[KidneyPlan, KidneyPlan]:
    missing = generator.integers(2) if generator.random() < MISSING_KIDNEY else -1
    size = np.exp(generator.normal(0, 0.10))
    plans = []
    for number in range(2):
        height, low, turned = generator.uniform(-40, 40), generator.random(), generator.random()
        sink = generator.uniform(25, 90) if low < LOW_KIDNEY else 0.0
        height -= sink
        turn = generator.normal(0, (0.28, 0.14, 0.16))
        if turned < TURNED_KIDNEY:
            turn[0] += generator.uniform(0.7, 1.6) * generator.choice((-1, 1))
        grown = 1.18 if missing == 1 - number else 1.0  # the only kidney does the work of two
        own = float(np.clip(size * grown * np.exp(generator.normal(0, 0.09)), 0.75, 1.35))
        up, back, out = slide(float(height))
        plans.append(
            KidneyPlan(
                (up, float(back + generator.normal(0, 4)), float(out + generator.normal(0, 5))),
                (float(turn[0]), float(turn[1]), float(turn[2])),
                own,
                float(generator.uniform(0.7, 1.35)),
                float(generator.uniform(0.6, 2.2)),
                bool(missing == number),
                _draw_cysts(generator),
            )
        )
    return plans[0], plans[1]


def slide(height_mm: float) -> tuple[float, float, float]:
    """Return how a kidney moves along the psoas (up, to the back, out): the lower, the further out and to the front."""
    return height_mm, (0.22 if height_mm < 0 else 0.10) * height_mm, (-0.16 if height_mm < 0 else -0.10) * height_mm


def sunk(height_mm: float) -> tuple[float, float, float]:
    """Return how a kidney moves that may come to lie as low as the iliac crest; as ``slide`` above that."""
    up, back, out = slide(height_mm)
    beyond = max(FAR_MM - height_mm, 0.0)
    return up, back - 0.42 * beyond, out - 0.20 * beyond


def _draw_cysts(generator: np.random.Generator) -> tuple[Mass, ...]:
    count = int(generator.choice((0, 1, 2, 4), p=(0.72, 0.16, 0.08, 0.04)))
    directions = generator.standard_normal((count, 3))
    directions *= generator.uniform(0.6, 1.05, (count, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    radii = np.exp(generator.uniform(np.log(4), np.log(28), count))
    return tuple(Mass((z, y, x), radius) for (z, y, x), radius in zip(directions.tolist(), radii.tolist(), strict=True))


def draw_mass(generator: np.random.Generator) -> Mass | None:
    """Draw a large cyst or a tumour, most of them beyond the kidney's outline; none for most kidneys."""
    kind, direction = generator.random(), generator.standard_normal(3)
    out, cyst_mm, tumour_mm = generator.uniform(0.7, 1.3), generator.uniform(18, 45), generator.uniform(10, 42)
    z, y, x = (direction * out / np.linalg.norm(direction)).tolist()
    if kind < LARGE_CYST:
        return Mass((z, y, x), float(cyst_mm))
    return Mass((z, y, x), float(tumour_mm), Tissue.RENAL_TUMOUR) if kind < LARGE_CYST + TUMOUR_FRACTION else None


def _draw_look(generator: np.random.Generator, plans: tuple[KidneyPlan, KidneyPlan]) -> tuple[KidneyPlan, KidneyPlan]:
    """Draw columns of cortex, masses, and urine that stands."""
    left, right = (
        replace(
            plan,
            columns=float(generator.uniform(0.2, 1.4)),
            stasis=float(generator.uniform(-3, -0.5)) if generator.random() < STASIS else plan.stasis,
            masses=plan.masses if (mass := draw_mass(generator)) is None else (*plan.masses, mass),
        )
        for plan in plans
    )
    return left, right


def _draw_hila(generator: np.random.Generator, plans: tuple[KidneyPlan, KidneyPlan]) -> tuple[KidneyPlan, KidneyPlan]:
    left, right = (
        replace(
            plan,
            hilum=Hilum(
                float(generator.uniform(0.0, 4.0)),
                float(generator.uniform(3.5, 7.0)),
                float(generator.uniform(2.2, 3.6)),
                float(generator.normal(6, 10)),
            ),
        )
        for plan in plans
    )
    return left, right


def _draw_lips(generator: np.random.Generator, plans: tuple[KidneyPlan, KidneyPlan]) -> tuple[KidneyPlan, KidneyPlan]:
    """Draw lips, the one in front the longer one in most kidneys."""
    left, right = (
        replace(
            plan,
            lips=tuple(
                Lip(
                    float(generator.uniform(-3.0, reach)),
                    float(generator.uniform(6.5, 11.0)),
                    float(generator.uniform(22.0, 34.0)),
                    float(generator.normal(0, 6)),
                )
                for reach in (11.0, 6.0)
            ),
        )
        for plan in plans
    )
    return left, right


def _draw_places(generator: np.random.Generator, plans: tuple[KidneyPlan, KidneyPlan]) -> tuple[KidneyPlan, KidneyPlan]:
    """Sink, part, turn and bare the kidneys; draw a horseshoe kidney in their place in few patients."""
    is_horseshoe, lower, thick = generator.random() < HORSESHOE, generator.uniform(-75, -30), generator.uniform(6, 12)
    apart = generator.uniform(*APART_MM) * generator.choice((-0.5, 0.5)) if generator.random() < APART else 0.0
    moved = []
    for number, plan in enumerate(plans):
        place = draw_place(generator)
        bare, width = generator.random() < BARE, generator.uniform(0.0, 0.15)
        height = plan.shift_mm[0] + place.sink_mm + (apart if number == 0 else -apart)
        height = float(max(height, LOWEST_MM))
        move = np.subtract(sunk(height), slide(plan.shift_mm[0])) + plan.shift_mm
        turn = np.array(plan.turn) + place.turn
        moved.append(
            replace(
                plan,
                shift_mm=tuple(move.tolist()),
                turn=tuple(turn.tolist()),
                fat=float(width) if bare else plan.fat,
            )
        )
    if is_horseshoe and not any(plan.missing for plan in plans):
        # Lower poles to the middle and the front, the hila to the front, the bridge before the great vessels.
        moved = [
            replace(
                plan,
                shift_mm=(float(lower), -31.0, -3.0),
                turn=(0.7, -0.62, 0.28),
                isthmus_mm=float(thick),
            )
            for plan in plans
        ]
    return moved[0], moved[1]


@dataclass(frozen=True)
class Place:
    """How far a kidney is from where it usually lies.

    Attributes:
        sink_mm: Upwards; negative for a low one.
        turn: Radians about z, y and x.
    """

    sink_mm: float
    turn: tuple[float, float, float]


def draw_place(generator: np.random.Generator) -> Place:
    """Draw whether a kidney lies low, looks another way, or lies across."""
    low, twisted, lying = generator.random(3)
    sink, side = generator.uniform(*SUNK_MM), generator.choice((-1, 1), 2)
    twist, across = generator.uniform(0.6, 2.8), generator.uniform(0.5, 1.3)
    lean = generator.normal(0, 0.18, 2)
    about_y = lean[0] + (across * side[1] if lying < LYING else 0.0)
    return Place(
        float(-sink if low < SUNK else 0.0),
        (float(twist * side[0] if twisted < TWISTED else 0.0), float(about_y), float(lean[1])),
    )
