"""ZIP files of DICOM: unpacked into a folder that only this user can read, which goes when nobody needs it any more.

What a ZIP says is not believed. Members are unpacked under numbers, never under their names, so that no name leads out of it;
sizes, counts and ratios have limits, which are checked before anything is written and while it is.
"""

import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from viscera.dicom.decoding import parsing_errors
from viscera.dicom.headers import looks_like_dicom
from viscera.errors import FileError

MOST_MEMBERS = 200_000
MOST_BYTES = 64 << 30
"""Of all members together: 100 scans of 275 images have 14 GiB."""
MOST_RATIO = 200
"""Of all members together to the ZIP's size: CT is at 2 to 4, an empty phantom at up to 100, deflate's bombs at 1,000."""
RATIO_FROM_BYTES = 64 << 20
"""What has fewer bytes in all is no bomb, whatever its ratio."""
ENCRYPTED = 1
PART = 1 << 20


class Unpacked:
    """A folder that is deleted with this object, or when the program ends.

    Attributes:
        folder: Its path; mode 0700.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="viscera_"))
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def delete(self) -> None:
        """Delete the folder now."""
        self._end()


@dataclass(frozen=True, eq=False)
class Contents:
    """What a ZIP holds.

    Attributes:
        kept: As long as it lives, so do the files.
        files: Unpacked file -> folders in the ZIP which lead to it.
        other: How many members are not DICOM.
    """

    kept: Unpacked
    files: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    other: int = 0


def unpack(place: Path) -> Contents:
    """Unpack what may be DICOM.

    Raises:
        FileError: The file is not a ZIP, is damaged or encrypted, or unpacks to more than any set of scans.
    """
    kept = Unpacked()
    try:
        with zipfile.ZipFile(place) as packed:
            members = [one for one in packed.infolist() if not one.is_dir()]
            _check(place, members, kept.folder)
            files: dict[Path, tuple[str, ...]] = {}
            for number, member in enumerate(members):
                file = kept.folder / f"{number:06d}"
                if _write(packed, member, file):
                    files[file] = PurePosixPath(member.filename.replace("\\", "/")).parent.parts
    except OSError as error:
        kept.delete()
        raise FileError(
            f"{place}: cannot be unpacked ({error.strerror or 'it is damaged'})", "Check the file and the disk."
        ) from error
    except (zipfile.BadZipFile, LZMAError, RuntimeError, NotImplementedError, *parsing_errors()) as error:
        kept.delete()
        raise FileError(
            f"{place}: the ZIP is damaged, or packed in a way that is not supported", "Pack it again.", file=place
        ) from error
    except BaseException:
        kept.delete()
        raise
    return Contents(kept, files, len(members) - len(files))


def _check(place: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Raise FileError for a ZIP that is not to be unpacked."""
    size = sum(one.file_size for one in members)
    limit = f"{place}: the ZIP would unpack to"
    remedy = "Unpack it yourself, and give the folder."
    if len(members) > MOST_MEMBERS:
        raise FileError(f"{limit} {len(members)} files, which is more than {MOST_MEMBERS}", remedy, file=place)
    if size > MOST_BYTES:
        raise FileError(f"{limit} {size / 2**30:.0f} GiB, which is more than {MOST_BYTES >> 30}", remedy, file=place)
    if size > max(RATIO_FROM_BYTES, MOST_RATIO * place.stat().st_size):
        raise FileError(
            f"{limit} {size / place.stat().st_size:.0f} times its size, as no scan does", remedy, file=place
        )
    if any(one.flag_bits & ENCRYPTED for one in members):
        raise FileError(f"{place}: the ZIP is encrypted", remedy, file=place)
    for member in members:
        name = member.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
            raise FileError(f"{place}: the ZIP holds names that lead out of its folder", "Do not trust it.", file=place)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FileError(
            f"{limit} {size / 2**30:.1f} GiB, but {folder.parent} has {free / 2**30:.1f} free",
            "Make room, or point TMPDIR to a disk that has it.",
            file=place,
        )


def _write(packed: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> bool:
    """Write a member if it looks like DICOM, and just the bytes that it promised; tell whether it does."""
    with packed.open(member) as source:
        head = source.read(1024)
        if not looks_like_dicom(head):
            return False
        with file.open("xb") as target:
            target.write(head)
            written = len(head)
            while part := source.read(PART):
                written += len(part)
                target.write(part)
    if written != member.file_size:  # zipfile itself stops at this many
        raise zipfile.BadZipFile
    return True
