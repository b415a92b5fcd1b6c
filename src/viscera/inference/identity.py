"""What tells whether a label map that stands there is the one that is asked for: contents, never names.

NAME.json notes the SHA-256 of the scan and of the label map, and all that changes the result. Only where all of it is the
same is a scan done. What viscera did not write is told by the lack of such a NAME.json.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from viscera.errors import FileError
from viscera.inference.jobs import ScanJob, described_name, own_facts
from viscera.inference.model import Model
from viscera.inference.reading import scan_sha256

RESULTS = 2
"""Of what predicting gives with the same weights and options; every change of viscera that changes labels raises it."""

OPTIONS = {
    "results": "made by another version of viscera",
    "weights_sha256": "made with other weights",
    "other_weights_sha256": "made with another --tumour or --finder",
    "organs": "made with other --organs",
    "region": "made with another --region",
    "settings_sha256": "made with other settings of the recipe",
    "runtime": "made with another --runtime or --device",
}
"""{what ``made_with`` holds: how a label map was made where it differs}."""


def made_with(model: Model, organs: Sequence[int]) -> dict[str, object]:
    """Return all that changes the label map of a scan, for JSON.

    Memory, cores and batches do not: they change how it is made, not what.

    Args:
        model: The networks.
        organs: Indices of the organs that are asked for; empty for all.
    """
    return {
        "results": RESULTS,
        "weights_sha256": model.weights_sha256,
        "other_weights_sha256": model.sha256s,
        "organs": [model.output_space.labels[index] for index in sorted(set(organs))],
        "region": getattr(model.recipe.inference, "region", None),
        "settings_sha256": [_settings_sha256(each) for each in model.networks],
        "runtime": list(runtimes(model)),
    }


def runtimes(model: Model) -> tuple[str, ...]:
    """Return what runs each network, in which precision and where: on another processor it may be something else."""
    return tuple(f"{each.network.name} {each.network.precision} {each.device}" for each in model.networks)


def _settings_sha256(model: Model) -> str:
    """Return a hash of the settings by which a network is run."""
    recipe = asdict(model.recipe)
    parts = {name: recipe[name] for name in ("preparation", "contrast", "intensity", "network", "postprocessing")}
    windows = {key: value for key, value in recipe["inference"].items() if key not in ("batch_size", "region")}
    text = json.dumps({**parts, "inference": windows, "organs": model.space.organs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_finished(job: ScanJob, wanted: Mapping[str, object], *, overwrite: bool = False) -> bool:
    """Tell whether the label map stands there already: made from this scan, with these options, and as it was written.

    Args:
        job: The scan, and where its label map goes.
        wanted: From ``made_with``.
        overwrite: Whether a label map that stands there is to be replaced, with its NAME.json. A NAME.json that belongs to
            something else is not.

    Returns:
        False where nothing stands there, or is to be replaced.

    Raises:
        FileError: Something else stands there.
    """
    facts = own_facts(job.sidecar)
    if facts is None and os.path.lexists(job.sidecar) and not os.path.lexists(job.output):
        raise FileError(
            f"{job.sidecar.name} exists already, and viscera did not write it",
            "Choose another folder for the output, or move that file.",
            file=job.sidecar,
        )
    run = {} if facts is None else facts["run"]
    described = job.output.name if facts is None else described_name(facts, job.output)
    if described != job.output.name and os.path.lexists(job.output.with_name(described)):
        raise FileError(
            f"{job.sidecar.name} exists already, and belongs to {described}",
            "Give the output another name.",
            file=job.sidecar,
        )
    if overwrite or not os.path.lexists(job.output):
        return False
    difference = "" if facts is None else _difference(job, run, wanted)
    if difference is None:
        return True
    raise FileError(
        f"{job.output.name} exists already, and not from this command{difference and f': it was {difference}'}",
        "Pass --overwrite or choose another output.",
        file=job.output,
    )


def _difference(job: ScanJob, run: Mapping[str, object], wanted: Mapping[str, object]) -> str | None:
    """Say how a label map of viscera's was made otherwise than is asked for; None where it was not."""
    if run["weights_sha256"] != wanted["weights_sha256"]:
        return OPTIONS["weights_sha256"]
    made, scan, labels = run.get("made_with"), run.get("scan_sha256"), run.get("labels_sha256")
    if not isinstance(made, dict) or not scan or not labels:
        return "made by an earlier viscera, which did not note from which scan's contents"
    if scan != scan_sha256(job.scan):
        return "made from another scan"
    for name, how in OPTIONS.items():
        if made.get(name) != wanted[name]:
            return how
    if labels != scan_sha256(job.output):
        return "changed after viscera had written it"
    return None
