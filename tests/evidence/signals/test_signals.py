"""Signal handlers that raise, acquire or fork, at any moment: nothing leaks, nobody hangs, never two at once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import multiprocessing
import operator
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from evidence.storms import storms
from evidence.storms.storms import STORM, hits, weather
from mpbakery._protocol.seats import Slot
from mpbakery._system.layout import IDLE, NUMBERS
from support.processes import state_of
from support.workers import PATIENCE, Crew, Puppet, expect, wait_for_waiters, wait_until


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork)


def weather_among_others(
    crew: Crew, storm: Callable[..., None], lock: mpbakery.Lock, others: int, *arguments: object
) -> Any:
    """Run a storm while others contend, who must be served all the time and see nothing wrong."""
    ledger = crew.context.RawArray("Q", 8)
    for _ in range(others):
        crew.start(storms.contend, lock, ledger, 0.0002, seconds=STORM)
    enough = 10 if others else -1
    wait_until(lambda: ledger[0] > enough, "the others at work")
    rest = weather(crew, storm, lock, ledger, *arguments)
    served = ledger[0]
    wait_until(lambda: ledger[0] > served + enough, "the others being served after the storm")
    ledger[2] = 1
    crew.finish()
    assert ledger[3] == 0, "two were in"
    assert lock.acquire(True, PATIENCE) is True
    assert lock.statistics().waiters == ()
    return rest


@pytest.fixture
def spawned() -> Iterator[Crew]:
    """Children that do not carry this process's memory along: they fork faster."""
    children = Crew(multiprocessing.get_context("spawn"))
    yield children
    children.close()


# --- Storms --------------------------------------------------------------------------------------------------------


@pytest.mark.serial
def test_a_storm_around_with(crew: Crew) -> None:
    places, _got, _served = weather(crew, storms.storm_on_with_in_child, "mpbakery", "raise", 1, 20_000)
    assert hits(places) > 5_000, places


@pytest.mark.serial
@pytest.mark.parametrize("handlers", ["raise", "acquire", "both"])
def test_a_storm_with_eight_threads(crew: Crew, handlers: str) -> None:
    """Handlers run in the main thread, which contends with seven others."""
    places, (failed, got), served = weather(crew, storms.storm_on_with_in_child, "mpbakery", handlers, 8, 4_000)
    assert hits(places) > 1_000, places
    assert len(places) > 10, places
    assert served > 1_000
    assert handlers == "raise" or min(failed, got) > 50


@pytest.mark.serial
def test_a_storm_around_acquire_and_release(crew: Crew) -> None:
    (places,) = weather(crew, storms.storm_on_calls, 20_000)
    assert hits(places) > 5_000, places


@pytest.mark.serial
@pytest.mark.parametrize(("what", "iterations"), [("raise", 10_000), ("acquire", 5_000), ("fork", 1_000)])
def test_a_storm_around_the_first_with_of_a_lock(spawned: Crew, what: str, iterations: int) -> None:
    (places,) = weather(spawned, storms.storm_on_first_use, what, iterations)
    assert hits(places) > iterations / 20, places
    assert len(places) > 10, places


@pytest.mark.serial
def test_an_exception_that_looks_like_the_systems_is_not_lost(crew: Crew) -> None:
    (places,) = weather(crew, storms.storm_of_timeout_errors, 2_000)
    assert hits(places) > 250, places


@pytest.mark.serial
def test_a_storm_around_attempts_that_time_out(crew: Crew) -> None:
    (places,) = weather(crew, storms.storm_on_timeouts, 6_000)
    assert hits(places) > 1_500, places
    assert len(places) > 10, places


@pytest.mark.serial
def test_a_storm_among_others(crew: Crew, lock: mpbakery.Lock) -> None:
    (places,) = weather_among_others(crew, storms.storm_among_others, lock, 2, 20_000)
    assert hits(places) > 5_000, places
    assert len(places) > 10, places


@pytest.mark.serial
@pytest.mark.parametrize("others", [0, 2])
def test_handlers_that_acquire(crew: Crew, lock: mpbakery.Lock, others: int) -> None:
    places, (failed, got) = weather_among_others(crew, storms.storm_of_acquiring_handlers, lock, others, 4_000)
    assert hits(places) > 500, places
    assert failed > 50
    assert got > 50


@pytest.mark.serial
def test_handlers_inside_handlers_that_acquire(crew: Crew) -> None:
    places, (failed, got) = weather(crew, storms.storm_of_nested_handlers, 2_000)
    assert hits(places) > 300, places
    assert failed > 50
    assert got > 50


