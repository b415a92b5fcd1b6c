"""How far one patient's organs depart from the average: plans that are drawn first and that the organs then follow.

A plan's defaults change nothing. The organs themselves are in organs.py, kidneys.py and bowel.py.
"""

from dataclasses import dataclass

import numpy as np

from viscera.synthesis.canvas import Tissue
from viscera.synthesis.variety import Streams, Variety

MISSING_KIDNEY = 0.03
LOW_KIDNEY = 0.06
TURNED_KIDNEY = 0.05
"""Share of patients with one kidney, and of kidneys that lie low or look the wrong way."""
MISSING_GALLBLADDER = 0.12


@dataclass(frozen=True)
class Cyst:
    """A cyst of a kidney.

    Attributes:
        direction: From the kidney's centre, in its own semi-axes (z, y, x); length 1 is the surface.
        radius_mm: Its radius.
    """

    direction: tuple[float, float, float]
    radius_mm: float


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
        cysts: Its cysts.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 1.0
    sinus: float = 1.0
    lobes: float = 1.0
    missing: bool = False
    cysts: tuple[Cyst, ...] = ()


@dataclass(frozen=True)
class LiverPlan:
    """The liver.

    Attributes:
        tip_mm: Shift of its lower edge.
        riedel_mm: How far a tongue reaches down on the right.
        left_mm: How much further the left lobe reaches.
        rise: Added to the slope of the lower surface.
        volume: Factor on its volume.
        uneven_mm: Unevenness of its contour, beyond the usual.
        wall_mm: By how much it rather shrinks elsewhere than from the wall, to have its volume.
    """

    tip_mm: float = 0.0
    riedel_mm: float = 0.0
    left_mm: float = 0.0
    rise: float = 0.0
    volume: float = 1.0
    uneven_mm: float = 0.0
    wall_mm: float = 0.0


@dataclass(frozen=True)
class PlacePlan:
    """An organ that only moves and grows.

    Attributes:
        shift_mm: Upwards, to the back, to the left.
        volume: Factor on its volume.
        missing: Whether it is.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    volume: float = 1.0
    missing: bool = False


@dataclass(frozen=True)
class VesselPlan:
    """Great vessels of the abdomen.

    Attributes:
        artery: Factor on the radius of aorta and iliac arteries.
        vein: Factor on the radius of the lower vena cava.
    """

    artery: float = 1.0
    vein: float = 1.0


@dataclass(frozen=True)
class CavaPlan:
    """Lower vena cava.

    Attributes:
        flatness: Depth as a share of the width at each of its control points, from below; 1 is round.
        width: Factor on its radius.
        tilt: Radians by which a flat one is turned about the long axis.
    """

    flatness: tuple[float, ...] = (1.0,) * 6
    width: float = 1.0
    tilt: float = 0.0


@dataclass(frozen=True)
class ConfluencePlan:
    """What lies about the confluence of the portal vein.

    Attributes:
        portal: Factor on the radius of portal and splenic vein.
        mesenteric: Whether the upper mesenteric vessels are there.
        head: Factor on the radius of the pancreatic head.
        duodenum: Factor on the radius of the duodenum.
        antrum: What the lower part of the stomach holds; None for what the rest holds.
        duodenal: What the duodenum holds; None for what bowel holds.
        liverlike: Share of the small bowel's contents that have the liver's HU.
        right_mm: How much higher than usual the small bowel reaches on the right.
    """

    portal: float = 1.0
    mesenteric: bool = False
    head: float = 1.0
    duodenum: float = 1.0
    antrum: Tissue | None = None
    duodenal: Tissue | None = None
    liverlike: float = 0.0
    right_mm: float = 0.0

    def serve(self, contents: tuple[Tissue, ...]) -> tuple[Tissue, ...]:
        """Return contents, some of them of the liver's HU."""
        count = round(self.liverlike * len(contents))
        return (Tissue.LIVERLIKE,) * count + contents[count:]


