"""Bad inputs of what makes predicting fast: cores, memory, runtimes, exported networks; and of templates of synthetic patients."""

import json
from pathlib import Path

from bad_inputs.files import BadInput, nifti, organs, text

PREDICT = "predict scan.nii.gz out.nii.gz --weights run"


def unnamed_template() -> None:
    """Write a label map whose JSON names an organ that viscera does not know."""
    nifti("template.nii.gz", organs())
    text("template.json", {"labels": {"1": "liver", "2": "kidney", "3": "splean", "4": "pancreas"}})


def changed_export() -> None:
    """Write what looks like an exported network, with another network inside than its description says."""
    Path("exported").mkdir()
    Path("exported/network.onnx").write_bytes(b"something else")
    facts = {"format": "viscera-export-99", "files": {"network.onnx": "0" * 64}}
    Path("exported/model.json").write_text(json.dumps(facts))


SPEED = [
    BadInput("fewer cores than none", f"{PREDICT} --jobs -1", r"--jobs must not be negative, got -1"),
    BadInput("no memory at all", f"{PREDICT} --max-memory 0", r"--max-memory must be above 0 MiB, got 0"),
    BadInput("too little memory for one slice", f"{PREDICT} --max-memory 10", r"needs at least \d+ MiB"),
    BadInput(
        "too little memory for a scan of a folder",
        "predict patients/Image out --weights run --max-memory 10",
        r"0 of 3 scans segmented.*needs at least \d+ MiB",
    ),
    BadInput("misspelt runtime", f"{PREDICT} --runtime openvin", r"openvin.*openvino"),
    BadInput("int8 without slices to calibrate on", "export run new --format openvino --int8", r"--int8.*--data"),
    BadInput("int8 for ONNX Runtime", "export run new --format onnx --int8 --data store", r"--int8.*openvino"),
    BadInput(
        "exported network of a later viscera",
        "predict scan.nii.gz out.nii.gz --weights exported",
        r"exported.*viscera-export-99",
        changed_export,
    ),
    BadInput(
        "template that names an organ nobody knows",
        "synth new --template template.nii.gz --cases 1 --jobs 1",
        r"splean.*spleen.*--ignore-labels",
        unnamed_template,
    ),
    BadInput(
        "scans of templates without templates",
        "synth new --template-image scan.nii.gz --cases 1 --jobs 1",
        r"--template-image names 1 scans, --template 0 label maps",
    ),
    BadInput(
        "ingredient that there is not",
        "synth new --variety rich --without kidnies --cases 1 --jobs 1",
        r"kidnies.*kidneys",
    ),
    BadInput(
        "bench of a scan that is none",
        "bench scam.nii.gz --weights run --rounds 1",
        r"scam.nii.gz: no such file",
    ),
]
