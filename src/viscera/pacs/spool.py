"""The queue on disk: a folder per series, which one rename moves from state to state, so that a kill loses and doubles nothing.

    incoming/KEY/images/*.dcm   images arrive, each on the disk before its sender is told so
    waiting/KEY                 complete; working/KEY: being segmented; sending/KEY: results are there
    done/KEY, failed/KEY        ended; job.json says how. Images of what is done are removed

KEY is made from the series' UID and the weights' hash, so the same series with the same weights is one job; names and logs hold
nothing of the patient.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscera.io.atomic import replacing, sync_folder, write_json, writing
from viscera.json_text import load_json

State = Literal["incoming", "waiting", "working", "sending", "done", "failed"]
STATES: tuple[State, ...] = ("incoming", "waiting", "working", "sending", "done", "failed")
KEY_LETTERS = 16
LATE = "images came after their series had been segmented without them; send the whole series again"
PICTURE, PAGE = "last.png", "last.html"
"""Beside the states: of the last result, where a status page shows it."""


@dataclass(frozen=True)
class Job:
    """A series in the queue.

    Attributes:
        key: Its name.
        state: Where it is.
        folder: Its files.
    """

    key: str
    state: State
    folder: Path

    @property
    def images(self) -> Path:
        """The folder of its images."""
        return self.folder / "images"

    @property
    def results(self) -> Path:
        """The folder of its results."""
        return self.folder / "results"

    def facts(self) -> dict:
        """Return what job.json says; {} where there is none yet."""
        try:
            found = load_json(self.folder / "job.json")
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **facts: object) -> None:
        """Add to job.json, whole or not at all."""
        write_json(self.folder / "job.json", {**self.facts(), **facts})


def series_key(series_uid: str, weights_sha256: str) -> str:
    """Return the name of the job that segments a series with weights.

    Example:
        >>> series_key("1.2.3", "ab") == series_key("1.2.3", "ab") != series_key("1.2.3", "cd")
        True
    """
    return hashlib.sha256(f"{series_uid}\n{weights_sha256}".encode()).hexdigest()[:KEY_LETTERS]


class Spool:
    """The queue below one folder.

    Args:
        root: Made where it is missing; for its owner's eyes only, since it holds patients' images.
        weights_sha256: Of the weights that segment.
    """

    def __init__(self, root: Path, weights_sha256: str = "") -> None:
        self.root, self.weights_sha256 = root, weights_sha256
        self._coming = threading.Lock()  # else an image could come between the list of a series' images and its move

    def open(self, series_of: Callable[[Job], str] = lambda job: "", *, retry_failed: bool = False) -> int:
        """Make the folders, and put back what a killed process was at; return how many that failed were put back.

        Args:
            series_of: Tells the UID of a job's series, so that what waits for other weights is named anew; "" leaves its name.
            retry_failed: Put back what has failed, too. What was sent of it is not sent again. What holds only a part of its
                series stays, and what came again since then.

        Raises:
            FileError: They cannot be made.
        """
        with writing(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for state in STATES:
                (self.root / state).mkdir(mode=0o700, exist_ok=True)
        for job in self.jobs("working"):
            self.move(job, "waiting")
        put_back = self._retry_failed() if retry_failed else 0
        for job in (*self.jobs("incoming"), *self.jobs("waiting")):
            series = series_of(job)
            key = series_key(series, self.weights_sha256) if series else job.key
            if key != job.key:
                self._rename(job, key)
        return put_back

    def _rename(self, job: Job, key: str) -> None:
        """Give a job that has not been segmented another key; images that came under both are one series'.

        It comes in again, so that ``complete`` sees whether these weights have segmented it before.
        """
        target = self.root / "incoming" / key
        with writing(target):
            if target.is_dir():
                (target / "images").mkdir(exist_ok=True)
                for image in job.images.glob("*.dcm"):
                    image.replace(target / "images" / image.name)
                shutil.rmtree(job.folder)
            else:
                job.folder.rename(target)
            _sync(target.parent)

    def jobs(self, state: State) -> list[Job]:
        """List the jobs in a state, the oldest first."""

        def age(job: Job) -> float:
            with suppress(OSError):
                return job.folder.stat().st_mtime
            return 0.0

        with suppress(FileNotFoundError):
            found = [
                Job(entry.name, state, Path(entry.path)) for entry in os.scandir(self.root / state) if entry.is_dir()
            ]
            return sorted(found, key=lambda job: (age(job), job.key))
        return []

    def find(self, key: str, state: State) -> Job | None:
        """Return a job if it is in a state."""
        folder = self.root / state / key
        return Job(key, state, folder) if folder.is_dir() else None

    def add(self, series_uid: str, instance_uid: str, content: bytes) -> str:
        """Put an image on the disk; the same one again changes nothing.

        Args:
            series_uid: Its series.
            instance_uid: Its own.
            content: The DICOM file.

        Returns:
            The key of its job.

        Raises:
            FileError: The disk refuses.
        """
        key = series_key(series_uid, self.weights_sha256)
        folder = self.root / "incoming" / key
        file = folder / "images" / f"{hashlib.sha256(instance_uid.encode()).hexdigest()[:32]}.dcm"
        with self._coming:
            with replacing(file) as part:
                part.write_bytes(content)
            _sync(file.parent)
        return key

    def move(self, job: Job, state: State) -> Job:
        """Move a job to another state in one instant; what stands there of it before is replaced.

        Raises:
            FileError: The disk refuses.
        """
        target = self.root / state / job.key
        with writing(target):
            if target.exists():
                shutil.rmtree(target)
            job.folder.rename(target)
            _sync(target.parent)
            _sync(job.folder.parent)
        return Job(job.key, state, target)

    def complete(self, job: Job) -> Literal["waiting", "seen", "late", "busy"]:
        """Move a series that is complete on, unless it is there already.

        Returns:
            waiting: It is to be segmented. seen: All its images were segmented before; they are removed. late: Some images
            came after their series was segmented without them, and the others not again; it fails. busy: Images came while
            it is segmented or sent; they wait until that has ended.
        """
        with self._coming:
            return self._complete(job)

    def _complete(self, job: Job) -> Literal["waiting", "seen", "late", "busy"]:
        if any(self.find(job.key, state) for state in ("waiting", "working", "sending")):
            return "busy"
        names = sorted(file.name for file in job.images.glob("[!.]*.dcm"))
        before = self.find(job.key, "done")
        known = set(before.facts().get("images", ())) if before else set()
        if names and known.issuperset(names):
            shutil.rmtree(job.folder)
            return "seen"
        job.note(images=names, completed=time.time())
        if not known.issubset(names):
            self.fail(job, LATE)
            return "late"
        self.move(job, "waiting")
        return "waiting"

    def finish(self, job: Job) -> Job:
        """Move a job whose results were sent to what is done, and remove its images."""
        job.note(ended=time.time())
        job = self.move(job, "done")
        shutil.rmtree(job.images, ignore_errors=True)
        return job

    def fail(self, job: Job, reason: str) -> Job:
        """Move a job to what has failed, with the reason; its images are kept."""
        job.note(ended=time.time(), reason=reason)
        return self.move(job, "failed")

    def _retry_failed(self) -> int:
        failed = [job for job in self.jobs("failed") if self._can_go_on(job)]
        for job in failed:
            job.note(reason=None, tries=0)
            self.move(job, "sending" if job.facts().get("results") else "waiting")
        return len(failed)

    def _can_go_on(self, job: Job) -> bool:
        """Say whether what failed may be put back: it is no late part of a series, and the series did not come again."""
        facts, done = job.facts(), self.find(job.key, "done")
        if facts.get("reason") == LATE or any(self.find(job.key, state) for state in ("waiting", "working", "sending")):
            return False
        images = set(facts.get("images", ()))
        return done is None or not images or not images.issubset(done.facts().get("images", ()))

    def size_bytes(self) -> int:
        """Return what all images and results take on the disk."""
        return sum(_sizes(self.root))


def last_change(job: Job) -> float:
    """Return when the last image of a series came, in s since 1970."""
    with suppress(OSError):
        return job.images.stat().st_mtime
    return job.folder.stat().st_mtime


def _sizes(folder: Path) -> Iterator[int]:
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118 (a hundred thousand files)


def _sync(folder: Path) -> None:
    """Make a rename in a folder last, where the system can; what was received is kept in any case."""
    with suppress(OSError):
        sync_folder(folder)
