"""Events: everyone who waits wakes up, also when a signal handler sets it or a waiter dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from evidence.storms import family_storms
from evidence.storms.storms import hits, weather
from mpbakery._system.layout import FLAG
from support.workers import PATIENCE, Crew, expect, in_thread, in_threads, kill, wait_until


@pytest.fixture
def event(fork: BaseContext) -> mpbakery.Event:
    return mpbakery.Event(ctx=fork)


def waiting(event: mpbakery.Event) -> int:
    """How many wait."""
    return sum(1 for number in event._room.numbers() if number)


def wait_and_tell(event: mpbakery.Event, connection: Connection, timeout: float | None) -> None:
    connection.send(event.wait(timeout))


def test_everyone_wakes_up(ctx: BaseContext, ctx_crew: Crew) -> None:
    event = mpbakery.Event(ctx=ctx)
    ours, theirs = ctx.Pipe()
    for _ in range(3):
        ctx_crew.start(wait_and_tell, event, theirs, None)
    wait_until(lambda: waiting(event) == 3, "three who wait")
    assert not ours.poll(0)
    event.set()
    assert [expect(ours) for _ in range(3)] == [True] * 3
    ctx_crew.finish()
    assert event.wait() is True
    assert event.is_set()


def test_a_moment_is_enough(crew: Crew, event: mpbakery.Event) -> None:
    """Whoever waits when it is set wakes up, even if it is cleared at once."""
    ours, theirs = crew.context.Pipe()
    for _ in range(3):
        crew.start(wait_and_tell, event, theirs, PATIENCE)
    wait_until(lambda: waiting(event) == 3, "three who wait")
    event.set()
    event.clear()
    assert [expect(ours) for _ in range(3)] == [True] * 3


def test_time_runs_out(event: mpbakery.Event) -> None:
    start = time.monotonic()
    assert event.wait(0.1) is False
    assert 0.1 <= time.monotonic() - start < PATIENCE
    assert event.wait(0) is False
    event.set()
    assert event.wait(0) is True
    event.clear()
    assert event.wait(-1) is False
    assert waiting(event) == 0


def test_the_dead_keep_nobody_from_waking_up(crew: Crew, event: mpbakery.Event) -> None:
    ours, theirs = crew.context.Pipe()
    children = [crew.start(wait_and_tell, event, theirs, PATIENCE) for _ in range(3)]
    wait_until(lambda: waiting(event) == 3, "three who wait")
    kill(children[1])
    crew.processes.remove(children[1])
    event.set()
    assert [expect(ours) for _ in range(2)] == [True] * 2


def test_whoever_sets_it_may_be_interrupted(crew: Crew, event: mpbakery.Event) -> None:
    """By death, or by a handler that raises: those who wait find out by themselves."""
    ours, theirs = crew.context.Pipe()
    for timeout in (None, PATIENCE):
        crew.start(wait_and_tell, event, theirs, timeout)
    wait_until(lambda: waiting(event) == 2, "two who wait")
    event._memory.words[FLAG] = 1  # all that such a set() has come to
    assert [expect(ours, 5.0) for _ in range(2)] == [True] * 2


def wait_for_own_signal(event: mpbakery.Event, connection: Connection) -> None:
    """Wait for what only one's own handler does; a second handler waits in the middle of that."""

    def set_it(_number: int, _frame: object) -> None:
        event.set()

    def wait_too(_number: int, _frame: object) -> None:
        connection.send(event.wait(0.05))

    signal.signal(signal.SIGUSR1, set_it)
    signal.signal(signal.SIGUSR2, wait_too)
    connection.send("ready")
    connection.send(event.wait(PATIENCE))


def test_set_in_a_handler_of_the_waiting_thread(crew: Crew, event: mpbakery.Event) -> None:
    ours, theirs = crew.context.Pipe()
    child = crew.start(wait_for_own_signal, event, theirs)
    assert expect(ours) == "ready"
    wait_until(lambda: waiting(event) == 1, "one who waits")
    os.kill(child.pid or 0, signal.SIGUSR2)
    assert expect(ours) is False
    os.kill(child.pid or 0, signal.SIGUSR1)
    assert expect(ours) is True


def test_threads(event: mpbakery.Event) -> None:
    assert in_thread(lambda: event.wait(0.01)) is False
    in_thread(event.set)
    assert event.wait() is True


def fork_while_waiting(event: mpbakery.Event, connection: Connection) -> None:
    """A handler forks in the middle of a wait; parent and child both wait on."""

    def fork(_number: int, _frame: object) -> None:
        os.fork()

    signal.signal(signal.SIGUSR1, fork)
    pid = os.getpid()
    result = event.wait(PATIENCE)
    connection.send((os.getpid() == pid, result))
    if os.getpid() != pid:
        os._exit(0)
    os.wait()


def test_a_child_forked_in_the_middle_waits_on(crew: Crew, event: mpbakery.Event) -> None:
    ours, theirs = crew.context.Pipe()
    child = crew.start(fork_while_waiting, event, theirs)
    wait_until(lambda: waiting(event) == 1, "one who waits")
    os.kill(child.pid or 0, signal.SIGUSR1)
    wait_until(lambda: waiting(event) == 2, "two who wait")
    event.set()
    assert sorted(expect(ours) for _ in range(2)) == [(False, True), (True, True)]
    crew.finish()


def test_a_thread_that_has_ended_keeps_no_place(crew: Crew, fork: BaseContext) -> None:
    event = mpbakery.Event(slots=4, ctx=fork)
    together = threading.Barrier(4)

    def wait() -> None:
        together.wait(PATIENCE)
        event.wait(0.1)

    in_threads([wait] * 4)
    ours, theirs = crew.context.Pipe()
    for _ in range(3):
        crew.start(wait_and_tell, event, theirs, PATIENCE)
    wait_until(lambda: waiting(event) == 3, "three who wait")
    event.set()
    assert [expect(ours) for _ in range(3)] == [True] * 3


def test_repr(event: mpbakery.Event) -> None:
    assert repr(event).endswith(" unset>")
    event.set()
    assert repr(event).endswith(" set>")


@pytest.mark.serial
def test_a_storm_of_handlers_that_set(crew: Crew) -> None:
    places, woken = weather(crew, family_storms.storm_on_event, 4_000)
    assert hits(places) > 1_000, places
    assert woken > 500
