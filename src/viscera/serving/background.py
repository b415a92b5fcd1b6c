"""Work in the background: one task of a kind at a time, whose state clients ask for in MONAI Label's form.

Source: Project-MONAI/MONAILabel 0.8, monailabel/utils/async_tasks (a task's keys; its states RUNNING, DONE, ERROR, STOPPED).
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from viscera.errors import VisceraError
from viscera.io.frames import causes, frame_lines

Kind = Literal["train", "scoring", "batch_infer"]
Status = Literal["RUNNING", "DONE", "ERROR", "STOPPED"]
MOST_DETAILS = 20
"""Lines that a task keeps, the newest."""
MOST_TASKS = 50
"""Of a kind that are remembered."""


class StoppedError(Exception):
    """A task was told to stop, and did."""


@dataclass(eq=False)
class Task:
    """Something that goes on in the background.

    Attributes:
        kind: What it is.
        request: What was asked for, as the client is told.
        id: A random word.
        status: How it stands.
        started: Seconds since 1970.
        ended: The same; None while it runs.
        details: Its last lines.
        progress: Numbers of how far it is.
        result: What it found; None until then.
        stop: Set when it is to end.
    """

    kind: Kind
    request: dict[str, object]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: Status = "RUNNING"
    started: float = field(default_factory=time.time)
    ended: float | None = None
    details: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_DETAILS))
    progress: dict[str, object] = field(default_factory=dict)
    result: object = None
    stop: threading.Event = field(default_factory=threading.Event)

    def tell(self, text: str) -> None:
        """Add a line, unless it is the last one."""
        if not self.details or self.details[-1] != text:
            self.details.append(text)

    def go_on(self) -> None:
        """Raise StoppedError where the task is to end."""
        if self.stop.is_set():
            raise StoppedError

    def to_json(self) -> dict[str, object]:
        """Return what a client is told."""
        return {
            "id": self.id,
            "status": self.status,
            "request": self.request,
            "start_ts": _stamp(self.started),
            **({} if self.ended is None else {"end_ts": _stamp(self.ended)}),
            "details": list(self.details),
            "progress": dict(self.progress),
            **({} if self.result is None else {"result": self.result}),
        }


class Tasks:
    """The tasks of a server, each on a thread of its own."""

    def __init__(self) -> None:
        self._tasks: dict[Kind, deque[Task]] = {}
        self._lock = threading.Lock()

    def start(
        self,
        task: Task,
        work: Callable[[Task], object],
        *,
        log: Callable[[str], None] = lambda text: None,
        clean: Callable[[str], str] = lambda text: text,
    ) -> Task | None:
        """Begin a task; None where one of its kind runs.

        Args:
            task: New.
            work: What it does. It looks at ``task.stop`` and returns the result; a VisceraError becomes the task's last line.
            log: Told how it ended and where a fault lies; never anything that could name a patient.
            clean: Takes the server's folders out of a message.
        """
        with self._lock:
            kept = self._tasks.setdefault(task.kind, deque(maxlen=MOST_TASKS))
            if kept and kept[-1].ended is None:
                return None
            kept.append(task)
        threading.Thread(target=_run, args=(task, work, log, clean), name=f"viscera {task.kind}", daemon=True).start()
        return task

    def all(self, kind: Kind) -> list[Task]:
        """Return the tasks of a kind, the newest last."""
        with self._lock:
            return list(self._tasks.get(kind, ()))

    def last(self, kind: Kind) -> Task | None:
        """Return the newest task of a kind; None where there was none."""
        found = self.all(kind)
        return found[-1] if found else None

    def running(self, kind: Kind) -> Task | None:
        """Return the task of a kind that runs; None where none does."""
        task = self.last(kind)
        return task if task is not None and task.ended is None else None

    def stop(self, kind: Kind) -> Task | None:
        """Tell the task of a kind to end; None where none runs."""
        task = self.running(kind)
        if task is not None:
            task.stop.set()
            task.status = "STOPPED"
        return task

    def close(self) -> None:
        """Tell all to end."""
        for kind in list(self._tasks):
            self.stop(kind)


def _run(task: Task, work: Callable[[Task], object], log: Callable[[str], None], clean: Callable[[str], str]) -> None:
    """Do a task's work, and note how it ended."""
    status: Status = "DONE"
    try:
        task.result = work(task)
    except StoppedError:
        status = "STOPPED"
        task.tell("stopped; the same request goes on")
    except VisceraError as error:
        status = "ERROR"
        task.tell(clean(str(error)))
    except (
        Exception
    ) as error:  # of a thread that nobody waits for: its place goes to the log, its message may name a patient
        status = "ERROR"
        task.tell("a fault of viscera; /logs/ says where in its code: please report it")
        for one in causes(error):
            log(f"fault: {type(one).__module__}.{type(one).__qualname__}")
            for line in frame_lines(one):
                log(line)
    if status == "DONE" and task.stop.is_set():
        status = "STOPPED"  # it was told so, and ended meanwhile
    task.ended, task.status = time.time(), status
    log(f"{task.kind} {status} {task.ended - task.started:.2f} s")


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
