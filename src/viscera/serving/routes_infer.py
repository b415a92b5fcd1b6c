"""Routes of segmenting: what is offered, which scan is next, and a scan's label map."""

from importlib.metadata import version
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from viscera.errors import LabelError
from viscera.io.scans import Scan
from viscera.serving import protocol
from viscera.serving.guard import refusal
from viscera.serving.nrrd import as_viewers_have_it, nrrd_bytes
from viscera.serving.routes_data import sample_of
from viscera.serving.routes_tasks import train_stats, trainers
from viscera.serving.segmenting import Found, describe, find_labels, find_organs
from viscera.serving.service import Service
from viscera.serving.sessions import discard, scan_in
from viscera.serving.uploads import files_of, put_into, read_form

OUTPUTS = ("", "all", "json", "image")


async def info(service: Service, request: Request) -> Response:
    """Say what is offered."""

    def found() -> dict[str, object]:
        """Return what is offered; it reads from the disk."""
        versions = service.versions
        models = {}
        for name, model in service.models.items():
            models[name] = describe(model, service.labels(name))
            if versions is not None and name in versions.first:
                models[name]["version"] = versions.history(name).serving
        status = service.datastore.status()
        return protocol.info(
            models, status, version=version("viscera"), trainers=trainers(service), train_stats=train_stats(service)
        )

    return JSONResponse(await run_in_threadpool(found))


async def next_sample(service: Service, request: Request) -> Response:
    """Say which scan should be looked at next; {} where all have labels."""
    strategy = request.path_params["strategy"]
    if strategy not in protocol.STRATEGIES:
        return refusal(404, f"there is no such strategy; there are {', '.join(protocol.STRATEGIES)}")
    protocol.parameters((await request.body()).decode("utf-8", "replace"))
    found = await run_in_threadpool(service.datastore.next_scan, strategy)
    return JSONResponse({} if found is None else await run_in_threadpool(sample_of, service, *found))


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
    organs, sent = (
        find_organs(model, wishes.organs, service.usual_organs(request.path_params["model"])),
        files_of(form, "file"),
    )
    listed = _listed(service.labels(request.path_params["model"]), organs) if output == "image" else ()
    name, folder = "", None
    if query.get("session_id"):
        place: Path = service.sessions.get(query["session_id"]).folder
    elif sent:
        place = folder = service.sessions.new_folder()
    elif query.get("image"):
        name, place = service.datastore.place(query["image"])
    else:
        return refusal(400, "nothing says which scan: give image=, session_id=, or the file itself")
    try:
        if folder is not None:
            await run_in_threadpool(put_into, folder, sent)

        def work() -> tuple[Found, bytes]:
            """Segment, and put the labels into the form that was asked for."""
            scan: Scan = scan_in(place) if place.is_dir() else place
            found = find_labels(scan, model, organs, listed=listed, last=service.last)
            labels = as_viewers_have_it(found.labels, scan) if listed else found.labels
            return found, nrrd_bytes(labels, packed=wishes.packed, kind=wishes.kind)

        found, content = await service.queue.run(work)
    finally:
        if folder is not None:
            await run_in_threadpool(discard, folder)
    if name:
        service.datastore.note_doubts(name, 2 * len(found.doubts))
    return _segmentation(found, content, output)


def _listed(labels: tuple[str, ...], organs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the organs by which labels without names are numbered.

    Raises:
        LabelError: An organ is asked for that is not among them.
    """
    for organ in organs:
        if organ not in labels:
            raise LabelError(
                f"{organ} is not among the labels that /info/ lists, which number a label map alone (output=image)",
                "Ask for it without output=, so that the answer names its labels.",
            )
    return labels


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
