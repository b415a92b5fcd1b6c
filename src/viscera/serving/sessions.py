"""Scans that a client sends for a while: a folder each, which goes when the client says so, after an hour or with the server."""

import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import FileError
from viscera.io import nifti
from viscera.io.dicom_files import is_dicom_place
from viscera.io.scans import Scan
from viscera.serving.datastore import NotThereError

EXPIRY_S = 3600
"""After which a session that nobody used ends."""
MOST = 16
"""Sessions; the one that was unused for longest makes room."""


@dataclass
class Session:
    """A scan that a client sent.

    Attributes:
        folder: Of its files.
        created: Seconds since 1970.
        used: The same, last.
        expiry_s: How long it stays unused.
    """

    folder: Path
    created: float
    used: float
    expiry_s: int

    def facts(self) -> dict[str, object]:
        """Return what the client is told: no path."""
        return {"create_ts": int(self.created), "last_access_ts": int(self.used), "expiry": self.expiry_s}

    @property
    def file(self) -> Path | None:
        """The only file, if there is only one."""
        files = list(self.folder.iterdir())
        return files[0] if len(files) == 1 else None


class Sessions:
    """Folders below one that is private to this server."""

    def __init__(self, folder: Path) -> None:
        """Begin with none.

        Args:
            folder: Exists, is empty, and is removed by whoever made it.
        """
        self.folder, self._sessions, self._lock = folder, dict[str, Session](), threading.Lock()

    def new_folder(self) -> Path:
        """Return a new folder, for files that are still arriving."""
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def add(self, folder: Path, *, expiry_s: int = 0) -> tuple[str, Session]:
        """Make a session of a folder.

        Args:
            folder: From ``new_folder``.
            expiry_s: As the client wishes, at most EXPIRY_S; 0: that.
        """
        now = time.time()
        session = Session(folder, now, now, min(expiry_s, EXPIRY_S) if expiry_s > 0 else EXPIRY_S)
        with self._lock:
            self._sessions[folder.name] = session
        self._tidy()
        return folder.name, session

    def get(self, name: str, *, touch: bool = True) -> Session:
        """Return a session.

        Raises:
            NotThereError: There is none, or it is over.
        """
        self._tidy()
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                raise NotThereError("there is no such session, or it is over", "Send the scan again.")
            if touch:
                session.used = time.time()
        return session

    def remove(self, name: str) -> Session:
        """End a session; return what it was.

        Raises:
            NotThereError: There is none.
        """
        session = self.get(name)
        with self._lock:
            self._sessions.pop(name, None)
        discard(session.folder)
        return session

    def _tidy(self) -> None:
        now = time.time()
        with self._lock:
            over = [name for name, one in self._sessions.items() if now - one.used > one.expiry_s]
            left = sorted(
                (name for name in self._sessions if name not in over), key=lambda name: self._sessions[name].used
            )
            gone = [self._sessions.pop(name) for name in (*over, *left[: max(0, len(left) - MOST)])]
        for session in gone:
            discard(session.folder)


def discard(folder: Path) -> None:
    """Remove a folder of files that are not needed any more."""
    shutil.rmtree(folder, ignore_errors=True)


def scan_in(folder: Path) -> Scan:
    """Return the scan that a session's folder holds: its NIfTI file, or the CT series of its DICOM files.

    Raises:
        FileError: It holds neither, or several.
        NotThereError: The session ended meanwhile.
        SettingError: It is DICOM, and viscera[dicom] is not installed.
    """
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError as error:  # it waited in the queue for too long
        raise NotThereError("the session is over", "Send the scan again.") from error
    if len(files) == 1 and nifti.is_nifti(files[0]):
        return files[0]
    place = files[0] if len(files) == 1 else folder
    if not is_dicom_place(place):
        raise FileError(
            "what was sent is neither one NIfTI file nor DICOM",
            "Send a .nii.gz file, or the files or the ZIP of one CT series.",
        )
    from viscera.dicom.opening import open_scan

    return open_scan(place)
