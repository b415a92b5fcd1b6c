"""Bad inputs of `viscera prepare`: scans, labels, folders, stores."""

from collections.abc import Callable

import numpy as np

from bad_inputs.files import (
    SHAPE,
    BadInput,
    bad_bytes,
    bad_labels,
    bad_scan,
    copies,
    hu,
    nifti,
    one_voxel,
    organs,
    pair,
    spaced,
    text,
)

SCAN = "data/Image/Case_00002_0000.nii.gz"
PREPARE = "prepare new --data abdomenct1k=data --recipe recipe.json --jobs 1"
GOOD = "new/cases/data__Case_00001/case.json"


def beside_good(title: str, message: str, files: Callable[[], object], *, exit_code: int = 2) -> BadInput:
    """Return a bad case beside a good one, to be prepared; the good one must come through."""
    return BadInput(title, PREPARE, message, files, exit_code, GOOD)


def prepare(title: str, words: str, message: str, files: Callable[[], object] = lambda: None, **more: int) -> BadInput:
    """Return a `viscera prepare new` with a small recipe."""
    return BadInput(title, f"prepare {words} --recipe recipe.json --jobs 1", message, files, **more)


SCANS = [
    beside_good(
        "labels have fewer slices than the image",
        r"Case_00002.*Mask/Case_00002.nii.gz.*another grid than the image \(7x16x16 .* 8x16x16.*Resample",
        lambda: bad_labels(organs()[:, :, :7]),
    ),
    beside_good(
        "labels have another spacing than the image",
        r"Case_00002.*another grid than the image \(2.50x20.00x20.00 mm against 5.00x20.00x20.00 mm\).*Resample",
        lambda: bad_labels(organs(), affine=spaced(2.5)),
    ),
    beside_good(
        "label value outside the map",
        r"Case_00002.*Mask/Case_00002.nii.gz.*hold 9 \(150 voxels\).*1 liver, 2 kidney.*name the value",
        lambda: bad_labels(organs(liver=9)),
    ),
    beside_good(
        "labels resampled with interpolation",
        r"Mask/Case_00002.nii.gz.*holds 0.5.*whole numbers.*nearest neighbour",
        lambda: bad_labels(organs() / np.float32(2)),
    ),
    beside_good(
        "labels negative",
        r"Mask/Case_00002.nii.gz.*holds values from -4 to 0.*0 to 65535",
        lambda: bad_labels(organs() * np.int16(-1)),
    ),
    beside_good(
        "labels hold none of the annotated organs",
        r"note: data: .*none of the annotated organs \(liver, kidney, spleen, pancreas\)",
        lambda: bad_labels(organs() * np.uint8(0)),
        exit_code=0,
    ),
    beside_good(
        "image without labels",
        r"Case_00002.*Image/Case_00002_0000.nii.gz.*image without labels.*add its label file",
        lambda: nifti(SCAN, hu(2)),
    ),
    beside_good(
        "labels without an image",
        r"Case_00002.*Mask/Case_00002.nii.gz.*labels without an image.*add its image",
        lambda: nifti("data/Mask/Case_00002.nii.gz", organs()),
    ),
    beside_good(
        "4D image: two phases in one file",
        r"Case_00002_0000.nii.gz.*4D image \(16x16x8x2\).*one phase",
        lambda: bad_scan(np.stack([hu(1), hu(2)], axis=3)),
    ),
    beside_good("2D image: a single slice", r"2D image \(16x16\).*whole series", lambda: bad_scan(hu(2)[:, :, 0])),
    beside_good(
        "NaN voxel", r"Case_00002_0000.*1 of 2048 voxels are NaN.*Replace them", lambda: bad_scan(one_voxel(np.nan))
    ),
    beside_good(
        "gzip cut off", r"Case_00002_0000.nii.gz.*truncated.*Copy or export", lambda: bad_bytes(SCAN, keep=900)
    ),
    beside_good(
        "named .nii.gz, but not compressed",
        r"Case_00002_0000.nii.gz.*not gzip-compressed.*rename it to Case_00002_0000.nii",
        lambda: bad_bytes(SCAN, content=b"\x5c\x01" * 300),
    ),
    beside_good("empty file", r"Case_00002_0000.nii.gz is empty", lambda: bad_bytes(SCAN, keep=0)),
    beside_good(
        "8-bit picture instead of HU",
        r"Case_00002_0000.*0 to 1\d\d look like an 8-bit picture.*Export the CT in HU",
        lambda: bad_scan(np.clip(hu(2) / 4 + 128, 0, 255).astype(np.uint8)),
    ),
    beside_good(
        "HU stored with an offset of 1024",
        r"Case_00002_0000.*offset of 1024.*scl_inter to -1024",
        lambda: bad_scan(np.clip(hu(2) + 1024, 0, None).astype(np.int16)),
    ),
    beside_good(
        "intensities scaled to 0 to 1",
        r"Case_00002_0000.*scaled or standardised.*Export the CT in HU",
        lambda: bad_scan(((hu(2) + 1100) / 1300).astype(np.float32)),
    ),
    beside_good(
        "HU clipped to a window",
        r"Case_00002_0000.*exactly -160.*clipped to a window.*Export the CT unclipped",
        lambda: bad_scan(np.clip(hu(2), -160, 240)),
    ),
    beside_good(
        "empty scan", r"every voxel is -1024.*Export it again", lambda: bad_scan(np.full(SHAPE, -1024, np.int16))
    ),
    beside_good(
        "slice distance 0 mm",
        r"Case_00002_0000.nii.gz.*singular \(spacing 0x20x20 mm",
        lambda: bad_scan(srow_z=[0, 0, 0, 0]),
    ),
    beside_good(
        "slice distance NaN",
        r"Case_00002_0000.nii.gz.*affine holds NaN.*Rewrite",
        lambda: bad_scan(srow_z=[0, 0, np.nan, 0]),
    ),
    beside_good(
        "unit of the header is metre",
        r"Case_00002_0000.nii.gz.*counts in metres.*millimetres",
        lambda: bad_scan(xyzt_units=1),
    ),
    beside_good(
        "sform and qform disagree",
        r"note: data: Image/Case_00002_0000.nii.gz: sform and qform .* 8\d\.\d mm apart; the sform is used",
        lambda: bad_scan(qoffset_x=80),
        exit_code=0,
    ),
    beside_good(
        "the same patient twice, in two data sets or under two names",
        r"note: data__Case_00001, data__Case_00002: the same scan, so one patient",
        lambda: pair("Case_00002", hu(1)),
        exit_code=0,
    ),
]

