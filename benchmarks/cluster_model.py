"""How a cluster of more workers than we have would do: a simulation of scheduler, file system and workers, from measured costs.

    python -m benchmarks.cohort --model         results/cluster_model.json

One event after the other: a worker asks the scheduler, which serves one request at a time; reads the scan from the shared file
system, whose bandwidth all share and of which one client gets a part at most; segments; writes. What one scan costs is measured
(context_cost.json: a chest of 275 slices; cluster.json: what a task costs that does nothing); what a file system gives is assumed,
and said. Seconds of scans scatter as a log-normal. Starting workers, and workers that are lost, are no part of it.
"""

import heapq
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS, facts, save

WORKERS, SCANS = (1, 10, 100, 300, 1000), (1_000, 10_000, 100_000, 1_000_000)
ASKS, READS, WRITES = range(3)
"""What a worker does next."""
SEED = 0
READ_MB, WRITE_MB = 75.9, 0.34
"""Of that scan's .nii.gz, and of its label map with its JSON."""
TIGHT = 0.9
"""Share of the time that something is busy from which on it is the limit."""


@dataclass(frozen=True)
class Costs:
    """What one scan takes, and what all share.

    Attributes:
        segment_s: Seconds of a worker, reading and writing aside.
        scatter: Standard deviation of its logarithm.
        scheduler_s: Seconds of the scheduler per scan.
        read_mb: Of a scan.
        write_mb: Of its results.
        shared_mb_s: What the file system gives to all together.
        client_mb_s: The most that it gives to one.
    """

    segment_s: float
    scatter: float
    scheduler_s: float
    read_mb: float
    write_mb: float
    shared_mb_s: float
    client_mb_s: float


def simulate(costs: Costs, workers: int, scans: int, rng: np.random.Generator) -> dict[str, Any]:
    """Let workers do scans; return the seconds, scans per hour, and how busy each part was.

    Args:
        costs: Of a scan.
        workers: How many, all there from the start.
        scans: How many.
        rng: Source of randomness.
    """
    spread = rng.normal(0, costs.scatter, scans) if costs.scatter else np.zeros(scans)
    segment = (costs.segment_s * np.exp(spread - costs.scatter**2 / 2)).tolist()  # their mean is segment_s
    events = [(0.0, ASKS, worker) for worker in range(min(workers, scans))]
    scheduler = disk = ended = 0.0  # when each is free
    begun = 0
    while events:
        when, stage, worker = heapq.heappop(events)
        if stage == ASKS:
            if begun < scans:
                scheduler = max(when, scheduler) + costs.scheduler_s
                heapq.heappush(events, (scheduler, READS, worker))
                begun += 1
            continue
        megabytes = costs.read_mb if stage == READS else costs.write_mb
        disk = max(when, disk) + megabytes / costs.shared_mb_s
        has = max(disk, when + megabytes / costs.client_mb_s)
        if stage == READS:
            heapq.heappush(events, (has + segment.pop(), WRITES, worker))
        else:
            ended = has if has > ended else ended
            heapq.heappush(events, (has, ASKS, worker))
    busy = {
        "scheduler": scans * costs.scheduler_s / ended,
        "file_system": scans * (costs.read_mb + costs.write_mb) / costs.shared_mb_s / ended,
        "workers": scans * costs.segment_s / ended / workers,
    }
    shares = {part: round(share, 3) for part, share in busy.items()}
    return {"seconds": round(ended, 1), "scans_per_hour": round(scans / ended * 3600), "busy": shares}


def limit_of(shares: dict[str, float]) -> str:
    """Return what keeps it from being faster."""
    part = max(("scheduler", "file_system"), key=lambda one: shares[one])
    return part.replace("_", " ") if shares[part] >= TIGHT else "workers"


def measured_costs() -> tuple[Costs, dict[str, object]]:
    """Return the costs of a chest's scan, and where each comes from."""
    cluster = json.loads((RESULTS / "cluster.json").read_text())
    context = json.loads((RESULTS / "context_cost.json").read_text())
    lidc = context["rows"][-1]
    costs = Costs(
        segment_s=lidc["median_s"]["file to file"],
        scatter=0.5,
        scheduler_s=cluster["empty_task_ms"]["1_workers"] / 1000,
        read_mb=READ_MB,
        write_mb=WRITE_MB,
        shared_mb_s=1000.0,
        client_mb_s=300.0,
    )
    return costs, {"segment_s": "context_cost.json", "scheduler_s": "cluster.json", "others": "assumed"}


def check(costs: Costs) -> list[dict[str, object]]:
    """Return the model's seconds per scan beside those that were measured with one and two workers (cluster.json)."""
    cluster = json.loads((RESULTS / "cluster.json").read_text())
    alone = cluster["per_scan"]["one_process"]["wall_ms"] / 1000
    rows = []
    for workers in (1, 2):
        seconds = cluster["empty_task_ms"][f"{workers}_workers"] / 1000
        small = replace(costs, segment_s=alone, scatter=0.0, scheduler_s=seconds, read_mb=0.0, write_mb=0.0)
        model = simulate(small, workers, cluster["scans"], np.random.default_rng(SEED))
        rows.append(
            {
                "workers": workers,
                "model_ms": round(1000 * model["seconds"] / cluster["scans"], 1),
                "measured_ms": cluster["per_scan"][f"{workers}_workers"]["wall_ms"],
            }
        )
    return rows


def model() -> None:
    """Simulate all numbers of workers and scans, and save."""
    costs, sources = measured_costs()
    rows = []
    for shared_mb_s in (1000.0, 10_000.0):
        for workers in WORKERS:
            for scans in SCANS:
                found = simulate(replace(costs, shared_mb_s=shared_mb_s), workers, scans, np.random.default_rng(SEED))
                limit = limit_of(found["busy"])
                rows.append({"shared_mb_s": shared_mb_s, "workers": workers, "scans": scans, **found, "limit": limit})
    result = {"costs": asdict(costs), "sources": sources, "check": check(costs), "rows": rows}
    print(save("cluster_model", facts("numpy") | result))
