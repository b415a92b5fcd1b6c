"""Data sets: find their cases, prepare them for training, or make synthetic ones."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from viscera.config import Recipe
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Problem, Source
from viscera.datasets.synthetic import Cohort, write_cohort
from viscera.errors import SettingError, did_you_mean
from viscera.preparation.own_splits import OwnSplits
from viscera.preparation.prepare import Plan, PrepareResult, prepare_store
from viscera.preparation.splits import of_split
from viscera.recipes.catalogue import find_recipe
from viscera.synthesis.variety import VARIETIES

PathLike = str | os.PathLike[str]
Split = Literal["all", "training", "validation", "test"]


def find_cases(layout: str, folder: PathLike, *, split: Split = "all", run: PathLike | None = None) -> list[Source]:
    """Find the cases of a data set; no image is opened.

    Args:
        layout: How the data set lies on disk: "nnunet", "msd", "abdomenct1k", "totalsegmentator", "images" ... (`viscera info
            layouts` describes them all).
        folder: The data set's.
        split: Only the cases of this split of a run: "test" for honest scores.
        run: The folder of the run whose split is meant.

    Returns:
        The cases, sorted by name. Of each: ``name``, ``image`` (path), ``labels`` (path; or (organ, path) of each mask; or
        None), ``organs`` ((value, organ), ...) and ``annotated``, the organs that were looked for. Files that make up no case
        are left out, with a warning.

    Raises:
        SettingError: There is no such layout, or none of the cases is in the split.
        DataSetError: The folder is not laid out so.
        RunError: The run does not say what its splits are.

    Example:
        >>> import viscera
        >>> written = viscera.synthesize("patients", cases=1, shape=(16, 32, 32), annotate=["liver"])
        >>> [case] = viscera.find_cases("nnunet", "patients")
        >>> case.name, case.image.name, case.annotated
        ('case_0001', 'case_0001_0000.nii.gz', ('liver',))
    """
    sources, problems = find_sources(layout, Path(folder))
    _warn_of_problems(problems, of=len(sources) + len(problems), what="cases cannot be used")
    return of_split(sources, None if run is None else Path(run), split)


def prepare(
    store: PathLike,
    data: Mapping[str, PathLike] | Sequence[tuple[str, PathLike]],
    *,
    recipe: Recipe | str,
    jobs: int = 0,
    seed: int = 0,
    splits: PathLike | tuple[PathLike, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareResult:
    """Prepare data sets into one store to train from: check every scan and bring it and its labels to the recipe's form.

    Which organs a case annotates is kept: what it does not annotate is unknown, not background. Patients (never slices) are
    divided into training, validation and test. The same call goes on after an interruption, or adds data sets. Scans are
    prepared by processes of their own, so a script calls this under ``if __name__ == "__main__":``.

    Args:
        store: Folder of the store.
        data: {layout: folder}, or a list of (layout, folder) where a layout comes twice. "layout:name" names a data set other
            than its folder.
        recipe: From ``find_recipe``, or its name: whose preparation and organs.
        jobs: Scans prepared at once; 0: one per core, fewer where memory is short.
        seed: Of the division of the patients.
        splits: Your own division instead: a JSON file {"training": [cases], "validation": [cases], "test": [cases]}, or
            (nnU-Net's splits_final.json, number of the fold).
        progress: Called with the scans that are done, and how many there are.

    Returns:
        ``prepared`` and ``skipped`` (done before) cases, ``problems`` (also in STORE/problems.json; then there is a warning,
        too) and ``notes`` on merged, lost and partly annotated organs.

    Raises:
        SettingError: There is no such recipe or layout.
        DataSetError: A folder is not laid out so, or the splits do not fit the cases.
        StoreError: The folder holds something else, or was prepared for another recipe.

    Example:
        >>> import viscera
        >>> recipe = viscera.find_recipe("zhang2d-small", {"preparation.size": (32, 32)})
        >>> cases = viscera.synthesize("patients", cases=1, shape=(16, 32, 32))
        >>> viscera.prepare("store", {"nnunet": "patients"}, recipe=recipe, jobs=1).prepared
        ('patients__case_0001',)
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if min(jobs, seed) < 0:
        raise SettingError(f"jobs and seed must not be negative, got {jobs} and {seed}.")
    own = OwnSplits.of(splits)
    found = [
        find_sources(layout, Path(folder)) for layout, folder in (data.items() if isinstance(data, Mapping) else data)
    ]
    if not found:
        raise SettingError("data names no data set", "Give {layout: folder}, for instance {'nnunet': 'Dataset001'}.")
    sources = [source for these, _ in found for source in these]
    ended: list[str] = []

    def done(name: str, how: str) -> None:
        ended.append(name)
        if progress is not None:
            progress(len(ended), len(sources))

    result = prepare_store(
        Path(store),
        sources,
        problems=[problem for _, wrong in found for problem in wrong],
        space=recipe.space,
        preparation=recipe.preparation,
        plan=Plan(jobs, seed, own=own),
        on_done=done,
    )
    _warn_of_problems(result.problems, of=len(sources), what="cases could not be prepared")
    return result


def synthesize(
    folder: PathLike,
    *,
    layout: str = "nnunet",
    cases: int = 10,
    shape: tuple[int, int, int] = (96, 256, 256),
    annotate: Sequence[str] = (),
    variety: Literal["plain", "rich"] = "plain",
    seed: int = 0,
) -> list[Source]:
    """Write a data set of synthetic patients, to try things out; no patient's data goes into it.

    Patients are made by processes of their own, so a script calls this under ``if __name__ == "__main__":``.

    Args:
        folder: New or empty.
        layout: How it lies on disk, as for ``find_cases``.
        cases: How many patients.
        shape: Slices, rows and columns of a scan.
        annotate: Organs to label; all that the layout can hold where none is named.
        variety: "plain": average abdomens in one kind of scan. "rich": all that networks for real scans should have seen.
        seed: Another seed gives other patients.

    Returns:
        The cases, as ``find_cases`` gives them.

    Raises:
        SettingError: There is no such layout or variety, or fewer than one patient, or fewer than 16 voxels along an axis.
        DataSetError: The folder is not empty.
        LabelError: The layout cannot hold an organ.

    Example:
        >>> import viscera
        >>> [case] = viscera.synthesize("patients", cases=1, shape=(16, 32, 32))
        >>> viscera.read(case.image).shape
        (16, 32, 32)
    """
    if cases < 1 or min(shape) < 16:
        raise SettingError(f"cases must be at least 1, shape at least 16 along each axis, got {cases} and {shape}.")
    if variety not in VARIETIES:
        raise SettingError(
            f"no variety '{variety}'", f"{did_you_mean(variety, VARIETIES)} Choose one of {', '.join(VARIETIES)}."
        )
    cohort = Cohort(layout, tuple(annotate), cases, seed, shape, variety=VARIETIES[variety])
    write_cohort(Path(folder), cohort, jobs=min(cases, os.cpu_count() or 1))
    return find_cases(layout, folder)


def warn_of(problems: Sequence[str], *, of: int, what: str) -> None:
    """Warn once where a call goes on without some of the files that it was given."""
    if problems:
        warnings.warn(f"{len(problems)} of {of} {what}. The first: {problems[0]}", stacklevel=4)


def _warn_of_problems(problems: Sequence[Problem], *, of: int, what: str) -> None:
    warn_of([f"{one.case} ({one.file}): {one.what}. {one.remedy}" for one in problems], of=of, what=what)
