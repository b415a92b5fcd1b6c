"""Segment a real scan and copies of it, flipped, transposed and tilted on disk: the same label for each voxel, the same grid.

Usage: python benchmarks/orientations.py RUN
"""

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

from machine import ROOT, facts, save
from viscera.inference.jobs import ScanJob
from viscera.inference.model import load_model
from viscera.inference.predict import predict_file

SCAN = ROOT.parent / "shared" / "data" / "hcc_tace" / "HCC_048_portal_venous_ct.nii.gz"
COPIES = {"flipped x": "RPS", "flipped y and z": "LAI", "transposed": "SAR", "transposed and flipped": "PIR"}


def tilted(image: nibabel.Nifti1Image, degrees: float) -> nibabel.Nifti1Image:
    """Turn the grid, not the voxels, about the first axis: an oblique scan of the same content."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)


def main() -> None:
    """Predict every copy and turn the labels back."""
    model = load_model(Path(sys.argv[1]), accelerator="cpu")
    image = nibabel.load(SCAN)
    own = nibabel.orientations.io_orientation(image.affine)
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def predict(copy: nibabel.Nifti1Image, title: str) -> nibabel.Nifti1Image:
            path = folder / f"{title.replace(' ', '_')}.nii.gz"
            nibabel.save(copy, path)
            predict_file(ScanJob(path, folder / "out" / path.name), model)
            labels = nibabel.load(folder / "out" / path.name)
            same = [
                np.array_equal(labels.header[key], copy.header[key]) for key in ("dim", "srow_x", "srow_y", "srow_z")
            ]
            found.append({"copy": title, "codes": "".join(nibabel.aff2axcodes(copy.affine)), "same_grid": all(same)})
            return labels

        reference = np.asarray(predict(image, "as it is").dataobj)
        found[-1]["labelled_voxels"] = int((reference > 0).sum())
        for title, codes in COPIES.items():
            target = nibabel.orientations.axcodes2ornt(codes)
            there = nibabel.orientations.ornt_transform(own, target)
            labels = predict(image.as_reoriented(there), title)
            back = nibabel.orientations.ornt_transform(target, own)
            turned = nibabel.orientations.apply_orientation(np.asarray(labels.dataobj), back)
            found[-1]["voxels_that_differ"] = int((turned != reference).sum())
        for degrees in (12.0, 30.0):
            labels = np.asarray(predict(tilted(image, degrees), f"tilted by {degrees:g} degrees").dataobj)
            found[-1]["voxels_that_differ"] = int((labels != reference).sum())
    for row in found:
        print(row)
    print(save("orientations", facts("torch", "nibabel") | {"scan": SCAN.name, "copies": found}))


if __name__ == "__main__":
    main()
