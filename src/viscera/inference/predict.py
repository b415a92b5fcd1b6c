"""Scans on disk -> label maps on disk, with what a reader needs beside them.

    NAME.nii.gz       labels on the grid of the scan
    NAME.json         {index: organ}, statistics on request, how and by what it was made
    labels.ctbl       colours for 3D Slicer; labels.itksnap.txt for ITK-SNAP (one pair per folder)

A label map takes its place after its NAME.json, so where both stand, the case is done.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from viscera.errors import FileError, VisceraError
from viscera.inference.certainty import Certainty, certainty_of
from viscera.inference.handedness import handedness_of
from viscera.inference.jobs import Task, require_place
from viscera.inference.memory import Budget, one_at_a_time
from viscera.inference.model import Model
from viscera.inference.pipeline import Stages, run_stages
from viscera.inference.segment import Prepared, Segmentation, only_organs, prepare_scan, segment_prepared
from viscera.io import nifti
from viscera.io.atomic import write_json, write_text
from viscera.labels import LabelSpace, colour
from viscera.networks.device import Stopwatch, peak_memory_mib, release_freed_memory
from viscera.networks.runners import runner_facts
from viscera.preparation.image import prepare_file
from viscera.preparation.intensity import hounsfield
from viscera.quality.certainty import Handedness
from viscera.quality.efficiency import Efficiency, Meter, sample_efficiency
from viscera.quality.judging import trust_to_json
from viscera.quality.measuring import Organ, measure_organs, measure_scan
from viscera.volume import Volume, with_voxels


@dataclass(frozen=True)
class Wishes:
    """What to write.

    Attributes:
        organs: Only these, by name; empty for all that the network knows.
        statistics: Also volume, HU and border per organ in NAME.json, and what speaks against the result.
        overwrite: Replace label maps that stand there.
    """

    organs: tuple[str, ...] = ()
    statistics: bool = False
    overwrite: bool = False


def is_done(task: Task, model: Model, wishes: Wishes) -> bool:
    """Tell whether the label map stands there already, made by these weights with these wishes.

    Raises:
        FileError: Something else stands there, and overwriting was not wished.
    """
    if wishes.overwrite or not task.output.exists():
        return False
    facts: dict = {}
    try:
        facts = json.loads(task.sidecar.read_text())
        run = facts["run"]
        same = run["weights_sha256"] == model.weights_sha256 and run["organs"] == list(wishes.organs)
        same = same and run.get("other_weights_sha256", {}) == model.sha256s
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            f"{task.output.name} exists already, and not from this command. Say --overwrite or choose another output."
        )
    return not wishes.statistics or "statistics" in facts


def predict_file(
    task: Task,
    model: Model,
    *,
    wishes: Wishes = Wishes(),
    max_memory_mib: float | None = None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> dict[str, object]:
    """Segment one scan, file to file.

    Args:
        task: Which.
        model: From ``load_model``.
        wishes: What to write.
        max_memory_mib: The most that this process may hold; None: as much as is convenient.
        watch: Told of the slices or windows done, and all of them.

    Returns:
        What was written to NAME.json.

    Raises:
        FileError, GeometryError: The scan cannot be used, or the label map not be written.
        LabelError: An organ is wished for that the network does not know.
        SettingError: The memory does not suffice.
    """
    with _Course(model, wishes, max_memory_mib=max_memory_mib, watch=watch) as course:
        return course.write(course.work(course.read(task)))


def predict_all(
    tasks: Sequence[Task],
    model: Model,
    *,
    wishes: Wishes = Wishes(),
    max_memory_mib: float | None = None,
    done: Callable[[Task, str], None] = lambda task, how: None,
    watch: Callable[[int, int], None] = lambda done, slices: None,
) -> list[tuple[Task, VisceraError]]:
    """Segment scans, the next one being read and the last one written under the network's time (pipeline.py).

    A scan that cannot be used, or whose label map cannot be written, does not stop the rest.

    Args:
        tasks: From ``find_tasks`` (jobs.py).
        model: Loaded once.
        wishes: What to write.
        max_memory_mib: The most that this process may hold; scans wait for each other where they do not fit together.
        done: Told of each scan, in the order of the tasks, how it went: "segmented", "was done" or the error's message.
        watch: Told of the slices of the present scan.

    Returns:
        The scans that could not be segmented, and why.
    """
    for organ in wishes.organs:
        model.output_space.index(organ)
    standing = {task: _standing(task, model, wishes) for task in tasks}
    failed: list[tuple[Task, VisceraError]] = []
    left = deque(tasks)

    def tell(outcome: object) -> None:
        """Tell of the next task, and of those behind it that need no work."""
        task = left.popleft()
        if isinstance(outcome, VisceraError):
            failed.append((task, outcome))
        done(task, str(outcome) if isinstance(outcome, VisceraError | str) else "segmented")
        tell_standing()

    def tell_standing() -> None:
        """Tell of the next tasks as long as they need no work."""
        if left and standing[left[0]] is not None:
            tell(standing[left[0]])

    tell_standing()
    todo = [task for task in tasks if standing[task] is None]
    with _Course(model, wishes, max_memory_mib=max_memory_mib, watch=watch) as course:
        stages = Stages(course.read, course.work, course.write)
        run_stages(todo, stages, done=lambda task, outcome: tell(outcome), beside=course.beside)
    for folder in {task.output.parent for task in tasks if task.output.exists()}:
        write_colours(folder, model.output_space)
    return failed


def _standing(task: Task, model: Model, wishes: Wishes) -> str | VisceraError | None:
    """Say why a scan needs no work, or must not be worked on; None where it is to be segmented."""
    try:
        return "was done" if is_done(task, model, wishes) else None
    except VisceraError as error:
        return error


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan between reading and the network; ``ct`` holds HU only where statistics are wished."""

    task: Task
    clock: Stopwatch
    ct: Volume
    prepared: Prepared
    model: Model


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A scan between the network and writing."""

    task: Task
    clock: Stopwatch
    ct: Volume
    found: Segmentation
    certainty: Certainty | None = None
    handedness: Handedness | None = None


class _Course:
    """The stages of a run over scans, and what they share: the model, the wishes, the memory, what the run costs."""

    def __init__(
        self, model: Model, wishes: Wishes, *, max_memory_mib: float | None, watch: Callable[[int, int], None]
    ) -> None:
        space = model.output_space
        self.model, self.wishes, self.watch = model, wishes, watch
        self.wanted = [space.index(organ) for organ in wishes.organs]
        self.budget = Budget(model, most_mib=max_memory_mib, statistics=wishes.statistics)
        self.costs, self.meter = ExitStack(), Meter()

    def __enter__(self) -> "_Course":
        self._measure()
        return self

    def __exit__(self, *reason: object) -> None:
        self.costs.close()

    def beside(self, task: Task) -> bool:
        """Tell whether a scan may be read while those before it are worked on."""
        return self.budget.admit(task.scan)

    def read(self, task: Task) -> _Scan:
        """Read a scan, check it and prepare it."""
        require_place(task.output)
        clock = Stopwatch({})
        if self.budget.plan(task.scan) == "slabs":
            with clock.stage("prepare"):
                prepared = _prepared_by_slabs(task.scan, self.model)
            return _Scan(task, clock, prepared.grid, prepared, one_at_a_time(self.model))
        with clock.stage("read"):
            ct = nifti.read(task.scan)
            ct = with_voxels(ct, hounsfield(ct, where=task.scan.name))
        with clock.stage("prepare"):
            prepared = prepare_scan(ct, self.model)
        if not self.wishes.statistics:
            ct = prepared.grid  # HU are for the statistics only
        self._spare()
        return _Scan(task, clock, ct, prepared, self.model)

    def work(self, scan: _Scan) -> _Labelled:
        """Give a scan's labels."""
        certainty = certainty_of(scan.model) if self.wishes.statistics else None
        handedness = None
        if self.wishes.statistics:
            with scan.clock.stage("statistics"):
                handedness = handedness_of(scan.prepared.images[scan.model.recipe.preparation][0], scan.model)
        found = segment_prepared(
            scan.prepared, scan.model, organs=self.wanted, certainty=certainty, clock=scan.clock, watch=self.watch
        )
        if self.wanted:
            found = replace(found, labels=with_voxels(found.labels, only_organs(found.labels.voxels, self.wanted)))
        self._spare()
        return _Labelled(scan.task, scan.clock, scan.ct, found, certainty, handedness)

    def _spare(self) -> None:
        """Give back what the stage before has left, where there is a limit."""
        if self.budget.most_mib is not None:
            release_freed_memory()

    def write(self, scan: _Labelled) -> dict[str, object]:
        """Write a scan's labels and what is to be said of them; give the latter."""
        task, clock, labels = scan.task, scan.clock, scan.found.labels
        wanted = self.wanted
        names = {
            index: organ for index, organ in self.model.output_space.labels.items() if not wanted or index in wanted
        }
        facts: dict[str, object] = {"labels": {str(index): organ for index, organ in names.items()}}
        if self.model.card is not None:
            known = self.model.card.organs
            facts["standing"] = {organ: known[organ].standing for organ in names.values() if organ in known}
        if scan.found.tumours is not None:
            facts["tumours"] = scan.found.tumours
        if self.wishes.statistics:
            with clock.stage("statistics"):
                organs, certainty = measure_organs(scan.ct, labels.voxels, names), scan.certainty
                edges = {} if certainty is None else {organ: certainty.edge(index) for index, organ in names.items()}
                facts["statistics"] = _statistics(organs)
                facts["trust"] = trust_to_json(organs, measure_scan(scan.ct), edges=edges, handedness=scan.handedness)
        hidden = task.output.with_name(f".part.{task.output.name}")
        try:
            hidden.parent.mkdir(parents=True, exist_ok=True)
            with clock.stage("write"):
                nifti.write(hidden, labels, overwrite=True)
            facts["run"] = self._facts_of_run(task, clock, labels.shape)
            write_json(task.sidecar, facts)
            hidden.replace(task.output)
        except OSError as error:
            raise FileError(f"cannot write {task.output}: {error.strerror or error}. Check folder and disk.") from error
        finally:
            with suppress(OSError):  # else it would hide the reason
                hidden.unlink(missing_ok=True)
        return facts

    def _facts_of_run(self, task: Task, clock: Stopwatch, shape: tuple[int, int, int]) -> dict[str, object]:
        """Say how and by what a scan was segmented."""
        model, plan = self.model, self.budget.plan(task.scan)
        return {
            "viscera": version("viscera"),
            "torch": torch.__version__,
            "recipe": model.recipe.name,
            "weights": model.card.name if model.card else None,
            "weights_version": model.card.version if model.card else None,
            "weights_sha256": model.weights_sha256,
            "other_weights_sha256": model.sha256s,
            "organs": list(self.wishes.organs),
            "device": str(model.device),
            "runtime": runner_facts(model.network)["name"],
            "precision": model.precision,
            "plan": plan,
            "max_memory_mib": self.budget.most_mib,
            "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "shape": list(reversed(shape)),
            "efficiency": {**self._cost().to_json(), "overlapped": plan == "overlapped"},
        }

    def _cost(self) -> Efficiency:
        """Give what the run has cost since the last scan was written.

        Of overlapping scans nobody can say which of them took what memory and CPU; so cut, at least their sums are true.
        """
        self.costs.close()
        found = self.meter.result
        self._measure()
        return found

    def _measure(self) -> None:
        """Begin to measure what the next scan costs."""
        self.meter = self.costs.enter_context(sample_efficiency(str(self.model.device)))


