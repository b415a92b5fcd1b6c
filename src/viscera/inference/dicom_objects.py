"""What is written beside a label map for the system that the series came from: SEG, RTSTRUCT, a report, a picture.

    NAME.seg.dcm        DICOM SEG                   NAME.report.dcm     measurements (SR, TID 1500)
    NAME.rtstruct.dcm   RT structure set            NAME.capture.dcm    a montage (secondary capture)
    viscera-results.jsonl   one line per series: UIDs, hashes, versions, time, outcome

Each is read back by another path before it takes its place (viscera/dicom). NAME.json notes their hashes.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256 as sha256_of
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from viscera.errors import FileError, SettingError, VisceraError, did_you_mean
from viscera.inference.jobs import ScanJob
from viscera.io.atomic import sha256, writing
from viscera.io.scans import stem
from viscera.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

    from viscera.dicom.outputs import Maker
    from viscera.dicom.series import Series
    from viscera.inference.model import Model
    from viscera.quality.measuring import Organ

Kind = Literal["seg", "rtstruct", "report", "capture"]
OBJECTS: tuple[Kind, ...] = ("seg", "rtstruct", "report", "capture")
LOG = "viscera-results.jsonl"

Draw = Callable[[Volume, Volume, Mapping[int, str]], UInt8[np.ndarray, "row column 3"]]
"""Draws a scan and its labels."""


class EmptyWarning(UserWarning):
    """There is nothing to write in a SEG or structure set."""


@dataclass(frozen=True, eq=False)
class DicomOptions:
    """What to write beside label maps.

    Attributes:
        kinds: Of objects.
        labelmap: Whether SEG is of the new label map kind instead of one bit per voxel and organ.
        roi_names: {organ: name in the structure set} where it is to be another than TG-263's.
        secret: Key by which UIDs are replaced, and all that could identify a patient left out; None: kept, as the standard
            wants it.
        draw: Makes the picture of "capture".
    """

    kinds: tuple[Kind, ...] = ()
    labelmap: bool = False
    roi_names: Mapping[str, str] = field(default_factory=dict)
    secret: bytes | None = None
    draw: Draw | None = None

    @property
    def measured(self) -> bool:
        """Whether the scan's HU are needed until the end."""
        return "report" in self.kinds or "capture" in self.kinds

    def made_with(self) -> dict[str, object]:
        """Return what changes the objects, for JSON."""
        names = sha256_of(repr(sorted(self.roi_names.items())).encode()).hexdigest() if self.roi_names else None
        return {"labelmap": self.labelmap, "roi_names_sha256": names, "deidentified": self.secret is not None}


