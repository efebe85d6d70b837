"""The last owner may come again before those who wait, for a while: how long, and who may not."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from fractions import Fraction
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._system.layout import TENURE_AT
from support.detectors import Detectors, visit_for_a_while
from support.workers import PATIENCE, Crew, Puppet, in_thread, kill, wait_for_state, wait_for_waiters


def stopped_in_line(crew: Crew, lock: mpbakery.Lock) -> Puppet:
    """A process that waits for the lock, which is held, and does not move."""
    puppet = Puppet(crew, lock)
    puppet.begin("acquire")
    wait_for_waiters(lock, 1)
    wait_for_state(puppet.pid, "S")
    puppet.stop()
    return puppet


def serve(puppet: Puppet) -> None:
    """See that it gets the lock, and gives it back."""
    puppet.go_on()
    assert puppet.end() is True
    puppet("release")


# --- Who may come again --------------------------------------------------------------------------------------------


def test_the_last_owner_comes_again(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    for _ in range(3):
        lock.release()
        assert lock.acquire() is True
    assert [waiter.pid for waiter in lock.statistics().waiters] == [puppet.pid]
    assert lock.statistics().acquisitions == 4
    lock.release()
    serve(puppet)


def test_with_timeouts_as_well(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    lock.release()
    assert lock.acquire(False) is True
    lock.release()
    assert lock.acquire(timeout=0.01) is True
    lock.release()
    serve(puppet)


def test_without_a_tenure_it_does_not(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=0, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    lock.release()
    assert lock.acquire(False) is False
    serve(puppet)


def test_when_the_tenure_is_over_it_does_not(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)  # which takes longer than half a millisecond
    lock.release()
    assert lock.acquire(False) is False
    serve(puppet)


def test_the_head_closes_the_lock_behind_the_last_owner(fork: BaseContext, crew: Crew) -> None:
    """Once the next one has it, the tenure is of no use, nor is it when that one has left."""
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    lock.acquire()
    first, second = Puppet(crew, lock), Puppet(crew, lock)
    first.begin("acquire")
    wait_for_waiters(lock, 1)
    lock.release()
    assert first.end() is True
    assert lock.acquire(False) is False
    second.begin("acquire")
    wait_for_waiters(lock, 1)
    wait_for_state(second.pid, "S")
    second.stop()
    first("release")
    assert lock.acquire(False) is False, "the last owner is another one"
    assert first("acquire", False) is True, "which comes again"
    first("release")
    serve(second)
    assert lock.acquire(False) is True


def test_another_thread_is_not_the_last_owner(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    lock.release()
    assert in_thread(lambda: lock.acquire(False)) is False
    serve(puppet)


def test_a_forked_child_is_not_the_last_owner(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    child = Puppet(crew, lock)
    lock.release()
    assert child("acquire", False) is False
    assert lock.acquire(False) is True
    lock.release()
    serve(puppet)


def test_a_recursive_lock(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.RLock(tenure=math.inf, ctx=fork)
    lock.acquire()
    puppet = stopped_in_line(crew, lock)
    lock.release()
    with lock, lock:
        assert [waiter.pid for waiter in lock.statistics().waiters] == [puppet.pid]
    assert not lock.locked()
    serve(puppet)


# --- Deaths --------------------------------------------------------------------------------------------------------


def test_a_last_owner_that_has_left_dies(fork: BaseContext, crew: Crew) -> None:
    """Nobody is told: it did not hold the lock. Warnings are errors here."""
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    puppet = Puppet(crew, lock)
    puppet("acquire")
    puppet("release")
    kill(puppet.process)
    assert lock.acquire(False) is True
    assert lock.statistics().recoveries == 0


@pytest.mark.filterwarnings("ignore::mpbakery.OwnerDiedWarning")
def test_a_last_owner_dies_that_has_come_again(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    puppet = Puppet(crew, lock)
    for _ in range(2):
        puppet("acquire")
        puppet("release")
    puppet("acquire")
    kill(puppet.process)
    assert lock.acquire(True, PATIENCE) is True
    assert lock.recovered_from is not None
    assert lock.recovered_from.pid == puppet.pid


def test_whose_slot_it_was_does_not_matter(fork: BaseContext) -> None:
    """The slot of the last owner goes to another thread, which has not been in."""
    lock = mpbakery.Lock(slots=2, tenure=math.inf, ctx=fork)
    in_thread(lambda: lock.acquire() and lock.release())
    for _ in range(3):
        assert in_thread(lambda: lock.acquire(False)) is True
        lock.release()
    assert lock.statistics().acquisitions == 4


# --- How long ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenure", [0.5, 0, 1, math.inf, Fraction(1, 2), True])
def test_what_a_tenure_can_be(fork: BaseContext, tenure: Any) -> None:
    lock = mpbakery.Lock(tenure=tenure, ctx=fork)
    assert lock._memory.times[TENURE_AT] == float(tenure)
    for _ in range(3):
        with lock:
            pass


@pytest.mark.parametrize("kind", [mpbakery.Lock, mpbakery.RLock])
@pytest.mark.parametrize(
    ("tenure", "error", "match"),
    [
        (-0.001, ValueError, "tenure is -0.001: give 0 seconds or more"),
        (math.nan, ValueError, "tenure is nan: give 0 seconds or more"),
        (-(10**400), ValueError, "give 0 seconds or more"),
        ("1", TypeError, "tenure is '1': give seconds as a number"),
        (None, TypeError, "tenure is None: give seconds as a number"),
    ],
)
def test_what_a_tenure_cannot_be(
    fork: BaseContext, kind: Callable[..., object], tenure: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        kind(tenure=tenure, ctx=fork)


def read_tenure(lock: Any) -> float:
    """That of a lock, or of the lock of a value."""
    return float(getattr(lock, "_lock", lock)._memory.times[TENURE_AT])


def test_whatever_makes_a_lock_passes_it_on(fork: BaseContext) -> None:
    context = mpbakery.get_context("fork")
    made: list[Any] = [
        context.Lock(tenure=0.25),
        context.RLock(tenure=0.25),
        context.Value("i", 3, tenure=0.25),
        context.Array("i", 3, tenure=0.25),
        mpbakery.Value("i", 3, tenure=0.25),
        mpbakery.Array("i", 3, tenure=0.25),
    ]
    with mpbakery.installed():
        plain: Any = multiprocessing
        made += [plain.Lock(tenure=0.25), plain.RLock(tenure=0.25), plain.Value("i", 3, tenure=0.25)]
    assert [read_tenure(one) for one in made] == [0.25] * len(made)
    assert read_tenure(mpbakery.Lock()) == read_tenure(context.Value("i")) == 0.0005


def test_it_goes_where_the_lock_goes(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock = mpbakery.Lock(tenure=math.inf, ctx=ctx)
    puppet = Puppet(ctx_crew, lock)
    puppet("acquire")
    other = stopped_in_line(ctx_crew, lock)
    puppet("release")
    assert puppet("acquire", False) is True
    puppet("release")
    serve(other)


@pytest.mark.serial
def test_nobody_waits_longer_than_promised(fork: BaseContext, crew: Crew) -> None:
    """And the scheduler adds what it takes to have eight processes on two cores."""
    workers, stay, tenure = 8, 0.001, 0.005
    lock, detectors = mpbakery.Lock(tenure=tenure, ctx=fork), Detectors(fork, workers)
    reports = []
    for worker in range(workers):
        ours, theirs = fork.Pipe()
        crew.start(visit_for_a_while, theirs, lock, detectors, worker, 2.0, stay)
        reports.append(ours)
    crew.finish()
    counts, waits = zip(*(report.recv() for report in reports), strict=True)
    detectors.assert_exclusion(sum(counts))
    assert max(waits) < 4 * workers * (stay + tenure) + 0.1, waits
    assert sum(counts) ** 2 / (workers * sum(count**2 for count in counts)) > 0.9, counts
