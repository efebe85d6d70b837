"""The locks of queues over pipes: what they refuse is told to whoever puts, and nothing blocks a queue for ever."""

from __future__ import annotations

import os
import queue
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

import mpbakery
from mpbakery._system.layout import KIND_AT, MAX_SLOTS, QUEUE_LOCK, THREAD, record_of
from mpbakery._work.queues import piped
from support.everything import get_one
from support.oddities import HINDRANCES, take_item
from support.queue_children import put_for_ever
from support.workers import PATIENCE, Crew, expect, in_thread, kill, wait_until

FORK: Any = mpbakery.get_context("fork")

pytestmark = pytest.mark.usefixtures("queues_over_pipes")


@pytest.fixture
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues that two threads at a time can use each end of: in the end, that is a number like any other."""
    monkeypatch.setattr(piped, "MAX_SLOTS", 2)


def put_in_thread(connection: Connection, items: Any, item: object) -> None:
    """Put an item in a thread that ends, tell what came of it, and stay until told to end."""

    def put() -> str:
        try:
            items.put(item, timeout=PATIENCE)
        except mpbakery.SlotsExhausted as error:
            return str(error)
        return "put"

    connection.send(in_thread(put))
    expect(connection)


def put_elsewhere(crew: Crew, items: Any, item: object) -> tuple[Connection, str]:
    """Put an item in another process; what came of it, and how to end that process."""
    ours, theirs = crew.context.Pipe()
    crew.start(put_in_thread, theirs, items, item)
    return ours, expect(ours)


@pytest.mark.parametrize("make", [FORK.Queue, FORK.JoinableQueue, lambda: FORK.Queue(3)], ids=["", "joinable", "limit"])
def test_one_process_too_many_is_told_so(few_slots: None, crew: Crew, make: Callable[[], Any]) -> None:
    items = make()
    said: dict[str, str] = {}
    ends = []
    for item in "abc":
        end, said[item] = put_elsewhere(crew, items, item)
        ends.append(end)
    assert (said["a"], said["b"]) == ("put", "put")
    assert said["c"].startswith(f"all 2 slots of {items._wlock.name} belong to living threads")
    assert {items.get(timeout=PATIENCE), items.get(timeout=PATIENCE)} == {"a", "b"}
    assert items.qsize() == 0
    ends[0].send("end")
    crew.processes[0].join(PATIENCE)
    assert put_elsewhere(crew, items, "d")[1] == "put", "the slot of a process that has ended is to be had"
    assert items.get(timeout=PATIENCE) == "d"


def test_who_was_refused_may_try_again(few_slots: None, crew: Crew) -> None:
    items = FORK.Queue(3)
    ends = [put_elsewhere(crew, items, item)[0] for item in "ab"]
    with pytest.raises(mpbakery.SlotsExhausted):
        in_thread(lambda: items.put("c"))
    ends[0].send("end")
    crew.processes[0].join(PATIENCE)
    in_thread(lambda: items.put("d"))
    assert sorted(items.get(timeout=PATIENCE) for _ in range(3)) == ["a", "b", "d"]
    with pytest.raises(queue.Empty):
        items.get_nowait()
    items.close()
    items.join_thread()


def test_a_queue_has_as_many_slots_as_there_can_be() -> None:
    for made in (FORK.Queue(), FORK.Queue(5), FORK.JoinableQueue(), FORK.SimpleQueue()):
        assert made._rlock.statistics().slots == made._wlock.statistics().slots == MAX_SLOTS
        assert made._rlock._memory.words[KIND_AT] == QUEUE_LOCK


def test_the_thread_that_feeds_is_known_by_its_own_number(crew: Crew) -> None:
    items = FORK.Queue()
    items.put("item")
    items.get(timeout=PATIENCE)
    assert items._wlock.statistics().acquisitions == 1
    assert items._wlock._table.is_mine(0)
    assert items._wlock._memory.words[record_of(MAX_SLOTS, 0) + THREAD] == items._thread.native_id
    items.close()


# --- Deaths --------------------------------------------------------------------------------------------------------


def die_under(condition: mpbakery.Condition) -> None:
    """End with a condition's lock held."""
    condition.acquire()


def test_a_death_told_as_an_error_does_not_block_what_is_not_done(crew: Crew) -> None:
    items = FORK.JoinableQueue()
    items.put("item")
    assert items.get(timeout=PATIENCE) == "item"
    with warnings.catch_warnings():
        warnings.simplefilter("error", mpbakery.OwnerDiedWarning)
        crew.start(die_under, items._cond).join(PATIENCE)
        items.put("another")
        crew.start(die_under, items._cond).join(PATIENCE)
        items.task_done()
        items.get(timeout=PATIENCE)
        crew.start(die_under, items._cond).join(PATIENCE)
        items.task_done()
        crew.start(die_under, items._cond).join(PATIENCE)
        items.join()
    items.close()


@pytest.mark.parametrize("way", HINDRANCES)
def test_a_death_that_cannot_be_shown_does_not_block_a_queue(crew: Crew, way: str) -> None:
    items = FORK.Queue()
    reader = crew.start(items.get)
    wait_until(items._rlock.locked, "the reader has the lock")
    kill(reader)
    crew.processes.remove(reader)
    items.put("item")
    ours, theirs = crew.context.Pipe()
    crew.start(take_item, theirs, items, way)
    assert expect(ours) == "item"
    crew.finish()
    items.close()


def test_their_locks_are_ours(context: Any) -> None:
    assert isinstance(context.Queue()._rlock, mpbakery.Lock)
    assert isinstance(context.JoinableQueue()._cond, mpbakery.Condition)
    assert isinstance(context.SimpleQueue()._rlock, mpbakery.Lock)


def test_a_reader_that_is_killed_costs_nobody_else(context: Any, context_crew: Crew) -> None:
    """A reader that waits holds the queue's lock: with the standard library's, all others wait for ever."""
    made = context.Queue()
    assert isinstance(made, piped.Queue)
    reader = context_crew.start(get_one, made)
    wait_until(made._rlock.locked, "the reader has the lock")  # type: ignore[attr-defined]
    kill(reader)
    made.put("news")
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert made.get(timeout=PATIENCE) == "news"


def test_a_putter_that_is_stopped_is_in_nobodys_way(crew: Crew) -> None:
    """Nobody waits for a place in a queue without a limit."""
    items: Any = mpbakery.get_context("fork").Queue()
    ours, theirs = crew.context.Pipe()
    items.put(2)
    putter = crew.start(put_for_ever, items, theirs)
    assert expect(ours) == "begins"
    while items.get(timeout=PATIENCE) != 1:
        pass  # until both have their slots: whoever is stopped while it claims one is in everybody's way
    for _ in range(200):
        os.kill(putter.pid or 0, signal.SIGSTOP)
        items.put_nowait(2)
        os.kill(putter.pid or 0, signal.SIGCONT)
        items.get(timeout=PATIENCE)
    items.close()
    items.cancel_join_thread()


def test_a_death_that_is_told_as_an_error_does_not_block_a_queue(crew: Crew) -> None:
    items: Any = mpbakery.get_context("fork").Queue()
    reader = crew.start(items.get)
    wait_until(items._rlock.locked, "the reader has the lock")
    kill(reader)
    with warnings.catch_warnings():
        warnings.simplefilter("error", mpbakery.OwnerDiedWarning)
        items.put("item")
        assert items.get(timeout=PATIENCE) == "item"
