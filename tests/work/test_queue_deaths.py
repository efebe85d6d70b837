"""A process that is killed or stopped at each step of `put` and `get`, in turn: it costs at most its own item."""

from __future__ import annotations

import os
import queue
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest

import mpbakery
from mpbakery._work.queues import endless, places, unfinished
from support.processes import descriptors, own_descriptors
from support.queue_victims import (
    die_at,
    get,
    get_and_finish,
    get_patiently,
    put,
    put_if_there_is_room,
    put_patiently,
    steps_of,
    stop_at,
)
from support.workers import PATIENCE, Crew, wait_for_state

#: How long whoever does not go on counts as alive, in these tests (s).
_GRACE: Final = 0.02
#: How many items a queue takes here.
_LIMIT: Final = 2

SMALL: Final = "item"
LARGE: Final = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second takes less here, or there would be minutes of it."""
    monkeypatch.setattr(places, "GRACE", _GRACE)
    monkeypatch.setattr(places, "_NAP", _GRACE / 4)
    monkeypatch.setattr(unfinished, "_GRACE", _GRACE)
    monkeypatch.setattr(unfinished, "_NAP", _GRACE / 4)


def drain(items: Any) -> list[Any]:
    """All that is in a queue."""
    found = []
    while True:
        try:
            found.append(items.get_nowait())
        except queue.Empty:
            return found


def fill(items: Any) -> int:
    """Put into an empty queue what it takes, and get it again; how many items those were."""
    count = 0
    try:
        while True:
            items.put(count, timeout=10 * _GRACE if count < _LIMIT else 0)
            count += 1
    except queue.Full:
        pass
    assert items.full()
    assert drain(items) == list(range(count))
    return count


def assert_usable(items: Any) -> None:
    """An empty queue takes as many items as it should: not one more, and soon as many."""
    for _ in range(4):
        count = fill(items)
        assert count <= _LIMIT
        if count == _LIMIT:
            break
    assert count == _LIMIT
    assert items.empty()
    assert items.qsize() == 0
    assert not items.full()


def new_queue(kind: str, *content: object) -> Any:
    """A queue with something in it."""
    items = getattr(mpbakery.get_context("fork"), kind)(_LIMIT)
    for item in content:
        items.put(item)
    return items


PUTTING = [(put, SMALL), (put, LARGE), (put_patiently, SMALL)]
GETTING = [(get, SMALL), (get, LARGE), (get_patiently, SMALL)]


@pytest.mark.serial
@pytest.mark.parametrize(("operation", "item"), PUTTING, ids=["small", "large", "timeout"])
def test_who_puts_is_killed(crew: Crew, operation: Callable[..., object], item: object) -> None:
    lost = 0
    steps = steps_of(crew, operation, new_queue("Queue", "first"), item)
    before = own_descriptors()
    for step in range(1, steps + 1, 3 if item is LARGE else 1):  # each one of those that are lost takes a while
        items = new_queue("Queue", "first")
        crew.start(die_at, step, operation, items, item).join(PATIENCE)
        found = drain(items)
        assert found in (["first"], ["first", item]), f"at step {step} of {steps}"
        lost += len(found) == 1
        assert_usable(items)
        del items
        crew.close()
    assert 5 < lost < steps
    assert descriptors() == before


@pytest.mark.serial
@pytest.mark.parametrize(("operation", "item"), GETTING, ids=["small", "large", "timeout"])
def test_who_gets_is_killed(crew: Crew, operation: Callable[..., object], item: object) -> None:
    lost = 0
    steps = steps_of(crew, operation, new_queue("Queue", item, "last"))
    before = own_descriptors()
    for step in range(1, steps + 1):
        items = new_queue("Queue", item, "last")
        crew.start(die_at, step, operation, items).join(PATIENCE)
        found = drain(items)
        assert found in (["last"], [item, "last"]), f"at step {step} of {steps}"
        lost += len(found) == 1
        assert_usable(items)
        del items
        crew.close()
    assert 3 < lost < steps
    assert descriptors() == before


@pytest.mark.serial
def test_who_puts_is_stopped(crew: Crew) -> None:
    """The others go on without it, and when it goes on, its item comes, and all is as it should be."""
    steps = steps_of(crew, put, new_queue("Queue", "first"), SMALL)
    for step in range(1, steps + 1):
        items = new_queue("Queue", "first")
        victim = crew.start(stop_at, step, put, items, SMALL)
        wait_for_state(victim.pid or 0, "T")
        found = drain(items)
        assert_usable(items)
        os.kill(victim.pid or 0, signal.SIGCONT)
        victim.join(PATIENCE)
        assert victim.exitcode == 0
        assert found + drain(items) == ["first", SMALL], f"at step {step} of {steps}"
        assert_usable(items)
        crew.close()


@pytest.mark.serial
def test_an_item_that_comes_late_gives_no_place_back(crew: Crew) -> None:
    """Its place was given to another one when it was stopped, and that one is in the queue when it comes out."""
    steps = steps_of(crew, put_if_there_is_room, new_queue("Queue"), SMALL)
    late = 0
    for step in range(1, steps + 1):
        items = new_queue("Queue")
        victim = crew.start(stop_at, step, put_if_there_is_room, items, SMALL)
        wait_for_state(victim.pid or 0, "T")
        drain(items)
        assert_usable(items)
        for number in range(_LIMIT):
            items.put(number, timeout=PATIENCE)
        os.kill(victim.pid or 0, signal.SIGCONT)
        victim.join(PATIENCE)
        assert victim.exitcode == 0
        assert [items.get() for _ in range(_LIMIT)] == list(range(_LIMIT))
        if not items.empty():
            late += 1
            inside = 0
            while inside < _LIMIT:  # one less, if it has come by a place after all
                try:
                    items.put(inside, timeout=5 * _GRACE)
                except queue.Full:
                    break
                inside += 1
            assert items.get() == SMALL
            while inside < _LIMIT:
                items.put(inside, timeout=PATIENCE)
                inside += 1
            with pytest.raises(queue.Full):
                items.put("one too many", timeout=5 * _GRACE)
            drain(items)
        assert_usable(items)
        crew.close()
    assert late > 3


@pytest.mark.serial
def test_who_gets_is_stopped(crew: Crew) -> None:
    steps = steps_of(crew, get, new_queue("Queue", SMALL, "last"))
    for step in range(1, steps + 1):
        items = new_queue("Queue", SMALL, "last")
        victim = crew.start(stop_at, step, get, items)
        wait_for_state(victim.pid or 0, "T")
        found = drain(items)
        assert found in (["last"], [SMALL, "last"]), f"at step {step} of {steps}"
        assert_usable(items)
        os.kill(victim.pid or 0, signal.SIGCONT)
        if len(found) == 2:
            items.put("for the one that was stopped")
        victim.join(PATIENCE)
        assert victim.exitcode == 0
        assert_usable(items)
        crew.close()


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
@pytest.mark.parametrize(("operation", "arguments"), [(put, (SMALL,)), (get, ())], ids=["put", "get"])
def test_the_count_of_a_queue_without_a_limit(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, kind: str, operation: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """What was lost with the dead is not counted for ever: it is found out when the queue stays empty."""
    monkeypatch.setattr(endless, "GRACE", _GRACE)
    context: Any = mpbakery.get_context("fork")

    def with_one() -> Any:
        items = getattr(context, kind)()
        items.put("first")
        return items

    surplus = 0
    steps = steps_of(crew, operation, with_one(), *arguments)
    for step in range(1, steps + 1):
        items = with_one()
        crew.start(die_at, step, operation, items, *arguments).join(PATIENCE)
        drain(items)
        assert items.qsize() == 0
        items.put(1)
        found = items.qsize()
        assert items.get() == 1
        assert found in (1, 2)
        surplus += found - 1
        end = time.monotonic() + PATIENCE
        while items.qsize() or items._room._count():
            assert time.monotonic() < end
            time.sleep(_GRACE)
        items.put(1)
        assert items.qsize() == 1
        crew.close()
    assert 1 < surplus < steps


@pytest.mark.serial
@pytest.mark.parametrize("operation", [put, get_and_finish])
@pytest.mark.parametrize("how", [die_at, stop_at])
def test_who_has_a_task_is_killed_or_stopped(
    crew: Crew, operation: Callable[..., object], how: Callable[..., object]
) -> None:
    """`join` waits for the living, though they are stopped, but not for the dead."""
    arguments = (SMALL,) if operation is put else ()
    content = () if operation is put else (SMALL,)
    steps = steps_of(crew, operation, new_queue("JoinableQueue", *content), *arguments)
    told = 0
    for step in range(1, steps + 1):
        items = new_queue("JoinableQueue", *content)
        victim = crew.start(how, step, operation, items, *arguments)
        if how is stop_at:
            wait_for_state(victim.pid or 0, "T")
            os.kill(victim.pid or 0, signal.SIGCONT)
        victim.join(PATIENCE)
        for _ in drain(items):
            items.task_done()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            items.join()
        told += len(caught)
        if how is stop_at:
            assert not caught
        for warning in caught:
            assert isinstance(warning.message, mpbakery.TasksLostWarning)
            assert warning.message.tasks == 1
        with pytest.raises(ValueError, match="called too many times"):
            items.task_done()
        items.put("more")
        items.get()
        items.task_done()
        items.join()
        crew.close()
    assert told > 3 or how is stop_at
