"""The simulation of a cluster against what can be reckoned by hand: one worker, and each limit on its own."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cluster_model import Costs, limit_of, simulate

COSTS = Costs(
    segment_s=2.0, scatter=0.0, scheduler_s=0.01, read_mb=50.0, write_mb=5.0, shared_mb_s=1e6, client_mb_s=100.0
)


def _simulate(costs: Costs, workers: int, scans: int):
    return simulate(costs, workers, scans, np.random.default_rng(0))


def test_one_worker_takes_the_sum_of_all_parts():
    found = _simulate(COSTS, 1, 100)
    assert found["seconds"] == pytest.approx(100 * (0.01 + 0.5 + 2.0 + 0.05), rel=1e-3)
    assert limit_of(found["busy"]) == "workers"


def test_ten_workers_take_a_tenth():
    assert _simulate(COSTS, 10, 1000)["seconds"] == pytest.approx(_simulate(COSTS, 1, 1000)["seconds"] / 10, rel=0.01)


def test_more_workers_than_scans_take_as_long_as_one_scan():
    assert _simulate(replace(COSTS, scheduler_s=0.0), 50, 5)["seconds"] == pytest.approx(2.55, abs=0.06)


def test_a_scheduler_that_is_busy_sets_the_rate():
    found = _simulate(COSTS, 1000, 20_000)
    assert found["scans_per_hour"] == pytest.approx(3600 / 0.01, rel=0.02)
    assert limit_of(found["busy"]) == "scheduler"


def test_a_file_system_that_is_busy_sets_the_rate():
    found = _simulate(replace(COSTS, shared_mb_s=1000.0), 1000, 20_000)
    assert found["scans_per_hour"] == pytest.approx(3600 * 1000 / 55, rel=0.02)
    assert limit_of(found["busy"]) == "file system"


def test_scatter_keeps_the_mean_and_the_same_seed_gives_the_same():
    uneven = replace(COSTS, scatter=0.5)
    assert _simulate(uneven, 1, 4000)["seconds"] == pytest.approx(_simulate(COSTS, 1, 4000)["seconds"], rel=0.03)
    assert _simulate(uneven, 7, 500) == _simulate(uneven, 7, 500)
