"""Bad inputs of 3D recipes, and of 2D and 3D parts that do not go together."""

import numpy as np

from bad_inputs.files import VOLUME, BadInput, edited_cases, emptied_labels, hu, nifti, pair, text

SCAN = "data/Image/Case_00002_0000.nii.gz"
PREPARE = "prepare new --data abdomenct1k=data --recipe volume.json --jobs 1"
GOOD = "new/cases/data__Case_00001/case.json"
TRAIN = "train volume.json solid new"
PREDICT = "predict scan.nii.gz out.nii.gz --weights deep"
BEST = "deep/best.safetensors"


def edited_volume(**settings: object) -> None:
    """Write another 3D recipe with some settings changed."""
    text("edited.json", VOLUME | settings)


def scan_beside_good(**header: object) -> None:
    """Put a case with a bad header beside the good one."""
    pair("Case_00002")
    nifti(SCAN, hu(2), **header)  # type: ignore[arg-type]


VOLUMES = [
    BadInput(
        "slice distance 0 mm, for a 3D recipe",
        PREPARE,
        r"1 scan prepared.*Case_00002_0000.nii.gz.*singular \(spacing 0x20x20 mm",
        lambda: scan_beside_good(srow_z=[0, 0, 0, 0]),
        survives=GOOD,
    ),
    BadInput(
        "slice distance NaN, for a 3D recipe",
        PREPARE,
        r"1 scan prepared.*Case_00002_0000.nii.gz.*affine holds NaN.*Rewrite",
        lambda: scan_beside_good(srow_z=[0, 0, np.nan, 0]),
        survives=GOOD,
    ),
    BadInput(
        "slice distance 0 mm in one of the scans of a 3D network",
        "predict data/Image out --weights deep",
        r"1 of 2 scans segmented.*Case_00002_0000.nii.gz ; .*singular \(spacing 0x20x20 mm",
        lambda: scan_beside_good(srow_z=[0, 0, 0, 0]),
        survives="out/Case_00001.nii.gz",
    ),
    BadInput(
        "a single slice for a 3D network",
        "predict one.nii.gz out.nii.gz --weights deep",
        r"1 of 1 scan segmented",
        lambda: nifti("one.nii.gz", hu()[:, :, :1]),
        exit_code=0,
        survives="out.nii.gz",
    ),
    BadInput(
        "scans smaller than a patch",
        f"{TRAIN} --sampling.size 16 32 32",
        r"epoch 1: training loss \d",
        exit_code=0,
        survives="new/best.safetensors",
    ),
    BadInput(
        "a data set without tumour labels for a network of tumours",
        "prepare new --data abdomenct1k=patients --recipe gao2step-tumour-small --jobs 1",
        r"note: patients: none of its annotated organs is in label space 'tumour', so nothing can be learnt.*\(3 cases\)"
        r".*new: 0 training, 0 validation, 0 test",
        exit_code=0,
    ),
    BadInput(
        "no case with tumour labels",
        "train gao2step-tumour-small plain new",
        r"plain has no training cases: none of its \d+ cases annotates any of tumour",
    ),
    BadInput(
        "no case with tumour labels, where complete cases are asked for",
        "train gao2step-tumour-small plain new --sampling.cases complete",
        r"plain has no training cases: none of its \d+ cases annotates any of tumour",
    ),
    BadInput(
        "no case that annotates every organ",
        f"{TRAIN} --sampling.cases complete",
        r"no training case of solid annotates all of liver, kidney, spleen, pancreas.*Pass --sampling.cases any",
        lambda: edited_cases("solid", annotated=["liver"]),
    ),
    BadInput(
        "no foreground at all: all labels are empty",
        TRAIN,
        r"the labels of all 1 training cases are empty, so there is no organ whose HU could be measured. Look at",
        lambda: emptied_labels("solid"),
    ),
    BadInput(
        "patch that the network cannot halve",
        f"{TRAIN} --sampling.size 60 64 64 --network.widths 4 4 4 4 4",
        r"5 levels needs sides that are multiples of 16, got 60x64x64: instead of 60 take 48 or 64.*sampling.size",
    ),
    BadInput(
        "more levels than the patch has voxels to halve",
        f"{TRAIN} --network.widths 4 4 4 4",
        r"a patch of 8x8x8 voxels is a single voxel on the coarsest level.*sampling.size to at least 16.*fewer network",
    ),
    BadInput(
        "window of predicting that the network cannot halve",
        f"{TRAIN} --inference.size 8 9 8",
        r"multiples of 2, got 8x9x8: instead of 9 take 8 or 10. Change inference.size",
    ),
    BadInput(
        "overlap of windows out of range",
        f"{TRAIN} --inference.overlap 0.97",
        r"inference.overlap: Input should be less than 0.95 \(got 0.97\)",
    ),
    BadInput(
        "percentiles in the wrong order",
        f"{TRAIN} --intensity.low-percentile 99.9",
        r"low_percentile 99.9 must be below high_percentile 99.5",
    ),
    BadInput(
        "voxel spacing of nothing",
        "prepare new --data abdomenct1k=patients --recipe edited.json --jobs 1",
        r"edited.json: preparation.spacing_mm.0: .*greater than or equal to 0.3 \(got 0\)",
        lambda: edited_volume(preparation={"kind": "volumes", "spacing_mm": [0, 1, 1]}),
    ),
    BadInput(
        "3D network with the sampling of slices",
        "train edited.json solid new",
        r"network plain3d does not go with sampling slices, inference windows and augmentation volume. A 2D network takes",
        lambda: edited_volume(sampling={"kind": "slices"}),
    ),
    BadInput(
        "2D network with patches",
        "train edited.json solid new",
        r"network unet does not go with sampling patches, inference windows.*a 3D one patches, windows",
        lambda: edited_volume(network={"kind": "unet", "widths": [4, 8]}),
    ),
    BadInput(
        "store of volumes for a 2D recipe",
        "train recipe.json solid new",
        r"solid was prepared with spacing_mm 5 20 20, margin_mm 0, not size 16x16. Prepare another store",
    ),
    BadInput(
        "store of slices for a 3D recipe",
        "train volume.json store new",
        r"store was prepared with size 16x16, not spacing_mm 5 20 20, margin_mm 0. Prepare another store",
    ),
    BadInput(
        "weights to begin with are missing", f"{TRAIN} --start deeep", r"no weights at deeep. Give a run's folder"
    ),
    BadInput(
        "weights to begin with are another network's",
        f"{TRAIN} --start run",
        r"run: these weights are for network unet of widths",
    ),
    BadInput(
        "weights to begin with are wider",
        f"{TRAIN} --start deep --network.widths 4 16",
        r"deep: these weights are for network plain3d of widths",
        survives=BEST,
    ),
    BadInput(
        "a run stands there, weights to begin with are given",
        "train volume.json solid deep --start deep",
        r"deep holds a run already. Pass --resume",
        survives=BEST,
    ),
    BadInput(
        "a network of organs given for tumours",
        f"{PREDICT} --tumour deep",
        r"--tumour: these weights find liver, kidney, spleen, pancreas, no tumour. Train one: viscera train gao2step-tumour",
    ),
    BadInput(
        "a finder for a 2D network",
        "predict scan.nii.gz out.nii.gz --weights run --finder deep",
        r"--finder: recipe 'tiny' segments whole slices, so there is nothing to find. Leave it out",
    ),
    BadInput(
        "a region for a 2D network",
        "predict scan.nii.gz out.nii.gz --weights run --region middle",
        r"--region: recipe 'tiny' segments slice by slice, and always all of them. Leave it out",
    ),
    BadInput(
        "a finder where every window is asked for",
        f"{PREDICT} --finder deep --region whole",
        r"--finder says where to look, --region whole that it does not matter. Leave one of them out",
    ),
    BadInput("misspelt region", f"{PREDICT} --region midle", r"invalid choice 'midle' for argument '--region'"),
    BadInput("the finder's weights are missing", f"{PREDICT} --finder nowhere", r"no weights at nowhere. Give a run's"),
    BadInput(
        "negative tolerance of FLARE's scores",
        "evaluate truth.nii.gz truth.nii.gz --mode flare --tolerance-mm -1",
        r"tolerance of the surface Dice is -1 mm. Give 0 mm or more",
    ),
    BadInput(
        "misspelt way to score", "evaluate truth.nii.gz truth.nii.gz --mode flair", r"invalid choice 'flair'.*'flare'"
    ),
]
