"""How long an attempt takes that ends without the lock; bounds above are generous, those below are exact."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from support.children import hold_claims, try_together
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, in_threads, wait_for_waiters

#: What an attempt may take beyond its timeout on a loaded machine (s).
SLACK = 3.0


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork)


@pytest.mark.parametrize("timeout", [0.001, 0.02, 0.2, 0.6])
def test_it_takes_as_long_as_it_was_given(lock: mpbakery.Lock, timeout: float) -> None:
    lock.acquire()
    start = time.monotonic()
    assert lock.acquire(True, timeout) is False
    took = time.monotonic() - start
    assert timeout <= took < timeout + SLACK
    assert lock.statistics().waiters == ()


@pytest.mark.parametrize("others", [0, 1, 6])
def test_with_others_in_the_line(crew: Crew, lock: mpbakery.Lock, others: int) -> None:
    """Each of them watches another one, and each must be on time."""
    lock.acquire()
    for place in range(others):
        Puppet(crew, lock).begin("acquire")
        wait_for_waiters(lock, place + 1)
    start = time.monotonic()
    assert lock.acquire(True, 0.3) is False
    took = time.monotonic() - start
    assert 0.3 <= took < 0.3 + SLACK
    assert len(lock.statistics().waiters) == others


def test_many_timeouts_at_once(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    puppets = [Puppet(crew, lock) for _ in range(8)]
    for place, puppet in enumerate(puppets):
        puppet.begin("take_time", True, 0.2 + 0.02 * place)
    for place, puppet in enumerate(puppets):
        result, took = puppet.end()
        assert result is False
        assert 0.2 + 0.02 * place <= took < 0.2 + 0.02 * place + SLACK
    assert lock.statistics().waiters == ()


def test_in_every_start_method(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=ctx)
    lock.acquire()
    result, took = Puppet(ctx_crew, lock)("take_time", True, 0.2)
    assert result is False
    assert 0.2 <= took < 0.2 + SLACK


@pytest.mark.parametrize("others", [0, 3])
def test_trying_does_not_wait(crew: Crew, lock: mpbakery.Lock, others: int) -> None:
    lock.acquire()
    for place in range(others):
        Puppet(crew, lock).begin("acquire")
        wait_for_waiters(lock, place + 1)
    tries = []
    for _ in range(50):
        start = time.monotonic()
        assert lock.acquire(False) is False
        tries.append(time.monotonic() - start)
    assert sorted(tries)[25] < 0.01, "the median of the tries"
    assert len(lock.statistics().waiters) == others


def test_trying_does_not_wait_for_a_stopped_waiter(crew: Crew, lock: mpbakery.Lock) -> None:
    """It cannot pass either: the lock is free, but somebody is ahead who does not take it."""
    lock.acquire()
    puppet = Puppet(crew, lock)
    puppet.begin("acquire")
    wait_for_waiters(lock, 1)
    puppet.stop()
    lock.release()
    result, took = in_thread(lambda: take_time_of_try(lock))
    assert result is False
    assert took < SLACK
    puppet.go_on()
    assert puppet.end() is True


def take_time_of_try(lock: mpbakery.Lock) -> tuple[bool, float]:
    start = time.monotonic()
    return lock.acquire(False), time.monotonic() - start


@pytest.mark.serial
def test_of_those_who_try_at_the_same_moment_one_succeeds(fork: BaseContext, crew: Crew) -> None:
    """Somebody who is in the doorway for a microsecond is no reason to say that the lock is held."""
    lock, rounds = mpbakery.Lock(ctx=fork), 1000
    moments = fork.RawArray("d", 4)
    reports = []
    for worker in range(2):
        ours, theirs = fork.Pipe()
        crew.start(try_together, theirs, lock, moments, worker, rounds)
        reports.append(ours)
    first, second = (expect(report) for report in reports)
    crew.finish()
    both = sum(mine and yours for mine, yours in zip(first, second, strict=True))
    neither = sum(not mine and not yours for mine, yours in zip(first, second, strict=True))
    assert both == 0
    # a process that the scheduler stops in the doorway for a millisecond is one that may be given up on
    assert neither <= rounds / 50


def test_a_timeout_that_is_long_enough(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    puppet = Puppet(crew, lock)
    puppet.begin("take_time", True, 60)
    wait_for_waiters(lock, 1)
    lock.release()
    result, took = puppet.end()
    assert result is True
    assert took < 30


def test_the_lock_comes_free_in_the_last_moment(fork: BaseContext) -> None:
    """Whoever gives up just when it becomes the next must not leave the others asleep."""
    lock = mpbakery.Lock(ctx=fork)
    got: list[bool] = []
    for round_ in range(60):
        lock.acquire()

        def hasty() -> None:
            if lock.acquire(True, 0.004):
                lock.release()

        def patient() -> None:
            if lock.acquire(True, PATIENCE):
                got.append(True)
                lock.release()

        threads = [threading.Thread(target=hasty), threading.Thread(target=patient), threading.Thread(target=patient)]
        for thread in threads:
            thread.start()
        time.sleep(0.003 + 0.00005 * round_)
        lock.release()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert len(got) == 120
    assert lock.statistics().waiters == ()


def test_threads_with_timeouts(lock: mpbakery.Lock) -> None:
    lock.acquire()
    tooks: list[float] = []

    def wait() -> None:
        start = time.monotonic()
        assert lock.acquire(True, 0.25) is False
        tooks.append(time.monotonic() - start)

    in_threads([wait] * 6)
    assert len(tooks) == 6
    assert all(0.25 <= took < 0.25 + SLACK for took in tooks)


# --- The first acquire of a thread claims a slot, which may have to wait as well --------------------------------------


def test_a_timeout_covers_the_claim_of_a_slot(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """A process that is stopped in the middle of a claim holds the claim lock; the kernel frees it if it dies."""
    ours, theirs = fork.Pipe()
    stopped = crew.start(hold_claims, theirs, lock.fileno())
    assert expect(ours) == "held"
    for arguments, least in (((True, 0.3), 0.3), ((True, 0), 0.0), ((False,), 0.0)):
        result, took = in_thread(lambda arguments=arguments: take_time_of(lock, *arguments))  # type: ignore[misc]
        assert result is False
        assert least <= took < least + SLACK
    stopped.kill()
    stopped.join()
    assert lock.acquire(True, PATIENCE) is True


def take_time_of(lock: mpbakery.Lock, *arguments: float) -> tuple[bool, float]:
    start = time.monotonic()
    return lock.acquire(*arguments), time.monotonic() - start  # type: ignore[arg-type]


def test_a_slot_is_claimed_however_short_the_timeout(lock: mpbakery.Lock) -> None:
    """The first acquire(False) of a thread must not fail for want of a slot."""
    for _ in range(50):
        assert in_thread(lambda: lock.acquire(False)) is True
        lock.release()
        assert in_thread(lambda: lock.acquire(True, 0)) is True
        lock.release()


def test_a_claim_lock_held_elsewhere_is_seen_from_outside(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """The ground of the test above: what hold_claims holds is in the way of others."""
    ours, theirs = fork.Pipe()
    crew.start(hold_claims, theirs, lock.fileno())
    assert expect(ours) == "held"
    with pytest.raises(BlockingIOError):
        fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12345)
    assert os.fstat(lock.fileno()).st_nlink == 0
