"""Eight clients at once for a while: every answer is one that the protocol has, and what the server holds does not grow.

pytest -m slow tests/serving/test_load.py; VISCERA_LOAD_S=180 for longer, at most 600. With VISCERA_RECORD=1 latencies and memory
over time go to benchmarks/results/serve_load.json.
"""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from viscera.io import nifti
from viscera.synthesis.patient import synthesize

pytestmark = pytest.mark.slow

CLIENTS = 8
SECONDS = min(float(os.environ.get("VISCERA_LOAD_S", "20")), 600.0)
MOST_GROWTH = 1.3
"""Of memory, from the second quarter of the time to the last."""


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[subprocess.Popen, str]]:
    words = [sys.executable, "-m", "viscera.cli", "serve", str(tmp_path / "studies"), "--port", "0", "--device", "cpu"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        lines = iter(running.stderr.readline, "")
        yield running, next(word for line in lines for word in line.split() if word.startswith("http://"))
    finally:
        running.kill()
        running.communicate()


def ask(address: str, scan: bytes, until: float, seconds: dict[str, list[float]], statuses: Counter) -> None:
    """Do what Slicer does, again and again: look, send, segment, remove."""
    with httpx.Client(base_url=address, timeout=300) as client:

        def timed(what: str, method: str, path: str, **arguments: Any) -> httpx.Response:
            start = time.perf_counter()
            answer = client.request(method, path, **arguments)
            seconds[what].append(time.perf_counter() - start)
            statuses[f"{what} {answer.status_code}"] += 1
            return answer

        while time.monotonic() < until:
            timed("info", "GET", "/info/")
            made = timed("session", "PUT", "/session/", files={"files": ("scan.nii.gz", scan)})
            name = made.json()["session_id"]
            timed("infer", "POST", f"/infer/starter?session_id={name}", data={"params": "{}"})
            timed("datastore", "GET", "/datastore/?output=all")
            timed("remove", "DELETE", f"/session/{name}")


def watch(process: psutil.Process, over: threading.Event, rss: list[tuple[float, float]]) -> None:
    """Note the memory of the server, twenty times in all or each second."""
    start = time.monotonic()
    while not over.wait(max(1.0, SECONDS / 60)):
        rss.append((round(time.monotonic() - start, 1), round(process.memory_info().rss / 2**20, 1)))


def percentiles(values: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(values, n=20) if len(values) > 1 else values * 19
    return {
        "requests": len(values),
        "p50_s": round(cut[9], 4),
        "p95_s": round(cut[18], 4),
        "max_s": round(max(values), 4),
    }


def test_eight_clients_are_answered_and_memory_stays(server, tmp_path):
    running, address = server
    file: Path = tmp_path / "scan.nii.gz"
    nifti.write(file, synthesize(np.random.default_rng([79, 1]), shape=(24, 96, 96)).ct)
    seconds: dict[str, list[float]] = defaultdict(list)
    statuses, rss, over = Counter[str](), list[tuple[float, float]](), threading.Event()
    watching = threading.Thread(target=watch, args=(psutil.Process(running.pid), over, rss))
    watching.start()
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [
            pool.submit(ask, address, file.read_bytes(), start + SECONDS, seconds, statuses) for _ in range(CLIENTS)
        ]
        for one in asked:
            one.result()
    took = time.monotonic() - start
    over.set()
    watching.join()
    assert all(what.endswith(" 200") for what in statuses), statuses
    assert "viscera_failures_total 0" in httpx.get(f"{address}/metrics").text
    quarter = max(1, len(rss) // 4)
    early, late = (max(value for _, value in part) for part in (rss[: 2 * quarter], rss[-quarter:]))
    assert late < MOST_GROWTH * early, rss
    if os.environ.get("VISCERA_RECORD"):
        from benchmarks.machine import facts, save

        rows = {
            "what": f"{CLIENTS} clients, each: info, session, infer (starter, 24x96x96 voxels), datastore, remove; again and again",
            "seconds": round(took, 1),
            "load_average": round(os.getloadavg()[0], 1),
            "latency": {what: percentiles(values) for what, values in seconds.items()},
            "statuses": dict(statuses),
            "rss_mib": [list(one) for one in rss],
        }
        save("serve_load", facts("torch", "starlette", "uvicorn") | rows)
