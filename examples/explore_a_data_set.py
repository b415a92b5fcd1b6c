# %% [markdown]
# # Explore a data set
#
# Before anything is trained: what do the scans hold, who labelled what, and do the labels lie where the organs are? Most of
# what goes wrong later is seen here. Without a data set of your own it makes six synthetic patients.
#
#     python examples/explore_a_data_set.py [OUT] [LAYOUT=DIR] [--quick]
#
# `viscera info layouts` lists the layouts. It all starts in the last cell, because patients are made by processes of their
# own, which read this file once more.

# %%
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import viscera

# %% [markdown]
# ## Intensities of each organ
# CT is calibrated: water is 0 HU and air -1000 HU, on every scanner. So a liver far from 40 to 130 HU, or a scan whose HU
# differ from all others', wants an explanation: another phase of the contrast agent, or labels in the wrong place.
# A case knows which value means which organ; some data sets have one mask per organ instead of one label map.


# %%
def organ_voxels(case) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each organ with the HU of its voxels."""
    hu = viscera.read(case.image).voxels
    if isinstance(case.labels, Path):
        labels = viscera.read(case.labels).voxels
        for value, organ in case.organs:
            yield organ, hu[labels == value]
    else:
        for organ, mask in case.labels or ():
            yield organ, hu[viscera.read(mask).voxels > 0]


def draw_hu(hu: dict[str, list[tuple[float, float, float]]], out: Path) -> None:
    """Draw each organ's HU, a line per scan: 10th to 90th percentile, and the median."""
    figure = Figure((8, 0.5 * len(hu) + 1.2), layout="constrained")
    axes = figure.add_subplot(xlabel="HU", title="Each organ in each scan: 10th to 90th percentile, and median")
    for row, scans in enumerate(hu.values()):
        for number, (low, middle, high) in enumerate(scans):
            place = row + 0.6 * (number + 0.5) / len(scans) - 0.3
            axes.plot([low, high], [place, place], color="C0", alpha=0.5)
            axes.plot(middle, place, ".", color="C0")
    axes.set_yticks(range(len(hu)), list(hu))
    figure.savefig(out)


# %% [markdown]
# ## How often each organ is labelled
# The liver has some twenty times the voxels of the spinal cord, which is what a loss has to cope with. What a case does
# *not annotate* is unknown there, and not absent. Mixing data sets is about this difference.


# %%
def draw_volumes(volumes_ml: dict[str, list[float]], annotated: dict[str, int], of: int, out: Path) -> None:
    """Draw each organ's mean volume, and say in how many cases it is annotated."""
    figure = Figure((8, 0.4 * len(volumes_ml) + 1.2), layout="constrained")
    axes = figure.add_subplot(xlabel="mean volume (ml)", xscale="log", title="What is labelled")
    axes.barh(range(len(volumes_ml)), [max(float(np.mean(found)), 0.1) for found in volumes_ml.values()])
    axes.set_yticks(
        range(len(volumes_ml)), [f"{organ} (annotated in {annotated.get(organ, 0)} of {of})" for organ in volumes_ml]
    )
    figure.savefig(out)


# %% [markdown]
# ## Labels on the scan
# Numbers do not show a label map that is mirrored or a slice off; one look does. R and L are the patient's, from the file's
# orientation. In a notebook, `viscera.view(case.image, truth=case)` as a cell's last line shows all slices.


# %%
def main(out: Path = Path("example_out"), data: str = "", *, quick: bool = False) -> None:
    """Look at a data set; pictures lie in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    if not data and not (out / "patients").exists():
        cases, shape = (2, (16, 48, 48)) if quick else (6, (64, 128, 128))
        viscera.synthesize(out / "patients", cases=cases, shape=shape)
    layout, _, folder = (data or f"nnunet={out / 'patients'}").partition("=")
    cases = viscera.find_cases(layout, folder)
    hu: dict[str, list[tuple[float, float, float]]] = {}
    volumes: dict[str, list[float]] = {}
    annotated: dict[str, int] = {}
    for case in cases:
        voxel_ml = viscera.read(case.image).voxel_ml
        for organ in case.annotated:
            annotated[organ] = annotated.get(organ, 0) + 1
        for organ, voxels in organ_voxels(case):
            volumes.setdefault(organ, []).append(voxels.size * voxel_ml)
            if voxels.size:
                low, middle, high = (float(value) for value in np.percentile(voxels, (10, 50, 90)))
                hu.setdefault(organ, []).append((low, middle, high))
    draw_hu(hu, out / "hu.png")
    draw_volumes(volumes, annotated, len(cases), out / "volumes.png")
    viscera.view(cases[0].image, truth=cases[0]).save(out / "overlay.png", axial=3, sagittal=1, overwrite=True)
    print(f"pictures: {out / 'hu.png'}, volumes.png, overlay.png")


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook has arguments of its own
    named = [word for word in words if word != "--quick"]
    main(Path(named[0] if named else "example_out"), *named[1:2], quick="--quick" in words)
