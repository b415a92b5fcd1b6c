"""Scans as other processes find them: by paths from the root, which hold on any machine with the same disk."""

from dataclasses import replace
from pathlib import Path

from viscera.errors import SettingError
from viscera.io.scans import Scan


def absolute_scan(scan: Scan, *, here: bool) -> Scan:
    """Return a scan by paths that hold for other processes.

    Args:
        scan: A file, or a DICOM series.
        here: Whether they all run on this machine.

    Raises:
        SettingError: Its files were unpacked on this machine, for as long as this command runs; or it is of another kind.
    """
    if isinstance(scan, Path):
        return scan.absolute()
    from viscera.dicom.series import Series

    if not isinstance(scan, Series):
        raise SettingError(f"{scan.name} cannot be handed to other processes", "Leave --cluster out.")
    if scan.kept is not None and not here:
        raise SettingError(
            f"{scan.name} is in a ZIP, which only this machine has unpacked", "Unpack it on the shared disk."
        )
    return replace(scan, slices=tuple(replace(one, file=one.file.absolute()) for one in scan.slices))
