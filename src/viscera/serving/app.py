"""The routes: requests in, answers out. What goes wrong becomes a status and a sentence in {"detail": ...}.

GET  /auth/ · POST /auth/token · GET /auth/token/valid    whether a token is needed, and how to get it: it is the password
GET  /info/                                               models, strategies, how much is labelled
PUT  /session/ · GET, DELETE /session/ID                  a scan that is sent for a while
GET, PUT /datastore/ · GET /datastore/image, /datastore/label, .../info · PUT /datastore/label
POST /activelearning/STRATEGY                             the next scan to look at
POST /infer/MODEL?image=&session_id=&output=              a segmentation
GET  /logs/                                               the last requests, without names
/train/, /scoring/, /batch/infer/                         not offered: 501 and what to do instead
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from viscera.errors import VisceraError
from viscera.inference.model import Model
from viscera.io import nifti
from viscera.io.atomic import FULL
from viscera.io.frames import causes, frame_lines
from viscera.io.scans import Scan
from viscera.serving import protocol
from viscera.serving.datastore import Datastore, NotThereError, TakenError, names_of
from viscera.serving.guard import Guard, Limits, Log, refusal, same_token
from viscera.serving.nrrd import nrrd_bytes
from viscera.serving.segmenting import BusyError, Found, Queue, described, find_labels, find_organs, require_size
from viscera.serving.sessions import Sessions, discard, scan_in
from viscera.serving.uploads import files_of, put_into, read_form, refuse_none

Endpoint = Callable[["Service", Request], Awaitable[Response]]
OUTPUTS = ("", "all", "json", "image")


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes work with.

    Attributes:
        models: From ``load_models``.
        datastore: Scans and labels.
        sessions: Scans for a while.
        limits: Who may ask, and how much.
        queue: In which scans wait.
        log: The last requests.
    """

    models: dict[str, Model]
    datastore: Datastore
    sessions: Sessions
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    log: Log = field(default_factory=Log)


def make_app(service: Service) -> Starlette:
    """Return the application."""

    def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
        """Return a route whose errors are answers."""

        async def answer(request: Request) -> Response:
            return await _answer(service, request, endpoint)

        return Route(path, answer, methods=list(methods), name=path)

    routes = [
        (path + end, endpoint, methods)
        for path, endpoint, methods in (
            ("/auth", auth, ("GET",)),
            ("/auth/token", auth_token, ("POST",)),
            ("/auth/token/valid", auth_valid, ("GET",)),
            ("/info", info, ("GET",)),
            ("/session", create_session, ("PUT",)),
            ("/session/{name}", session, ("GET", "DELETE")),
            ("/datastore", datastore, ("GET",)),
            ("/datastore", add_scan, ("PUT",)),
            ("/datastore/image", image, ("GET",)),
            ("/datastore/image/info", image_info, ("GET",)),
            ("/datastore/label", label, ("GET",)),
            ("/datastore/label", save_label, ("PUT",)),
            ("/datastore/label/info", label_info, ("GET",)),
            ("/activelearning/{strategy}", next_sample, ("POST",)),
            ("/infer/{model}", infer, ("POST",)),
            ("/logs", logs, ("GET",)),
            ("/train", not_offered, ("GET", "POST", "DELETE")),
            ("/train/{model}", not_offered, ("GET", "POST", "DELETE")),
            ("/scoring", not_offered, ("GET", "POST", "DELETE")),
            ("/scoring/{method}", not_offered, ("GET", "POST", "DELETE")),
            ("/batch/infer", not_offered, ("GET", "POST", "DELETE")),
            ("/batch/infer/{model}", not_offered, ("GET", "POST", "DELETE")),
        )
        for end in ("", "/")
    ]
    return Starlette(
        routes=[route(path, endpoint, *methods) for path, endpoint, methods in routes],
        middleware=[Middleware(Guard, limits=service.limits, log=service.log)],
        exception_handlers={HTTPException: _http_refusal},
    )


async def _http_refusal(request: Request, error: Exception) -> Response:
    """Answer what starlette or a route refuses."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return refusal(status, detail)


async def _answer(service: Service, request: Request, endpoint: Endpoint) -> Response:
    """Let a route answer, and turn what it raises into an answer."""
    try:
        return await endpoint(service, request)
    except BusyError:
        answer = refusal(503, "too many scans are waiting; try again in a minute")
        answer.headers["Retry-After"] = "60"
        return answer
    except NotThereError as error:
        return refusal(404, str(error))
    except TakenError as error:
        return refusal(409, str(error))
    except VisceraError as error:
        return refusal(400, _without_folders(str(error), service))
    except MemoryError:
        return refusal(413, "the scan does not fit into the server's memory; crop it")
    except ClientDisconnect:
        return refusal(400, "the connection ended before the request did")
    except HTTPException:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return refusal(507, "the server's disk is full")
        # A fault of ours: its place goes to the log, its message may name a patient.
        for one in causes(error):
            service.log.add(f"fault: {type(one).__module__}.{type(one).__qualname__}")
            for line in frame_lines(one):
                service.log.add(line)
        return refusal(500, "a fault of viscera; /logs/ says where in its code, without any name: please report it")
    finally:
        await request.close()


def _without_folders(text: str, service: Service) -> str:
    """Return a message without the server's folders."""
    for folder in (service.datastore.folder, service.sessions.folder):
        text = text.replace(f"{folder}/", "")
    return text


