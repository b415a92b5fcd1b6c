"""A Dask scheduler and workers, each in processes of its own that listen to this machine only, as `dask scheduler` starts them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ports import free_port

HERE = "127.0.0.1"
PRELOAD = Path(__file__).with_name("dask_preload.py")
SOURCE = Path(__file__).parents[1] / "src"


@dataclass
class Machines:
    """A scheduler, and a nanny with its workers."""

    folder: Path
    workers: int
    pause_s: float = 0.0
    port: int = field(default_factory=free_port)
    scheduler: subprocess.Popen | None = None
    nanny: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"tcp://{HERE}:{self.port}"

    def start_scheduler(self) -> None:
        words = ["scheduler", "--host", HERE, "--port", str(self.port), "--dashboard-address", f"{HERE}:0"]
        self.scheduler = self._start(*words)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as ask:
                if ask.connect_ex((HERE, self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("no scheduler")

    def start_workers(self) -> None:
        self.nanny = self._start(
            *("worker", self.address, "--host", HERE, "--nworkers", str(self.workers), "--nthreads", "1"),
            *("--memory-limit", "2GiB", "--no-dashboard", "--death-timeout", "30", "--preload", str(PRELOAD)),
            *("--local-directory", str(self.folder / "scratch")),
        )

    def wait_for_workers(self) -> None:
        """Wait until all workers are there, which takes long where the machine has other work."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(self.workers, timeout=120)

    def _start(self, kind: str, *words: str) -> subprocess.Popen:
        paths = os.pathsep.join([str(SOURCE), str(PRELOAD.parent), os.environ.get("PYTHONPATH", "")])
        more = {"VISCERA_TEST_NOTES": str(self.folder), "VISCERA_TEST_PAUSE_S": str(self.pause_s), "PYTHONPATH": paths}
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | more,
            )

    def worker_processes(self) -> list[psutil.Process]:
        if self.nanny is None or self.nanny.poll() is not None:
            return []
        children = psutil.Process(self.nanny.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(_words(child))]

    def kill_worker(self, number: int = 0) -> bool:
        """Kill a worker as a machine's failure would; False where there is none at the moment."""
        found = self.worker_processes()
        if not found:
            return False
        found[number % len(found)].kill()
        return True

    def kill_all(self) -> None:
        for process in (self.nanny, self.scheduler):
            if process is None:
                continue
            try:
                children = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                children = []
            process.kill()
            process.wait()
            for child in children:
                if child.is_running():
                    child.kill()
            psutil.wait_procs(children, timeout=30)

    def lines(self, name: str) -> list[list[str]]:
        file = self.folder / f"{name}.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def machines(folder: Path, *, workers: int = 2, pause_s: float = 0.0) -> Iterator[Machines]:
    folder.mkdir(parents=True, exist_ok=True)
    found = Machines(folder, workers, pause_s)
    try:
        found.start_scheduler()
        found.start_workers()
        found.wait_for_workers()
        yield found
    finally:
        found.kill_all()
