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
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from viscera.errors import SettingError
from viscera.json_text import parse_json

STRATEGIES = {
    "least_sure": "the scan whose result is least sure first: by the Dice that viscera predicts, else by what speaks against it",
    "random": "any scan without labels",
    "first": "the first scan without labels, by name",
}
SCORING = {"dice": "Dice of what was segmented in the background (tag original) with the final labels, per organ"}
MOST_PARAMETERS = 100_000
"""Characters of ``params``."""


@dataclass(frozen=True)
class Wishes:
    """What a client asks of a segmentation, of which viscera offers some.

    Attributes:
        organs: Only these; () for those that the model gives by itself.
        packed: Whether the voxels are to be compressed.
        kind: Of the voxels; OHIF 2 wants uint16.
    """

    organs: tuple[str, ...] = ()
    packed: bool = True
    kind: Literal["uint8", "uint16"] = "uint8"


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
        SettingError: Another form of file is asked for than NRRD with uint8 or uint16, or organs are not a list of names.
    """
    extension, dtype = params.get("result_extension", ".nrrd"), params.get("result_dtype", "uint8")
    if extension != ".nrrd":
        raise SettingError("result_extension: label maps are given as .nrrd only", 'Ask for ".nrrd", or leave it out.')
    if dtype not in ("uint8", "uint16"):
        raise SettingError("result_dtype: label maps hold uint8 or uint16", 'Ask for "uint8", or leave it out.')
    organs = params.get("organs") or []
    if not isinstance(organs, list) or not all(isinstance(organ, str) for organ in organs):
        raise SettingError("organs is not a list of names", 'Send {"organs": ["liver", "spleen"]}.')
    kind = "uint16" if dtype == "uint16" else "uint8"
    return Wishes(tuple(organs), params.get("result_compress", True) is not False, kind)


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


def as_listed(
    labels: UInt8[np.ndarray, "z y x"], names: Mapping[int, str], listed: Sequence[str]
) -> tuple[UInt8[np.ndarray, "z y x"], dict[str, int]]:
    """Renumber labels as /info/ lists a model's: who gets a label map alone (OHIF) takes the i-th value for the i-th of those.

    Args:
        labels: 0 is background.
        names: {label: organ}.
        listed: The organs, of which every name is one.

    Returns:
        The labels, and {organ: label} of all names.

    Example:
        >>> as_listed(np.array([[[0, 4, 9]]], np.uint8), {4: "spleen", 9: "aorta"}, ["aorta", "liver", "spleen"])
        (array([[[0, 3, 1]]], dtype=uint8), {'spleen': 3, 'aorta': 1})
    """
    numbers = {organ: listed.index(organ) + 1 for organ in names.values()}
    table = np.zeros(256, np.uint8)
    for value, organ in names.items():
        table[value] = numbers[organ]
    return table[labels], numbers


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
    models: Mapping[str, Mapping[str, object]],
    datastore: Mapping[str, object],
    *,
    version: str,
    trainers: Mapping[str, object] = MappingProxyType({}),
    train_stats: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """Return the answer to /info/: no top-level "config", which Slicer takes for a server that is too old.

    Args:
        models: {name: from ``model_info``}.
        datastore: From ``Datastore.status``.
        version: viscera's.
        trainers: {model that can learn: description and settings}.
        train_stats: {model: how far its training is, and how its versions compare}.
    """
    labels = dict.fromkeys(str(label) for model in models.values() for label in _list(model["labels"]))
    return {
        "name": "viscera",
        "description": "Abdominal organs in CT. Not a medical device: for research, not for diagnosis or treatment.",
        "version": version,
        "labels": list(labels),
        "models": models,
        "trainers": dict(trainers),
        "strategies": {name: {"description": what, "config": {}} for name, what in STRATEGIES.items()},
        "scoring": {name: {"description": what, "config": {}} for name, what in SCORING.items()},
        "train_stats": dict(train_stats),
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
