"""Barriers: all go on when all have come, and none waits for ever for one that died."""

from __future__ import annotations

import functools
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from support.workers import PATIENCE, Crew, expect, in_threads, kill, wait_for_state, wait_until


def pass_often(barrier: mpbakery.Barrier, counts: Any, me: int, rounds: int) -> None:
    """Pass the barrier again and again; nobody may be a whole round ahead."""
    for number in range(rounds):
        counts[me] = number
        barrier.wait(PATIENCE)
        assert min(counts) >= number
        barrier.wait(PATIENCE)


def wait_and_tell(barrier: mpbakery.Barrier, connection: Connection, timeout: float | None = None) -> None:
    try:
        connection.send(barrier.wait(timeout))
    except threading.BrokenBarrierError:
        connection.send("broken")


def test_nobody_is_a_round_ahead(ctx: BaseContext, ctx_crew: Crew) -> None:
    barrier = mpbakery.Barrier(3, ctx=ctx)
    counts = ctx.RawArray("i", 3)
    for party in range(3):
        ctx_crew.start(pass_often, barrier, counts, party, 50)
    ctx_crew.finish()
    assert list(counts) == [49] * 3
    assert not barrier.broken


def test_each_gets_another_place(crew: Crew, fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(4, ctx=fork)
    ours, theirs = fork.Pipe()
    for _ in range(4):
        crew.start(wait_and_tell, barrier, theirs)
    assert sorted(expect(ours) for _ in range(4)) == [0, 1, 2, 3]


def test_one_of_them_acts(fork: BaseContext) -> None:
    acted: list[int] = []
    barrier = mpbakery.Barrier(3, lambda: acted.append(1), ctx=fork)
    in_threads([barrier.wait] * 3)
    in_threads([barrier.wait] * 3)
    assert acted == [1, 1]


def test_an_action_that_raises_breaks_it(fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(2, lambda: 1 // 0, ctx=fork)
    errors: list[type[BaseException]] = []

    def wait() -> None:
        try:
            barrier.wait()
        except (ZeroDivisionError, threading.BrokenBarrierError) as error:
            errors.append(type(error))

    in_threads([wait] * 2)
    assert sorted(error.__name__ for error in errors) == ["BrokenBarrierError", "ZeroDivisionError"]
    assert barrier.broken


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_party_that_dies_breaks_it(crew: Crew, fork: BaseContext, victim: int) -> None:
    barrier = mpbakery.Barrier(4, ctx=fork)
    ours, theirs = fork.Pipe()
    parties = []
    for count in range(3):
        parties.append(crew.start(wait_and_tell, barrier, theirs))
        wait_until(lambda count=count: barrier.n_waiting == count + 1, "one more who waits")  # type: ignore[misc]
    kill(parties[victim])
    crew.processes.remove(parties[victim])
    assert [expect(ours, 5.0) for _ in range(2)] == ["broken"] * 2
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    for _ in range(3):
        crew.start(wait_and_tell, barrier, theirs)
    assert sorted([barrier.wait(PATIENCE), *(expect(ours) for _ in range(3))]) == [0, 1, 2, 3]
    assert not barrier.broken


def test_whoever_comes_last_finds_the_dead(crew: Crew, fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(2, ctx=fork)
    ours, theirs = fork.Pipe()
    party = crew.start(wait_and_tell, barrier, theirs)
    wait_until(lambda: barrier.n_waiting == 1, "one who waits")
    kill(party)
    crew.processes.remove(party)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert not ours.poll(0)


def test_death_in_the_action_breaks_it(crew: Crew, fork: BaseContext) -> None:
    """The one that acts dies with the barrier's state in its hands."""
    barrier = mpbakery.Barrier(2, lambda: os.kill(os.getpid(), signal.SIGKILL), ctx=fork)
    ours, theirs = fork.Pipe()
    first = crew.start(wait_and_tell, barrier, theirs)
    wait_until(lambda: barrier.n_waiting == 1, "one who waits")
    second = crew.start(wait_and_tell, barrier, theirs)
    second.join(PATIENCE)
    crew.processes.remove(second)
    assert expect(ours, 5.0) == "broken"
    assert barrier.broken
    first.join(PATIENCE)


class Blow:
    """What strikes when the last party has let one of the others go."""

    def __init__(self, barrier: mpbakery.Barrier, strike: Callable[[], object]) -> None:
        self._room, self._strike = barrier._room, strike
        barrier._room = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room, name)

    def let_go(self, slot: int, *how: int) -> None:
        """The first time, let it go and strike."""
        self._room.let_go(slot, *how)
        strike, self._strike = self._strike, lambda: None
        strike()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise InterruptedError


def struck_in_the_middle(barrier: mpbakery.Barrier, strike: Callable[[], object]) -> None:
    """Come last, let one go, and be struck."""
    Blow(barrier, strike)
    with pytest.raises(InterruptedError):
        barrier.wait()


@pytest.mark.parametrize("strike", [die, interrupt])
def test_nobody_is_left_behind_by_half_an_opening(crew: Crew, fork: BaseContext, strike: Callable[[], object]) -> None:
    barrier = mpbakery.Barrier(4, ctx=fork)
    ours, theirs = crew.context.Pipe()
    for count in range(3):
        crew.start(wait_and_tell, barrier, theirs)
        wait_until(lambda count=count: barrier.n_waiting == count + 1, "one more who waits")  # type: ignore[misc]
    crew.start(struck_in_the_middle, barrier, strike)
    assert sorted((expect(ours, 5.0) for _ in range(3)), key=str) == [0, "broken", "broken"]
    assert barrier.broken


def test_time_runs_out(crew: Crew, fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(3, timeout=0.1, ctx=fork)
    ours, theirs = fork.Pipe()
    crew.start(wait_and_tell, barrier, theirs, PATIENCE)
    wait_until(lambda: barrier.n_waiting == 1, "one who waits")
    start = time.monotonic()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert 0.1 <= time.monotonic() - start < PATIENCE
    assert expect(ours) == "broken"


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_turned_away(crew: Crew, fork: BaseContext, how: str) -> None:
    barrier = mpbakery.Barrier(2, ctx=fork)
    ours, theirs = fork.Pipe()
    crew.start(wait_and_tell, barrier, theirs)
    wait_until(lambda: barrier.n_waiting == 1, "one who waits")
    getattr(barrier, how)()
    assert expect(ours) == "broken"
    assert barrier.broken is (how == "abort")
    barrier.reset()
    crew.start(wait_and_tell, barrier, theirs)
    assert {barrier.wait(PATIENCE), expect(ours)} == {0, 1}


def abort_in_action(barrier: mpbakery.Barrier, connection: Connection) -> None:
    """Come last, and abort from the action."""
    barrier._action = barrier.abort
    wait_and_tell(barrier, connection)


def abort_in_handler(barrier: mpbakery.Barrier, connection: Connection) -> None:
    """Come last, and let a handler abort while the action runs."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: barrier.abort())
    barrier._action = functools.partial(signal.raise_signal, signal.SIGUSR1)
    wait_and_tell(barrier, connection)


@pytest.mark.parametrize("abort", [abort_in_action, abort_in_handler])
def test_aborted_in_the_middle(
    crew: Crew, fork: BaseContext, abort: Callable[[mpbakery.Barrier, Connection], None]
) -> None:
    barrier = mpbakery.Barrier(2, ctx=fork)
    ours, theirs = fork.Pipe()
    crew.start(wait_and_tell, barrier, theirs)
    wait_until(lambda: barrier.n_waiting == 1, "one who waits")
    crew.start(abort, barrier, theirs)
    assert [expect(ours, 5.0) for _ in range(2)] == ["broken"] * 2
    assert barrier.broken


def test_a_stopped_party_breaks_nothing(crew: Crew, fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(3, ctx=fork)
    ours, theirs = fork.Pipe()
    for count in range(2):
        party = crew.start(wait_and_tell, barrier, theirs)
        wait_until(lambda count=count: barrier.n_waiting == count + 1, "one more who waits")  # type: ignore[misc]
    os.kill(party.pid or 0, signal.SIGSTOP)
    wait_for_state(party.pid or 0, "T")
    assert barrier.wait(PATIENCE) == 2
    assert expect(ours) == 0
    os.kill(party.pid or 0, signal.SIGCONT)
    assert expect(ours) == 1


def test_one_party(fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(1, ctx=fork)
    assert [barrier.wait() for _ in range(3)] == [0, 0, 0]
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (1, 0, False)


@pytest.mark.parametrize(
    ("parties", "error", "match"),
    [
        (0, ValueError, "parties is 0"),
        (-1, ValueError, "parties is -1"),
        (2**16 + 1, ValueError, "at most 65536"),
        (2**64, ValueError, "at most 65536"),
        (1.5, TypeError, "parties is 1.5"),
        ("2", TypeError, "parties is '2'"),
    ],
)
def test_bad_parties(ctx: BaseContext, parties: Any, error: type[Exception], match: str) -> None:
    mpbakery.Barrier(2, ctx=ctx)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=match):
        mpbakery.Barrier(parties, ctx=ctx)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("parties", "slots"), [(2, 1), (5, 2), (1025, 1024)])
def test_fewer_slots_than_parties(fork: BaseContext, parties: int, slots: int) -> None:
    """All that there are slots for would wait for the others for ever."""
    with pytest.raises(ValueError, match=f"slots is {slots}, for {parties} parties: the barrier would never open"):
        mpbakery.Barrier(parties, slots=slots, ctx=fork)


def test_as_many_slots_as_parties_will_do(fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(3, slots=3, ctx=fork)
    in_threads([lambda: barrier.wait(PATIENCE)] * 3)
    in_threads([lambda: barrier.wait(PATIENCE)] * 3)


@pytest.mark.parametrize(("parties", "slots"), [(1, 1024), (600, 1200), (2000, 4000), (40_000, 65536), (65536, 65536)])
def test_many_parties_have_slots_without_asking(fork: BaseContext, parties: int, slots: int) -> None:
    for barrier in (mpbakery.Barrier(parties, ctx=fork), mpbakery.get_context("fork").Barrier(parties)):
        assert barrier.parties == parties
        assert barrier._memory.slots == barrier._guard._memory.slots == slots


def test_bad_timeout(fork: BaseContext) -> None:
    with pytest.raises(TypeError, match="timeout is"):
        mpbakery.Barrier(2, timeout="soon", ctx=fork)  # type: ignore[arg-type]


def test_repr(fork: BaseContext) -> None:
    barrier = mpbakery.Barrier(2, ctx=fork)
    assert repr(barrier).endswith(": waiters=0/2>")
    barrier.abort()
    assert repr(barrier).endswith(": broken>")
