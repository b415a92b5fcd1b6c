"""One self-contained HTML page per training run, evaluation or prepared store.

Nothing on a page is loaded from elsewhere: charts are inline SVG, pictures base64 PNG. A page names files and cases,
but neither folders nor anything of a header, since both may name a patient.
"""

from collections.abc import Sequence
from pathlib import Path

from viscera.errors import FileError, RunError
from viscera.evaluation.scores import Evaluation, evaluation_from_json
from viscera.io.atomic import write_text
from viscera.io.same_file import refuse_inputs
from viscera.json_text import load_text
from viscera.networks.find_weights import FOLDS
from viscera.reports.page import Page, render
from viscera.reports.run import is_run, run_page
from viscera.reports.scores import CaseFiles, evaluation_page
from viscera.reports.store import is_store, store_page


def write_report(
    target: Path | Evaluation, out: Path, *, pictures: Sequence[CaseFiles] = (), overwrite: bool = True
) -> Path:
    """Write the report of whatever ``target`` is.

    Args:
        target: A run's folder, a prepared store, an evaluation or its JSON.
        out: The HTML file.
        pictures: For an evaluation, cases of which montages can be made; the best and the worst are drawn.
        overwrite: Whether a file that stands there may be replaced.

    Returns:
        ``out``.

    Raises:
        RunError: The folder is neither run nor store, or its run has no epoch yet; or a fold of it is not finished.
        FileError: A file is not an evaluation, cannot be read, or the page cannot be written, or would replace it.
    """
    if isinstance(target, Path) and not (target.is_dir() and out.suffix.lower() in (".html", ".htm")):
        refuse_inputs([out], [target])  # in the folder of a run or a store, a page is an earlier report
    if isinstance(target, Evaluation):
        page = evaluation_page(target, out.stem, pictures)
    else:
        page = _page(target, pictures)
    write_text(out, render(page), overwrite=overwrite)
    return out


def _page(target: Path, pictures: Sequence[CaseFiles]) -> Page:
    if not target.exists():
        raise FileError(
            f"{target} does not exist",
            "Pass a run's folder, a store, or the JSON that viscera evaluate wrote.",
            file=target,
        )
    if (target / FOLDS).is_file():
        target = target / "out_of_fold" / "scores.json"
        if not target.is_file():
            raise RunError(
                f"{target.parents[1]} is cross-validated, but not all of its folds are finished",
                "Go on with it (viscera train ... --resume), or pass the folder of one fold.",
                file=target,
            )
    if target.is_dir() and is_run(target):
        return run_page(target)
    if target.is_dir() and is_store(target):
        return store_page(target)
    if target.is_dir():
        raise RunError(
            f"{target} is neither a run (it has no recipe.json) nor a store (no store.json)",
            "Pass the folder that viscera train or prepare wrote, or the JSON of viscera evaluate.",
            file=target,
        )
    try:
        text = load_text(target)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{target.name} is not an evaluation ({error})",
            "Pass what viscera evaluate --json wrote, a run's folder, or a store.",
            file=target,
        ) from error
    return evaluation_page(evaluation_from_json(text, where=target.name), target.stem, pictures)
