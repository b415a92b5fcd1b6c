"""Service: what the routes work with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from viscera.inference.model import Model
from viscera.serving.background import Tasks
from viscera.serving.datastore import Datastore
from viscera.serving.guard import Limits, Log
from viscera.serving.last_result import LastResult
from viscera.serving.meter import Meter
from viscera.serving.segmenting import Queue
from viscera.serving.sessions import Sessions
from viscera.serving.versions import Versions
from viscera.volume import Volume

DrawPage = Callable[[Volume, Volume, Mapping[int, str]], str]
"""A scan, its labels and their names -> an HTML page that loads nothing."""


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes work with.

    Attributes:
        models: From ``load_models``; a version that proved better takes its place here.
        datastore: Scans and labels.
        sessions: Scans for a while.
        limits: Who may ask, and how much.
        queue: In which scans wait.
        log: The last requests.
        versions: Of the models that can learn; None where none can.
        tasks: What goes on in the background.
        meter: Counts of requests, times and failures.
        last: The last result, small.
        draw_page: Makes the page of a result; None: there is none.
    """

    models: dict[str, Model]
    datastore: Datastore
    sessions: Sessions
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    log: Log = field(default_factory=Log)
    versions: Versions | None = None
    tasks: Tasks = field(default_factory=Tasks)
    meter: Meter = field(default_factory=Meter)
    last: LastResult = field(default_factory=LastResult)
    draw_page: DrawPage | None = None

    def usual_organs(self, name: str) -> tuple[str, ...]:
        """Return the organs that a model gives by itself, () for all: a version keeps those of the weights that it came from."""
        if self.versions is not None and name in self.versions.usual:
            return self.versions.usual[name]
        return self.models[name].default_organs

    def labels(self, name: str) -> tuple[str, ...]:
        """Return the organs that /info/ lists for a model, in its order."""
        return self.usual_organs(name) or self.models[name].output_space.organs

    def without_folders(self, text: str) -> str:
        """Return a message without the server's folders."""
        for folder in (self.datastore.folder, self.sessions.folder):
            text = text.replace(f"{folder}/", "")
        return text

    def close(self) -> None:
        """End what goes on in the background, and forget the scans that wait."""
        self.tasks.close()
        self.queue.close()


Endpoint = Callable[[Service, Request], Awaitable[Response]]
