"""Reading and writing NIfTI beside nibabel and SimpleITK: the real chest scan of ../shared, else noise of its size.

Usage: python benchmarks/files.py [--rounds 5]
"""

import argparse
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as Sitk

from machine import ROOT, alternate, facts, rows, save
from viscera.io import nifti
from viscera.volume import Volume, with_voxels

LIDC = ROOT.parent / "shared" / "data" / "lidc" / "LIDC-IDRI-0314_chest_upper_abdomen_ct.nii.gz"


def main() -> None:
    """Time reading a scan and writing labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        scan, out = LIDC, Path(folder) / "labels.nii.gz"
        if not scan.exists():
            scan = Path(folder) / "noise.nii.gz"
            noise = np.random.default_rng(0).normal(0, 20, (275, 512, 512)).astype(np.int16)
            nifti.write(scan, Volume(noise, np.diag([1.0, -0.8, -0.8, 1.0])))
        ct = nifti.read(scan)
        labels = with_voxels(ct, np.digitize(ct.voxels, [-500, -50, 30, 90, 200]).astype(np.uint8))
        image = nibabel.load(scan)
        other = nibabel.Nifti1Image(labels.voxels.T, image.affine)
        third = Sitk.GetImageFromArray(labels.voxels)
        reading = alternate(
            {
                "viscera": (lambda: nifti.read(scan), rounds),
                "nibabel, as stored": (lambda: np.asarray(nibabel.load(scan).dataobj), rounds),
                "nibabel, get_fdata": (lambda: nibabel.load(scan).get_fdata(), rounds),
                "SimpleITK": (lambda: Sitk.GetArrayFromImage(Sitk.ReadImage(str(scan))), rounds),
            }
        )
        writing = alternate(
            {
                "viscera": (lambda: nifti.write(out, labels, overwrite=True), rounds),
                "nibabel": (lambda: nibabel.save(other, out), rounds),
                "SimpleITK": (lambda: Sitk.WriteImage(third, str(out), useCompression=True), rounds),
            }
        )
    shape = "x".join(map(str, ct.shape[::-1]))
    content = facts("nibabel", "isal", "simpleitk") | {
        "read": {"what": f"reading {scan.name} ({shape}, int16)", "rows": rows(reading)},
        "write": {"what": f"writing labels of it ({shape}, uint8)", "rows": rows(writing)},
    }
    print(save("files", content))


if __name__ == "__main__":
    main()
