"""FLARE's two tables: DSC and NSD per target, and what each scan cost. Their form is that of Gao 2023's tables 4 and 5."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from viscera.evaluation.scores import Evaluation
from viscera.labels import TUMOUR, readable
from viscera.quality.efficiency import TOLERATED_GPU_MIB, TOLERATED_S, CaseEfficiency
from viscera.reports.page import MISSING, Cell, Row, Section, Table, number_cell

COLUMNS = {"flare_dice": "DSC (%), FLARE", "flare_nsd": "NSD (%), FLARE", "dice": "DSC (%)", "nsd": "NSD (%)"}
"""{metric: heading}; FLARE's, then ours."""


def targets_section(evaluation: Evaluation) -> Section:
    """Return the table of DSC and NSD per target, by FLARE's code and corrected, tumours last, then the average.

    Source:
        Gao 2023, table 4. Departs: its values behind the sign are the means again; here they are standard deviations.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for score in evaluation.scores:
        columns = values.setdefault(score.organ, {metric: [] for metric in COLUMNS})
        for metric in COLUMNS:
            if math.isfinite(value := score.values.get(metric, math.nan)):
                columns[metric].append(100 * value)
    rows = []
    for organ in sorted(values, key=lambda organ: organ.endswith(TUMOUR)):
        counts = [len(values[organ][metric]) for metric in COLUMNS]
        cells = [_spread_cell(values[organ][metric], of=max(counts)) for metric in COLUMNS]
        rows.append(Row((Cell(readable(organ)), Cell(str(max(counts)), number=max(counts)), *cells)))
    if rows:
        means = [[fmean(columns[m]) for columns in values.values() if columns[m]] for m in COLUMNS]
        rows.append(Row((Cell("Average"), Cell(""), *(_spread_cell(column) for column in means)), total=True))
    text = (
        "Mean ± standard deviation over cases; the average and its deviation are over targets, tumours included. FLARE: as the "
        "official code has it. An organ that truth and prediction lack counts as 100 %; aorta, inferior vena cava and "
        "esophagus are scored on the slices where the truth shows them, less the last; NSD is 0 where DSC is below 20 %. "
        "Beside it the scores without these rules: absent organs are in no mean, all slices count."
    )
    return Section(
        "DSC and NSD per target", text, table=Table(("Target", "Cases", *COLUMNS.values()), tuple(rows), words=1)
    )


def efficiency_section(efficiency: Sequence[CaseEfficiency]) -> Section:
    """Return the table of what segmenting each scan cost.

    Source:
        Gao 2023, table 5; more columns than there.
    """
    rows = []
    for row in efficiency:
        cost, shape = row.efficiency, row.shape
        size = Cell("({}, {}, {})".format(*shape), number=math.prod(shape)) if shape else Cell(MISSING)
        rows.append(
            Row(
                (
                    Cell(row.case),
                    size,
                    _cost_cell(cost.seconds, 2, beyond=cost.seconds_beyond),
                    _cost_cell(cost.max_gpu_mib, 0, beyond=cost.gpu_mib_beyond),
                    _cost_cell(cost.gpu_memory_area_mib_s, 0),
                    _cost_cell(cost.cpu_area_percent_s, 0),
                    _cost_cell(cost.peak_memory_mib, 0),
                )
            )
        )
    text = (
        f"▲ marks what lies beyond FLARE's tolerances of {TOLERATED_S:g} s and {TOLERATED_GPU_MIB / 1024:g} GB "
        "of GPU memory. Total GPU: area under the curve of GPU memory over time. CPU: area under the curve of CPU "
        "utilisation over time, where 100 % is one core. One MB is 1024 x 1024 bytes, as nvidia-smi has it."
    )
    columns = (
        "Case ID",
        "Image size",
        "Running time (s)",
        "Max GPU (MB)",
        "Total GPU (MB·s)",
        "CPU area (%·s)",
        "Peak memory (MiB)",
    )
    return Section("Segmentation efficiency", text, table=Table(columns, tuple(rows)))


def _spread_cell(values: Sequence[float], *, of: int = 0) -> Cell:
    """Return "mean ± standard deviation", and of how many values where that is fewer than ``of``."""
    if not values:
        return Cell(MISSING)
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    small = f"of {len(values)}" if len(values) < of else ""
    return Cell(f"{fmean(values):.2f}{spread}", number=fmean(values), small=small)


def _cost_cell(value: float | None, digits: int, *, beyond: float | None = None) -> Cell:
    """Return a number, and behind it by how much it lies beyond what is tolerated."""
    cell = number_cell(value, digits=digits)
    return Cell(cell.text, cell.number, small=f"▲ {beyond:.{digits}f} beyond") if beyond else cell
