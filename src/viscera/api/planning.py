"""Data and this machine -> a recipe whose every choice is explained."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.config import Accelerator
from viscera.datasets.layouts import find_sources
from viscera.errors import SettingError
from viscera.io.extras import require_train

if TYPE_CHECKING:
    from viscera.planning.plan import Plan

PathLike = str | os.PathLike[str]


def plan(
    data: PathLike | Mapping[str, PathLike] | Sequence[tuple[str, PathLike]],
    *,
    hours: float = 8.0,
    device: Accelerator = "auto",
    max_memory: float | None = None,
    label_space: str | None = None,
    splits: PathLike | tuple[PathLike, int] | None = None,
    out: PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> "Plan":
    """Choose a recipe for data, this machine and some hours, and say why it is as it is.

    Networks that suit the data are trained for some steps, to measure time and memory; that takes a minute or two, in processes of
    their own, so a script calls this under ``if __name__ == "__main__":``.

    Args:
        data: A prepared store, whose preparation then stays as it is; or data sets as for ``prepare``, of which a sample is
            prepared into a temporary folder.
        hours: That training may take; nine tenths of them are planned.
        device: Where the network will be trained.
        max_memory: MiB that training may take; None: what is free in the machine and in its container. A fifth is left over.
        label_space: The organs to tell apart; None: the space that fits what the data annotate.
        splits: What ``prepare`` will be given as ``splits``, so that the epochs fit the cases that are trained on.
        out: A .json file for the plan, which `viscera train` and `viscera prepare --recipe` take; None: none is written.
        overwrite: Replace a plan that stands there.
        progress: Called with what is being done, how much of it is done, and how much there is (0: not known).

    Returns:
        ``recipe``; ``because``, each with ``setting``, ``value``, ``why`` and ``basis`` ("measured", "rule of thumb" ...);
        ``fingerprint``; ``notes``.

    Raises:
        SettingError: The hours or the memory do not suffice; or viscera[train] is not installed.
        StoreError, DataSetError, LabelError: The data cannot be used.
        FileError: A plan stands there already.

    Example:
        >>> import viscera
        >>> plan = viscera.plan({"nnunet": "Dataset001"}, hours=8, out="plan.json")  # doctest: +SKIP
        >>> for one in plan.because:  # doctest: +SKIP
        ...     print(one.setting, one.value, one.why)
        >>> viscera.plan({"nnunet": "Dataset001"}, hours=0)
        Traceback (most recent call last):
        viscera.errors.SettingError: hours must be more than 0 and less than 10000, got 0.
    """
    require_train("viscera.plan", "torch", "lightning_fabric")
    from viscera.planning.plan import Request, plan_data, plan_store, require_place, write_plan
    from viscera.preparation.own_splits import OwnSplits

    request = Request(hours, device, max_memory, label_space, own=OwnSplits.of(splits))
    if out is not None:
        require_place(Path(out), overwrite=overwrite)
    tell = progress or (lambda what, done, of: None)
    if isinstance(data, str | os.PathLike):
        made = plan_store(Path(data), request, tell=tell)
    else:
        pairs = data.items() if isinstance(data, Mapping) else data
        found = [find_sources(layout, Path(folder)) for layout, folder in pairs]
        if not found:
            raise SettingError(
                "data names no data set", "Give {layout: folder}, for instance {'nnunet': 'Dataset001'}."
            )
        sources = [source for these, _ in found for source in these]
        made = plan_data(sources, [one for _, wrong in found for one in wrong], request, tell=tell)
    if out is not None:
        write_plan(Path(out), made, overwrite=overwrite)
    return made
