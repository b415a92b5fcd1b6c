"""What meets beneath and above the diaphragm's domes: heart, left lobe, fundus, spleen, in varied overlap.

Real scans cut the domes where the heart lies sunk between the lobes: one slice then holds heart, both lobes, stomach,
spleen and lung. The diaphragm itself is painted in frame.py, its muscle beside liver and spleen in rims.py.
"""

from dataclasses import replace

import numpy as np

from viscera.synthesis.anatomy.frame import Frame, Pit
from viscera.synthesis.anatomy.habitus import moved
from viscera.synthesis.anatomy.plans import PlacePlan, Plan

HIGH_DOME = 0.3
LONG_LOBE = 0.5
HIGH_FUNDUS = 0.5
"""Share of patients with a high dome (each side apart), with a left lobe beyond the heart, with the fundus high up."""


def draw_dome(generator: np.random.Generator, frame: Frame, plan: Plan) -> tuple[Frame, Plan]:
    """Sink the heart into the diaphragm, raise domes, and draw lobe, fundus and spleen towards them."""
    dip = float(generator.uniform(10, 62))
    pit = Pit(
        float(generator.uniform(10, 42)),
        float(generator.uniform(-48, -12)),
        float(generator.uniform(32, 56)),
        float(generator.uniform(30, 52)),
    )
    sink = dip * float(generator.uniform(0.3, 1.0))
    thin = float(generator.uniform(0.5, 3.5))
    right, left = (
        float(generator.uniform(10, 45)) if generator.random() < HIGH_DOME else float(generator.uniform(-8, 8))
        for _ in range(2)
    )
    lobe = float(generator.uniform(10, 70) if generator.random() < LONG_LOBE else generator.uniform(-15, 10))
    fundus = float(generator.uniform(5, 35) if generator.random() < HIGH_FUNDUS else generator.uniform(-10, 5))
    inwards = float(generator.uniform(-16, 2))
    lifted = replace(
        frame,
        dome_right_mm=frame.dome_right_mm + right,
        dome_left_mm=frame.dome_left_mm + left,
        dome=(*frame.dome[:3], dip),
        pit=pit,
        diaphragm_mm=thin,
        heart=moved(frame.heart, -sink),
        chambers=tuple((moved(blob, -sink), tissue) for blob, tissue in frame.chambers),
    )
    liver = replace(plan.liver, left_mm=plan.liver.left_mm + lobe)
    stomach = _raised(plan.stomach, 0.7 * left + fundus, 0.0)
    spleen = _raised(plan.spleen, 0.7 * left + 0.4 * fundus, inwards)
    return lifted, replace(plan, liver=liver, stomach=stomach, spleen=spleen)


def _raised(plan: PlacePlan, up_mm: float, left_mm: float) -> PlacePlan:
    up, back, left = plan.shift_mm
    return replace(plan, shift_mm=(up + up_mm, back, left + left_mm))
