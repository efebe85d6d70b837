"""Recursive locks: the owner comes in again, and nobody else does."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from evidence.storms import family_storms
from evidence.storms.storms import hits, weather
from mpbakery._system import fence
from support.detectors import Detectors
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, in_threads, wait_for_waiters


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.RLock:
    return mpbakery.RLock(ctx=fork)


def visit_twice(lock: mpbakery.RLock, detectors: Detectors, worker: int, rounds: int) -> None:
    """A stay inside a nested acquisition."""
    detectors.start_together(worker)
    for _ in range(rounds):
        with lock:
            with lock:
                pass
            detectors.visit(worker)


def test_excludes(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock = mpbakery.RLock(ctx=ctx)
    detectors = Detectors(ctx, 3)
    for worker in range(3):
        ctx_crew.start(visit_twice, lock, detectors, worker, 300)
    ctx_crew.finish()
    detectors.assert_exclusion(900)


def test_is_free_after_the_last_release(crew: Crew, lock: mpbakery.RLock) -> None:
    puppet = Puppet(crew, lock)
    for _ in range(3):
        assert lock.acquire() is True
    puppet.begin("acquire")
    wait_for_waiters(lock, 1)
    lock.release()
    lock.release()
    assert not puppet.has_answered()
    assert len(lock.statistics().waiters) == 1
    lock.release()
    assert puppet.end() is True


def test_comes_in_again_without_waiting(crew: Crew, lock: mpbakery.RLock) -> None:
    """Also past others, who wait already."""
    lock.acquire()
    puppet = Puppet(crew, lock)
    puppet.begin("acquire")
    wait_for_waiters(lock, 1)
    assert lock.acquire(False) is True
    assert lock.acquire(True, 0) is True
    for _ in range(3):
        lock.release()
    assert puppet.end() is True
    assert lock.acquire(False) is False


def test_only_the_owner_releases(crew: Crew, lock: mpbakery.RLock) -> None:
    puppet = Puppet(crew, lock)
    for error in (AssertionError, RuntimeError, mpbakery.NotOwnedError):
        with pytest.raises(error, match="not owned by thread"):
            lock.release()
    puppet("acquire")
    with pytest.raises(mpbakery.NotOwnedError):
        lock.release()
    assert lock.locked()
    puppet("release")
    lock.acquire()
    with pytest.raises(mpbakery.NotOwnedError):
        puppet("release")

    def release_here() -> None:
        with pytest.raises(mpbakery.NotOwnedError):
            lock.release()

    in_thread(release_here)
    lock.release()
    assert not lock.locked()
    with pytest.raises(mpbakery.NotOwnedError):
        lock.release()
    with lock:
        assert lock.locked()
    assert not lock.locked()


def test_a_try_that_failed_gives_no_right_to_release(crew: Crew, lock: mpbakery.RLock) -> None:
    """It must not release what somebody else holds."""
    puppet = Puppet(crew, lock)
    with lock:
        pass
    puppet("acquire")
    for timeout in (0, 0.05):
        assert lock.acquire(True, timeout) is False
        with pytest.raises(mpbakery.NotOwnedError):
            lock.release()
        assert lock.locked()
    puppet("release")
    with lock:
        assert lock._depth() == 1


def test_threads_exclude_each_other(lock: mpbakery.RLock) -> None:
    inside = [0]

    def work() -> None:
        for _ in range(100):
            with lock, lock:
                inside[0] += 1
                assert inside[0] == 1
                os.sched_yield()
                inside[0] -= 1

    in_threads([work] * 3)


def test_with_counts_like_release(lock: mpbakery.RLock) -> None:
    """What is acquired inside a `with` and not released stays held behind it."""
    with lock:
        lock.acquire()
    assert lock.locked()
    lock.release()
    assert not lock.locked()
    with ExitStack() as stack:
        stack.enter_context(lock)
        stack.enter_context(lock)
        assert lock._depth() == 2
    assert not lock.locked()


def test_repr(crew: Crew, lock: mpbakery.RLock) -> None:
    puppet = Puppet(crew, lock)
    assert repr(lock) == "<RLock(None, 0)>"
    lock.acquire()
    lock.acquire()
    assert repr(lock) == "<RLock(MainProcess, 2)>"
    assert in_thread(lambda: repr(lock)) == "<RLock(SomeOtherThread, nonzero)>"
    assert puppet("represent") == "<RLock(SomeOtherProcess, nonzero)>"


def test_an_owner_that_died_is_succeeded(crew: Crew, lock: mpbakery.RLock) -> None:
    puppet = Puppet(crew, lock)
    puppet("acquire")
    puppet("acquire")
    puppet.kill()
    crew.processes.remove(puppet.process)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert lock.acquire(timeout=5.0) is True
    assert [type(item.message) for item in caught] == [mpbakery.OwnerDiedWarning]
    assert [item.filename for item in caught] == [__file__]
    assert lock.recovered_from is not None
    assert lock.acquire() is True
    lock.release()
    lock.release()
    assert not lock.locked()


def try_in_child(lock: mpbakery.RLock, connection: Connection) -> None:
    """Hold the lock twice, fork, and tell what the child can do with it."""
    with lock, lock:
        pid = os.fork()
        if not pid:
            connection.send(lock.acquire(False))
            try:
                lock.release()
            except mpbakery.NotOwnedError:
                connection.send("not owned")
            os._exit(0)
        os.waitpid(pid, 0)
        connection.send(lock._depth())
    connection.send(lock.locked())


def test_a_forked_child_does_not_hold_what_its_parent_holds(crew: Crew, lock: mpbakery.RLock) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(try_in_child, lock, theirs)
    assert [expect(ours) for _ in range(4)] == [False, "not owned", 2, False]


def read_in_child(value: Any, connection: Connection) -> None:
    """Read a value, and stay until the test is over."""
    connection.send(value.value)
    expect(connection)


def test_multiprocessings_values_keep_its_release(crew: Crew, lock: mpbakery.RLock) -> None:
    """They look it up once, in the thread that makes them."""
    context: Any = crew.context
    value = context.Value("i", 7, lock=lock)
    value.value = 8
    assert in_thread(lambda: value.value) == 8
    assert not lock.locked()
    ours, theirs = crew.context.Pipe()
    crew.start(read_in_child, value, theirs)
    assert expect(ours) == 8
    assert lock.acquire(timeout=PATIENCE) is True
    assert in_thread(lambda: lock.acquire(False)) is False
    ours.send("end")


def test_a_kept_release_takes_nothing_from_another_thread(lock: mpbakery.RLock) -> None:
    release = lock.release
    lock.acquire()
    with pytest.raises(mpbakery.NotOwnedError):
        in_thread(release)
    assert lock._is_mine()
    release()
    assert not lock.locked()


def use_step_by_step(lock: mpbakery.RLock) -> int:
    """Acquire twice and release; how often it was held."""
    lock.acquire()
    lock.acquire()
    depth = lock._depth()
    lock.release()
    lock.release()
    return depth


def use_in_with(lock: mpbakery.RLock) -> int:
    """The same."""
    with lock, lock:
        return lock._depth()


def fork_while_waiting(lock: mpbakery.RLock, connection: Connection, use: Callable[[mpbakery.RLock], int]) -> None:
    """A handler forks in the middle of a wait; parent and child both get the lock and give it back."""

    def fork(_number: int, _frame: object) -> None:
        os.fork()

    with lock:
        pass
    signal.signal(signal.SIGUSR1, fork)
    pid = os.getpid()
    connection.send("ready")
    expect(connection)
    depth = use(lock)
    connection.send((os.getpid() == pid, depth, lock._is_mine()))
    if os.getpid() != pid:
        os._exit(0)
    os.wait()


@pytest.mark.parametrize("use", [use_step_by_step, use_in_with])
def test_a_child_forked_in_the_middle_waits_on(
    crew: Crew, lock: mpbakery.RLock, use: Callable[[mpbakery.RLock], int]
) -> None:
    ours, theirs = crew.context.Pipe()
    child = crew.start(fork_while_waiting, lock, theirs, use)
    assert expect(ours) == "ready"
    with lock:
        ours.send("go on")
        wait_for_waiters(lock, 1)
        os.kill(child.pid or 0, signal.SIGUSR1)
        wait_for_waiters(lock, 2)
    assert sorted(expect(ours) for _ in range(2)) == [(False, 2, False), (True, 2, False)]
    crew.finish()


@pytest.mark.parametrize("ordered", [True, False])
def test_each_release_takes_one_offset_off(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a fence has to come before the store that releases."""
    monkeypatch.setattr(fence, "TOTAL_STORE_ORDER", ordered)
    offsets = [8, 16, 24]
    pop = fence.pop_release_offset(offsets)
    assert (pop(), pop(), offsets) == (24, 16, [8])


def test_a_handler_may_come_in_again(crew: Crew, lock: mpbakery.RLock) -> None:
    done = threading.Event()

    def use() -> None:
        with lock:
            done.set()

    with lock:
        use()
        assert done.is_set()
        assert lock._depth() == 1


@pytest.mark.serial
@pytest.mark.parametrize("handlers", ["raise", "acquire", "both"])
def test_a_storm_around_nested_with(crew: Crew, handlers: str) -> None:
    (places,) = weather(crew, family_storms.storm_on_rlock, handlers, 6_000)
    assert hits(places) > 1_500, places
    assert len(places) > 5, places