async def auth(service: Service, request: Request) -> Response:
    """Say whether a token is needed."""
    return JSONResponse({"enabled": bool(service.limits.token), "client_id": "viscera", "realm": ""})


async def auth_token(service: Service, request: Request) -> Response:
    """Give the token to whoever knows it: clients ask for a user's name and password, and the token is the password."""
    if not service.limits.token:
        return JSONResponse({"access_token": None, "token_type": None})
    password = (await read_form(request)).get("password")
    if not isinstance(password, str) or not same_token(password, service.limits.token):
        return refusal(401, "the password is not the server's token")
    return JSONResponse({"access_token": service.limits.token, "token_type": "bearer"})


async def auth_valid(service: Service, request: Request) -> Response:
    """Say that the token is right: else the guard had refused."""
    return JSONResponse({"username": "viscera", "enabled": bool(service.limits.token)})


async def info(service: Service, request: Request) -> Response:
    """Say what is offered."""
    status = await run_in_threadpool(service.datastore.status)
    return JSONResponse(protocol.info(described(service.models), status, version=version("viscera")))


async def create_session(service: Service, request: Request) -> Response:
    """Take a scan for a while: one NIfTI file, or the files or the ZIP of a DICOM series."""
    expiry = request.query_params.get("expiry", "0")
    files = files_of(await read_form(request), "files", "file")
    if not files:
        refuse_none("files")
    folder = service.sessions.new_folder()
    try:
        await run_in_threadpool(put_into, folder, files)
        await service.queue.run(lambda: require_size(scan_in(folder)))
    except BaseException:
        discard(folder)
        raise
    expiry_s = int(expiry) if expiry.isascii() and expiry.isdecimal() and len(expiry) < 9 else 0
    name, made = service.sessions.add(folder, expiry_s=expiry_s)
    return JSONResponse({"session_id": name, "session_info": made.facts()})


async def session(service: Service, request: Request) -> Response:
    """Tell of a session, give its file back, or end it."""
    name = request.path_params["name"]
    if request.method == "DELETE":
        return JSONResponse((await run_in_threadpool(service.sessions.remove, name)).facts())
    found = service.sessions.get(name)
    if request.query_params.get("image", "").lower() not in ("1", "true"):
        return JSONResponse(found.facts())
    if found.file is None:
        return refusal(400, "the session has several files, which cannot be given back as one")
    return FileResponse(found.file, media_type="application/octet-stream", filename=found.file.name)


async def datastore(service: Service, request: Request) -> Response:
    """List scans and labels."""
    kinds = {"": service.datastore.status, "stats": service.datastore.status}
    kinds |= {"all": service.datastore.listing, "train": service.datastore.pairs}
    kind = kinds.get(request.query_params.get("output", ""))
    if kind is None:
        return refusal(400, "output must be stats, all or train")
    return JSONResponse(await run_in_threadpool(kind))


async def add_scan(service: Service, request: Request) -> Response:
    """Take a scan for good."""
    files = files_of(await read_form(request), "file")
    if not files:
        refuse_none("file")
    folder = service.sessions.new_folder()
    try:
        file = await _only_nifti(folder, files[:1])
        wanted = request.query_params.get("image") or nifti.stem(file)

        def add() -> str:
            require_size(file)
            return service.datastore.add_scan(wanted, file)

        return JSONResponse({"image": await service.queue.run(add)})
    finally:
        await run_in_threadpool(discard, folder)


async def save_label(service: Service, request: Request) -> Response:
    """Take corrected labels."""
    form, query = await read_form(request), request.query_params
    files, params = files_of(form, "label"), protocol.parameters(form.get("params", "{}"))
    if not files:
        refuse_none("label")
    if "image" not in query:
        return refusal(400, "image= must name the scan that the labels are of")
    name, names = service.datastore.scan(query["image"])[0], protocol.segment_names(params)
    folder = service.sessions.new_folder()
    try:
        file = await _only_nifti(folder, files[:1])

        def save() -> Path:
            require_size(file)
            return service.datastore.save_labels(name, query.get("tag", ""), file, names)

        new = await service.queue.run(save)
    finally:
        await run_in_threadpool(discard, folder)
    return JSONResponse({"image": name, "label": name, "version": new.name[:3]})


