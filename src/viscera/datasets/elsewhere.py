"""Cases as other processes find them: by paths from the root, which hold on any machine with the same disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from viscera.datasets.sources import Source
from viscera.dicom.elsewhere import absolute_scan
from viscera.io.scans import Scan, ScanFiles, files_of


def absolute_source(source: Source, *, here: bool) -> Source:
    """Return a case by paths that hold for other processes.

    Args:
        source: The case.
        here: Whether they all run on this machine.

    Raises:
        SettingError: Its files were unpacked on this machine, for as long as this command runs.
    """
    labels = source.labels
    if isinstance(labels, Path | ScanFiles):
        labels = _absolute_labels(labels, here=here)
    elif labels is not None:
        labels = tuple((organ, file.absolute()) for organ, file in labels)
    origin = source.origin and replace(source.origin, folder=source.origin.folder.absolute())
    return replace(source, image=absolute_scan(source.image, here=here), labels=labels, origin=origin)


def _absolute_labels(labels: Scan, *, here: bool) -> Scan:
    """Return what draws the truth of a DICOM series, or a label file."""
    if isinstance(labels, Path):
        return labels.absolute()
    from viscera.datasets.dicom import Truth

    if not isinstance(labels, Truth):
        return absolute_scan(labels, here=here)
    series = absolute_scan(labels.series, here=here)
    return replace(labels, file=labels.file.absolute(), series=series)


def first_files(sources: Sequence[Source]) -> list[Path]:
    """Return a file of the first and one of the last of one or more cases, by which it is known whether others see them."""
    return [file for source in (sources[0], sources[-1]) for file in files_of(source.image)[:1]]
