"""One training on several processes: the same numbers as on one, whoever begins them, and an end for all when one ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import processes
import psutil
import pytest
import torch

from makers import rows, tensors
from viscera.config import Machine, Training
from viscera.config.recipe_json import recipe_to_json
from viscera.errors import SettingError
from viscera.learning.devices import World, check_world, find_world, share_of
from viscera.learning.training import train
from viscera.preparation.store import open_store

LOSS = 1e-6
"""Relative. Sums over a batch are added in another order: some float32 roundings (6e-8) of each; 2e-7 was found. Batch
normalisation over the 8 voxels of the lowest level enlarges them: 4e-6 was found there."""
WEIGHTS = 1e-6
"""Of weights up to 1; 3e-7 was found."""
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
    "RANK": "3",
}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "2"}
VERB = ("-m", "viscera.cli", "train")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def begin(words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """Begin a process of Python, with what it says at hand and nothing of a launcher's around it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    own |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, *words], env=own | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def torchrun(*words: str, each: int = 2, node: int = 0, nodes: int = 1, port: str = "") -> subprocess.Popen[str]:
    """Begin processes of a machine by torchrun."""
    settings = {
        "nnodes": nodes,
        "node-rank": node,
        "nproc-per-node": each,
        "master-addr": "127.0.0.1",
        "master-port": port or free_port(),
    }
    return begin(["-m", "torch.distributed.run", *(f"--{name}={value}" for name, value in settings.items()), *words])


