"""The four rules of the Imaging Data Commons, on label maps that are made so that each is kept or broken."""

import numpy as np

from viscera.quality.idc_rules import RULES, idc_rules
from viscera.quality.measuring import measure_organs, measure_scan
from viscera.volume import Volume

AXIAL = np.diag([-5.0, -5.0, 5.0, 1])[:, [2, 1, 0, 3]]
"""Voxels of 5 mm, 0.125 ml each."""


def rules(labels: np.ndarray, names: dict[int, str]) -> dict:
    """Return the rules of a label map in a trunk."""
    hu = np.full(labels.shape, -1000, np.int16)
    hu[:, 10:50, 10:90] = 40
    ct = Volume(hu, AXIAL)
    return idc_rules(measure_organs(ct, labels, names), measure_scan(ct))


def test_each_rule_has_its_name_and_is_kept_by_a_clean_organ():
    labels = np.zeros((20, 60, 100), np.uint8)
    labels[5:10, 20:30, 60:70] = 1  # 500 voxels, on the patient's left, which is the side of high columns
    found = rules(labels, {1: "kidney_left", 2: "spleen"})
    assert found == {"kidney_left": dict.fromkeys(RULES, True)}  # nothing is said of what was not found


def test_each_rule_is_broken_by_its_fault_alone():
    labels = np.zeros((20, 60, 100), np.uint8)
    labels[15:20, 20:30, 60:70] = 1  # reaches the last slice
    labels[5:7, 20:30, 20:30] = labels[9:11, 20:30, 20:30] = 2  # in two pieces, 400 voxels
    labels[5:10, 35:45, 15:25] = 3  # a left adrenal on the right
    labels[5:9, 40:45, 60:62] = 4  # 40 voxels: exactly 5 ml
    found = rules(labels, {1: "spleen", 2: "liver", 3: "adrenal_gland_left", 4: "gallbladder"})
    broken = {organ: [rule for rule, kept in said.items() if kept is False] for organ, said in found.items()}
    assert broken == {
        "spleen": ["complete_in_z"],
        "liver": ["single_component"],
        "adrenal_gland_left": ["right_side"],
        "gallbladder": ["volume_over_5_ml"],
    }
    assert found["spleen"]["right_side"] is None


def test_an_organ_that_touches_a_side_face_is_complete_in_z():
    labels = np.zeros((20, 60, 100), np.uint8)
    labels[5:10, 0:10, 60:70] = 1
    assert rules(labels, {1: "spleen"})["spleen"]["complete_in_z"] is True