@pytest.mark.serial
@pytest.mark.parametrize("others", [0, 2])
def test_handlers_that_fork_in_mid_acquire(crew: Crew, lock: mpbakery.Lock, others: int) -> None:
    (places,) = weather_among_others(crew, storms.storm_of_forking_handlers, lock, others, 300)
    assert hits(places) > 50, places


@pytest.mark.serial
@pytest.mark.parametrize("others", [0, 2])
def test_finalizers_that_acquire(crew: Crew, lock: mpbakery.Lock, others: int) -> None:
    (failed, got), inside = weather_among_others(crew, storms.storm_of_finalizers, lock, others, 3_000)
    assert failed + got == 3_000, "everything is collected, at the latest in the end"
    assert got > 50
    assert inside > 200, "finalizers that ran in the middle of the lock's code"


def test_an_exception_at_every_depth(crew: Crew) -> None:
    """The recursion limit raises where no handler does: at the entry of each function in turn."""
    (outcomes,) = weather(crew, storms.meet_recursion_limit)
    assert outcomes["through"] > 100
    assert outcomes["stopped"] > 20


# --- One handler, at a known moment --------------------------------------------------------------------------------


class Waiting:
    """A child that waits for the lock which the test holds, and has a handler of SIGUSR1."""

    def __init__(self, crew: Crew, lock: mpbakery.Lock, what: str) -> None:
        self.connection: Connection
        self.connection, theirs = crew.context.Pipe()
        self.process = crew.start(storms.wait_with_handler, theirs, lock, what)
        self.pid = self.process.pid or 0
        assert self.hear() == "ready"
        wait_until(lambda: self.pid in [waiter.pid for waiter in lock.statistics().waiters], "the child in the line")
        wait_until(lambda: state_of(self.pid) == "S", "the child asleep")

    def signal(self) -> None:
        """Have the handler run, and wait until it has begun."""
        os.kill(self.pid, signal.SIGUSR1)
        assert self.hear() == "handler"

    def hear(self) -> Any:
        """What the child reports next."""
        return expect(self.connection)

    def end(self, order: str = "release") -> None:
        """Have the child release, or not, and end."""
        self.connection.send(order)
        assert self.hear() == "done"
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


