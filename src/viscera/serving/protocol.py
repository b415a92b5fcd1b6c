"""What MONAI Label's clients ask and are answered: parameters in, dictionaries and multipart bodies out.

Source: Project-MONAI/MONAILabel 0.8, monailabel/client/client.py and plugins/slicer (what they send and read).

3D Slicer gives label i of a label map the i-th name of the answer, whatever numbers the answer gives. So labels are renumbered
without gaps over the organs that are there, and only those are named (``dense``): else an organ would get another's name, or,
where its label is larger than the number of names, vanish in silence (tests/serving/test_slicer_import.py shows both).
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from viscera.errors import SettingError
from viscera.json_text import parse_json

STRATEGIES = {
    "least_sure": "the scan whose result is most doubtful first, by what viscera found against it; then those without a result",
    "first": "the first scan without labels, by name",
}
NOT_OFFERED = {
    "train": "training is not available here: take the saved labels to a machine for it (viscera prepare, viscera train)",
    "scoring": "scoring is not available here: viscera evaluate measures label maps against the truth",
    "batch": "segmenting all scans at once is not available here: viscera predict STUDIES OUT does that",
}
MOST_PARAMETERS = 100_000
"""Characters of ``params``."""


@dataclass(frozen=True)
class Wishes:
    """What a client asks of a segmentation, of which viscera offers some.

    Attributes:
        organs: Only these; () for those that the model gives by itself.
        packed: Whether the voxels are to be compressed.
    """

    organs: tuple[str, ...] = ()
    packed: bool = True


def parameters(text: object) -> dict[str, object]:
    """Return the JSON object in the form field ``params``.

    Raises:
        SettingError: It is not one.
    """
    if not isinstance(text, str):
        raise SettingError("params is a file, not a field with JSON", "Send it as a field of the form.")
    if len(text) > MOST_PARAMETERS:
        raise SettingError(f"params has more than {MOST_PARAMETERS} characters", "Send less.")
    try:
        found = parse_json(text or "{}")
    except ValueError as error:
        raise SettingError(f"params is not JSON ({error})", 'Send an object, such as {"organs": ["liver"]}.') from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingError("params is not a JSON object", 'Send an object, such as {"organs": ["liver"]}.')
    return found


def wishes(params: Mapping[str, object]) -> Wishes:
    """Return what is asked of a segmentation; what viscera does not know of is for other models.

    Raises:
        SettingError: Another form of file is asked for than NRRD with uint8, or organs are not a list of names.
    """
    extension, dtype = params.get("result_extension", ".nrrd"), params.get("result_dtype", "uint8")
    if extension != ".nrrd":
        raise SettingError("result_extension: label maps are given as .nrrd only", 'Ask for ".nrrd", or leave it out.')
    if dtype != "uint8":
        raise SettingError("result_dtype: label maps hold uint8 only", 'Ask for "uint8", or leave it out.')
    organs = params.get("organs") or []
    if not isinstance(organs, list) or not all(isinstance(organ, str) for organ in organs):
        raise SettingError("organs is not a list of names", 'Send {"organs": ["liver", "spleen"]}.')
    return Wishes(tuple(organs), params.get("result_compress", True) is not False)


def dense(
    labels: UInt8[np.ndarray, "z y x"], names: Mapping[int, str]
) -> tuple[UInt8[np.ndarray, "z y x"], dict[str, int]]:
    """Renumber labels as 1, 2, 3 ... over those that are there.

    Args:
        labels: 0 is background.
        names: {label: organ}.

    Returns:
        The labels, and {organ: label} of those that are there, in the order of the labels.

    Example:
        >>> dense(np.array([[[0, 4, 9]]], np.uint8), {1: "liver", 4: "spleen", 9: "aorta"})
        (array([[[0, 1, 2]]], dtype=uint8), {'spleen': 1, 'aorta': 2})
    """
    there = [int(value) for value in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256)) if value]
    table = np.zeros(256, np.uint8)
    table[there] = np.arange(1, len(there) + 1)
    return table[labels], {names[value]: number for number, value in enumerate(there, start=1)}


def segment_names(params: Mapping[str, object]) -> dict[int, str]:
    """Return {value: name} of a label map that 3D Slicer saved, from ``label_info``: [{"name": ..., "idx": ...}, ...].

    Slicer writes the segments that it saves as 1, 2, 3 ..., but counts in ``idx`` those that it leaves out, too. Where the two
    differ, the names of values cannot be known for certain.

    Raises:
        SettingError: It is missing or not such a list, two segments have one name, or the numbers have gaps.
    """
    listed = params.get("label_info")
    if not isinstance(listed, list) or not listed:
        raise SettingError(
            "params has no label_info, so nothing says what the labels are",
            'Send {"label_info": [{"name": "liver", "idx": 1}, ...]}, as 3D Slicer does.',
        )
    names: dict[int, str] = {}
    for number, one in enumerate(listed, start=1):
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not name.strip() or len(name) > 200:
            raise SettingError("label_info: an entry has no name", 'Each is {"name": "liver", "idx": 1}.')
        if one.get("idx", number) != number:
            raise SettingError(
                "label_info: the numbers of the segments have gaps, so which label is which cannot be known",
                "Delete or move to the end the segments that are not saved (background, scribbles), and save again.",
            )
        if name in names.values() or number > 255:
            raise SettingError(
                "label_info: two segments have one name, or there are too many", "Rename or delete some."
            )
        names[number] = name
    return names


def info(
    models: Mapping[str, Mapping[str, object]], datastore: Mapping[str, object], *, version: str
) -> dict[str, object]:
    """Return the answer to /info/: no top-level "config", which Slicer takes for a server that is too old.

    Args:
        models: {name: from ``model_info``}.
        datastore: From ``Datastore.status``.
        version: viscera's.
    """
    labels = dict.fromkeys(str(label) for model in models.values() for label in _list(model["labels"]))
    return {
        "name": "viscera",
        "description": "Abdominal organs in CT. Not a medical device: for research, not for diagnosis or treatment.",
        "version": version,
        "labels": list(labels),
        "models": models,
        "trainers": {},
        "strategies": {name: {"description": what, "config": {}} for name, what in STRATEGIES.items()},
        "scoring": {},
        "train_stats": {},
        "datastore": datastore,
    }


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def model_info(labels: Sequence[str], *, description: str) -> dict[str, object]:
    """Return what /info/ says of one model: what it takes is a volume, so its dimension is 3 even if it goes by slices."""
    return {
        "type": "segmentation",
        "labels": list(labels),
        "dimension": 3,
        "description": description,
        "config": {},
    }


def multipart(params: Mapping[str, object], content: bytes) -> tuple[bytes, str]:
    """Return the answer to /infer/: its body and its content type.

    The file part has a file name: the client saves under it, in a folder that others may use, so each answer has its own.

    Args:
        params: Becomes the field ``params``.
        content: The label map.
    """
    boundary, word = secrets.token_hex(16), secrets.token_hex(8)
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n',
        json.dumps(params),
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="viscera-{word}.nrrd"\r\n',
        "Content-Type: application/octet-stream\r\n\r\n",
    )
    body = b"".join(("".join(parts).encode(), content, f"\r\n--{boundary}--\r\n".encode()))
    return body, f"multipart/form-data; boundary={boundary}"
