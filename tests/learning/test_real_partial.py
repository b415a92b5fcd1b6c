"""A real scan as two data sets that annotate different organs: nothing on the way may need complete labels.

The labels of ts_example_ct_3mm are divided in two ways: "organs", where both data sets hold the whole scan, and "halves",
where one holds its lower, the other its upper half. Structure is checked, not accuracy: two epochs teach little.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from makers import call
from viscera.config import PartialLoss
from viscera.datasets.writing import write_case
from viscera.inference.model import load_model
from viscera.io import nifti
from viscera.io.label_names import read_names
from viscera.learning.losses import loss_for
from viscera.learning.sampling.index import read_batch
from viscera.learning.sampling.slices import SliceIndex
from viscera.networks.unet import UNet
from viscera.preparation.store import Store, open_store
from viscera.recipes.catalogue import find_recipe
from viscera.volume import Volume, require_same_grid

NAME = "ts_example_ct_3mm"
ANNOTATED = {
    "lower": ("colon", "small_bowel", "urinary_bladder"),
    "upper": ("liver", "spleen", "kidney", "pancreas", "stomach"),
}
EVERYTHING = ANNOTATED["lower"] + ANNOTATED["upper"]
SETTINGS = {
    "name": "tiny",
    "label_space": "zhang12",
    "preparation": {"kind": "spaced", "spacing_mm": 3.0},
    "network": {"widths": [4, 8], "slices": 3},
    "loss": {"kind": "partial", "alpha": 2.0},
    "sampling": {"dataset_power": 0.5, "organ_fraction": 0.33, "window": [64, 80]},
    "augmentation": {"kind": "rich"},
    "training": {
        "epochs": 2,
        "visits_per_slice": 0.5,
        "batch_size": 8,
        "learning_rate": 0.002,
        "schedule": "cosine",
        "average_decay": 0.9,
        "precision": "32-true",
    },
}
"""viscera2d at the scan's own spacing, so that slices are cut, not resampled, and every labelled voxel can be counted."""


@dataclass(frozen=True)
class Way:
    """What became of the scan.

    Attributes:
        folder: truth/lower and truth/upper (complete), lower and upper (partial), store, run, predictions.
        ct: The whole scan's file.
        truth: Complete labels of both data sets by their names, in the recipe's label space.
    """

    folder: Path
    ct: Path
    truth: dict[str, np.ndarray]

    @property
    def store(self) -> Store:
        return open_store(self.folder / "store")


def part(volume: Volume, slices: slice) -> Volume:
    """Return some axial slices of a scan whose first axis runs from feet to head."""
    affine = volume.affine.copy()
    affine[:, 3] = volume.affine @ [slices.start, 0, 0, 1]
    return Volume(volume.voxels[slices], affine)


@pytest.fixture(scope="module", params=["organs", "halves"])
def way(request, shared_data, tmp_path_factory) -> Way:
    """Go from the scan to scores."""
    folder = tmp_path_factory.mktemp(request.param)
    source = shared_data / "totalsegmentator_example"
    if not source.is_dir():
        pytest.skip("the real scan is not there")
    scan, labels = (nifti.read(source / f"{NAME}_{what}.nii.gz") for what in ("ct", "label"))
    names = read_names(source / f"{NAME}_label.nii.gz")
    middle, last = scan.shape[0] // 2, scan.shape[0]
    halves = {"lower": slice(0, middle), "upper": slice(middle, last)}
    space, truth = find_recipe("viscera2d").space, {}
    for name, organs in ANNOTATED.items():
        slices = halves[name] if request.param == "halves" else slice(0, last)
        ct, known = part(scan, slices), part(labels, slices)
        for place, annotate in (("truth", EVERYTHING), ("", organs)):
            to = folder / place / name
            write_case("nnunet", to, number=1, ct=ct, labels=known, organs=names, annotate=annotate)
        index = {value: organ.removesuffix("_left").removesuffix("_right") for value, organ in names.items()}
        table = np.zeros(256, np.uint8)
        for value, organ in index.items():
            table[value] = space.index(organ) if organ in EVERYTHING else 0
        truth[name] = table[known.voxels]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.json").write_text(json.dumps(SETTINGS))
        for command in (
            "prepare store --data nnunet=lower nnunet=upper --recipe tiny.json --jobs 1",
            "train tiny.json store run --machine.accelerator cpu --machine.threads 1",
            "predict nnunet=lower predictions/lower --weights run --device cpu",
            "predict nnunet=upper predictions/upper --weights run --device cpu",
            f"predict {source / NAME}_ct.nii.gz whole.nii.gz --weights run --device cpu",
            "evaluate nnunet=truth/lower predictions/lower nnunet=truth/upper predictions/upper --annotated store "
            "--json scores.json --confusion --jobs 1",
        ):
            code, said = call(command)
            assert code == 0, f"{command}: {said}"
    return Way(folder, source / f"{NAME}_ct.nii.gz", truth)


