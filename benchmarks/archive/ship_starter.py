"""Make the bundled weights of a run: src/viscera/networks/bundled/starter.safetensors and its card, starter.json.

Usage: python -m benchmarks.archive.ship_starter RUN --figures FACTS.json [--out src/viscera/networks/bundled] [--average FILE]

With --average the tensors are the means of RUN's and of those that its training began with: networks between before and after
fine-tuning have learnt the new and forgot little of the old (Wortsman et al. 2022, WiSE-FT, arXiv:2109.01903). So is version 2.

FACTS.json says what the run cannot know. "scores" is what `viscera evaluate --json` wrote, beside FACTS.json; each organ's Dice
and NSD are taken from it, with their intervals. Commit, date and seeds may be left out: this checkout's, today, the recipe's.

    {"title": "19 abdominal organs in CT, learnt from synthetic patients", "version": "1",
     "training_data": [{"name": "synthetic", "what": "12000 procedural patients", "licence": "none needed"}],
     "evidence": [{"name": "20 slices", "what": "one patient, labels by TotalSegmentator", "real": true, "scores": "a.json"}],
     "shipped": ["liver", "spleen"], "known_failures": ["Low kidneys are taken for bowel."],
     "training_range": {"slice_spacing_mm": [1, 8], "intensity_hu": [-1024, 3071], "scan_range": "pelvis to mid-thorax"}}

An organ is shipped only if it has figures on real scans; the other organs of the run are experimental. To measure the very
weights that are shipped, run this twice: first with no organ shipped, then, after `viscera predict --organs all`, with them.
"""

import argparse
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydantic
from torch import Tensor

from benchmarks.machine import ROOT, commit
from viscera.errors import SettingError
from viscera.evaluation.scores import Evaluation, evaluation_from_json
from viscera.networks.cards import Shipped
from viscera.networks.weights import Weights, find_weights, load_weights, save_weights

sys.path.append(str(ROOT / "tools"))
from bundle_weights import Facts, ship


def main(arguments: list[str] | None = None) -> Shipped:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--average", type=Path, help="weights to take the mean with")
    parser.add_argument("--out", type=Path, default=ROOT / "src" / "viscera" / "networks" / "bundled")
    options = parser.parse_args(arguments)
    facts, evaluations = read_facts(options.figures)
    run = options.run
    if options.average:
        run = options.figures.parent / "average.safetensors"
        save_weights(run, average(*(load_weights(find_weights(one)) for one in (options.run, options.average))))
    made = ship(run, options.out, facts=facts, evaluations=evaluations)
    tested, others = (made.card.of_standing(standing) for standing in ("shipped", "experimental"))
    print(f"{made.file}: {made.file.stat().st_size / 2**20:.2f} MiB, SHA-256 {made.card.sha256}")
    print(f"default organs: {', '.join(tested) or 'none'}; experimental: {', '.join(others) or 'none'}")
    return made


def average(one: Weights, other: Weights) -> Weights:
    """Return the first weights with the mean of both ones' tensors; they must be of one recipe."""
    return replace(one, tensors={name: mean(tensor, other.tensors[name]) for name, tensor in one.tensors.items()})


def mean(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of two tensors; the first of two that hold whole numbers."""
    return ((one.float() + other.float()) / 2).to(one.dtype) if one.is_floating_point() else one


def read_facts(file: Path) -> tuple[Facts, dict[str, Evaluation]]:
    """Read what is said of the run, and the evaluations that it names.

    Raises:
        SettingError: Something is missing, or not of its type.
        FileError: No evaluation.
    """
    said = {"commit": commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")} | json.loads(file.read_text())
    evaluations = {}
    for one in said.get("evidence", ()):
        scores = file.parent / one.pop("scores", "")
        evaluations[one.get("name", "")] = evaluation_from_json(scores.read_text(), where=str(scores))
    try:
        return pydantic.TypeAdapter(Facts).validate_python(said), evaluations
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise SettingError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


if __name__ == "__main__":
    main()
