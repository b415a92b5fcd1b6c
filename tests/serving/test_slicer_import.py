"""3D Slicer's own code takes in what the server answers: every organ gets its name and its voxels.

It needs Slicer's libraries, which are no part of this repository (500 MB). To run this:
pip install slicer-core simpleitk (into an environment of its own), VISCERA_SLICER=its python, pytest -m slow tests/serving.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from viscera.serving.nrrd import nrrd_bytes
from viscera.serving.protocol import dense
from viscera.volume import Volume

PYTHON = os.environ.get("VISCERA_SLICER", "")
IMPORT = """
import glob, importlib, json, os, sys
import numpy as np, SimpleITK as sitk, slicer_core, vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy
modules = []
for file in glob.glob(os.path.join(os.path.dirname(slicer_core.__file__), "*.cpython*.so")):
    try:
        modules.append(importlib.import_module("slicer_core." + os.path.basename(file).split(".")[0]))
    except ImportError:
        pass
def of(name):
    return next(getattr(module, name) for module in modules if hasattr(module, name))
file, names, labels = sys.argv[1], *map(json.loads, sys.argv[2:])
image = sitk.ReadImage(file)
scene, logic = of("vtkMRMLScene")(), of("vtkSlicerSegmentationsModuleLogic")()
logic.SetMRMLScene(scene)
voxels = vtk.vtkImageData()
voxels.SetDimensions(*image.GetSize())
voxels.GetPointData().SetScalars(numpy_to_vtk(sitk.GetArrayFromImage(image).ravel(), deep=1))
node = of("vtkMRMLLabelMapVolumeNode")()
scene.AddNode(node)
node.SetAndObserveImageData(voxels)
node.SetSpacing(image.GetSpacing())
segmentation = of("vtkMRMLSegmentationNode")()
scene.AddNode(segmentation)
segmentation.CreateDefaultDisplayNodes()
segments, ids = segmentation.GetSegmentation(), vtk.vtkStringArray()
for label in labels:  # as the module makes an empty segment of each that /info/ names
    segments.AddEmptySegment(label, label)
for name in names:
    ids.InsertNextValue(name)
assert logic.ImportLabelmapToSegmentationNode(node, segmentation, ids)
found = {}
for number in range(segments.GetNumberOfSegments()):
    one, identity = of("vtkOrientedImageData")(), segments.GetNthSegmentID(number)
    segmentation.GetBinaryLabelmapRepresentation(identity, one)
    scalars = one.GetPointData().GetScalars()
    found[segments.GetSegment(identity).GetName()] = 0 if scalars is None else int((vtk_to_numpy(scalars) > 0).sum())
print(json.dumps(found))
"""
ORGANS = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen", 9: "aorta"}


@pytest.mark.slow
@pytest.mark.skipif(not Path(PYTHON).is_file(), reason="no Python with slicer-core")
def test_slicer_gives_every_organ_its_voxels_also_where_others_were_not_found(tmp_path):
    labels = np.zeros((6, 20, 24), np.uint8)
    labels[1, 2:5, 3:9], labels[2:4, 8:12, 8:12], labels[5, 0:3, 20:24] = 1, 4, 9  # 18, 32 and 12 voxels; no kidneys
    affine = np.array([[0, 0, -0.8, 90], [0, -0.8, 0, 90], [5, 0, 0, -300], [0, 0, 0, 1]])

    def in_slicer(values: np.ndarray, names: list[str]) -> dict[str, int]:
        (tmp_path / "labels.nrrd").write_bytes(nrrd_bytes(Volume(values, affine)))
        words = [
            PYTHON,
            "-c",
            IMPORT,
            str(tmp_path / "labels.nrrd"),
            json.dumps(names),
            json.dumps([*ORGANS.values(), "pancreas"]),
        ]
        taken = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=taken)
        return {name: count for name, count in json.loads(done.stdout.splitlines()[-1]).items() if count}

    voxels, names = dense(labels, ORGANS)
    assert in_slicer(voxels, list(names)) == {"liver": 18, "spleen": 32, "aorta": 12}
    # What is avoided: names that are wrong, and organs that vanish.
    assert in_slicer(labels, ["liver", "spleen", "aorta"]) == {"liver": 18}
    assert in_slicer(labels, ["liver", "kidney_left", "kidney_right", "pancreas", "spleen"]) == {
        "liver": 18,
        "pancreas": 32,
    }
