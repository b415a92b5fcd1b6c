"""Bad inputs in DICOM: series with gaps, mixtures and damage, ZIPs that are traps, objects that cannot be written."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset

from bad_inputs.files import SHAPE, BadInput, hu, text
from dicom_series import write_series

PREDICT = "predict series out --weights run"
GOOD = "out/good.nii.gz"


def voxels() -> np.ndarray:
    """Return HU of a patient of the other bad inputs, (z, y, x)."""
    return np.ascontiguousarray(hu().T).astype(np.int16)


def series(edit: Callable[[Dataset, int], None] = lambda dataset, index: None, *, folder: str = "series") -> list[Path]:
    """Write a series of the patient; ``edit`` spoils it slice by slice."""
    uids = ("2.25.1", f"2.25.{2 + len(folder)}", "2.25.3")
    return write_series(Path(folder), voxels(), spacing=(5.0, 20.0, 20.0), edit=edit, uids=uids)


def edited(**attributes: Callable[[int], object]) -> Callable[[], object]:
    """Return what writes a series with attributes that depend on the slice; None takes one away."""

    def edit(dataset: Dataset, index: int) -> None:
        for keyword, of in attributes.items():
            value = of(index)
            if value is None:
                delattr(dataset, keyword)
            elif value is not ...:
                setattr(dataset, keyword, value)

    return lambda: series(edit)


def middle(value: object) -> Callable[[int], object]:
    """Return a value for the middle slice only."""
    return lambda index: value if index == SHAPE[2] // 2 else ...


def gap() -> None:
    series()[3].unlink()


def single() -> None:
    for file in series()[1:]:
        file.unlink()


def twice() -> None:
    uids = ("2.25.1", "2.25.8", "2.25.3")
    series()
    write_series(Path("series/again"), voxels() + np.int16(1), spacing=(5.0, 20.0, 20.0), uids=uids)


def cut() -> None:
    file = series()[4]
    file.write_bytes(file.read_bytes()[:-100])


def unknown_syntax() -> None:
    for file in series():
        file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))


def one_of_two() -> None:
    series(folder="series/good")
    series(folder="series/gap")[3].unlink()


def no_ct() -> None:
    series(lambda dataset, index: setattr(dataset, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"))


def packed(name: str = "series.zip", entries: Callable[[zipfile.ZipFile], None] = lambda archive: None) -> None:
    """Write a ZIP of the series, and what ``entries`` adds."""
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in series(folder="inside"):
            archive.write(file)
        entries(archive)


def bomb() -> None:
    with zipfile.ZipFile("series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IM0001", b"\0" * (1 << 28))


DICOM = [
    BadInput(
        "DICOM: a slice is missing",
        PREDICT,
        r"series: 1 slice is missing: slices are 5 mm apart, but 10 mm after slice 3 of 7.*Export the series again, complete",
        gap,
    ),
    BadInput("DICOM: one slice", PREDICT, r"series: it is a single slice", single),
    BadInput(
        "DICOM: two different images of each slice",
        PREDICT,
        r"8 images too many: different ones lie at the same position.*perhaps it holds several phases",
        twice,
    ),
    BadInput(
        "DICOM: a slice lies elsewhere",
        PREDICT,
        r"153 slices are missing",
        edited(ImagePositionPatient=middle([0, 0, 500])),
    ),
    BadInput(
        "DICOM: a slice is turned",
        PREDICT,
        r"its slices are not parallel: they differ in orientation",
        edited(ImageOrientationPatient=middle([0, 1, 0, 0, 0, 1])),
    ),
    BadInput(
        "DICOM: a slice has another spacing",
        PREDICT,
        r"its slices differ in the distance of their pixels",
        edited(PixelSpacing=middle([10, 10])),
    ),
    BadInput(
        "DICOM: no position",
        PREDICT,
        r"8 of its 8 images have no position",
        edited(ImagePositionPatient=lambda index: None),
    ),
    BadInput(
        "DICOM: no rescale slope and intercept",
        PREDICT,
        r"has no rescale slope and intercept, so its values may not be Hounsfield units",
        edited(RescaleSlope=lambda index: None, RescaleIntercept=lambda index: None),
    ),
    BadInput(
        "DICOM: values that are not HU",
        PREDICT,
        r"holds values in another unit than Hounsfield's",
        edited(RescaleType=lambda index: "Z_EFF"),
    ),
    BadInput(
        "DICOM: two frames of reference",
        PREDICT,
        r"its images are not all of the same frame of reference",
        edited(FrameOfReferenceUID=middle("2.25.99")),
    ),
    BadInput(
        "DICOM: two patients in one series",
        PREDICT,
        r"its images are not all of the same patient",
        edited(PatientID=middle("T2")),
    ),
    BadInput("DICOM: pixels are cut off", PREDICT, r"IM0004: its pixel data end early", cut),
    BadInput(
        "DICOM: unknown transfer syntax",
        PREDICT,
        r"series/IM0000: its transfer syntax is not supported",
        unknown_syntax,
    ),
    BadInput(
        "DICOM: no CT among the files",
        PREDICT,
        r"has no CT series: 8 files are not CT slices and were left out .MRImageStorage 8",
        no_ct,
    ),
    BadInput(
        "DICOM: one of two series has a gap",
        PREDICT,
        r"1 of 2 scans segmented.*1 slice is missing",
        one_of_two,
        survives=GOOD,
    ),
    BadInput(
        "DICOM: a series that is not there",
        f"{PREDICT} --series 1.2.3",
        r"has no CT series 1.2.3, but 1 other. Choose one of",
        series,
    ),
    BadInput(
        "DICOM: two series into one file",
        "predict series out.nii.gz --weights run",
        r"holds 2 CT series, so the output must be a folder, not out.nii.gz",
        one_of_two,
    ),
    BadInput(
        "DICOM: no identifiers, and a SEG is wanted",
        f"{PREDICT} --write seg",
        r"has no valid SOP UID in its data sets, so no other DICOM object can refer to it. Write NIfTI",
        edited(SOPInstanceUID=lambda index: ""),
    ),
    BadInput(
        "DICOM: SEG of a NIfTI file",
        "predict scan.nii.gz out.nii.gz --weights run --write seg",
        r"--write seg: these refer to the images of a DICOM series, which scan.nii.gz is not",
    ),
    BadInput("DICOM: misspelt object", f"{PREDICT} --write segg", r"invalid choice 'segg'", series),
    BadInput(
        "DICOM: misspelt organ in a table of ROI names",
        f"{PREDICT} --write rtstruct --roi-names roi.json",
        r"roi.json: 'livr' is not an organ. Did you mean 'liver'",
        lambda: (series(), text("roi.json", {"livr": "Leber"})),
    ),
    BadInput(
        "DICOM: a file stands where the SEG is to go",
        f"{PREDICT} --write seg",
        r"series.seg.dcm exists already, and viscera did not write it. Pass --overwrite",
        lambda: (series(), text("out/series.seg.dcm", "mine")),
    ),
    BadInput(
        "ZIP: names that lead out of it",
        "predict series.zip out --weights run",
        r"the ZIP holds names that lead out of its folder. Do not trust it",
        lambda: packed(entries=lambda archive: archive.writestr("../../evil", b"x")),
    ),
    BadInput(
        "ZIP: a bomb",
        "predict series.zip out --weights run",
        r"would unpack to 1028 times its size, as no scan does",
        bomb,
    ),
    BadInput(
        "ZIP: damaged",
        "predict series.zip out --weights run",
        r"series.zip: the ZIP is damaged, or packed in a way that is not supported",
        lambda: Path("series.zip").write_bytes(b"PK\x03\x04" + b"x" * 99),
    ),
]
