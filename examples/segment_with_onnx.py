# %% [markdown]
# # Segment a scan without viscera
#
# What `viscera export RUN OUT` writes is enough for any program. This one needs NumPy, nibabel and ONNX Runtime, no torch and no
# viscera; it is for networks that see one slice, resized to a fixed size (zhang2d). model.json also says what other networks want.
#
#     python examples/segment_with_onnx.py OUT SCAN.nii.gz LABELS.nii.gz
#
# Not a medical device.

# %%
import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else ONNX Runtime reports sessions to Microsoft
import onnxruntime
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform


def linear(new: int, old: int) -> np.ndarray:
    """Return the matrix that resizes `old` pixels to `new` ones: pixel centres at half steps, the border repeated."""
    places = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old))).astype(np.float32)


def segment(export: Path, scan: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Return the label map of a CT on its own grid; which label is which organ is in model.json."""
    facts = json.loads((export / "model.json").read_text())
    preparation, window = facts["preparation"], facts["intensity"]
    kinds = (preparation["kind"], window["kind"], facts["contrast"]["method"], facts["input"]["shape"][1])
    if kinds != ("resized", "window", "none", 1):
        sys.exit(f"this program is for resized single slices and a HU window, not for {kinds}: see steps in model.json")
    session = onnxruntime.InferenceSession(export / "network.onnx", providers=["CPUExecutionProvider"])
    there, ours = io_orientation(scan.affine), axcodes2ornt("LPS")
    hu = np.rint(apply_orientation(np.asanyarray(scan.dataobj), ornt_transform(there, ours))).T  # z, y, x
    (rows, columns), depth_first = preparation["size"], np.zeros(hu.shape, np.uint8)
    down, down_across = linear(rows, hu.shape[1]), linear(columns, hu.shape[2])
    up, up_across = linear(hu.shape[1], rows), linear(hu.shape[2], columns)
    for z, slice_hu in enumerate(hu.astype(np.float32)):
        small = np.rint(down @ slice_hu @ down_across.T).clip(window["low_hu"], window["high_hu"])
        image = (small - window["low_hu"]) / (window["high_hu"] - window["low_hu"])
        logits = session.run(["logits"], {"image": image[None, None].astype(np.float32)})[0][0]
        depth_first[z] = (up @ logits @ up_across.T).argmax(0)
    labels = apply_orientation(depth_first.T, ornt_transform(ours, there))
    return nibabel.Nifti1Image(labels, scan.affine)


# %%
if __name__ == "__main__":
    nibabel.save(segment(Path(sys.argv[1]), nibabel.load(sys.argv[2])), sys.argv[3])