async def _only_nifti(folder: Path, files: list) -> Path:
    """Put a file on disk, which must be NIfTI."""
    await run_in_threadpool(put_into, folder, files)
    [file] = folder.iterdir()
    if not nifti.is_nifti(file):
        raise HTTPException(
            415, "only .nii.gz and .nii are taken here; in 3D Slicer, set the file extension of MONAI Label to .nii.gz"
        )
    return file


async def image(service: Service, request: Request) -> Response:
    """Give a scan's file."""
    _, file = service.datastore.scan(request.query_params.get("image", ""))
    return FileResponse(file, media_type="application/octet-stream", filename=file.name)


async def image_info(service: Service, request: Request) -> Response:
    """Tell of a scan."""
    name, file = service.datastore.scan(request.query_params.get("image", ""))
    return JSONResponse(await run_in_threadpool(_sample, service, name, file))


async def label(service: Service, request: Request) -> Response:
    """Give a scan's newest labels."""
    query = request.query_params
    file = service.datastore.label(query.get("label", ""), query.get("tag", ""))
    name = service.datastore.scan(query.get("label", ""))[0]
    return FileResponse(file, media_type="application/octet-stream", filename=f"{name}.nii.gz")


async def label_info(service: Service, request: Request) -> Response:
    """Tell of a scan's newest labels."""
    query = request.query_params
    file = service.datastore.label(query.get("label", ""), query.get("tag", ""))
    return JSONResponse({"params": {"label_names": names_of(file)}, "version": file.name[:3]})


async def next_sample(service: Service, request: Request) -> Response:
    """Say which scan should be looked at next; {} where all have labels."""
    strategy = request.path_params["strategy"]
    if strategy not in protocol.STRATEGIES:
        return refusal(404, f"there is no such strategy; there are {', '.join(protocol.STRATEGIES)}")
    protocol.parameters((await request.body()).decode("utf-8", "replace"))
    found = await run_in_threadpool(service.datastore.next_scan, strategy)
    return JSONResponse({} if found is None else await run_in_threadpool(_sample, service, *found))


def _sample(service: Service, name: str, file: Path) -> dict[str, object]:
    return {"id": name, "name": file.name, "checksum": service.datastore.checksum(file)}


async def infer(service: Service, request: Request) -> Response:
    """Segment a scan: of the datastore, of a session, or sent with the request."""
    query = request.query_params
    model, output = service.models.get(request.path_params["model"]), query.get("output", "")
    if model is None:
        return refusal(404, f"there is no such model; there are {', '.join(service.models)}")
    if output not in OUTPUTS:
        return refusal(
            501 if output == "dicom_seg" else 400,
            "output must be all, json or image; viscera predict --write seg makes DICOM",
        )
    form = await read_form(request)
    if form.getlist("label"):
        return refusal(400, "labels or scribbles as a start are not used by these models; send none")
    wishes = protocol.wishes(protocol.parameters(form.get("params", "{}")))
    organs, sent = find_organs(model, wishes.organs), files_of(form, "file")
    name, folder = "", None
    if query.get("session_id"):
        place: Path = service.sessions.get(query["session_id"]).folder
    elif sent:
        place = folder = service.sessions.new_folder()
    elif query.get("image"):
        name, place = service.datastore.scan(query["image"])
    else:
        return refusal(400, "nothing says which scan: give image=, session_id=, or the file itself")
    try:
        if folder is not None:
            await run_in_threadpool(put_into, folder, sent)

        def work() -> tuple[Found, bytes]:
            scan: Scan = scan_in(place) if place.is_dir() else place
            found = find_labels(scan, model, organs)
            return found, nrrd_bytes(found.labels, packed=wishes.packed)

        found, content = await service.queue.run(work)
    finally:
        if folder is not None:
            await run_in_threadpool(discard, folder)
    if name:
        service.datastore.note_doubts(name, 2 * len(found.doubts))
    return _segmentation(found, content, output)


def _segmentation(found: Found, content: bytes, output: str) -> Response:
    """Return the answer in the form that is asked for."""
    params = {
        "label_names": found.names,
        "doubts": found.doubts,
        "notes": found.notes,
        "latencies": {"total": round(found.seconds, 3)},
    }
    if output == "json":
        return JSONResponse(params)
    if output == "image":
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"Content-Disposition": 'attachment; filename="labels.nrrd"'},
        )
    body, kind = protocol.multipart(params, content)
    return Response(body, headers={"Content-Type": kind})


async def logs(service: Service, request: Request) -> Response:
    """Give the last lines of the log."""
    lines = request.query_params.get("lines", "300")
    count = int(lines) if lines.isascii() and lines.isdecimal() and len(lines) < 6 else 300
    return PlainTextResponse(service.log.last(max(1, count)))


async def not_offered(service: Service, request: Request) -> Response:
    """Say honestly what is not there."""
    return refusal(501, protocol.NOT_OFFERED[request.url.path.split("/")[1]])
