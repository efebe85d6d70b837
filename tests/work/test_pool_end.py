"""The end of a pool: nobody waits for ever, nothing is left, and it is nobody's but its maker's."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError as NothingYet
from multiprocessing import active_children
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery import PoolTerminatedError, SharingError
from mpbakery._work.pools import staff
from support.pool_owners import (
    fork_and_use,
    interrupt_close,
    interrupt_work,
    leave_a_fork,
    note_terminations,
    terminate_the_deaf,
)
from support.pool_scenes import Scene, close_and_join
from support.pool_tasks import exit_at_once, raise_value_error, square, tell_and_wait, wait_for_death
from support.processes import descriptors
from support.scripts import run
from support.workers import PATIENCE, Crew, expect, in_thread, wait_for_state, wait_until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def scene(fork: BaseContext) -> Iterator[Callable[..., Scene]]:
    """Makes scenes, and ends them when the test is over."""
    scenes: list[Scene] = []

    def make(*arguments: Any, **options: Any) -> Scene:
        scenes.append(Scene(fork, *arguments, **options))
        return scenes[-1]

    yield make
    for one in scenes:
        one.end()


class InThread:
    """A call in a thread, and what comes of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._outcome: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._outcome = error

    def outcome(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it does not come back"
        return self._outcome


# --- Results after terminate() -------------------------------------------------------------------------------------


def test_results_that_do_not_come_any_more(fork: BaseContext) -> None:
    """The commonest mistake: what is asked for when the `with` block is over."""
    called: list[BaseException] = []
    with mpbakery.Pool(2, context=fork) as pool:
        here = pool.apply_async(square, (3,))
        assert here.get(PATIENCE) == 9
        results: list[Any] = [
            pool.apply_async(time.sleep, (60,), error_callback=called.append),
            pool.map_async(time.sleep, [60] * 3, error_callback=called.append),
            pool.starmap_async(time.sleep, [(60,)] * 3000, chunksize=1, error_callback=called.append),
        ]
        iterators = [
            pool.imap(time.sleep, [60] * 3000),
            pool.imap(time.sleep, [60] * 3, 2),
            pool.imap_unordered(time.sleep, iter([60] * 3)),
        ]
    for result in results:
        result.wait()
        assert result.ready()
        assert not result.successful()
        for timeout in (None, 0, 1):
            with pytest.raises(PoolTerminatedError, match="call close\\(\\) and join\\(\\)"):
                result.get(timeout)
    for iterator in iterators:
        for _ in range(3):
            with pytest.raises(PoolTerminatedError):
                next(iterator)
    assert [type(error) for error in called] == [PoolTerminatedError] * 3
    assert here.get() == 9
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(square, (3,))


def test_terminated_while_others_wait(scene: Callable[..., Scene]) -> None:
    play = scene()
    pool = play.pool
    iterator = pool.imap(tell_and_wait, range(2))
    waiting = [
        InThread(lambda: pool.map(time.sleep, [60] * 4)),
        InThread(lambda: pool.apply(time.sleep, (60,))),
        InThread(lambda: next(iterator)),
    ]
    for _ in range(2):
        play.reported()
    in_thread(pool.terminate)
    assert [type(one.outcome()) for one in waiting] == [PoolTerminatedError] * 3


def test_what_is_there_can_be_taken_after_terminate(fork: BaseContext) -> None:
    pool = mpbakery.Pool(1, context=fork)
    iterator = pool.imap(square, range(3))
    wait_until(lambda: iterator._index == 3, "three results")
    in_thread(pool.terminate)
    assert list(iterator) == [0, 1, 4]


def test_a_job_that_comes_when_the_pool_has_just_ended(fork: BaseContext) -> None:
    """Another thread was through with asking whether the pool runs."""
    for end in ("close", "terminate"):
        pool = mpbakery.Pool(1, context=fork)
        getattr(pool, end)()
        in_thread(pool.join)
        pool._state = "RUN"
        result = pool.apply_async(square, (3,))
        pool._state = "CLOSE"
        with pytest.raises(ValueError if end == "close" else PoolTerminatedError):
            result.get(PATIENCE)


# --- Workers that do not end by themselves -------------------------------------------------------------------------


def test_workers_that_ignore_a_signal(fork: BaseContext, crew: Crew) -> None:
    """SIGTERM is noted by a handler, as in many a program, or ignored: a task may end by itself, or is killed."""
    ours, theirs = fork.Pipe()
    crew.start(terminate_the_deaf, theirs, fork)
    assert expect(ours) == {"idle": True, "a short task": True, "a long task": True, "ignored": True}
    crew.finish(PATIENCE)


def test_a_worker_that_is_stopped(scene: Callable[..., Scene]) -> None:
    play = scene()
    pid = play.ready_workers()[0]
    os.kill(pid, signal.SIGSTOP)
    wait_for_state(pid, "T")
    in_thread(play.pool.terminate)
    assert not play.workers


def test_a_signal_handler_of_the_workers_may_clean_up(fork: BaseContext, crew: Crew) -> None:
    """They are asked to end before they are killed."""
    ours, theirs = fork.Pipe()
    crew.start(note_terminations, theirs, fork)
    assert expect(ours) == 2
    crew.finish(PATIENCE)


def test_an_iterable_that_never_goes_on(fork: BaseContext) -> None:
    gate = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        gate.wait()
        yield 2

    pool = mpbakery.Pool(1, context=fork)
    results = pool.imap(square, numbers())
    behind = pool.apply_async(square, (3,))
    assert results.next(PATIENCE) == 1
    in_thread(pool.terminate)
    in_thread(pool.join)
    pool._state = "RUN"  # another thread was through with asking whether the pool runs
    late = pool.apply_async(square, (3,))
    pool._state = "TERMINATE"
    for ask in (results.next, behind.get, late.get):
        with pytest.raises(PoolTerminatedError):
            ask(PATIENCE)
    gate.set()
    wait_until(lambda: not pool._taskqueue.thread.is_alive(), "the end of the thread that read it")


# --- The end of the program ----------------------------------------------------------------------------------------

#: What nobody has closed, or terminated, when the program comes to its end.
_FORGETFUL = """
import itertools, sys, time
from multiprocessing import get_context
import mpbakery
from support.pool_tasks import square

method, occupation = sys.argv[1:]
pool = mpbakery.Pool(2, context=get_context(method))
assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
if occupation == "busy":
    results = pool.map_async(time.sleep, [60] * 4, chunksize=1)
elif occupation == "reading":
    results = pool.imap(square, itertools.count())
print(*(worker.pid for worker in pool._pool))
"""


@pytest.mark.parametrize("occupation", ["idle", "busy", "reading"])
def test_a_program_may_forget_its_pool(ctx: BaseContext, occupation: str) -> None:
    """It ends all the same, says nothing, and leaves no worker."""
    pids = run("-c", _FORGETFUL, ctx.get_start_method(), occupation, seconds=PATIENCE).split()
    assert len(pids) == 2
    for pid in pids:
        wait_for_death(int(pid))


# --- From inside ---------------------------------------------------------------------------------------------------


def test_terminated_in_a_callback(fork: BaseContext) -> None:
    pool = mpbakery.Pool(2, context=fork)
    long = pool.apply_async(time.sleep, (60,))
    joined: list[BaseException] = []

    def end(_value: object) -> None:
        pool.terminate()
        try:
            pool.join()
        except RuntimeError as error:
            joined.append(error)

    assert pool.apply_async(square, (3,), callback=end).get(PATIENCE) == 9
    with pytest.raises(PoolTerminatedError):
        long.get(PATIENCE)
    in_thread(pool.join)
    assert "do not join it in a callback" in str(joined)


def test_terminated_in_an_iterable(fork: BaseContext) -> None:
    pool = mpbakery.Pool(2, context=fork)

    def numbers() -> Iterator[int]:
        yield 1
        pool.terminate()
        yield 2

    results = pool.imap(square, numbers())
    with pytest.raises(PoolTerminatedError):
        list(results)
    in_thread(pool.join)


def test_more_work_in_a_callback(fork: BaseContext) -> None:
    with mpbakery.Pool(1, context=fork) as pool:
        more: list[Any] = []
        pool.apply_async(square, (3,), callback=lambda value: more.append(pool.apply_async(square, (value,))))
        wait_until(lambda: more, "the callback")
        assert more[0].get(PATIENCE) == 81


# --- Handlers that raise -------------------------------------------------------------------------------------------


@pytest.mark.serial
def test_interrupted_at_work(fork: BaseContext, crew: Crew) -> None:
    """A handler raises while something is given to the pool, again and again; after that, join() returns."""
    ours, theirs = fork.Pipe()
    crew.start(interrupt_work, theirs, fork, 100, storm=True)
    interrupts, left = expect(ours)
    assert interrupts >= 50
    assert left == 0
    crew.finish(PATIENCE)


def test_interrupted_at_the_end(fork: BaseContext, crew: Crew) -> None:
    """terminate() can be called once more, and waits."""
    ours, theirs = fork.Pipe()
    crew.start(interrupt_close, theirs, fork)
    assert expect(ours) == ("interrupted", 0)
    crew.finish(PATIENCE)


# --- A pool that cannot be made ------------------------------------------------------------------------------------


class Refused(BaseException):
    """The system has nothing left."""


@pytest.mark.parametrize("allowed", range(3))
@pytest.mark.parametrize("lacking", ["processes", "threads"])
def test_what_is_left_of_a_pool_that_cannot_be_made(
    fork: BaseContext, monkeypatch: pytest.MonkeyPatch, lacking: str, allowed: int
) -> None:
    owner: Any = os if lacking == "processes" else threading.Thread
    name = "fork" if lacking == "processes" else "start"
    plain = getattr(owner, name)
    calls = 0

    def refuse(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise Refused
        return plain(*arguments)

    gc.collect()
    descriptors, threads = os.listdir("/proc/self/fd"), threading.enumerate()
    children = active_children()
    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(Refused):
        mpbakery.Pool(3, context=fork)
    monkeypatch.undo()
    wait_until(lambda: threading.enumerate() == threads, f"no more threads than {threads}")
    assert active_children() == children
    gc.collect()
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"processes": 0}, ValueError, "processes is 0: give how many"),
        ({"processes": 1.5}, TypeError, r"processes is 1\.5: give a whole number"),
        ({"maxtasksperchild": 0}, ValueError, "positive int or None, and is 0"),
        ({"initializer": 3}, TypeError, "callable, and is 3"),
        ({"initargs": 3}, TypeError, "not iterable"),
        ({"retries": -1}, ValueError, "retries is -1: give how often"),
        ({"retries": None}, TypeError, "retries is None: give a whole number"),
    ],
)
def test_what_no_pool_can_be_made_of(
    fork: BaseContext, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    gc.collect()  # what earlier tests have left
    before = descriptors()
    with pytest.raises(error, match=match):
        mpbakery.Pool(**{"processes": 1, "context": fork, **arguments})
    gc.collect()
    assert descriptors() <= before


def test_forks_that_fail_later_leave_nothing_open(fork: BaseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = mpbakery.Pool(1, context=fork)
    (worker,) = pool._pool
    before = descriptors()

    def refuse() -> int:
        raise BlockingIOError(11, "no process for you")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(mpbakery.WorkerDiedError):
        pool.apply_async(exit_at_once, (1,)).get(PATIENCE)
    wait_until(lambda: pool._dispatcher._hiring.has_given_up, "ten failures")
    del worker
    gc.collect()
    assert descriptors() <= before
    monkeypatch.undo()
    in_thread(pool.terminate)


# --- Forked children of the maker ----------------------------------------------------------------------------------


def test_used_in_a_forked_child(fork: BaseContext, crew: Crew) -> None:
    ours, theirs = fork.Pipe()
    crew.start(fork_and_use, theirs, fork)
    errors, ends, result = expect(ours)
    assert len(errors) == 11
    assert all(error.startswith("SharingError: this pool belongs to process") for error in errors), errors
    assert (ends, result) == (0, 9)
    crew.finish(PATIENCE)


def test_a_forked_child_that_exits_leaves_the_workers_alone(fork: BaseContext, crew: Crew) -> None:
    ours, theirs = fork.Pipe()
    crew.start(leave_a_fork, theirs, fork)
    assert expect(ours) == (0, [0, 1])
    crew.finish(PATIENCE)


def test_the_error_is_a_runtime_error() -> None:
    assert issubclass(SharingError, RuntimeError)
    assert issubclass(PoolTerminatedError, RuntimeError)


# --- What else ends ------------------------------------------------------------------------------------------------


def test_a_result_that_is_not_there_yet(scene: Callable[..., Scene]) -> None:
    play = scene()
    result, iterator = play.pool.apply_async(tell_and_wait, (1,)), play.pool.imap(tell_and_wait, [2])
    for ask in (result.get, iterator.next):
        for timeout in (0, -1, 0.01):
            with pytest.raises(NothingYet):
                ask(timeout)
    play.let_through(2)
    assert (result.get(PATIENCE), iterator.next(PATIENCE)) == (1, 2)
    close_and_join(play.pool)


def test_the_grace_is_what_the_documentation_says() -> None:
    assert staff._GRACE == 2


def test_an_error_callback_of_a_closed_pool(fork: BaseContext) -> None:
    called: list[object] = []
    pool = mpbakery.Pool(1, context=fork)
    pool.apply_async(raise_value_error, ("why",), error_callback=called.append)
    close_and_join(pool)
    assert [str(error) for error in called] == ["why"]