@dataclass(frozen=True)
class Meals:
    """What stomach and bowel hold; None leaves the usual choice.

    Attributes:
        stomach: Content of the stomach.
        stomach_gas_mm: Depth (y) down to which gas fills it.
        small_bowel: Contents among which each stretch of small bowel and duodenum chooses.
        small_bowel_gas: Share of its stretches that hold gas.
        small_bowel_width: Factor on its radius: collapsed to distended.
        small_bowel_top_mm: How much higher than usual it reaches on the left.
        small_bowel_steps: How long it may be, in steps of about its radius.
        colon: Contents among which each stretch of the colon and rectum chooses.
        colon_gas: Share of its stretches that hold gas.
        colon_width: Factor on its radius.
        flexure_mm: How much higher than usual the colon reaches beside the spleen.
        transverse_mm: How much lower than usual its middle hangs.
    """

    stomach: Tissue | None = None
    stomach_gas_mm: float | None = None
    small_bowel: tuple[Tissue, ...] | None = None
    small_bowel_gas: float | None = None
    small_bowel_width: float = 1.0
    small_bowel_top_mm: float = 0.0
    small_bowel_steps: int = 200
    colon: tuple[Tissue, ...] | None = None
    colon_gas: float | None = None
    colon_width: float = 1.0
    flexure_mm: float = 0.0
    transverse_mm: float = 0.0


@dataclass(frozen=True)
class Plan:
    """All plans of one patient."""

    kidney_left: KidneyPlan = KidneyPlan()
    kidney_right: KidneyPlan = KidneyPlan()
    liver: LiverPlan = LiverPlan()
    spleen: PlacePlan = PlacePlan()
    stomach: PlacePlan = PlacePlan()
    gallbladder: PlacePlan = PlacePlan()
    bladder: PlacePlan = PlacePlan()
    pancreas: PlacePlan = PlacePlan()
    vessels: VesselPlan = VesselPlan()
    meals: Meals = Meals()
    cava: CavaPlan = CavaPlan()
    confluence: ConfluencePlan = ConfluencePlan()


AVERAGE = Plan()
"""The plan of a patient with every ingredient off."""


def draw_plan(streams: Streams, variety: Variety) -> Plan:
    """Draw the plans of the ingredients that are on."""
    left, right = _draw_kidneys(streams["kidneys"]) if variety.kidneys else (KidneyPlan(), KidneyPlan())
    return Plan(
        kidney_left=left,
        kidney_right=right,
        liver=_draw_liver(streams["liver"]) if variety.liver else LiverPlan(),
        spleen=_draw_spleen(streams["spleen"]) if variety.spleen else PlacePlan(),
        stomach=_draw_stomach(streams["stomach"]) if variety.stomach else PlacePlan(),
        gallbladder=_draw_gallbladder(streams["gallbladder"]) if variety.gallbladder else PlacePlan(),
        bladder=_draw_size(streams["bladder"], 0.12, 3.2) if variety.bladder else PlacePlan(),
        pancreas=_draw_size(streams["pancreas"], 0.5, 1.6) if variety.pancreas else PlacePlan(),
        vessels=_draw_vessels(streams["vessels"]) if variety.vessels else VesselPlan(),
        meals=_draw_meals(streams["contents"]) if variety.contents else Meals(),
        cava=draw_cava(streams["cava"]) if variety.cava else CavaPlan(),
        confluence=_draw_confluence(streams["confluence"]) if variety.confluence else ConfluencePlan(),
    )


