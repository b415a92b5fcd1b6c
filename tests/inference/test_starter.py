"""The weights in the package: whole, described by their card, and as good as it says on the scans that are at hand."""

import json

import numpy as np
import pytest

from viscera.cli.command import main
from viscera.evaluation.metrics import confusion, overlap
from viscera.inference.model import load_model
from viscera.inference.segment import segment
from viscera.io import nifti
from viscera.labels import STARTER19, fit
from viscera.networks.cards import find_shipped
from viscera.preparation.intensity import hounsfield
from viscera.synthesis.patient import synthesize
from viscera.synthesis.variety import FIRST, INGREDIENTS, RICH, without
from viscera.volume import with_voxels


def dice(truth: np.ndarray, found: np.ndarray, names: dict[int, str], organ: str) -> float:
    fitted = fit(STARTER19, names, set(names.values()))
    table = np.zeros(256, np.uint8)
    for value, index in fitted.values.items():
        table[value] = index
    counts = confusion(np.ascontiguousarray(table[truth]), np.ascontiguousarray(found), len(STARTER19.organs) + 1)
    return overlap(counts, STARTER19.index(organ)).dice or 0.0


def test_the_card_describes_every_organ_and_only_those_with_real_evidence_are_in_the_default_output():
    card = find_shipped().card
    assert set(card.organs) == set(STARTER19.organs)
    real = {evidence.name for evidence in card.evidence if evidence.real}
    assert {"liver", "spleen", "kidney_left", "kidney_right"} <= set(card.of_standing("shipped"))
    for organ in card.of_standing("shipped"):
        dices = [figure for figure in card.organs[organ].figures if figure.measure == "dice" and figure.on in real]
        assert max(figure.mean for figure in dices) > 0.8, organ
    assert card.known_failures
    assert all(data.licence for data in card.training_data)


def test_a_synthetic_patient_that_took_part_in_nothing_is_segmented():
    known = without(RICH, ["scan_range", *INGREDIENTS[FIRST:]])  # the rest came after these weights
    patient = synthesize(np.random.default_rng([77, 1]), shape=(48, 128, 128), variety=known)
    found = segment(patient.ct, load_model(find_shipped(), accelerator="cpu"))
    for organ in ("liver", "spleen"):
        assert dice(patient.labels.voxels, found.voxels, patient.organs, organ) > 0.8, organ


def test_a_real_patient_gets_the_dice_that_the_card_says(shared_data):
    folder = shared_data / "totalsegmentator_example"
    ct, labels = (nifti.read(folder / f"ts_example_dicom_20slices_{what}.nii.gz") for what in ("ct", "label"))
    names = json.loads((folder / "ts_example_dicom_20slices_labels.json").read_text())
    organs = {int(value): name for value, name in names.items() if int(value)}
    found = segment(with_voxels(ct, hounsfield(ct, where="scan")), load_model(find_shipped(), accelerator="cpu"))
    card = find_shipped().card
    for organ in ("liver", "spleen", "stomach", "aorta"):
        said = next(one for one in card.organs[organ].figures if one.measure == "dice" and one.on == "20 slices")
        measured = dice(labels.voxels.astype(np.uint8), found.voxels, organs, organ)
        assert measured == pytest.approx(said.mean, abs=0.01), organ


def test_a_real_scan_whose_header_exchanges_left_and_right_is_called_mirrored(shared_data, tmp_path):
    out = tmp_path / "labels.nii.gz"
    assert main(["predict", str(shared_data / "msd_spleen" / "spleen_8_ct.nii.gz"), str(out), "--statistics"]) == 0
    found = json.loads(out.with_name("labels.json").read_text())
    assert "mirrored" in [sign["kind"] for sign in found["trust"]["scan"]]
    assert found["run"]["weights"] == "starter"
    assert set(found["labels"].values()) == set(find_shipped().card.of_standing("shipped"))