def kinds_of(names: str | Sequence[str]) -> tuple[Kind, ...]:
    """Return the kinds of objects of these names, in the order in which they are written.

    Raises:
        SettingError: There is no such kind.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in OBJECTS:
            hint = did_you_mean(name, OBJECTS)
            raise SettingError(
                f"'{name}' is not an object that can be written", f"{hint} Choose of {', '.join(OBJECTS)}."
            )
    return tuple(kind for kind in OBJECTS if kind in wanted)


def object_file(job: ScanJob, kind: str) -> Path:
    """Return where an object goes."""
    return job.output.with_name(f"{stem(job.output)}.{kind}.dcm")


def written_objects(jobs: Sequence[ScanJob], kinds: Sequence[str]) -> list[Path]:
    """Return the objects of scans that are there, scan by scan."""
    return [file for job in jobs for kind in kinds if (file := object_file(job, kind)).is_file()]


def require_series(job: ScanJob, options: DicomOptions) -> None:
    """Raise SettingError where objects are asked for that a scan cannot have.

    Raises:
        SettingError: The scan is no DICOM series.
        FileError: The series lacks UIDs that they must refer to, or another file stands where one is to go.
    """
    if not options.kinds:
        return
    if isinstance(job.scan, Path):
        raise SettingError(
            f"--write {' '.join(options.kinds)}: these refer to the images of a DICOM series, which {job.scan.name} is not",
            "Give the series, or leave --write out.",
        )
    from viscera.dicom.outputs import require_referable
    from viscera.dicom.series import Series

    if isinstance(job.scan, Series):
        require_referable(job.scan, job.scan.files[0])


def stand(job: ScanJob, run_facts: Mapping[str, object], options: DicomOptions) -> bool:
    """Tell whether all objects that are asked for stand there as they were written, by what NAME.json says of its run."""
    if not options.kinds:
        return True
    written = run_facts.get("dicom")
    if not isinstance(written, dict) or written.get("made_with") != options.made_with():
        return False
    hashes = written.get("sha256")
    if not isinstance(hashes, dict):
        return False
    for kind in options.kinds:
        file = object_file(job, kind)
        if hashes.get(kind, "") != (sha256(file) if file.is_file() else None):
            return False
    return True


def refuse_others(job: ScanJob, options: DicomOptions, *, overwrite: bool) -> None:
    """Raise FileError where something that viscera did not write stands in the place of an object."""
    if not options.kinds:
        return
    from viscera.dicom.decoding import parsing_errors
    from viscera.dicom.outputs import MANUFACTURER
    from viscera.io.doors import pydicom_module

    pydicom = pydicom_module()

    for kind in options.kinds:
        file = object_file(job, kind)
        if overwrite or not file.exists():
            continue
        try:
            own = pydicom.dcmread(file, specific_tags=["Manufacturer"]).get("Manufacturer") == MANUFACTURER
        except parsing_errors():
            own = False
        if not own:
            raise FileError(
                f"{file.name} exists already, and viscera did not write it",
                "Pass --overwrite or choose another output.",
                file=file,
            )


@dataclass(frozen=True, eq=False)
class Result:
    """What objects say of a series.

    Attributes:
        labels: On its grid.
        names: {index: organ} of the organs that are wanted.
        ct: In HU, where ``DicomOptions.measured``.
        organs: What was measured, where a report is wanted.
        flags: {organ: what is doubtful of it} likewise.
    """

    labels: Volume
    names: Mapping[int, str]
    ct: Volume
    organs: "Mapping[str, Organ]"
    flags: Mapping[str, tuple[str, ...]]


def write_objects(job: ScanJob, result: Result, model: "Model", options: DicomOptions) -> dict[str, object]:
    """Write the objects that are asked for, each read back before it takes its place; return what NAME.json says of them.

    Args:
        job: A series, and where its label map goes.
        result: What they say.
        model: By which it was made.
        options: What to write.

    Raises:
        VisceraError: One cannot be written, or does not read back.
    """
    from viscera.dicom.deidentify import deidentified, deidentified_series
    from viscera.dicom.series import Series

    series = job.scan
    if not options.kinds or not isinstance(series, Series):
        return {}
    headers = series.headers()
    if options.secret is not None:
        headers = deidentified(headers, secret=options.secret)
        series = deidentified_series(series, secret=options.secret)
    hashes: dict[str, str | None] = {}
    for kind in (kind for kind in OBJECTS if kind in options.kinds):
        file = object_file(job, kind)
        if kind in ("seg", "rtstruct") and not result.labels.voxels.any():
            warnings.warn(f"{series.name}: no organ was found, so there is no {file.name}", EmptyWarning, stacklevel=4)
            with writing(file):
                file.unlink(missing_ok=True)  # else it would be that of another result
            hashes[kind] = None
            continue
        _write(kind, job, result, series, headers, maker(model), options)  # type: ignore[arg-type]
        hashes[kind] = sha256(file)
    return {"made_with": options.made_with(), "sha256": hashes}


def _write(
    kind: Kind,
    job: ScanJob,
    result: Result,
    series: "Series",
    headers: "list[Dataset]",
    who: "Maker",
    options: DicomOptions,
) -> None:
    """Write one object."""
    file, labels, names = object_file(job, kind), result.labels.voxels, result.names
    if kind == "seg":
        from viscera.dicom.seg import write_seg

        form = "labelmap" if options.labelmap else "binary"
        write_seg(file, labels, names, series, who, kind=form, headers=headers)
    elif kind == "rtstruct":
        from viscera.dicom.rtstruct import write_rtstruct

        write_rtstruct(file, labels, names, series, who, roi_names=options.roi_names, headers=headers)
    elif kind == "report":
        from viscera.dicom.read_report import Measured
        from viscera.dicom.report import write_report

        measured = {
            organ: Measured(one.volume_ml, one.mean_hu, one.sd_hu, one.touches_border, result.flags.get(organ, ()))
            for organ, one in result.organs.items()
        }
        seg = object_file(job, "seg") if "seg" in options.kinds and result.labels.voxels.any() else None
        write_report(file, measured, series, who, seg=seg, headers=headers)
    elif options.draw is not None:
        from viscera.dicom.capture import write_capture

        write_capture(file, options.draw(result.ct, result.labels, names), series, who, headers=headers)


def maker(model: "Model") -> "Maker":
    """Return by what results of a model are made."""
    from viscera.dicom.outputs import Maker

    name = f"{model.card.name} {model.card.version}" if model.card else model.recipe.name
    return Maker(version("viscera"), name, model.weights_sha256)


def log_result(
    job: ScanJob, model: "Model", outcome: dict[str, object] | VisceraError, *, secret: bytes | None = None
) -> None:
    """Add a line on a series to viscera-results.jsonl beside its label map; nothing for a scan that is no series.

    Args:
        job: The series.
        model: By which it was segmented.
        outcome: What was written to NAME.json, or why nothing was.
        secret: Key by which UIDs are replaced; None: they are the series' own.
    """
    if isinstance(job.scan, Path):
        return
    from viscera.dicom.log import append_result
    from viscera.dicom.series import Series

    series = job.scan
    if not isinstance(series, Series):
        return
    if secret is not None:
        from viscera.dicom.deidentify import deidentified_series

        series = deidentified_series(series, secret=secret)
    row: dict[str, object] = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "viscera": version("viscera"),
        "weights_sha256": model.weights_sha256,
    }
    if isinstance(outcome, VisceraError):
        row |= {"outcome": "failed", "error": type(outcome).__name__}
    else:
        run: dict = outcome["run"]  # type: ignore[assignment]
        row |= {
            "outcome": "segmented",
            "label_map": job.output.name,
            "series_sha256": run["scan_sha256"],
            "labels_sha256": run["labels_sha256"],
            "objects_sha256": (run.get("dicom") or {}).get("sha256", {}),
            "seconds": run["seconds"],
        }
    append_result(job.output.with_name(LOG), row)
