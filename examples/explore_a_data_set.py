# %% [markdown]
# # Explore a data set
#
# Before anything is trained: what do the scans hold, who labelled what, and do the labels lie where the organs are? Most of
# what goes wrong later is seen here. Without a data set of your own it makes six synthetic patients.
#
#     python examples/explore_a_data_set.py [OUT] [LAYOUT=DIR] [--quick]
#
# `viscera info layouts` lists the layouts. It all starts in the last cell, because scans are prepared by processes of their
# own, which read this file once more.

# %%
import os
import sys
from pathlib import Path

import numpy as np

from viscera.datasets.layouts import find_sources
from viscera.datasets.read_labels import read_labels
from viscera.datasets.sources import Source
from viscera.datasets.synthetic import Cohort, write_cohort
from viscera.figures.canvas import save
from viscera.figures.data_set import ScanHu, hu_distribution, label_frequencies
from viscera.figures.montage import Look, montage
from viscera.io.nifti import read
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.store import Store, open_store
from viscera.recipes.catalogue import find_recipe

# %% [markdown]
# ## Intensities of each organ
# CT is calibrated: water is 0 HU and air -1000 HU, on every scanner. So a liver far from 40 to 130 HU, or a scan whose HU
# differ from all others', wants an explanation: another phase of the contrast agent, or labels in the wrong place.
# A store holds every scan in one order and its labels in one label space, whatever the files look like.


# %%
def organ_hu(store: Store) -> dict[str, list[ScanHu]]:
    """Return {organ: the HU of its voxels in each scan that shows it}."""
    found: dict[str, list[ScanHu]] = {}
    for name in store.names():
        case = store.case(name)
        for label, organ in store.space.labels.items():
            hu = case.image[case.truth == label]
            if hu.size:
                p10, p90 = np.percentile(hu, (10, 90))
                facts = ScanHu(float(hu.min()), float(p10), float(hu.mean()), float(p90), float(hu.max()))
                found.setdefault(organ.replace("_", " "), []).append(facts)
    return found


# %% [markdown]
# ## How often each organ is labelled
# The liver has some twenty times the voxels of the spinal cord, which is what a loss has to cope with. What a data set does
# *not annotate* is hatched: it is unknown there, and not absent. Mixing data sets is about this difference.


# %%
def voxels_by_data_set(store: Store) -> dict[str, dict[str, int | None]]:
    """Return {data set: {organ: labelled voxels, or None where it annotates none}}."""
    counts: dict[str, dict[str, int | None]] = {}
    for facts in map(store.facts, store.names()):
        row = counts.setdefault(facts.dataset, dict.fromkeys(store.space.organs))
        for organ in facts.annotated:
            row[organ] = (row[organ] or 0) + facts.voxels.get(organ, 0)
    return counts


# %% [markdown]
# ## Labels on the scan
# Numbers do not show a label map that is mirrored or a slice off; one look does. R and L are the patient's, from the file's
# orientation.


# %%
def overlay(source: Source, out: Path) -> Path:
    """Draw a case's labels on slices that show all of its organs."""
    return montage(
        read(source.image),
        read_labels(source),
        truth=None,
        names=dict(source.organs),
        out=out,
        look=Look(axial=3, coronal=1, sagittal=1, title=f"{source.dataset} {source.name}"),
    )


# %%
def main(out: Path = Path("example_out"), data: str = "", *, quick: bool = False) -> None:
    """Look at a data set; pictures lie in ``out``."""
    layout, _, folder = (data or f"nnunet={out / 'patients'}").partition("=")
    if not data and not (out / "patients").exists():
        cases, shape = (2, (16, 48, 48)) if quick else (6, (64, 128, 128))
        write_cohort(
            out / "patients", Cohort(layout, cases=cases, shape=shape), jobs=1 if quick else os.cpu_count() or 1
        )
    sources, problems = find_sources(layout, Path(folder))
    recipe = find_recipe("zhang2d-small")
    store = out / "explored"
    plan = Plan(jobs=1) if quick else Plan()
    found = prepare_store(
        store, sources, problems=problems, space=recipe.space, preparation=recipe.preparation, plan=plan
    )
    print(*found.notes, *(f"{problem.file}: {problem.what}. {problem.remedy}" for problem in found.problems), sep="\n")
    opened = open_store(store)
    save(hu_distribution(organ_hu(opened)), out / "hu.png")
    save(label_frequencies(voxels_by_data_set(opened)), out / "frequencies.png")
    overlay(sources[0], out / "overlay.png")
    print(f"pictures: {out / 'hu.png'}, frequencies.png, overlay.png")


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook has arguments of its own
    named = [word for word in words if word != "--quick"]
    main(Path(named[0] if named else "example_out"), *named[1:2], quick="--quick" in words)
