"""Three stages over items: what runs beside what, what is held, whose error it is, and how it ends."""

import gc
import threading
import weakref

import pytest

from viscera.errors import FileError, VisceraError
from viscera.inference.pipeline import run_stages

WAIT_S = 20
"""Only a fault waits so long."""


class Thing:
    """Can be referred to weakly."""


def course(items, *, bad=None, beside=lambda item: True):
    """Run items through stages that note what they do; return the notes and what was told."""
    notes, told = [], []

    def stage(name):
        def run(item):
            notes.append((name, item))
            if (name, item) == bad:
                raise FileError(f"{name} {item}")
            return item

        return run

    stages = {name: stage(name) for name in ("read", "work", "write")}
    run_stages(items, **stages, done=lambda item, outcome: told.append((item, outcome)), beside=beside)
    return notes, told


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_goes_through_all_stages_and_is_told_of_in_order(count):
    notes, told = course(range(count))
    assert told == [(item, item) for item in range(count)]
    for name in ("read", "work", "write"):
        assert [item for stage, item in notes if stage == name] == list(range(count))


@pytest.mark.parametrize("stage", ["read", "work", "write"])
@pytest.mark.parametrize("item", [0, 1, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_an_error_in_any_stage_is_that_items_own(stage, item, alone):
    notes, told = course(range(4), bad=(stage, item), beside=lambda _: not alone)
    assert [one for one, _ in told] == [0, 1, 2, 3]
    assert [one for one, outcome in told if isinstance(outcome, VisceraError)] == [item]
    assert str(told[item][1]) == f"{stage} {item}"
    assert [name for name, one in notes if one == item][-1] == stage


def test_the_next_is_read_and_the_last_written_while_the_present_one_is_worked_on():
    reading, writing = ([threading.Event() for _ in range(4)] for _ in range(2))
    met = []

    def read(item):
        reading[item].set()
        return item

    def work(item):
        met.append(item in (3,) or reading[item + 1].wait(WAIT_S))
        met.append(item == 0 or writing[item - 1].wait(WAIT_S))
        return item

    def write(item):
        writing[item].set()

    run_stages(range(4), read=read, work=work, write=write, done=lambda item, outcome: None)
    assert all(met)


def test_what_waits_or_is_worked_on_is_never_more_than_three_items():
    alive, most = weakref.WeakSet(), []

    def made(_):
        thing = Thing()
        alive.add(thing)
        most.append(len(alive))
        return thing

    run_stages(range(12), read=made, work=lambda _: Thing(), write=lambda _: None, done=lambda item, outcome: None)
    assert max(most) <= 2  # one worked on, one read ahead; what was worked on became another thing


def test_an_item_that_must_be_alone_waits_until_all_before_it_are_written():
    notes, _ = course(range(5), beside=lambda item: item != 2)
    assert notes.index(("write", 1)) < notes.index(("read", 2))
    notes, _ = course(range(4), beside=lambda item: False)
    assert notes == [(name, item) for item in range(4) for name in ("read", "work", "write")]


def test_of_every_item_it_is_asked_once_and_in_order_whether_it_may_be_beside_others():
    asked = []
    course(range(4), beside=lambda item: asked.append(item) or item % 2 == 0)
    assert asked == [0, 1, 2, 3]


def test_a_single_item_needs_no_threads():
    threads = []
    note = lambda item: threads.append(threading.current_thread())  # noqa: E731
    run_stages([1], read=note, work=note, write=note, done=lambda item, outcome: None)
    assert threads == [threading.main_thread()] * 3


@pytest.mark.parametrize("stage", ["read", "work", "write"])
@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, RecursionError])
@pytest.mark.parametrize("count", [1, 5])
def test_a_fault_of_ours_is_that_items_own_too(stage, error, count):
    def fails(item):
        if item in (0, 2):
            raise error("ours")
        return item

    parts = {"read": lambda item: item, "work": lambda item: item, "write": lambda item: item} | {stage: fails}
    told = []
    run_stages(range(count), **parts, done=lambda item, outcome: told.append(outcome))
    assert [type(outcome) if isinstance(outcome, Exception) else outcome for outcome in told] == [
        error if item in (0, 2) else item for item in range(count)
    ]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_raised_and_no_thread_is_left(end):
    def ends(item):
        if item == 2:
            raise end
        return item

    with pytest.raises(end):
        run_stages(
            range(5), read=lambda item: item, work=ends, write=lambda item: item, done=lambda item, outcome: None
        )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reading", "writing"))]


def test_an_interruption_lets_the_last_be_written_and_begins_nothing_more():
    read, written, begun = [], [], threading.Event()

    def work(item):
        if item == 2:
            assert begun.wait(WAIT_S)
            raise KeyboardInterrupt
        return item

    def write(item):
        if item == 1:
            begun.set()
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        run_stages(
            range(9),
            read=lambda item: read.append(item) or item,
            work=work,
            write=write,
            done=lambda item, outcome: None,
        )
    assert written == [0, 1]
    assert read == [0, 1, 2, 3]


def test_an_error_that_is_kept_does_not_hold_what_the_stage_had_read():
    seen, kept = weakref.WeakSet(), []

    def read(item):
        voxels = Thing()
        seen.add(voxels)
        try:
            raise ValueError("inner", voxels.__class__)
        except ValueError as error:
            raise FileError("no scan") from error

    run_stages(
        [1, 2],
        read=read,
        work=lambda one: one,
        write=lambda one: one,
        done=lambda item, outcome: kept.append(outcome),
    )
    gc.collect()
    assert [str(error) for error in kept] == ["no scan"] * 2
    assert len(seen) == 0
