"""What a synthetic patient may vary beyond the average abdomen: one switch per ingredient, and a random stream for each.

PLAIN has every switch off and gives the patients of earlier versions to the bit; RICH has every switch on and is what
networks for real scans are trained on. An ingredient draws from a stream of its own, so that the patients of two
varieties (PLAIN aside, which draws everything from one stream) differ by their switches only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from viscera.errors import SettingError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Variety:
    """Which ingredients are on.

    Attributes:
        kidneys: Anatomy. Position, rotation, size; low, malrotated, missing ones; cysts, wide sinus.
        liver: Anatomy. Shape from a small left lobe to one that reaches the left flank, Riedel's lobe, size, contour.
        spleen: Anatomy. Half to twice the size, position.
        stomach: Anatomy. Position, and filling from collapsed to very full.
        gallbladder: Anatomy. Size and position; missing in some.
        bladder: Anatomy. Empty to very full.
        pancreas: Anatomy. Half to one and a half times the size.
        vessels: Anatomy. Narrow to wide aorta and iliac arteries, flat to full veins.
        fatness: Anatomy. Very lean to very fat, beneath the skin and in the cavity apart; strength of the muscles.
        posture: Anatomy. Patient turned a few degrees, bent spine, and a smooth deformation of everything.
        arms: Anatomy. Arms beside the body in some scans.
        heart: Anatomy. Chambers with blood in a wall of muscle, position against dome and left lobe.
        breathing: Anatomy. Height of the domes and of what lies beneath them.
        fluids: Anatomy. Pleural effusion with collapsed lung, ascites.
        contrast: Appearance. HU of every tissue: mixed phases, broad ranges, fatty and dense livers.
        lesions: Appearance. Cysts, darker and brighter blobs, rims, in liver, spleen and kidneys; labelled as the organ.
        texture: Appearance. Calcified aorta, fat within muscle, stranded fat, coarse organ texture.
        contents: Appearance. Oral contrast, food, tagged stool, fluid, gas, collapsed loops.
        scan_range: Acquisition. From thighs to the top of the chest, with what lies there; short ranges too.
        view: Acquisition. Narrow to wide field of view, round or square; kinds of table; off-centre patients.
        kernel: Acquisition. Slice thickness apart from spacing, soft to sharp kernels.
        noise: Acquisition. 3 to 65 HU (more at a low dose), its grain, and more of it in the middle of large patients.
        streaks: Acquisition. Streaks between shoulders, arms and hips.
        metal: Acquisition. Hip prostheses and spine screws in some.
        gain: Acquisition. Gain and offset of the HU.
        renal_places: Anatomy. Kidneys down to the iliac crest, looking any way, at heights apart, bare of fat against
            bowel; rarely a horseshoe kidney.
        renal_look: Appearance. Cortex up to 300 HU over dark medulla; large cysts and tumours within the label.
        renal_hilum: Anatomy. Sinus and collecting system within the kidney's label; renal veins and arteries outside.
        dome: Anatomy. Heart sunk between left lobe and fundus, high domes, stomach and spleen beneath them; heart and
            liver of the same HU.
        rims: Anatomy. Diaphragm, slips, crura and wall muscle on liver and spleen, with fat or lung behind them.
        confluence: Anatomy and appearance. Wide and bright portal vein with its mesenteric branch, pancreatic head, antrum
            and duodenum with fluid, bowel of the liver's HU, also beside the liver.
        cava: Anatomy and appearance. Vena cava from a slit to twice its width, of the liver's HU, with blood from legs and
            kidneys that has not mixed yet.
        liver_lesions: Anatomy and appearance. Metastases, tumours with a capsule, large cysts, abscesses, calcified ones, up
            to 10 cm, also at the surface; large lesions of the spleen. All labelled as the organ.
        old_aorta: Anatomy and appearance. Winding, wide, calcified aorta; aneurysm with thrombus, stent graft, wide iliacs.
        surgery: Anatomy. Spleen, a kidney, gallbladder or a part of the liver taken out; clips; stents of bile duct and
            ureter.
        bodies: Anatomy. Children, and the very obese.
        caudate: Anatomy. A caudate lobe behind its fissure, between vena cava, aorta and left lobe.
        lungs: Anatomy. Effusions at any side of the lung, consolidated and airless lung, ground glass.
        bright_heart: Appearance. Left ventricle far brighter than its wall and than the right one, or the other way round.
        renal_lips: Anatomy. Thick lips of the kidney in front of and behind its sinus, some past its outline.
        rugae: Anatomy. Folds of the stomach's wall, with gas between and over them rather than above a level.
        bright_bowel: Appearance. Walls and collapsed loops of bowel with the HU of spleen or kidney.
    """

    kidneys: bool = False
    liver: bool = False
    spleen: bool = False
    stomach: bool = False
    gallbladder: bool = False
    bladder: bool = False
    pancreas: bool = False
    vessels: bool = False
    fatness: bool = False
    posture: bool = False
    arms: bool = False
    heart: bool = False
    breathing: bool = False
    fluids: bool = False
    contrast: bool = False
    lesions: bool = False
    texture: bool = False
    contents: bool = False
    scan_range: bool = False
    view: bool = False
    kernel: bool = False
    noise: bool = False
    streaks: bool = False
    metal: bool = False
    gain: bool = False
    renal_places: bool = False
    renal_look: bool = False
    renal_hilum: bool = False
    dome: bool = False
    rims: bool = False
    confluence: bool = False
    cava: bool = False
    liver_lesions: bool = False
    old_aorta: bool = False
    surgery: bool = False
    bodies: bool = False
    caudate: bool = False
    lungs: bool = False
    bright_heart: bool = False
    renal_lips: bool = False
    rugae: bool = False
    bright_bowel: bool = False


INGREDIENTS: tuple[str, ...] = tuple(field.name for field in fields(Variety))
PLAIN = Variety()
FIRST = INGREDIENTS.index("gain") + 1
"""Ingredients with which streams began: those after them have theirs apart, so that a new one changes no older one."""
RICH = Variety(**dict.fromkeys(INGREDIENTS, True))
VARIETIES: dict[str, Variety] = {"plain": PLAIN, "rich": RICH}

STAGES: tuple[str, ...] = (
    "frame",
    "retroperitoneum",
    "pelvic organs",
    "colon",
    "upper organs",
    "stomach and duodenum",
    "small bowel",
    "scanner",
    "place",
    "phase",
    "render",
    "acquire",
)
"""What is drawn for every patient, in this order."""


def without(variety: Variety, ingredients: Iterable[str]) -> Variety:
    """Return a variety with some of its ingredients off.

    Raises:
        SettingError: No ingredient has that name.
    """
    names = tuple(ingredients)
    for name in names:
        if name not in INGREDIENTS:
            hint = did_you_mean(name, INGREDIENTS)
            raise SettingError(
                f"synthetic patient: no ingredient '{name}'", f"{hint} Choose among {', '.join(INGREDIENTS)}."
            )
    return replace(variety, **dict.fromkeys(names, False))


@dataclass(frozen=True, eq=False)
class Streams:
    """Sources of randomness by stage and ingredient.

    Attributes:
        shared: What every stage draws from in turn, where it has no stream of its own.
        own: {stage or ingredient: its stream}; none for PLAIN.
    """

    shared: np.random.Generator
    own: dict[str, np.random.Generator]

    def __getitem__(self, name: str) -> np.random.Generator:
        """Return the stream of a stage or an ingredient."""
        return self.own.get(name, self.shared)


def open_streams(generator: np.random.Generator, variety: Variety) -> Streams:
    """Return a stream to every stage and ingredient; PLAIN draws all stages from the generator itself."""
    if variety == PLAIN:
        return Streams(generator, {})
    names, later = (*STAGES, *INGREDIENTS[:FIRST]), INGREDIENTS[FIRST:]
    streams = dict(zip(names, generator.spawn(len(names)), strict=True))
    return Streams(generator, streams | dict(zip(later, streams[names[-1]].spawn(len(later)), strict=True)))
