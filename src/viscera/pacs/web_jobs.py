"""Which series of a DICOMweb archive are to be segmented, fetched beside where their label maps go; and results back to it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from viscera.errors import FileError, SettingError, VisceraError
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.dicom_objects import Kind, written_objects
from viscera.inference.jobs import ScanJob, require_folder
from viscera.pacs.address import Web
from viscera.pacs.dicomweb import fetch_series, find_remote, split_address
from viscera.pacs.sending import send_files
from viscera.pacs.spool import series_key


def find_web_jobs(
    address: str, output: Path, watch: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[ScanJob], dict[str, VisceraError]]:
    """Fetch the CT series that a query matches, those that are not there yet; list them, and where their label maps go.

    Args:
        address: dicomweb:URL[?QUERY].
        output: A folder. Images go to its folder images, named by a hash of the series' UID.
        watch: Told of the series fetched, and all of them.

    Returns:
        The series that can be segmented, and {name: why another one cannot}.

    Raises:
        SettingError: The address is none, or no CT series matches.
        ArchiveError: The archive does not answer.
        FileError: The output cannot be.
    """
    root, query = split_address(address)
    require_folder(output, what="what an archive holds")
    remote = find_remote(root, query)
    if not remote:
        raise SettingError("the archive has no CT series that the query matches", "Ask for others.")
    jobs: list[ScanJob] = []
    problems: dict[str, VisceraError] = {}
    for done, one in enumerate(remote, 1):
        key = series_key(one.series_uid, "")
        folder = output / "images" / key
        fetch_series(root, one, folder)
        watch(done, len(remote))
        try:
            found, wrong = find_dicom_jobs(folder, output / f"{key}.nii.gz")
        except FileError as error:
            problems[key] = error
            continue
        jobs += found
        problems |= wrong
    return jobs, problems


def send_results(address: str, jobs: Sequence[ScanJob], kinds: Sequence[Kind]) -> int:
    """Store the objects of series in their archive; return how many. Again, they keep their identifiers.

    Raises:
        ArchiveError: It does not take all.
    """
    to, count = Web(split_address(address)[0]), 0
    for job in jobs:
        files = written_objects([job], kinds)
        if files:
            send_files(files, to)
            count += len(files)
    return count
