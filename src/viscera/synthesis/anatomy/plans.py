"""How far one patient's organs depart from the average: plans that are drawn first and that the organs then follow.

A plan's defaults change nothing. The organs themselves are in organs.py, kidneys.py and bowel.py.
"""

from dataclasses import dataclass

import numpy as np

from viscera.synthesis.anatomy.caudate import CaudatePlan, draw_caudate
from viscera.synthesis.anatomy.kidney_plans import USUAL_KIDNEY, KidneyPlan, draw_kidney_plans
from viscera.synthesis.canvas import Tissue
from viscera.synthesis.variety import Streams, Variety

MISSING_GALLBLADDER = 0.12
"""Share of patients without one."""


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

    kidney_left: KidneyPlan = USUAL_KIDNEY
    kidney_right: KidneyPlan = USUAL_KIDNEY
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
    caudate: CaudatePlan | None = None


AVERAGE = Plan()
"""The plan of a patient with every ingredient off."""


def draw_plan(streams: Streams, variety: Variety) -> Plan:
    """Draw the plans of the ingredients that are on."""
    left, right = draw_kidney_plans(streams, variety)
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
        caudate=draw_caudate(streams["caudate"]) if variety.caudate else None,
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
