"""Pack a scene into one HTML file that loads nothing from elsewhere, or into a page with its volumes beside it."""

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from jinja2 import Environment, StrictUndefined

from viscera.errors import FileError
from viscera.figures.pictures import SOFT_TISSUE_HU, UNJUDGED, WINDOWS_HU, require_window
from viscera.io import nifti
from viscera.io.atomic import write_text
from viscera.reports.viewer.scene import Scene, ViewName
from viscera.volume import Volume

MOST_EMBEDDED_MB = 150
"""Compressed volumes of more megabytes (10^6 bytes) are not embedded: the text of the page, a third larger, has to fit
into one string of the browser and, unpacked, into its memory."""


def pack(scene: Scene) -> dict[str, bytes]:
    """Return the scene's volumes as .nii.gz, {"ct": ..., "prediction": ...}; headers are new, so no text is carried over."""
    volumes: dict[str, Shaped[np.ndarray, "z y x"]] = {"ct": scene.ct, **scene.layers}
    packed = {}
    with tempfile.TemporaryDirectory(prefix="viscera-view-") as folder:
        for name, voxels in volumes.items():
            path = Path(folder) / f"{name}.nii.gz"
            nifti.write(path, Volume(voxels, scene.upright_affine))
            packed[name] = path.read_bytes()
            path.unlink()
    return packed


def write_page(
    path: Path, scene: Scene, *, overwrite: bool = False, most_embedded_mb: float = MOST_EMBEDDED_MB
) -> Path:
    """Write the page with everything in it.

    Args:
        path: The HTML file.
        scene: What it shows.
        overwrite: Replace a file that stands there.
        most_embedded_mb: Refuse above this size of the compressed volumes.

    Raises:
        FileError: The scan is too large to embed, or the file exists or cannot be written.
    """
    page = embed(scene, name=path.name, most_embedded_mb=most_embedded_mb)
    write_text(path, page, overwrite=overwrite)
    return path


def embed(
    scene: Scene,
    *,
    name: str = "the page of viscera view",
    view: ViewName = "all",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    most_embedded_mb: float = MOST_EMBEDDED_MB,
) -> str:
    """Return the page with everything in it, as HTML.

    Args:
        scene: What it shows.
        name: Of the page, for messages.
        view: What is seen first.
        window_hu: (black, white), HU, at first.
        most_embedded_mb: Refuse above this size of the compressed volumes.

    Raises:
        FileError: The scan is too large to embed.
        SettingError: The window is empty.
    """
    packed = pack(scene)
    size_mb = sum(map(len, packed.values())) / 1e6
    if size_mb > most_embedded_mb:
        raise FileError(
            f"{name} would hold {size_mb:.0f} MB of compressed volumes; browsers open pages up to "
            f"{most_embedded_mb:g} MB well",
            "Pass --serve to look at this scan without embedding it, or --png for a picture.",
        )
    return render(scene, embedded=packed, view=view, window_hu=window_hu)


def render(
    scene: Scene,
    *,
    embedded: Mapping[str, bytes] | None = None,
    view: ViewName = "all",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> str:
    """Return the page as HTML.

    Args:
        scene: What it shows.
        embedded: The volumes to put into it; None: it fetches NAME.nii.gz from where it lies.
        view: What is seen first.
        window_hu: (black, white), HU, at first.

    Raises:
        SettingError: The window is empty.
    """
    require_window(window_hu)
    static = files("viscera.reports.viewer").joinpath("static")
    text = {name: static.joinpath(name).read_text(encoding="utf-8") for name in ("view.html", "view.css", "view.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    volumes = {name: base64.b64encode(data).decode("ascii") for name, data in (embedded or {}).items()}
    return environment.from_string(text["view.html"]).render(
        title=scene.title,
        version=version("viscera"),
        scene=_json(scene, view=view, window_hu=window_hu),
        volumes=volumes,
        style=text["view.css"],
        script=text["view.js"],
        niivue=static.joinpath("niivue.umd.js").read_text(encoding="utf-8"),
        licences=static.joinpath("THIRD_PARTY.md").read_text(encoding="utf-8"),
        windows=WINDOWS_HU,
        first_hu=window_hu,
        layers=tuple(scene.layers),
        compared="truth" in scene.layers,
        notes=scene.notes,
    )


def _json(scene: Scene, *, view: ViewName, window_hu: tuple[float, float]) -> str:
    """Return what the script needs to know, safe inside a script element."""
    content = {
        "shape": scene.ct.shape,
        "spacing_mm": scene.spacing_mm,
        "starts_mm": scene.starts_mm,
        "steps_mm": scene.steps_mm,
        "start": scene.start,
        "layers": list(scene.layers),
        "organs": [asdict(row) for row in scene.organs],
        "kinds": [{"code": code, "name": name, "colour": rgb} for code, (name, rgb) in scene.kinds.items()],
        "unjudged": UNJUDGED,
        "windows": WINDOWS_HU,
        "view": view,
        "window": window_hu,
    }
    text = json.dumps(content, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
