"""Folders of results as viscera predict --statistics writes them, made in no time: the JSON alone, beside empty label maps."""

import json
from pathlib import Path

import numpy as np

ORGANS = {"liver": 1500.0, "spleen": 220.0, "kidney_left": 170.0, "aorta": 120.0, "stomach": 300.0}
"""{organ: median volume in ml}"""


def sign(kind: str) -> dict:
    return {"kind": kind, "value": 1.0, "expected": "less", "message": f"it is {kind}"}


def facts_of(name: str, *, seed: int = 0, organs=tuple(ORGANS), statistics: bool = True) -> dict:
    """Return what NAME.json holds of a scan."""
    g = np.random.default_rng(seed)
    facts: dict = {"labels": {str(index): organ for index, organ in enumerate(organs, start=1)}, "doubts": []}
    facts["standing"] = dict.fromkeys(organs, "shipped")
    if statistics:
        facts["statistics"] = {
            organ: {
                "volume_ml": round(float(ORGANS[organ] * np.exp(g.normal(0, 0.2))), 3),
                "mean_hu": round(float(g.normal(90, 15)), 2),
                "sd_hu": 20,
                "touches_border": False,
                "predicted_dice": round(float(g.uniform(0.8, 1)), 3),
            }
            for organ in organs
        }
        measured = {
            "pieces": 1,
            "largest_fraction": 1.0,
            "slice_agreement": 0.9,
            "probability": 0.9,
            "entropy_bits": 0.2,
        }
        look = {"slices": 120, "spacing_mm": [2.5, 0.7, 0.8]}
        facts["trust"] = {
            "scan": [],
            "organs": {},
            "measured": {"scan": look, "organs": dict.fromkeys(organs, measured)},
        }
    facts["run"] = {
        "scan": f"{name}_0000.nii.gz",
        "notes": ["of Mrs Miller, born 1950"],
        "scan_sha256": f"{seed:064x}",
        "label_map": f"{name}.nii.gz",
        "date": "2026-11-27T17:29:20+01:00",
        "viscera": "0.2.0",
        "recipe": "starter",
        "weights": "starter",
        "weights_version": "2",
        "weights_sha256": "ab" * 32,
        "device": "cpu",
        "runtime": "openvino",
        "precision": "int8",
        "seconds": {"read": 0.25, "network": 1.5},
        "peak_memory_mib": 300.5,
        "shape": [512, 500, 120],
    }
    return facts


def write_result(folder: Path, name: str, facts: dict) -> Path:
    """Write a NAME.json and its label map; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.nii.gz").touch()
    file = folder / f"{name}.json"
    file.write_text(json.dumps(facts))
    return file


def write_results(folder: Path, count: int, **more) -> Path:
    for number in range(count):
        name = f"case_{number:05d}"
        write_result(folder, name, facts_of(name, seed=number, **more))
    return folder
