"""Draw docs/overview.png: one slice of what the bundled weights find in each of three scans that nobody annotated.

Usage: python -m benchmarks.archive.starter_picture [--weights RUN] [--rows 1] [--out docs/overview.png]

HCC_048 and HCC_006: HCC-TACE-Seg, Moawad et al. 2021, doi:10.7937/TCIA.5FNA-0924, CC BY 4.0. LIDC-IDRI-0314: Armato et al. 2015,
doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0. Both from The Cancer Imaging Archive: Clark et al. 2013,
doi:10.1007/s10278-013-9622-7.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.patches import Patch

from benchmarks.machine import DATA, ROOT
from benchmarks.studies.arms import viscera
from viscera.figures.montage import Look, stills
from viscera.io import nifti

SCANS = {
    "HCC_048, portal venous": "hcc_tace/HCC_048_portal_venous_ct.nii.gz",
    "HCC_006, liver to iliac crest": "hcc_tace/HCC_006_LIVER_3PHASE_ct.nii.gz",
    "LIDC-IDRI-0314, chest": "lidc/LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz",
}
LOOK = Look(axial=4, coronal=1, opacity=0.45, panel_pixels=420)


def main() -> None:
    """Segment, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="others than those that come with viscera")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "overview.png")
    parser.add_argument("--rows", type=int, default=1, help="slices of each scan, most organs first")
    options = parser.parse_args()
    chosen = ["--weights", options.weights] if options.weights else []
    columns, legend = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for title, scan in SCANS.items():
            labels = Path(folder) / "labels.nii.gz"
            viscera("predict", DATA / scan, labels, "--overwrite", *chosen)
            names = json.loads(labels.with_name("labels.json").read_text())["labels"]
            organs = {int(value): organ for value, organ in names.items()}
            found = stills(nifti.read(DATA / scan), nifti.read(labels), truth=None, names=organs, look=LOOK)
            pictures = [still.pictures[-1] for still in found.rows]
            pictures.sort(key=lambda picture: -len(np.unique(picture.reshape(-1, 3), axis=0)))
            columns.append((title, pictures[: options.rows]))
            legend |= found.legend[0]
    rows = options.rows
    figure, axes = pyplot.subplots(
        rows, len(columns), figsize=(11, 2.6 * rows + 0.45), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (title, pictures) in enumerate(columns):
        axes[0, number].set_title(title, fontsize=10)
        for axis, picture in zip(axes[:, number], pictures, strict=False):
            axis.imshow(picture)
    patches = [
        Patch(color=to_hex((shade[0] / 255, shade[1] / 255, shade[2] / 255)), label=organ)
        for organ, shade in legend.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(options.out, dpi=85)
    print(options.out)


if __name__ == "__main__":
    main()