@pytest.mark.slow
def test_no_annotated_voxel_is_lost_and_no_other_is_kept(way):
    """The truth counted by this test is the oracle: slices of 3 mm are cut, not resampled."""
    space = way.store.space
    for name, organs in ANNOTATED.items():
        facts = way.store.facts(f"{name}__case_0001")
        counts = np.bincount(way.truth[name].ravel(), minlength=len(space.classes))
        expected = {organ: int(counts[space.index(organ)]) if organ in organs else 0 for organ in space.organs}
        assert set(facts.annotated) == set(organs)
        assert {organ: facts.voxels[organ] for organ in space.organs} == expected
        assert sum(expected.values()) > 1000
        assert not [note for note in facts.notes if "cut off" in note]


@pytest.mark.slow
def test_both_data_sets_train_though_they_may_hold_one_scan(way):
    assert way.store.names("training") == ["lower__case_0001", "upper__case_0001"]
    rows = [json.loads(line) for line in (way.folder / "run" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(np.isfinite(row["train_loss"]) for row in rows)
    assert {organ for organ in EVERYTHING if rows[-1]["train_dice"][organ] is None} == set()


@pytest.mark.slow
def test_what_a_data_set_does_not_annotate_is_pushed_no_lower_than_background(way):
    """Where no label is, background and unknown organs share one gradient: that of their common probability."""
    store, space = way.store, way.store.space
    cases = [store.case(name) for name in store.names("training")]
    for number, case in enumerate(cases):
        index = SliceIndex.of(cases, reach=1)
        middle = np.flatnonzero(index.positions[:, 0] == number)[case.image.shape[0] // 2]
        batch = read_batch(index, np.array([middle]), space=space, distance="boundary")
        unknown = torch.tensor([0, *(space.index(organ) for organ in space.organs if organ not in case.annotated)])
        noise = torch.randn(
            (1, len(space.classes), *batch.labels.shape[1:]), generator=torch.Generator().manual_seed(0)
        )
        logits = noise.double().requires_grad_()
        settings = PartialLoss(dice=0, exclusion=0)
        loss_for(settings, class_weights=torch.ones(len(space.classes)))(logits, batch).backward()
        assert logits.grad is not None
        empty = ((batch.labels == 0) & batch.known)[0]  # beyond the slice nothing is known
        share = (logits.grad / logits.detach().softmax(1))[0, :, empty]
        torch.testing.assert_close(share[unknown], share[:1].expand(len(unknown), -1))
        assert (share[0] < 0).all()  # the common probability is to rise
        known = torch.tensor([space.index(organ) for organ in case.annotated])
        assert (share[known] > 0).all()  # at the expense of organs that were looked for


@pytest.mark.slow
def test_every_annotated_organ_moves_the_network(way):
    """Compared with the untrained network of the same seed, in the layer that has a channel for each organ."""
    model = load_model(way.folder / "run", accelerator="cpu")
    torch.manual_seed(model.recipe.training.seed)
    untrained = UNet(model.recipe.network, classes=len(model.space.classes))
    assert isinstance(model.module, UNet)
    moved = (model.module.head.weight - untrained.head.weight).detach().abs().amax(dim=(1, 2, 3))
    assert torch.isfinite(moved).all()
    assert {organ for organ in EVERYTHING if moved[model.space.index(organ)] < 1e-4} == set()


@pytest.mark.slow
def test_the_label_map_lies_on_the_scan_s_grid(way):
    for scan, prediction in [
        (way.ct, way.folder / "whole.nii.gz"),
        *(
            (
                way.folder / name / "imagesTr/case_0001_0000.nii.gz",
                way.folder / "predictions" / name / "case_0001.nii.gz",
            )
            for name in ANNOTATED
        ),
    ]:
        found = nifti.read(prediction)
        require_same_grid(nifti.read(scan), found, where=prediction.name)
        assert set(np.unique(found.voxels)) <= set(range(len(way.store.space.classes)))


@pytest.mark.slow
def test_scores_come_apart_by_what_the_own_data_set_annotates(way):
    rows = json.loads((way.folder / "scores.json").read_text())["cases"]
    space = way.store.space
    for name, organs in ANNOTATED.items():
        groups = {row["organ"]: row["group"] for row in rows if row["case"] == f"{name}/case_0001"}
        there = {space.classes[index] for index in np.unique(way.truth[name])} & set(EVERYTHING)
        assert there <= groups.keys() <= set(EVERYTHING)
        assert {organ for organ, group in groups.items() if group == "annotated"} == groups.keys() & set(organs)
        assert set(groups.values()) == {"annotated", "unannotated"}


@pytest.mark.slow
def test_the_confusion_matrix_accounts_for_every_voxel_of_the_complete_truth(way):
    confusion = json.loads((way.folder / "scores.json").read_text())["confusion"]
    voxel_ml, space = nifti.read(way.ct).voxel_ml, way.store.space
    for organ in EVERYTHING:
        voxels = sum(int((truth == space.index(organ)).sum()) for truth in way.truth.values())
        assert sum(confusion["ml"][confusion["classes"].index(organ)]) == pytest.approx(voxels * voxel_ml)