def srun(*words: str, count: int = 2) -> list[subprocess.Popen[str]]:
    """Begin processes with what srun tells its tasks."""
    port = free_port()
    return [
        begin(
            words,
            SLURM_STEP_NUM_TASKS=f"{count}",
            SLURM_NTASKS=f"{count}",
            SLURM_NTASKS_PER_NODE=f"{count}",
            SLURM_PROCID=f"{rank}",
            SLURM_LOCALID=f"{rank}",
            SLURM_NODEID="0",
            SLURM_NNODES="1",
            SLURM_NODELIST="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(count)
    ]


def end(*begun: subprocess.Popen[str], within_s: float = 400) -> str:
    """Wait until processes have ended well; return what they said."""
    said = "".join(one.communicate(timeout=within_s)[0] for one in begun)
    assert [one.returncode for one in begun] == [0] * len(begun), said
    return said


def require_alike(run: Path, other: Path, *, loss: float = LOSS, weights: float = WEIGHTS) -> None:
    """Check that two runs have the same loss curves and weights, to rounding.

    A bias before a normalisation has no effect and no gradient but rounding errors, of which Adam makes steps: left out.
    """
    for mine, theirs in zip(rows(run), rows(other), strict=True):
        assert mine["step"] == theirs["step"]
        for name in ("train_loss", "val_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=loss), name
        for name in ("train_dice", "val_dice"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-3), name
    mine, theirs = tensors(run), tensors(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        if not re.search(r"level\.\d\.bias|down\.\d\.[03]\.bias|running_mean", name) or weights > WEIGHTS:
            assert torch.allclose(mine[name].double(), theirs[name].double(), rtol=0, atol=weights), name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "recipe.json"
    file.write_text(recipe_to_json(processes.LIKE))
    return str(file)


@pytest.fixture(scope="module")
def alone(small_store, tmp_path_factory) -> Path:
    """Return a run of one process."""
    run = tmp_path_factory.mktemp("run") / "alone"
    train(processes.LIKE, open_store(small_store), run, machine=Machine("cpu"))
    return run


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (TORCHRUN, World("torchrun", 2, 2, 3)),
        (SRUN, World("srun", 2, 2, 2)),
        ({}, World("viscera", 1, 1, 0)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, World("viscera", 1, 1, 0)),  # in an sbatch file, without srun
        ({"LOCAL_RANK": "1"}, World("viscera", 1, 1, 0)),
    ],
)
def test_torchrun_and_srun_say_who_trains_together(said: Mapping[str, str], expected: World):
    assert find_world(1, said) == expected


@pytest.mark.parametrize(
    ("said", "devices", "message"),
    [
        (
            TORCHRUN | {"LOCAL_WORLD_SIZE": "3"},
            1,
            "began 4 processes, but 3 on this machine of 2. Begin as many on each",
        ),
        (TORCHRUN, 4, "machine.devices is 4, but torchrun began 2 .*Leave --machine.devices out"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, 1, "Pass srun --ntasks-per-node"),
    ],
)
def test_processes_that_are_not_as_asked_for_are_refused(said: Mapping[str, str], devices: int, message: str):
    with pytest.raises(SettingError, match=message):
        find_world(devices, said)


def test_batches_that_cannot_be_shared_are_refused_with_the_nearest_that_can():
    recipe = processes.replace(processes.LIKE, training=Training(batch_size=10))
    with pytest.raises(SettingError, match="10 cannot be shared by 4 devices. .*take --training.batch-size 8"):
        check_world(recipe, Machine(devices=4), "cpu")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_each_item_of_a_batch_is_one_devices(world: int):
    for count in (1, 2, 7, 8):
        shares = [share_of(count, rank=rank, world=world) for rank in range(world)]
        taken = [item for share, stands_in in shares if not stands_in for item in range(count)[share]]
        assert sorted(taken) == list(range(count))


@pytest.mark.slow
def test_two_processes_of_srun_train_as_one_does(small_store, tmp_path, recipe, alone):
    said = end(*srun(*VERB, recipe, str(small_store), str(tmp_path / "run"), "--machine.accelerator", "cpu"))
    require_alike(tmp_path / "run", alone)
    assert said.count("weights:") == said.count("epoch 2:") == 1  # one of them speaks
    assert not (tmp_path / "run" / ".together").exists()


@pytest.mark.slow
def test_every_loss_sampling_and_network_learns_alike_on_two_processes(small_store, tmp_path):
    script = str(Path(__file__).with_name("processes.py"))
    two = torchrun(script, str(small_store), str(tmp_path / "two"))
    for name, one in processes.RECIPES.items():
        train(one, open_store(small_store), tmp_path / "one" / name, machine=Machine("cpu", threads=1))
    end(two)
    for name in processes.RECIPES:
        require_alike(tmp_path / "two" / name, tmp_path / "one" / name, loss=1e-5 if "batch_norm" in name else LOSS)


@pytest.mark.slow
def test_two_machines_of_one_process_train_as_one_does(small_store, tmp_path, recipe, alone):
    words = (*VERB, recipe, str(small_store), str(tmp_path / "run"), "--machine.accelerator", "cpu")
    port = free_port()
    end(*(torchrun(*words, each=1, nodes=2, node=node, port=port) for node in range(2)))
    require_alike(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(small_store, tmp_path, recipe, alone, before, after):
    run = tmp_path / "run"
    words = (*VERB, recipe, str(small_store), str(run), "--machine.accelerator", "cpu", "--machine.save-every-s", "0")
    begun = torchrun(*words, each=before)
    kill_within(begun, run)
    end(torchrun(*words, "--resume", each=after))
    require_alike(run, alone)


def kill_within(begun: subprocess.Popen[str], run: Path) -> None:
    """Kill what torchrun began within the first epoch or later, once a state is written."""
    until = time.monotonic() + 300
    while not (run / "state.safetensors").is_file() and time.monotonic() < until and begun.poll() is None:
        time.sleep(0.002)
    for one in psutil.Process(begun.pid).children(recursive=True):
        one.kill()
    begun.communicate(timeout=100)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_the_others_end_with_a_message_when_one_process_is_killed_or_silent(small_store, tmp_path, recipe, victim, how):
    run, port = tmp_path / "run", free_port()
    words = (*VERB, recipe, str(small_store), str(run), "--machine.accelerator", "cpu", "--training.epochs", "2000")
    begun = [torchrun(*words, each=1, nodes=2, node=node, port=port) for node in range(2)]
    until = time.monotonic() + 300
    while not (run / "log.csv").is_file() and time.monotonic() < until:
        time.sleep(0.1)
    workers = [psutil.Process(one.pid).children()[0] for one in begun]
    workers[victim].send_signal(how)
    workers[1 - victim].wait(30)
    with suppress(psutil.NoSuchProcess):
        workers[victim].kill()
    said = "".join(one.communicate(timeout=200)[0] for one in begun)
    assert all(one.returncode for one in begun)
    reason = (
        "another of the 2 processes is gone" if how == signal.SIGKILL else "process 1 has not been heard of for 20 s"
    )
    assert re.search(f"{reason}.*--resume", said), said


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others_with_its_reason(small_store, tmp_path, recipe, alone):
    begun = srun(*VERB, recipe, str(small_store), str(alone), "--machine.accelerator", "cpu")
    said = [one.communicate(timeout=300)[0] for one in begun]
    assert [one.returncode for one in begun] == [2, 2]
    assert "holds a run already. Pass --resume" in said[0]
    assert "process 0 ended: RunError:" in said[1]
    assert "holds a run already" in said[1]
