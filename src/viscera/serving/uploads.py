"""Requests' forms: their fields, and their files put on disk under checked names."""

import shutil
from pathlib import Path
from typing import NoReturn

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from viscera.serving.names import safe_name

MOST_FILES = 5000
"""In one request: the slices of a series."""


async def read_form(request: Request) -> FormData:
    """Return a request's form; its files lie in temporary files that go with it.

    Raises:
        HTTPException: 400, it is malformed or has too many parts (starlette's); 413 and 408 (guard.py); 415, it is no form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise HTTPException(415, "send a form (multipart/form-data)")
    return await request.form(max_files=MOST_FILES, max_fields=100)


def files_of(form: FormData, *fields: str) -> list[UploadFile]:
    """Return the files of the fields with these names.

    Raises:
        HTTPException: 400, a field of that name is no file.
    """
    found = [one for field in fields for one in form.getlist(field)]
    files = [one for one in found if isinstance(one, UploadFile)]
    if len(files) != len(found):
        raise HTTPException(400, f"the field {' or '.join(fields)} must be a file, with a file name")
    return files


def refuse_none(what: str) -> NoReturn:
    """Say that a file is missing."""
    raise HTTPException(400, f"the form has no file in the field '{what}'")


def put_into(folder: Path, files: list[UploadFile]) -> None:
    """Write files into a folder, each under its name.

    Clients send paths of their own machine as names, of which only the last part counts.

    Raises:
        FileError: A name could lead elsewhere.
        HTTPException: 400, two have one name.
    """
    for file in files:
        name = safe_name((file.filename or "").replace("\\", "/").rpartition("/")[2], what="file")
        if (folder / name).exists():
            raise HTTPException(400, "two files have the same name")
        with (folder / name).open("xb") as new:
            shutil.copyfileobj(file.file, new)