def _prepared_by_slabs(scan: Path, model: Model) -> Prepared:
    """Give what ``prepare_scan`` does, without the scan ever being whole in memory."""
    networks = [network for network in (model, model.tumour, model.finder) if network is not None]
    found = {each: prepare_file(scan, each, where=scan.name) for each in {one.recipe.preparation for one in networks}}
    grid = next(iter(found.values()))[2]
    return Prepared(grid, {each: (image, geometry) for each, (image, geometry, _) in found.items()})


def organ_statistics(
    ct: Volume, labels: UInt8[np.ndarray, "z y x"], names: dict[int, str]
) -> dict[str, dict[str, float | bool | None]]:
    """Give per organ its volume (ml), mean and SD (HU; None for an absent organ), and whether it touches the scan's border.

    An organ that touches the border may be cut off: its volume is then a lower bound.
    """
    return _statistics(measure_organs(ct, labels, names))


def _statistics(organs: Mapping[str, Organ]) -> dict[str, dict[str, float | bool | None]]:
    """Give what was measured on organs as NAME.json has it."""
    return {
        organ: {
            "volume_ml": round(facts.volume_ml, 3),
            "mean_hu": None if facts.mean_hu is None else round(facts.mean_hu, 2),
            "sd_hu": None if facts.sd_hu is None else round(facts.sd_hu, 2),
            "touches_border": facts.touches_border,
        }
        for organ, facts in organs.items()
    }


def write_colours(folder: Path, space: LabelSpace) -> None:
    """Write the organs' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP (labels.itksnap.txt)."""
    rows = [(index, organ, *colour(organ)) for index, organ in space.labels.items()]
    slicer = ["# Color table file, 3D Slicer", "0 background 0 0 0 0"]
    slicer += [f"{index} {organ} {r} {g} {b} 255" for index, organ, r, g, b in rows]
    snap = ["# ITK-SNAP label description file: index R G B opacity visible mesh name", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {r} {g} {b} 1 1 1 "{organ}"' for index, organ, r, g, b in rows]
    write_text(folder / "labels.ctbl", "\n".join(slicer) + "\n")
    write_text(folder / "labels.itksnap.txt", "\n".join(snap) + "\n")
