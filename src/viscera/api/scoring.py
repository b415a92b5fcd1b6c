"""Label maps -> scores, comparisons and reports."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from viscera.api.data import warn_of
from viscera.datasets.sources import Source
from viscera.errors import FileError, SettingError, did_you_mean
from viscera.evaluation import comparing
from viscera.evaluation import evaluate as scoring
from viscera.evaluation.comparing import Comparison
from viscera.evaluation.pairing import find_jobs
from viscera.evaluation.scores import ALL, Evaluation
from viscera.reports.write import write_report

PathLike = str | os.PathLike[str]


def evaluate(
    truth: PathLike | Sequence[Source],
    prediction: PathLike,
    *,
    mode: scoring.Mode = "volume",
    tolerance_mm: float | None = None,
    labels: PathLike | None = None,
    jobs: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure predicted label maps against the truth: per case and organ, and means with 95 % intervals over patients.

    Organs are matched by name, so truth and prediction may number them otherwise. An organ that a case's truth does not
    annotate gets no score, rather than 0 or 1.

    Args:
        truth: A label file, a folder of them, or cases from ``find_cases``.
        prediction: A label file, or a folder of them, named after the cases.
        mode: "volume": Dice, IoU, surface Dice (NSD), 95 % Hausdorff distance and volumes. "slices": zhang2d's slice Dice and
            IoU. "flare": those of "volume", and Dice and NSD as the official code of FLARE23 has them.
        tolerance_mm: Tolerance of the NSD, of all organs; None: FLARE23's of each organ.
        labels: JSON file {index: organ} for label files without a NAME.json beside them.
        jobs: Cases scored at once; 0: one per core.
        progress: Called with the cases that are done, and how many there are.

    Returns:
        ``summary``: rows with ``organ`` ("mean": over all), ``metric``, ``mean``, ``low``, ``high`` and ``cases``. ``scores``:
        rows with ``case``, ``patient``, ``organ`` and ``values``, {metric: value}, NaN where there is no score. ``problems``:
        cases that could not be scored (then there is a warning, too). ``to_json()`` and ``to_csv()`` give it as text.

    Raises:
        FileError: There is nothing to compare.
        SettingError: A setting is out of its range.

    Example:
        >>> import json, numpy as np, viscera
        >>> from pathlib import Path
        >>> voxels = np.zeros((8, 16, 16), np.uint8)
        >>> voxels[2:6, 4:12, 4:12] = 1
        >>> viscera.write("truth.nii.gz", viscera.Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0])))
        >>> viscera.write("found.nii.gz", viscera.Volume(np.roll(voxels, 1, axis=0), np.diag([2.0, 2.0, 2.0, 1.0])))
        >>> _ = Path("names.json").write_text(json.dumps({"1": "liver"}))
        >>> scores = viscera.evaluate("truth.nii.gz", "found.nii.gz", labels="names.json")
        >>> scores.scores[0].values["dice"]  # moved by one of four slices
        0.75
    """
    if mode == "slices" and tolerance_mm is not None:
        raise SettingError("tolerance_mm is for surfaces, which mode 'slices' does not judge", "Leave one of them out.")
    if jobs < 0:
        raise SettingError(f"jobs must not be negative, got {jobs}.")
    if labels is not None and not Path(labels).is_file():
        raise FileError(f"{labels}: no such file", "Check the path of labels.")
    given = Path(truth) if isinstance(truth, str | os.PathLike) else truth
    ended: list[str] = []
    total = len(find_jobs(given, Path(prediction))[0]) if progress else 0

    def done(case: str) -> None:
        ended.append(case)
        if progress is not None:
            progress(len(ended), total)

    found = scoring.evaluate(
        given,
        Path(prediction),
        labels=None if labels is None else Path(labels),
        rules=scoring.Rules(mode, other_tolerance_mm=tolerance_mm),
        workers=jobs or os.cpu_count() or 1,
        done=done,
    )
    problems = [f"{one.case} ({one.file}): {one.what}. {one.remedy}" for one in found.problems]
    warn_of(problems, of=len(problems) + len({row.case for row in found.scores}), what="cases could not be scored")
    return found


def compare(
    first: Evaluation, second: Evaluation, *, metric: str = "dice", group: str = ALL, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare two evaluations of the same cases, each patient with itself.

    Args:
        first: From ``evaluate``.
        second: The other; differences are second minus first.
        metric: Which score: "dice", "nsd", "hd95_mm" ...
        group: "all", or only organs that the case's own data set has "annotated" or "unannotated".
        seed: Of the bootstrap.

    Returns:
        A row per organ, and one for their "mean": ``organ``, ``metric``, ``difference`` with the ends ``low`` and ``high`` of
        its 95 % interval over patients, ``p_value`` of Wilcoxon's signed-rank test, ``patients``, and ``left_out``, scores that
        have no partner. ``difference`` is second minus first. Values are NaN where no case has both scores; fewer than six
        patients cannot give p < 0.05.

    Warns:
        UserWarning: Cases that only one of the two has scored.

    Raises:
        SettingError: There is no such metric or group, or the two have no case in common.

    Example:
        >>> import numpy as np, viscera
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver", "spleen"])
        >>> truth = viscera.evaluate(cases, "patients/labelsTr")
        >>> [(row.organ, row.difference) for row in viscera.compare(truth, truth)]
        [('liver', 0.0), ('spleen', 0.0), ('mean', 0.0)]
    """
    known = {name: None for found in (first, second) for row in found.scores for name in row.values}
    if metric not in known:
        raise SettingError(
            f"no score is called '{metric}'", f"{did_you_mean(metric, known)} There are {', '.join(known)}."
        )
    if not {row.case for row in first.scores} & {row.case for row in second.scores}:
        raise SettingError("the two evaluations have no case in common", "Evaluate predictions of the same cases.")
    alone = comparing.cases_of_one(first.scores, second.scores)
    if alone:
        warnings.warn(
            f"{len(alone)} cases that only one evaluation has scored are in no difference: {', '.join(alone[:5])}",
            stacklevel=2,
        )
    return comparing.compare(first.scores, second.scores, np.random.default_rng(seed), metric=metric, group=group)


def report(target: PathLike | Evaluation, out: PathLike, *, overwrite: bool = False) -> Path:
    """Write one self-contained HTML page about a run, an evaluation or a prepared store.

    Args:
        target: A run's folder, a store, an evaluation, or its JSON.
        out: The page.
        overwrite: Replace a page that stands there.

    Returns:
        ``out``.

    Raises:
        FileError: There is nothing at ``target``, or a page at ``out``.
        RunError: The folder is neither a run nor a store.

    Example:
        >>> import viscera
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver"])
        >>> scores = viscera.evaluate(cases, "patients/labelsTr")
        >>> viscera.report(scores, "report.html").name
        'report.html'
    """
    given = target if isinstance(target, Evaluation) else Path(target)
    return write_report(given, Path(out), overwrite=overwrite)