FOLDERS = [
    prepare(
        "wrong layout, the right one exists",
        "new --data nnunet=data",
        r"no 'nnunet' data set.*dataset.json.*found Image/, Mask/.*looks like 'abdomenct1k': use that layout",
    ),
    prepare(
        "folder above the data set",
        "new --data abdomenct1k=.",
        r"expected Image/.*Its folder (data|patients) looks like 'abdomenct1k': did you mean that one",
    ),
    prepare(
        "folder without any case",
        "new --data flare=run",
        r"run is no 'flare' data set.*found .*Check the path",
    ),
    prepare("no such folder", "new --data flare=missing", r"missing: no such folder. Check the path"),
    prepare("misspelt layout", "new --data abdomenct1=data", r"no layout 'abdomenct1'. Did you mean 'abdomenct1k'"),
    prepare("LAYOUT without =DIR", "new --data data", r"LAYOUT=DIR, got 'data'. Layouts: abdomenct1k, "),
    prepare(
        "annotated.json names a case that is not there",
        "new --data abdomenct1k=data",
        r"annotated.json lists case 'Case_00007', which is not in the data set. Did you mean 'Case_00001'",
        lambda: text("data/annotated.json", {"Case_00007": ["liver"]}),
    ),
    prepare(
        "annotated.json names an organ that no label holds",
        "new --data abdomenct1k=data",
        r"annotated.json: no label of case 'Case_00001' holds 'livr'. Did you mean 'liver'",
        lambda: text("data/annotated.json", {"*": ["livr"]}),
    ),
    prepare(
        "annotated.json is not JSON",
        "new --data abdomenct1k=data",
        r"annotated.json cannot be read as JSON: .*line 1 column.*Correct the file",
        lambda: text("data/annotated.json", '{"*": [liver]}'),
    ),
    prepare(
        "two data sets in folders of one name",
        "new --data abdomenct1k=data abdomenct1k=copy/data",
        r"two folders are data sets called 'data'. Give one of them another name: abdomenct1k:NAME=DIR",
        lambda: copies("data", "copy/data"),
    ),
    prepare(
        "patients.json names a case that is not there",
        "new --data abdomenct1k=data",
        r"patients.json lists case 'Case_1', which is not in the data set. Did you mean 'Case_00001'",
        lambda: text("data/patients.json", {"Case_1": "A"}),
    ),
    prepare(
        "own splits with a word that is no split",
        "new --data abdomenct1k=data --splits mine.json",
        r"mine.json: case 'Case_00001' is in 'trian', which is no split. Did you mean 'train'",
        lambda: text("mine.json", {"trian": ["Case_00001"]}),
    ),
    prepare(
        "own splits with a case that is not there",
        "new --data abdomenct1k=data --splits mine.json",
        r"mine.json lists case 'Case_00009', which is not in the data sets. Did you mean 'Case_00001'",
        lambda: text("mine.json", {"train": ["Case_00009"]}),
    ),
    BadInput(
        "store made with another recipe",
        "prepare store --data abdomenct1k=data",
        r"store was prepared for label space 'abdomenct1k' \(liver.*not 'zhang12'.*Prepare another store",
    ),
    prepare(
        "store's folder holds something else",
        "data --data abdomenct1k=data",
        r"data holds files but is not a prepared store",
    ),
    prepare("store is a file", "recipe.json --data abdomenct1k=data", r"recipe.json is a file. Give a folder"),
    BadInput(
        "a cluster of which it is not said how large",
        "predict patients/Image out --weights run --cluster slurm:site.yaml",
        r"slurm:site.yaml: neither local:N nor tcp://HOST:PORT nor slurm:N.*. Give local:4.*slurm:20",
    ),
    BadInput(
        "a cluster of no processes",
        "predict patients/Image out --weights run --cluster local:0",
        r"local:0: there must be 1 to 1024 workers",
    ),
    BadInput(
        "a scheduler that does not answer",
        "predict patients/Image out --weights run --cluster tcp://127.0.0.1:1",
        r"no scheduler answers at tcp://127.0.0.1:1. Start one .dask scheduler. and workers",
    ),
]
