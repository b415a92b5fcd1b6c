"""Routes of what is kept and who asks: the token, sessions, scans and labels."""

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from viscera.io import nifti
from viscera.serving import protocol
from viscera.serving.datastore import names_of, version_of
from viscera.serving.guard import refusal, same_token
from viscera.serving.segmenting import require_size
from viscera.serving.service import Service
from viscera.serving.sessions import discard, scan_in
from viscera.serving.uploads import files_of, put_into, read_form, refuse_none


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
    return JSONResponse(await run_in_threadpool(sample_of, service, name, file))


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
    return JSONResponse({"params": {"label_names": names_of(file)}, "version": version_of(file)})


def sample_of(service: Service, name: str, file: Path) -> dict[str, object]:
    """Return what a client is told of a scan."""
    return {"id": name, "name": file.name, "checksum": service.datastore.checksum(file)}