def draw_cava(generator: np.random.Generator) -> CavaPlan:
    """Draw a vena cava: a slit below the liver, or all along, in half of patients; wide in one of seven."""
    kind, slit, others = generator.random(), generator.uniform(0.22, 0.5), generator.uniform(0.55, 1.0, 6)
    width, tilt = generator.uniform(1.25, 1.75), float(generator.normal(0, 0.25))
    slits = slit * generator.uniform(0.85, 1.15, 6)
    flatness = np.where(np.arange(6) < 4, slits, others) if kind < 0.35 else slits if kind < 0.5 else others
    if kind > 0.86:
        return CavaPlan((1.0,) * 6, float(width), 0.0)
    return CavaPlan(tuple(flatness.tolist()), 1.0, tilt)


def _draw_confluence(generator: np.random.Generator) -> ConfluencePlan:
    contents = (None, Tissue.FLUID, Tissue.LIVERLIKE, Tissue.ORAL_CONTRAST, Tissue.CHYME)
    antrum, duodenal = generator.choice(5, size=2, p=(0.3, 0.3, 0.2, 0.1, 0.1))
    portal, head, duodenum = np.exp(generator.uniform(np.log((0.9, 0.85, 0.8)), np.log((1.9, 1.45, 1.6))))
    high = generator.uniform(20, 75) if generator.random() < 0.35 else 0.0
    return ConfluencePlan(
        portal=float(portal),
        mesenteric=bool(generator.random() < 0.8),
        head=float(head),
        duodenum=float(duodenum),
        antrum=contents[antrum],
        duodenal=contents[duodenal],
        liverlike=float(generator.choice((0.0, 0.35, 0.7), p=(0.5, 0.3, 0.2))),
        right_mm=float(high),
    )


def _draw_kidneys(generator: np.random.Generator) -> tuple[KidneyPlan, KidneyPlan]:
    missing = generator.integers(2) if generator.random() < MISSING_KIDNEY else -1
    size = np.exp(generator.normal(0, 0.10))
    plans = []
    for number in range(2):
        height, low, turned = generator.uniform(-40, 40), generator.random(), generator.random()
        sink = generator.uniform(25, 90) if low < LOW_KIDNEY else 0.0
        height -= sink
        # A kidney slides along the psoas: the lower it lies, the further out and to the front.
        out = -0.16 * height if height < 0 else -0.10 * height
        front = -0.22 * height if height < 0 else -0.10 * height
        turn = generator.normal(0, (0.28, 0.14, 0.16))
        if turned < TURNED_KIDNEY:
            turn[0] += generator.uniform(0.7, 1.6) * generator.choice((-1, 1))
        grown = 1.18 if missing == 1 - number else 1.0  # the only kidney does the work of two
        own = float(np.clip(size * grown * np.exp(generator.normal(0, 0.09)), 0.75, 1.35))
        plans.append(
            KidneyPlan(
                (float(height), float(-front + generator.normal(0, 4)), float(out + generator.normal(0, 5))),
                (float(turn[0]), float(turn[1]), float(turn[2])),
                own,
                float(generator.uniform(0.7, 1.35)),
                float(generator.uniform(0.6, 2.2)),
                bool(missing == number),
                _draw_cysts(generator),
            )
        )
    return plans[0], plans[1]


