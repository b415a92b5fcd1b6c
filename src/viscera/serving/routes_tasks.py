"""Routes of what goes on in the background: learning from corrections, segmenting many scans, scoring; and going back a version.

The clients' forms are MONAI Label's: GET answers the newest task (404 without one; ?all=true all of them; with
?check_if_running=true 404 unless one runs), POST a task (429 while one of its kind runs), DELETE the task that is told to stop.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from viscera.serving import protocol
from viscera.serving.background import Kind, Task
from viscera.serving.batch import choose_scans, score_all, segment_all
from viscera.serving.guard import refusal
from viscera.serving.improving import learn, make_job, settings_of, swap, trainable
from viscera.serving.service import Service
from viscera.serving.tuning import Settings

KINDS: dict[str, Kind] = {"train": "train", "scoring": "scoring", "batch": "batch_infer"}
YES = ("1", "true", "yes")


async def status(service: Service, request: Request) -> Response:
    """Tell of the newest task of a kind, or of all."""
    kind, query = _kind(request), request.query_params
    if query.get("check_if_running", "").lower() in YES:
        task = service.tasks.running(kind)
        return refusal(404, "nothing of that kind is running") if task is None else JSONResponse(task.to_json())
    tasks = service.tasks.all(kind)
    if not tasks:
        return refusal(404, "there was no task of that kind since the server began")
    if query.get("all", "").lower() in YES:
        return JSONResponse([task.to_json() for task in tasks])
    return JSONResponse(tasks[-1].to_json())


async def stop(service: Service, request: Request) -> Response:
    """Tell the task of a kind that runs to stop; null where none does."""
    task = service.tasks.stop(_kind(request))
    return JSONResponse(None if task is None else task.to_json())


async def train(service: Service, request: Request) -> Response:
    """Learn from the corrections, with one model."""
    name, params = request.path_params["model"], await _params(request)
    if name not in service.models:
        return refusal(404, f"there is no such model; there are {', '.join(service.models)}")
    return JSONResponse(await _train(service, name, params))


async def train_all(service: Service, request: Request) -> Response:
    """Learn with every model that can; since one learns at a time, with the first, unless the parameters name another."""
    params, can = await _params(request), list(trainers(service))
    if not can:
        return refusal(501, "no model that is offered here can learn")
    name = next((one for one in can if isinstance(params.get(one), dict)), can[0])
    own = params.get(name)
    task = await _train(service, name, own if isinstance(own, dict) else {})
    return JSONResponse({name: {"result": task, "detail": None}, **task})


async def _train(service: Service, name: str, params: Mapping[str, object]) -> dict[str, object]:
    """Begin to learn.

    Raises:
        HTTPException: 429, something learns already.
        SettingError: Settings that cannot be, or too few corrections.
    """
    settings = settings_of(params)
    if service.tasks.running("train") is not None:
        raise HTTPException(429, "a training is running already; wait, or stop it: DELETE /train/")
    job = await run_in_threadpool(make_job, service, name, settings)
    task = Task("train", {"model": name, **asdict(settings)})
    task.progress["total_epochs"] = settings.max_epochs
    return _begin(service, task, lambda running: learn(service, job, running))


async def rollback(service: Service, request: Request) -> Response:
    """Let another version serve: ?version=N, else the one before."""
    name, asked = request.path_params["model"], request.query_params.get("version", "")
    if name not in service.models:
        return refusal(404, f"there is no such model; there are {', '.join(service.models)}")
    versions = trainable(service, name)
    if asked and not (asked.isascii() and asked.isdecimal() and 0 < len(asked) < 7):
        return refusal(400, "version must be a number")

    def change() -> dict[str, object]:
        """Let the other version serve; return the model's versions."""
        before = versions.history(name)
        known = [1, *(one.version for one in before.versions if one.version < before.serving)]
        version = int(asked) if asked else known[-1]
        file = versions.file(name, version)
        swap(service, name, file, first=version == 1, device="auto")
        versions.serve(name, version)
        service.log.add(f"{name}: version {before.serving} -> {version}")
        return versions.history(name).to_info()

    return JSONResponse(await run_in_threadpool(change))


async def batch(service: Service, request: Request) -> Response:
    """Segment the scans of the datastore: ?images=all, unlabeled or labeled."""
    name, images = request.path_params["model"], request.query_params.get("images", "all")
    params = await _params(request)
    if name not in service.models:
        return refusal(404, f"there is no such model; there are {', '.join(service.models)}")
    if service.tasks.running("batch_infer") is not None:
        raise HTTPException(429, "scans are being segmented already; wait, or stop it: DELETE /batch/infer")
    scans = await run_in_threadpool(choose_scans, service.datastore, images, params)
    task = Task("batch_infer", {"model": name, "images": images})
    over = params.get("overwrite") is True
    work = partial(segment_all, service, name, scans, overwrite=over)
    return JSONResponse(_begin(service, task, work))


async def score(service: Service, request: Request) -> Response:
    """Measure what was segmented against what was corrected."""
    method = request.path_params.get("method", "dice")
    await _params(request)
    if method not in protocol.SCORING:
        return refusal(404, f"there is no such method; there is {', '.join(protocol.SCORING)}")
    task = Task("scoring", {"method": method})
    found = _begin(service, task, lambda running: score_all(service.datastore, running))
    return JSONResponse(found if "method" in request.path_params else {method: {"result": found, "detail": None}})


def trainers(service: Service) -> dict[str, object]:
    """Return {model that can learn: what /info/ says of its training}."""
    if service.versions is None:
        return {}
    text = "learns from final labels in the background; a new version serves only if it beats the old one on held-back corrections"
    return {name: {"description": text, "config": asdict(Settings())} for name in service.versions.first}


def train_stats(service: Service) -> dict[str, object]:
    """Return {model: how far its training is, and how its versions compare}, with the keys that 3D Slicer reads."""
    versions, task = service.versions, service.tasks.last("train")
    if versions is None:
        return {}
    found: dict[str, object] = {}
    for name in versions.first:
        history = versions.history(name)
        tried = [*(one.comparison for one in history.versions), *history.lost]
        running = task if task is not None and task.request.get("model") == name else None
        if not tried and running is None:
            continue
        best = max((max(one.old_dice, one.new_dice) for one in tried), default=0.0)
        found[name] = {
            **(running.progress if running is not None else {}),
            **(
                {}
                if running is None or running.ended is None
                else {"total_time": round(running.ended - running.started, 2)}
            ),
            "best_metric": best,
            "best_metric_key": "mean Dice on held-back corrections",
            **history.to_info(),
        }
    return found


def _begin(service: Service, task: Task, work: Callable[[Task], object]) -> dict[str, object]:
    """Begin a task; return what the client is told.

    Raises:
        HTTPException: 429, one of its kind runs.
    """
    begun = service.tasks.start(task, work, log=service.log.add, clean=service.without_folders)
    if begun is None:
        raise HTTPException(429, "a task of that kind is running already; wait, or stop it (DELETE)")
    return begun.to_json()


async def _params(request: Request) -> dict[str, object]:
    """Return the JSON object in a request's body.

    Raises:
        HTTPException: 501, the answer is wanted at the end of the work.
        SettingError: It is not one.
    """
    if request.query_params.get("run_sync", "").lower() in YES:
        raise HTTPException(501, "run_sync is not offered: work goes on in the background; GET tells how far it is")
    return protocol.parameters((await request.body()).decode("utf-8", "replace"))


def _kind(request: Request) -> Kind:
    return KINDS[request.url.path.split("/")[1]]