def test_a_handler_that_acquires_gets_the_lock_in_its_main_flows_place(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    waiting = Waiting(crew, lock, "acquire")
    waiting.signal()
    wait_for_waiters(lock, 1)
    assert not waiting.connection.poll(0.1), "the lock is held: the handler waits"
    lock.release()
    assert waiting.hear() == "handler holds"
    assert waiting.hear() == ("main", True, waiting.pid)
    waiting.end()
    assert lock.acquire(False) is True


def test_a_handler_that_acquires_leaves_those_behind_in_their_order(crew: Crew, lock: mpbakery.Lock) -> None:
    """The handler comes later than those who were in the line already, and its main flow later still."""
    lock.acquire()
    waiting = Waiting(crew, lock, "acquire")
    other = Puppet(crew, lock)
    other.begin("acquire")
    wait_for_waiters(lock, 2)
    waiting.signal()
    wait_until(
        lambda: [waiter.pid for waiter in lock.statistics().waiters] == [other.pid, waiting.pid],
        "the handler behind the one that was there before",
    )
    lock.release()
    assert other.end() is True
    assert not waiting.connection.poll(0.05)
    other("release")
    assert waiting.hear() == "handler holds"
    assert waiting.hear() == ("main", True, waiting.pid)
    waiting.end()


def test_several_handlers_in_a_row_while_the_main_flow_waits(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    waiting = Waiting(crew, lock, "timeout")
    for _ in range(3):
        waiting.signal()
        got, took = waiting.hear()
        assert got is False
        assert 0.2 <= took < 5
    waiting.connection.poll(0.05)
    wait_for_waiters(lock, 1)
    lock.release()
    assert waiting.hear() == ("main", True, waiting.pid)
    waiting.end()


def test_a_handler_that_tries_in_vain(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    waiting = Waiting(crew, lock, "try")
    waiting.signal()
    assert waiting.hear() is False
    lock.release()
    assert waiting.hear() == ("main", True, waiting.pid)
    waiting.end()


def test_a_handler_that_acquires_and_raises_keeps_what_it_acquired(crew: Crew, lock: mpbakery.Lock) -> None:
    """The attempt of the main flow is undone, and that alone."""
    lock.acquire()
    waiting = Waiting(crew, lock, "acquire and raise")
    waiting.signal()
    lock.release()
    assert waiting.hear() == "handler holds"
    assert waiting.hear() == "interrupted"
    assert lock.owner is not None
    assert lock.owner.pid == waiting.pid
    assert lock.statistics().waiters == ()
    assert lock.acquire(True, 0.2) is False
    waiting.end()
    assert lock.acquire(False) is True


def test_a_handler_that_raises_leaves_no_place_in_the_line(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    waiting = Waiting(crew, lock, "raise")
    others = [Puppet(crew, lock) for _ in range(2)]
    for place, other in enumerate(others):
        other.begin("acquire")
        wait_for_waiters(lock, place + 2)
    waiting.signal()
    assert waiting.hear() == "interrupted"
    assert [waiter.pid for waiter in lock.statistics().waiters] == [other.pid for other in others]
    lock.release()
    for other in others:
        assert other.end() is True
        other("release")
    waiting.end("nothing")


def test_keyboard_interrupt_leaves_no_place_in_the_line(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    impatient, other = Puppet(crew, lock), Puppet(crew, lock)
    impatient.begin("acquire")
    wait_for_waiters(lock, 1)
    other.begin("acquire")
    wait_for_waiters(lock, 2)
    os.kill(impatient.pid, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        impatient.end()
    assert [waiter.pid for waiter in lock.statistics().waiters] == [other.pid]
    lock.release()
    assert other.end() is True
    other("release")
    assert impatient("acquire", False) is True, "the slot is as good as before"


@pytest.mark.xfail(
    sys.version_info < (3, 11),
    reason="CPython 3.10 runs handlers before an `except`, if both are there by then",
    strict=False,
)
def test_two_handlers_that_raise_at_once_leave_no_place_in_the_line(crew: Crew, lock: mpbakery.Lock) -> None:
    """The second one comes as early as the interpreter lets it: CPython 3.10 runs it before an `except` is entered."""
    lock.acquire()
    ours, theirs = crew.context.Pipe()
    waiting = crew.start(storms.be_struck_twice, theirs, lock)
    wait_for_waiters(lock, 1)
    assert waiting.pid is not None
    os.kill(waiting.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(waiting.pid or 0) == "T", "the waiter stopped")
    for number in storms.BOTH:
        os.kill(waiting.pid, number)
    os.kill(waiting.pid, signal.SIGCONT)
    assert expect(ours) == 2, "both handlers have raised"
    assert lock.statistics().waiters == ()
    lock.release()
    assert lock.acquire(True, PATIENCE) is True
    ours.send("end")


def test_a_handler_that_forks_in_mid_acquire(crew: Crew, lock: mpbakery.Lock) -> None:
    """Parent and child both go on waiting, each with a place of its own, and both are served."""
    lock.acquire()
    waiting = Waiting(crew, lock, "fork")
    waiting.signal()
    told = dict([waiting.hear(), waiting.hear()])
    assert told["parent"] == waiting.pid
    wait_until(
        lambda: {waiter.pid for waiter in lock.statistics().waiters} == {told["parent"], told["child"]},
        "parent and child in the line",
    )
    lock.release()
    word, got, first = waiting.hear()
    assert (word, got) == ("main", True)
    assert lock.owner is not None
    assert lock.owner.pid == first
    assert not waiting.connection.poll(0.05), "the other one waits for the release"
    waiting.connection.send("release")  # whoever is through with acquire listens
    told_now = [waiting.hear(), waiting.hear()]
    told_now.remove("done")
    ((word, got, second),) = told_now
    assert (word, got) == ("main", True)
    assert sorted([first, second]) == sorted(told.values())
    waiting.connection.send("release")
    assert waiting.hear() == "done"
    waiting.process.join(PATIENCE)
    assert lock.acquire(True, PATIENCE) is True
    assert lock.statistics().waiters == ()


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="os.kill runs handlers itself there, and jumps forward do not")
def test_no_handler_comes_between_entering_and_leaving_the_line(lock: mpbakery.Lock) -> None:
    """Or it could fork there, and the child would later wipe out its parent's place of that time."""

    class Moment:
        """A time of day; whoever asks for its number gets a signal, and no handler runs before the next one may."""

        __float__ = functools.partial(
            next, itertools.chain(filter(None, map(os.kill, [os.getpid()], [signal.SIGUSR1])), [1.0])
        )
        # in C, like that: it is later than any tenure lasts, and one that begins then is over at once
        __lt__ = functools.partial(operator.lt, math.inf)
        __add__ = functools.partial(operator.mul, 0.0)

    lock.acquire()  # so that the register points at our HELD already
    lock.release()
    seen: list[int] = []
    number = NUMBERS + lock._seats.slot.index
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(lock._memory.words[number]))
    try:
        lock._clock = Moment  # type: ignore[assignment]
        assert lock.acquire() is True
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [IDLE]
    lock.release()


def test_the_owner_dies_while_a_handler_waits_in_its_main_flows_place(crew: Crew, lock: mpbakery.Lock) -> None:
    """Whoever takes the lock over is told, and that is the handler; the main flow then gets a lock in good order."""
    holder = Puppet(crew, lock, name="anna")
    holder("acquire")
    waiting = Waiting(crew, lock, "acquire and look")
    waiting.signal()
    wait_for_waiters(lock, 1)
    holder.kill()
    assert waiting.hear() == ("handler holds", holder.pid)
    assert waiting.hear() == ("main", True, waiting.pid)
    assert lock.statistics().recoveries == 1
    waiting.connection.send("look")
    assert waiting.hear() is None
    waiting.end()


def test_handlers_while_the_main_flow_holds_the_lock(crew: Crew, lock: mpbakery.Lock) -> None:
    """The lock is not recursive: they give up when their time is up, and the main flow keeps it."""
    ours, theirs = crew.context.Pipe()
    crew.start(storms.hold_with_handler, theirs, lock)
    reports, still_held, waiters = expect(ours)
    assert [got for got, _took in reports] == [False] * 4
    assert all(took < 5 for _got, took in reports)
    assert reports[1][1] >= 0.1
    assert still_held is True
    assert waiters == ()
    assert expect(ours) is False
    crew.finish()


def test_a_signal_without_a_handler_of_ours_does_not_end_the_wait(crew: Crew, lock: mpbakery.Lock) -> None:
    """System calls are interrupted, and go on."""
    lock.acquire()
    waiting = Waiting(crew, lock, "nothing")
    for _ in range(20):
        waiting.signal()
    start = time.monotonic()
    lock.release()
    assert waiting.hear() == ("main", True, waiting.pid)
    assert time.monotonic() - start < 5
    waiting.end()


def test_signals_do_not_stretch_a_timeout(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    puppet = Puppet(crew, lock)
    puppet("handle_quietly", signal.SIGUSR1)
    puppet.begin("take_time", True, 0.5)
    wait_for_waiters(lock, 1)
    while not puppet.has_answered():
        os.kill(puppet.pid, signal.SIGUSR1)
        time.sleep(0.002)
    got, took = puppet.end()
    assert got is False
    assert 0.5 <= took < 5


def strike_once(slot: Slot, step: str) -> None:
    """Have SIGUSR1 come behind the next call of one of the steps of a slot."""
    call = getattr(slot, step)

    def striking() -> Any:
        setattr(slot, step, call)
        done = call()
        os.kill(os.getpid(), signal.SIGUSR1)
        return done

    setattr(slot, step, striking)


@pytest.mark.parametrize("make", [mpbakery.Lock, mpbakery.RLock])
def test_a_handler_releases_what_nobody_holds_while_its_flow_comes_again(
    fork: BaseContext, crew: Crew, make: type[mpbakery.Lock]
) -> None:
    """What it clears is the HELD by which the flow would be in."""
    lock = make(tenure=math.inf, ctx=fork)
    with lock:
        pass

    def release(*_: object) -> None:
        with contextlib.suppress(ValueError):
            lock.release()

    before = signal.signal(signal.SIGUSR1, release)
    try:
        strike_once(lock._seats.slot, "take")
        assert lock.acquire() is True
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert Puppet(crew, lock)("acquire", False) is False
    lock.release()
    assert Puppet(crew, lock)("acquire", False) is True


def test_a_handler_acquires_and_keeps_the_lock_in_the_middle_of_a_release(lock: mpbakery.Lock) -> None:
    """Behind the store that frees it; what the handler has is not released by that."""
    lock.acquire()
    before = signal.signal(signal.SIGUSR1, lambda *_: lock.acquire())
    try:
        strike_once(lock._seats.slot, "free")
        lock.release()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert lock.locked()
    lock.release()
    assert not lock.locked()


def test_a_handler_that_has_interrupted_a_claim_waits_behind_one_who_clears_away_a_dead_one(
    crew: Crew, lock: mpbakery.Lock
) -> None:
    """For that, it wants the claim lock, which the handler's flow has."""
    lock.acquire()
    dead, living = Puppet(crew, lock), Puppet(crew, lock)
    for number, waiting in enumerate((dead, living), 1):
        waiting.begin("acquire")
        wait_for_waiters(lock, number)
    ours, theirs = crew.context.Pipe()
    newcomer = crew.start(storms.claim_with_handler, theirs, lock)
    assert expect(ours) == "ready"
    dead.kill()
    time.sleep(0.3)  # until the living one has looked, and wants the claim lock: nothing tells of that
    os.kill(newcomer.pid or 0, signal.SIGUSR1)
    wait_until(
        lambda: [waiter.pid for waiter in lock.statistics().waiters][-1:] == [newcomer.pid], "the handler in line"
    )
    lock.release()
    assert living.end() is True
    living("release")
    assert expect(ours) is True
