"""What work costs: areas derived by hand, the sampling beside the work, and the facts in NAME.json and back."""

import itertools
import json
import threading

import pytest
import torch

from viscera.errors import FileError
from viscera.io.json_codec import from_json
from viscera.quality.efficiency import (
    TOLERATED_GPU_MIB,
    TOLERATED_S,
    CaseEfficiency,
    Efficiency,
    Reading,
    efficiency_of,
    read_case_efficiency,
    sample_efficiency,
)

COST = Efficiency(23.5, 235, 1900.25, 4200.0, 5000.5, 70000.0)
ON_CPU = Efficiency(2.0, 21, 300.0, 190.0)


def script(*readings):
    """A reader that gives these one after the other, then the last one again and again."""
    left = itertools.chain(readings, itertools.repeat(readings[-1]))
    return lambda: next(left)


def test_areas_and_maxima_of_readings_are_those_derived_by_hand():
    readings = [
        Reading(10.0, 100.0, 5.0, 1000.0),
        Reading(10.1, 900.0, 5.1, 3000.0),
        Reading(10.5, 200.0, 5.9, 1000.0),  # late, as when the machine is busy
    ]
    found = efficiency_of(readings)
    assert found.seconds == pytest.approx(0.5)
    assert found.samples == 3
    assert found.peak_memory_mib == 900
    assert found.max_gpu_mib == 3000
    assert found.gpu_memory_area_mib_s == pytest.approx(0.1 * 2000 + 0.4 * 2000)
    # One core for 0.1 s, two for 0.4 s.
    assert found.cpu_area_percent_s == pytest.approx(100 * 0.1 + 200 * 0.4)


def test_even_readings_have_the_area_of_flares_sum_but_for_its_ends():
    levels = [1000.0, 1500.0, 2500.0, 2500.0, 1000.0]
    found = efficiency_of([Reading(0.1 * i, 1.0, 0.0, mib) for i, mib in enumerate(levels)])
    assert found.gpu_memory_area_mib_s == pytest.approx(0.1 * (sum(levels) - (levels[0] + levels[-1]) / 2))


def test_a_block_is_read_at_its_start_beside_it_and_at_its_end():
    beside = threading.Event()
    clock = itertools.count()

    def read():
        tick = next(clock)
        if tick >= 3:
            beside.set()
        return Reading(float(tick), 10.0 * tick, 0.5 * tick)

    with sample_efficiency(interval_s=0.001, read=read) as meter:
        assert beside.wait(20)
        assert meter.result.samples >= 3  # it may be asked in between
    found = meter.result
    assert found.samples == next(clock) >= 5
    assert found.seconds == found.samples - 1
    assert found.cpu_area_percent_s == 50 * found.seconds
    assert found.max_gpu_mib is None
    assert found.gpu_memory_area_mib_s is None


def test_an_error_of_the_block_comes_through_and_its_cost_is_known():
    read = script(Reading(0.0, 1.0, 0.0), Reading(7.0, 2.0, 1.0))
    with pytest.raises(KeyError, match="organ"), sample_efficiency(interval_s=60, read=read) as meter:
        raise KeyError("organ")
    assert (meter.result.seconds, meter.result.samples) == (7, 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "efficiency"]


def test_a_reading_that_fails_is_left_out_and_hides_no_error():
    readings = iter([Reading(0.0, 1.0, 0.0)])

    def read():
        for one in readings:
            return one
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(ValueError, match="the reason"), sample_efficiency(interval_s=60, read=read) as meter:
        raise ValueError("the reason")
    assert meter.result.samples == 1


def test_work_on_this_machine_costs_time_memory_and_cpu():
    with sample_efficiency("cpu", interval_s=0.005) as meter:
        total, rounds = 0, 0
        while len(meter.readings) < 4 or rounds < 100:
            total += sum(range(1000))
            rounds += 1
    found = meter.result
    assert total == rounds * 499500
    assert min(found.seconds, found.peak_memory_mib, found.cpu_area_percent_s) > 0
    assert found.samples >= 5
    assert found.max_gpu_mib is None


@pytest.mark.cuda
def test_memory_of_a_gpu_is_seen_while_it_is_held():
    torch.zeros(1, device="cuda")  # the context takes memory too
    with sample_efficiency("cuda", interval_s=0.005) as meter:
        held = torch.zeros(256 * 2**20, dtype=torch.uint8, device="cuda")
        count = len(meter.readings)
        while len(meter.readings) < count + 3:
            held.add_(1)
            torch.cuda.synchronize()
    found, before = meter.result, meter.readings[0].gpu_mib
    assert found.max_gpu_mib is not None
    assert before is not None
    assert found.max_gpu_mib >= before + 200
    assert found.gpu_memory_area_mib_s is not None
    assert found.gpu_memory_area_mib_s >= before * found.seconds * 0.99


def test_what_lies_beyond_flares_tolerances_is_told():
    assert (TOLERATED_S, TOLERATED_GPU_MIB) == (15, 4096)
    assert (COST.seconds_beyond, COST.gpu_mib_beyond) == (8.5, pytest.approx(5000.5 - 4096))
    assert (ON_CPU.seconds_beyond, ON_CPU.gpu_mib_beyond) == (0, None)
    assert COST.to_json()["beyond_tolerance"] == {"seconds": 8.5, "gpu_mib": 904.5}
    assert ON_CPU.to_json()["beyond_tolerance"] == {"seconds": 0, "gpu_mib": None}


@pytest.mark.parametrize("cost", [COST, ON_CPU])
def test_facts_survive_json(cost):
    assert from_json(Efficiency, json.dumps(cost.to_json(), allow_nan=False), what="x.json", remedy="") == cost


@pytest.mark.parametrize("change", [{"seconds": None}, {"samples": "many"}, {"max_gpu_mib": True}, {"samples": 1.5}])
def test_what_is_no_number_is_no_cost(change):
    with pytest.raises(FileError, match=rf"x.json \({next(iter(change))}: should be a valid (number|integer).*, got"):
        from_json(Efficiency, COST.to_json() | change, what="x.json", remedy="")


def test_predictions_tell_what_they_cost_and_other_files_do_not(tmp_path):
    sidecars = {
        "b": {"run": {"efficiency": COST.to_json(), "shape": [512, 512, 55]}},
        "a": {"labels": {"1": "liver"}, "run": {"efficiency": ON_CPU.to_json()}},
        "older": {"run": {"seconds": {"read": 1.0}}},
        "odd": {"run": {"efficiency": {"seconds": "long"}}},
        "names": {"labels": {"1": "liver"}},
        "list": [1, 2],
        "run_is_text": {"run": "yes"},
    }
    for name, content in sidecars.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "c.json").mkdir()
    found = {path.stem: read_case_efficiency(path, case=path.stem) for path in tmp_path.iterdir()}
    rows = {"a": CaseEfficiency("a", None, ON_CPU), "b": CaseEfficiency("b", (512, 512, 55), COST)}
    assert found == dict.fromkeys([*sidecars, "broken", "c"]) | rows
    assert read_case_efficiency(tmp_path / "nowhere.json", case="nowhere") is None
