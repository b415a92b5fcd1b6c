"""Every operation on a file fails once, with each cause: one message, nothing half-written, and the second run makes it good."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from faults.faulty import faults
from faults.verbs import VERBS, Verb, furnish, leftovers, results, whole
from makers import call

CODES = {"ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES, "EIO": errno.EIO}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Let no table break a cause that is looked for over two lines."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="module")
def furnished(small_store, tmp_path_factory) -> Path:
    return furnish(tmp_path_factory.mktemp("furnished"), small_store)


@pytest.fixture(scope="module")
def undisturbed(furnished, tmp_path_factory):
    """Return a function that says what a verb gives, and in how many operations, when nothing goes wrong."""
    known = {}

    def find(verb: Verb) -> tuple[dict, int]:
        if verb.name not in known:
            place = tmp_path_factory.mktemp("undisturbed") / "place"
            shutil.copytree(furnished, place)
            with pytest.MonkeyPatch.context() as patch, faults(place, 0) as met:
                patch.chdir(place)
                code, said = call(verb.command)
            assert code == 0, said
            assert leftovers(place) == []
            known[verb.name] = results(place, verb), met.count
        return known[verb.name]

    return find


def disturb(verb: Verb, place: Path, expected: dict, *, number: int, code: int) -> str:
    """Run a verb with one fault, check all, and run it again; return what became of it."""
    with faults(place, number, code) as met:
        ended, said = call(verb.command)
    told = f"operation {number} ({', '.join(map(str, zip(met.fired, met.places, strict=True)))[:300]}): {said}"
    assert "Traceback" not in said, told
    assert met.fired, told
    noted = set()
    if ended == 0:  # what failed was of no consequence, or it is an aid of which a note says that it is missing
        found = results(place, verb)
        noted = {name for name in expected if name not in found and f"{name} was not written" in said}
        assert found == {name: content for name, content in expected.items() if name not in noted}, told
    else:
        assert ended == 2, told
        assert os.strerror(code) in said, told
        assert code != errno.ENOSPC or "MiB are free" in said, told
        whole(place)
    if ended == 0 and verb.name == "synth":  # a data set that is finished is not begun again
        return "harmless"
    again, said = call(f"{verb.command} {verb.again}")
    assert again == 0, f"{told}\nsecond run: {said}"
    assert results(place, verb) == expected, told
    assert leftovers(place) == [], told
    return "refused" if ended else "noted" if noted else "harmless"


def samples(count: int, *, most: int) -> list[int]:
    """Return the first and the last operation and some in between."""
    return sorted({1 + round(part * (count - 1) / (most - 1)) for part in range(most)})


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.name in ("predict", "page")],
                         ids=lambda verb: verb.name)  # fmt: skip
@pytest.mark.parametrize("cause", CODES)
def test_a_verb_that_meets_a_fault_says_so_and_leaves_nothing_half(
    verb, cause, furnished, undisturbed, tmp_path, monkeypatch
):
    expected, count = undisturbed(verb)
    offset = list(CODES).index(cause)  # each cause meets other operations
    for number in samples(count - offset, most=2):
        place = tmp_path / str(number)
        shutil.copytree(furnished, place)
        monkeypatch.chdir(place)
        disturb(verb, place, expected, number=number + offset, code=CODES[cause])


def tell(capsys, verb: str, **counts: int) -> None:
    """Say what came of a sweep, for tools/fault_sweep.py."""
    with capsys.disabled():
        print("\n" + json.dumps({"verb": verb, **counts}), flush=True)  # noqa: T201


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_operation_of_every_verb_may_fail(verb, furnished, undisturbed, tmp_path, monkeypatch, capsys):
    expected, count = undisturbed(verb)
    ended, wrong = Counter(refused=0, noted=0, harmless=0, otherwise=0), []
    for turn, number in enumerate(samples(count, most=min(count, verb.most))):
        for cause, code in list(CODES.items())[turn % 3 :: 3] if verb.slow else CODES.items():
            place = tmp_path / f"{number}{cause}"
            shutil.copytree(furnished, place)
            monkeypatch.chdir(place)
            try:
                ended[disturb(verb, place, expected, number=number, code=code)] += 1
            except BaseException as error:  # counted, so that one does not hide the rest
                if isinstance(error, KeyboardInterrupt):
                    raise
                ended["otherwise"] += 1
                wrong.append(f"{cause} {number}: {type(error).__name__}: {str(error)[:1500]}")
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(place)
    tell(capsys, verb.name, operations=count, tried=sum(ended.values()), **ended)
    assert not wrong, "\n\n".join(wrong)


class Server:
    """Runs commands in forks of one process, each killed at an operation of its own."""

    def __init__(self):
        command = [sys.executable, str(Path(__file__).parent / "server.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: str, place: Path, number: int) -> int:
        job = {"arguments": command.split(), "root": str(place), "number": number, "said": str(place.parent / "said")}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job | {"folder": str(place)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        self.process.communicate()


@pytest.fixture(scope="module")
def server():
    one = Server()
    yield one
    one.end()


def kill(verb: Verb, place: Path, expected: dict, *, number: int, server: Server) -> None:
    """Kill a verb at an operation, check that all is whole, and run it again."""
    code = server.run(verb.command, place, number)
    assert code == -9, (number, code, (place.parent / "said").read_text())
    whole(place)
    again, said = call(f"{verb.command} {verb.again}")
    assert again == 0, (number, said)
    assert results(place, verb) == expected, number
    assert leftovers(place) == [], number


def test_a_verb_that_is_killed_leaves_nothing_half_and_goes_on(furnished, undisturbed, tmp_path, monkeypatch, server):
    verb = next(verb for verb in VERBS if verb.name == "predict")
    expected, count = undisturbed(verb)
    for number in samples(count, most=4)[1:-1]:
        place = tmp_path / str(number)
        shutil.copytree(furnished, place)
        monkeypatch.chdir(place)
        kill(verb, place, expected, number=number, server=server)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_may_be_killed_at_every_operation(
    verb, furnished, undisturbed, tmp_path, monkeypatch, server, capsys
):
    expected, count = undisturbed(verb)
    wrong, tried = [], 0
    for tried, number in enumerate(samples(count, most=min(count, verb.most)), start=1):  # noqa: B007
        place = tmp_path / str(number)
        shutil.copytree(furnished, place)
        monkeypatch.chdir(place)
        try:
            kill(verb, place, expected, number=number, server=server)
        except (AssertionError, ValueError, OSError) as error:
            wrong.append(f"{number}: {type(error).__name__}: {str(error)[:800]}")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(place)
    tell(capsys, verb.name, kills=tried, otherwise=len(wrong))
    assert not wrong, "\n\n".join(wrong)