def _draw_cysts(generator: np.random.Generator) -> tuple[Cyst, ...]:
    count = int(generator.choice((0, 1, 2, 4), p=(0.72, 0.16, 0.08, 0.04)))
    directions = generator.standard_normal((count, 3))
    directions *= generator.uniform(0.6, 1.05, (count, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    radii = np.exp(generator.uniform(np.log(4), np.log(28), count))
    return tuple(Cyst((z, y, x), radius) for (z, y, x), radius in zip(directions.tolist(), radii.tolist(), strict=True))


def _draw_liver(generator: np.random.Generator) -> LiverPlan:
    lobe = generator.choice((-18.0, 8.0, 30.0, 55.0), p=(0.2, 0.35, 0.28, 0.17))
    return LiverPlan(
        tip_mm=generator.normal(0, 16),
        riedel_mm=generator.uniform(30, 75) if generator.random() < 0.1 else 0.0,
        left_mm=float(lobe + generator.uniform(-12, 12)),
        rise=generator.normal(0, 0.1),
        volume=float(np.clip(np.exp(generator.normal(0, 0.25)), 0.55, 2.0)),
        uneven_mm=float(generator.choice((0.0, 1.5, 4.0), p=(0.5, 0.35, 0.15)) * generator.uniform(0.5, 1.2)),
        wall_mm=0.0 if generator.random() < 0.15 else 30.0,
    )


def _draw_spleen(generator: np.random.Generator) -> PlacePlan:
    volume = float(np.exp(generator.uniform(np.log(0.5), np.log(2.2))))
    return PlacePlan((generator.normal(0, 12) - 14 * max(0.0, volume - 1), generator.normal(0, 10), 0.0), volume)


def _draw_stomach(generator: np.random.Generator) -> PlacePlan:
    volume = float(np.exp(generator.uniform(np.log(0.35), np.log(3.0))))
    # The fuller, the closer to the wall in front.
    place = generator.normal((0, -8 - 6 * np.log(volume), -4), (14, 9, 11))
    return PlacePlan((float(place[0]), float(place[1]), float(place[2])), volume)


def _draw_gallbladder(generator: np.random.Generator) -> PlacePlan:
    missing = bool(generator.random() < MISSING_GALLBLADDER)
    place = generator.normal(0, (9, 8, 9))
    volume = float(np.exp(generator.uniform(np.log(0.35), np.log(2.4))))
    return PlacePlan((float(place[0]), float(place[1]), float(place[2])), volume, missing)


def _draw_size(generator: np.random.Generator, least: float, most: float) -> PlacePlan:
    return PlacePlan(volume=float(np.exp(generator.uniform(np.log(least), np.log(most)))))


def _draw_vessels(generator: np.random.Generator) -> VesselPlan:
    wide = generator.uniform(1.3, 2.0) if generator.random() < 0.04 else 1.0  # ectasia
    return VesselPlan(wide * float(generator.uniform(0.78, 1.3)), float(generator.uniform(0.6, 1.3)))


def _draw_meals(generator: np.random.Generator) -> Meals:
    fluid, food, chyme, stool = Tissue.FLUID, Tissue.FOOD, Tissue.CHYME, Tissue.STOOL
    oral = generator.random() < 0.35  # had positive contrast to drink
    stomach = Tissue.ORAL_CONTRAST if oral and generator.random() < 0.7 else generator.choice((fluid, food, chyme))
    share = generator.uniform(0, 1) if oral else 0.0
    bowel = tuple(
        Tissue.SMALL_BOWEL_CONTRAST if generator.random() < share else (chyme, fluid, Tissue.COLLAPSED)[n % 3]
        for n in range(6)
    )
    tagged = generator.random() < (0.6 if oral else 0.06)
    colon = tuple(
        Tissue.COLON_CONTRAST if tagged and generator.random() < 0.6 else (stool, stool, fluid, stool, chyme)[n]
        for n in range(5)
    )
    width = float(generator.choice((0.75, 1.0, 1.45), p=(0.35, 0.55, 0.1)) * generator.uniform(0.9, 1.1))
    return Meals(
        stomach=Tissue(int(stomach)),
        stomach_gas_mm=float(generator.uniform(-85, -20)),
        small_bowel=bowel,
        small_bowel_gas=float(generator.choice((0.02, 0.12, 0.4), p=(0.5, 0.35, 0.15))),
        small_bowel_width=width,
        small_bowel_top_mm=float(generator.uniform(20, 110)),
        small_bowel_steps=round(300 / width),
        colon=colon,
        colon_gas=float(generator.uniform(0.1, 0.95)),
        colon_width=float(np.exp(generator.uniform(np.log(0.7), np.log(1.5)))),
        flexure_mm=float(generator.uniform(-10, 65)),
        transverse_mm=float(generator.uniform(-45, 50)),
    )
