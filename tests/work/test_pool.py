"""A pool that does not hang, whatever happens to its workers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import multiprocessing
import os
import pickle
import random
import signal
import sys
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import pool as standard
from multiprocessing.context import BaseContext
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from mpbakery import WorkerDiedError
from mpbakery._system.native import FREE_THREADED
from mpbakery._work.pools.channel import message_of
from support.namespaces import in_new_pid_namespace
from support.pool_owners import (
    import_while_forking,
    interrupted_in_the_middle,
    kill_a_worker_of_the_standard_pool,
    lack_memory,
    lose_workers_unseen,
    meet_reused_pid,
    own_a_pool,
    want_memory,
)
from support.pool_scenes import HeldUp, Scene, close_and_join
from support.pool_tasks import (
    LateArrival,
    Liar,
    Nestable,
    Poison,
    SlowArrival,
    Unpicklable,
    count_to_death,
    dawdle,
    die_while_reading,
    exit_at_once,
    exit_at_three,
    fork_and_return,
    have_a_pool,
    kill_at_once,
    know_in_two,
    leave_a_child,
    limit_memory,
    make_poison,
    make_unpicklable,
    raise_value_error,
    square,
    stop_at_two,
    subtract,
    take_pipes,
    tell,
    tell_and_make_bytes,
    tell_and_wait,
    wait_and_be_interrupted,
    wait_and_make_bytes,
    wait_for_death,
)
from support.pool_throwers import ThrowsWhenIterated
from support.processes import descriptors, state_of
from support.workers import PATIENCE, Crew, expect, in_thread, in_threads, wait_for_state, wait_until

pytestmark = pytest.mark.timeout(60)

#: More than any pipe holds (bytes).
LARGE = 50_000_000


SceneMaker = Callable[..., Scene]


@pytest.fixture
def scene() -> Iterator[SceneMaker]:
    """Makes scenes, and ends them when the test is over."""
    scenes: list[Scene] = []

    def make(*arguments: Any, **options: Any) -> Scene:
        scenes.append(Scene(*arguments, **options))
        return scenes[-1]

    yield make
    for one in scenes:
        one.end()


def worker_of(scene: Scene, pid: int) -> Any:
    (worker,) = (worker for worker in scene.workers if worker.pid == pid)
    return worker


def wait_for_bytes(pipe: int, count: int) -> None:
    """Wait until so many bytes are in a pipe."""
    wait_until(
        lambda: int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) >= count,
        f"{count} bytes in the pipe",
    )


def take_time_in_a_callback(scene: Scene, go_on: threading.Event) -> Any:
    """Have the thread that delivers wait in a callback."""
    is_there = threading.Event()

    def wait(_value: object) -> None:
        is_there.set()
        assert go_on.wait(PATIENCE)

    result = scene.pool.apply_async(square, (0,), callback=wait)
    assert is_there.wait(PATIENCE)
    return result


def take_time_to_arrive(scene: Scene, go_on: threading.Event) -> Any:
    """Have the thread that delivers wait while it unpickles a result."""
    SlowArrival.gate = go_on
    SlowArrival.is_there.clear()
    result = scene.pool.apply_async(SlowArrival)
    assert SlowArrival.is_there.wait(PATIENCE)
    return result


# --- What multiprocessing's does as well ---------------------------------------------------------------------------


def test_behaves_as_the_standard_one(ctx: BaseContext, scene: SceneMaker) -> None:
    pool = scene(ctx).pool
    numbers = list(range(50))
    squares = [square(number) for number in numbers]
    assert pool.map(square, numbers) == squares
    assert pool.map(square, iter(numbers), chunksize=7) == squares
    assert pool.map(square, []) == []
    assert list(pool.imap(square, numbers)) == squares
    assert list(pool.imap(square, numbers, chunksize=7)) == squares
    assert sorted(pool.imap_unordered(square, numbers)) == squares
    assert pool.starmap(subtract, [(5, 3), (3, 5)]) == [2, -2]
    assert pool.apply(subtract, (5,), {"second": 4}) == 1
    called: list[Any] = []
    assert pool.map_async(square, numbers, callback=called.append).get(PATIENCE) == squares
    assert called == [squares]
    failed = pool.apply_async(raise_value_error, ("why",), error_callback=called.append)
    with pytest.raises(ValueError, match="why"):
        failed.get(PATIENCE)
    assert called[1] is failed._value
    assert len(pool.apply(bytes, (LARGE,))) == LARGE
    assert pool.apply(len, (bytes(LARGE),)) == LARGE
    close_and_join(pool)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(square, (3,))


def test_a_long_task_does_not_hold_up_short_ones(fork: BaseContext, scene: SceneMaker) -> None:
    play = scene(fork)
    play.ready_workers()
    long = play.pool.apply_async(tell_and_wait, ("long",))
    play.reported()
    assert play.pool.map_async(square, range(100), chunksize=1).get(PATIENCE)[99] == 9801
    assert not long.ready()
    play.let_through(1)
    assert long.get(PATIENCE) == "long"


@pytest.mark.parametrize("hold", [take_time_in_a_callback, take_time_to_arrive])
def test_what_takes_its_time_does_not_hold_up_workers(
    fork: BaseContext, scene: SceneMaker, hold: Callable[[Scene, threading.Event], Any]
) -> None:
    """A callback, or the unpickling of a result: results come later, but tasks are given out, also to new workers."""
    play = scene(fork, 1)
    go_on = threading.Event()
    try:
        first = hold(play, go_on)
        others = [play.pool.apply_async(tell, (item,)) for item in range(3)]
        pids = [play.reported()[0] for _ in range(3)]
        (worker,) = play.pool._pool
        wait_until(lambda: worker.task is None, "the last result in the pool's hands")
        kill_at_once(pids[-1])
        last = play.pool.apply_async(tell, ("last",))
        assert play.reported()[1] == "last"
        assert not last.ready()
    finally:
        go_on.set()
    assert [result.get(PATIENCE) for result in (*others, last)] == [0, 1, 2, "last"]
    first.get(PATIENCE)


def test_workers_have_work_while_one_waits_to_be_forked(fork: BaseContext, scene: SceneMaker) -> None:
    """No worker is forked while a result is being unpickled: not at once."""
    play = scene(fork, 2)
    pids = play.ready_workers()
    go_on = threading.Event()
    try:
        take_time_to_arrive(play, go_on)
        kill_at_once(next(worker.pid for worker in play.workers if worker.task is None))
        wait_until(lambda: len(play.workers) == 1, "the end of the dead worker")
        others = [play.pool.apply_async(tell, (item,)) for item in range(5)]
        assert [play.reported()[1] for _ in others] == list(range(5))
        assert {worker.pid for worker in play.workers} < set(pids)
    finally:
        go_on.set()
    assert [result.get(PATIENCE) for result in others] == list(range(5))


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "2"])
def test_what_is_no_chunksize(fork: BaseContext, scene: SceneMaker, chunksize: Any) -> None:
    pool = scene(fork).pool
    methods: list[Any] = [pool.map, pool.map_async, pool.starmap, pool.starmap_async, pool.imap, pool.imap_unordered]
    for method in methods:
        with pytest.raises((TypeError, ValueError), match=r"^chunksize is .*: give .*how many items make a task"):
            method(square, [1, 2, 3], chunksize)


def test_a_list_that_changes_later(fork: BaseContext, scene: SceneMaker) -> None:
    """What is mapped is what it was when `map_async` was called."""
    items = list(range(1000))
    result = scene(fork).pool.map_async(square, items)
    items.clear()
    assert result.get(PATIENCE) == [number * number for number in range(1000)]


@pytest.mark.parametrize("length", [0, 3, 7])
def test_what_is_not_as_long_as_it_says(fork: BaseContext, scene: SceneMaker, length: int) -> None:
    assert scene(fork).pool.map_async(square, Liar(length, range(5))).get(PATIENCE) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("chunksize", [1, 2, 3])
@pytest.mark.parametrize("kind", ["imap", "imap_unordered"])
def test_the_iterators_go_on_after_an_error(fork: BaseContext, scene: SceneMaker, kind: str, chunksize: int) -> None:
    results = getattr(scene(fork).pool, kind)(exit_at_three, range(12), chunksize)
    seen, errors = [], []
    while True:
        try:
            seen.append(results.next(PATIENCE))
        except StopIteration:
            break
        except WorkerDiedError as error:
            errors.append((error.index, error.items))
    lost = range(3 - 3 % chunksize, 3 - 3 % chunksize + chunksize)
    assert sorted(seen) == [number for number in range(12) if number not in lost]
    assert errors == [(3 // chunksize, None if chunksize == 1 else chunksize)]


def test_a_task_that_says_that_there_are_no_more(fork: BaseContext, scene: SceneMaker) -> None:
    """StopIteration would end an iterator without a word, or a chunk of a map."""
    pool = scene(fork).pool
    for chunksize in (1, 2, 4):
        with pytest.raises(StopIteration, match="2"):
            pool.map_async(stop_at_two, range(4), chunksize).get(PATIENCE)
        for kind in (pool.imap, pool.imap_unordered):
            with pytest.raises(RuntimeError, match=r"a task has raised StopIteration\(2\)"):
                list(kind(stop_at_two, range(4), chunksize))


def test_an_empty_map(fork: BaseContext, scene: SceneMaker) -> None:
    called: list[Any] = []
    pool = scene(fork).pool
    assert pool.map_async(square, [], callback=called.append).get(PATIENCE) == []
    assert list(pool.imap(square, [], 2)) == list(pool.imap_unordered(square, [])) == []
    assert called == [[]]


def test_a_recipe_that_extends_the_standard_pool(fork: BaseContext, scene: SceneMaker) -> None:
    """Programs get an `istarmap` in this way, which takes private parts of the standard library's."""
    play = scene(fork)
    assert list(istarmap(play.pool, subtract, [(number, 1) for number in range(5)], 2)) == [-1, 0, 1, 2, 3]
    assert list(istarmap(play.pool, subtract, [])) == []
    results = istarmap(play.pool, subtract, iter([(1, 1), 5]))  # no arguments
    assert next(results) == 0
    with pytest.raises(TypeError):
        next(results)
    results = istarmap(play.pool, subtract, ThrowsWhenIterated("CancelledError", 0))
    with pytest.raises(asyncio.CancelledError):
        next(results)
    results = istarmap(play.pool, dawdle, [(60,)])
    in_thread(play.pool.terminate)
    with pytest.raises(mpbakery.PoolTerminatedError):
        next(results)


def test_a_callback_throws_that_a_recipe_has_given_to_the_standard_library(
    fork: BaseContext, monkeypatch: pytest.MonkeyPatch, scene: SceneMaker
) -> None:
    """Its results let out what their callbacks raise."""
    told: list[type] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_type))
    called = []

    def call_back(value: object) -> None:
        called.append(value)
        raise asyncio.CancelledError

    pool: Any = scene(fork).pool
    result: Any = standard.ApplyResult(pool, call_back, None)
    pool._taskqueue.put(([(result._job, 0, square, (3,), {})], None))
    wait_until(lambda: told, "the error of the callback")
    assert pool.apply_async(square, (4,)).get(PATIENCE) == 16
    assert called == [9]
    assert told == [asyncio.CancelledError]


def istarmap(pool: Any, func: Any, iterable: Any, chunksize: int = 1) -> Iterator[Any]:
    pool._check_running()
    batches = standard.Pool._get_tasks(func, iterable, chunksize)  # type: ignore[attr-defined]
    result: Any = standard.IMapIterator(pool)
    tasks = pool._guarded_task_generation(result._job, standard.starmapstar, batches)  # type: ignore[attr-defined]
    pool._taskqueue.put((tasks, result._set_length))
    return (item for chunk in result for item in chunk)


@pytest.mark.parametrize("most", [1, 3])
def test_workers_are_replaced_after_so_many_tasks(fork: BaseContext, scene: SceneMaker, most: int) -> None:
    play = scene(fork, maxtasksperchild=most)
    assert play.pool.map(tell, range(20), chunksize=1) == list(range(20))
    pids = [play.reported()[0] for _ in range(20)]
    assert max(map(pids.count, pids)) <= most
    assert sorted(play.pool.imap_unordered(tell, range(20))) == list(range(20))


def test_a_pool_leaves_nothing_open(fork: BaseContext) -> None:
    def use() -> None:
        pool = mpbakery.Pool(3, context=fork)
        assert pool.map(square, [3]) == [9]
        pool.terminate()
        in_thread(pool.join)

    use()
    gc.collect()
    before = descriptors()
    gc.disable()  # nothing waits for it
    try:
        for _ in range(3):
            use()
        assert descriptors() == before
    finally:
        gc.enable()


def test_a_pool_that_is_forgotten_ends(fork: BaseContext) -> None:
    pool = mpbakery.Pool(2, context=fork)
    assert pool.map(square, [3]) == [9]
    workers = list(pool._pool)
    gone = weakref.ref(pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
    gc.collect()
    assert gone() is None
    wait_until(lambda: all(worker.exitcode is not None for worker in workers), "the end of the workers")


def test_a_subclass_may_say_what_its_workers_are(fork: BaseContext) -> None:
    with Nestable(2, context=fork) as pool:
        assert pool.map_async(have_a_pool, range(3)).get(PATIENCE) == [0, 1, 4]


# --- Idle workers die ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [1, 3])
def test_idle_workers_that_are_killed_cost_nothing(ctx: BaseContext, scene: SceneMaker, victims: int) -> None:
    play = scene(ctx, 3)
    for _ in range(2):
        pids = play.ready_workers()
        for pid in pids[:victims]:
            os.kill(pid, signal.SIGKILL)
        assert play.pool.map_async(square, range(20), chunksize=1).get(PATIENCE) == [n * n for n in range(20)]
    assert not set(pids[:victims]) & set(play.ready_workers())


def test_a_task_that_a_dead_worker_had_not_read_is_given_to_another(fork: BaseContext, scene: SceneMaker) -> None:
    play = scene(fork, 1)
    (pid,) = play.ready_workers()
    os.kill(pid, signal.SIGSTOP)
    wait_for_state(pid, "T")
    result = play.pool.apply_async(tell, ("small",))
    worker = worker_of(play, pid)
    wait_until(lambda: worker.task is not None, "the task in the pipe")
    kill_at_once(pid)
    assert result.get(PATIENCE) == "small"
    assert play.reported()[0] != pid
    assert not play.has_reports()


def test_killed_while_it_is_sent_a_large_task(fork: BaseContext, scene: SceneMaker) -> None:
    play = scene(fork, 1)
    (pid,) = play.ready_workers()
    os.kill(pid, signal.SIGSTOP)
    wait_for_state(pid, "T")
    result = play.pool.apply_async(len, (bytes(LARGE),))
    worker = worker_of(play, pid)
    wait_until(lambda: worker.channel.sent, "a full pipe")
    kill_at_once(pid)
    assert result.get(PATIENCE) == LARGE


# --- Workers die in the middle of a task ---------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_task(ctx: BaseContext, scene: SceneMaker) -> None:
    play = scene(ctx)
    called: list[BaseException] = []
    results = [play.pool.apply_async(tell_and_wait, (item,), error_callback=called.append) for item in range(4)]
    pid, item = play.reported()
    kill_at_once(pid)
    with pytest.raises(WorkerDiedError, match=f"worker {pid} was killed by SIGKILL while it ran task 0") as caught:
        results[item].get(PATIENCE)
    error = caught.value
    assert (error.pid, error.exitcode, error.signal, error.tries, error.given_up) == (pid, -9, 9, 1, False)
    assert (error.function, error.index, error.items) == ("tell_and_wait", 0, None)
    assert called == [error]
    play.let_through(3)
    for other in range(4):
        if other != item:
            assert results[other].get(PATIENCE) == other
            play.reported()
    assert pid not in play.ready_workers()


@pytest.mark.serial
def test_the_error_comes_within_a_second(fork: BaseContext, scene: SceneMaker) -> None:
    play = scene(fork)
    for _ in range(5):
        result = play.pool.apply_async(tell_and_wait, (None,))
        pid, _ = play.reported()
        start = time.monotonic()
        kill_at_once(pid)
        with pytest.raises(WorkerDiedError):
            result.get(PATIENCE)
        assert time.monotonic() - start < 1


@pytest.mark.parametrize("code", [0, 7])
def test_a_task_that_exits(fork: BaseContext, scene: SceneMaker, code: int) -> None:
    play = scene(fork)
    with pytest.raises(WorkerDiedError, match=f"ended with exit code {code} while it ran") as caught:
        play.pool.apply_async(exit_at_once, (code,)).get(PATIENCE)
    assert (caught.value.exitcode, caught.value.signal) == (code, None)
    assert play.pool.map(square, [3]) == [9]


def test_the_chunk_of_a_map(fork: BaseContext, scene: SceneMaker) -> None:
    with pytest.raises(WorkerDiedError, match=r"chunk 1 of exit_at_three \(2 items\)") as caught:
        scene(fork).pool.map_async(exit_at_three, range(5), chunksize=2).get(PATIENCE)
    assert (caught.value.index, caught.value.items, caught.value.exitcode) == (1, 2, 4)


def test_the_iterators(fork: BaseContext, scene: SceneMaker) -> None:
    pool = scene(fork).pool
    for iterator in (pool.imap(exit_at_three, range(6)), pool.imap_unordered(exit_at_three, range(6))):
        seen: list[Any] = []
        for _ in range(6):
            try:
                seen.append(iterator.next(PATIENCE))
            except WorkerDiedError as error:
                seen.append(error.index)
        assert sorted(seen) == [0, 1, 2, 3, 4, 5]
        with pytest.raises(StopIteration):
            next(iterator)


def test_a_death_that_another_process_hides(fork: BaseContext, scene: SceneMaker) -> None:
    """A child of the worker keeps open every pipe whose end would show that the worker is dead."""
    play = scene(fork, 1)
    result = play.pool.apply_async(leave_a_child, (None,))
    waiting = play.pool.apply_async(square, (3,))
    pid, child = play.reported()
    kill_at_once(pid)
    try:
        with pytest.raises(WorkerDiedError):
            result.get(PATIENCE)
        assert waiting.get(PATIENCE) == 9
        assert state_of(child) == "S"
    finally:
        kill_at_once(child)


def test_deaths_that_the_system_does_not_tell(fork: BaseContext, crew: Crew) -> None:
    """Where SIGCHLD is ignored, or somebody else reaps all children, the exit code of a worker is not to be had."""
    ours, theirs = fork.Pipe()
    crew.start(lose_workers_unseen, theirs, fork)
    error, result, children, spent = expect(ours)
    assert "came to an unknown end while it ran" in str(error)
    assert (error.exitcode, error.signal, result, children) == (None, None, 9, 1)
    assert spent < 0.15, f"waiting for nothing has cost {spent} s of CPU time"
    crew.finish(PATIENCE)


def test_a_pid_that_was_given_to_another_process(fork: BaseContext, crew: Crew, pid_namespaces: None) -> None:
    """The worker counts as dead, and terminate() leaves the stranger alone."""
    ours, theirs = fork.Pipe()
    crew.start(in_new_pid_namespace, meet_reused_pid, theirs, True)
    victim, stranger, error, alive = expect(ours)
    assert stranger == victim
    assert error.startswith(f"WorkerDiedError: worker {victim} came to an unknown end")
    assert alive
    crew.finish(PATIENCE)


@pytest.mark.parametrize("what", ["closed", "replaced"])
def test_a_task_that_takes_its_workers_pipes(fork: BaseContext, scene: SceneMaker, what: str) -> None:
    """As a library does that makes a daemon. What it opens then may be pipes, with the same numbers."""
    play = scene(fork, 1)
    with pytest.raises(WorkerDiedError, match="ended with exit code 1 while it ran"):
        play.pool.apply_async(take_pipes, (what,)).get(PATIENCE)
    assert play.pool.apply_async(square, (3,)).get(PATIENCE) == 9


@pytest.mark.parametrize("when", ["pickled", "unpickled"])
def test_a_module_is_imported_while_workers_are_forked(
    fork: BaseContext, crew: Crew, tmp_path: Path, when: str
) -> None:
    """The workers want that module too: none of them may have been forked while a thread holds the lock of it."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nclass Result:\n    pass\n")
    ours, theirs = fork.Pipe()
    crew.start(import_while_forking, theirs, fork, str(tmp_path), when)
    assert expect(ours) == ["Result"] * 4
    crew.finish(PATIENCE)


@pytest.mark.parametrize("retries", [1, 2])
def test_retries(fork: BaseContext, scene: SceneMaker, tmp_path: Path, retries: int) -> None:
    result = scene(fork, retries=retries).pool.apply_async(count_to_death, (str(tmp_path / "runs"), 2))
    if retries == 2:
        assert result.get(PATIENCE) == 3
    else:
        with pytest.raises(WorkerDiedError, match=r"as 1 before it.*retries=2") as caught:
            result.get(PATIENCE)
        assert caught.value.tries == 2


# --- There is not enough memory ------------------------------------------------------------------------------------

with_limits_of_memory = pytest.mark.skipif(
    FREE_THREADED, reason="the interpreter has mapped a gigabyte ahead, in which it finds the memory all the same"
)


@with_limits_of_memory
def test_a_task_that_is_too_large_for_the_memory_of_a_worker(fork: BaseContext) -> None:
    with mpbakery.Pool(1, limit_memory, (LARGE // 2,), context=fork) as pool:
        pid = pool.apply(os.getpid)
        large = pool.apply_async(len, (bytes(LARGE),))
        with pytest.raises(MemoryError, match=f"process {pid} has no memory for a task of 500.* bytes: hand over"):
            large.get(PATIENCE)
        assert pool.apply_async(os.getpid).get(PATIENCE) == pid


def test_a_task_that_kills_who_reads_it(fork: BaseContext) -> None:
    with mpbakery.Pool(2, die_while_reading, (LARGE,), context=fork, retries=9) as pool:
        results = [pool.apply_async(len, (bytes(size),)) for size in (LARGE, 10)]
        with pytest.raises(WorkerDiedError, match="in the middle of reading task 0 of len, which has 500") as caught:
            results[0].get(PATIENCE)
        error = caught.value
        assert (error.exitcode, error.tries, error.given_up) == (-9, 0, False)
        assert error.unread == len(message_of((len, (bytes(LARGE),), {})))
        assert results[1].get(PATIENCE) == 10


@with_limits_of_memory
def test_a_result_that_is_too_large_for_the_memory_of_the_parent(fork: BaseContext, crew: Crew) -> None:
    ours, theirs = fork.Pipe()
    parent = crew.start(want_memory, theirs, fork, LARGE)
    error, result = expect(ours)
    assert error.startswith(f"process {parent.pid} has no memory for a result of {LARGE // 100}")
    assert result == 9
    crew.finish(PATIENCE)


@pytest.mark.serial
def test_memory_that_lacks_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever needs memory just then may fail; when there is some again, all goes on."""
    # as many containers are set up: otherwise, each thread has a lot of memory in reserve
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    crew = Crew(multiprocessing.get_context("spawn"))
    ours, theirs = crew.context.Pipe()
    crew.start(lack_memory, theirs)
    kinds, result, threads_live = expect(ours)
    assert set(kinds) <= {"bytes", "MemoryError", "WorkerDiedError"}
    assert kinds.count("bytes") > 0
    assert result == 9
    assert threads_live
    crew.finish(PATIENCE)
    crew.close()


# --- Workers die while they send a result --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 500_000], ids=["read at once", "read in pieces"])
def test_a_result_that_was_sent_counts(fork: BaseContext, scene: SceneMaker, size: int) -> None:
    play = scene(fork, retries=1)
    play.ready_workers()
    for worker in play.workers:
        fcntl.fcntl(worker.channel.from_worker, fcntl.F_SETPIPE_SZ, 1 << 20)
    result = play.pool.apply_async(wait_and_make_bytes, (size,))
    pid, _ = play.reported()
    with HeldUp(play.pool):
        play.let_through(1)
        wait_for_bytes(worker_of(play, pid).channel.from_worker, size)
        # It waits for the next task, and so has sent the message to its last byte.
        wait_for_state(pid, "S")
        kill_at_once(pid)
    assert result.get(PATIENCE) == bytes(size)
    assert not play.has_reports()


@pytest.mark.parametrize("retries", [0, 1])
def test_killed_while_it_sends_a_large_result(fork: BaseContext, scene: SceneMaker, retries: int) -> None:
    play = scene(fork, retries=retries)
    play.ready_workers()
    result = play.pool.apply_async(wait_and_make_bytes, (LARGE,))
    pid, _ = play.reported()
    with HeldUp(play.pool):
        play.let_through(1)
        wait_for_bytes(worker_of(play, pid).channel.from_worker, 1)
        kill_at_once(pid)
    if retries:
        play.let_through(1)
        assert result.get(PATIENCE) == bytes(LARGE)
    else:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            result.get(PATIENCE)
    assert play.pool.map(square, [3]) == [9]


# --- Somebody sends what is not due --------------------------------------------------------------------------------


def test_a_task_that_returns_in_two_processes(ctx: BaseContext, scene: SceneMaker) -> None:
    play = scene(ctx, 1)
    (pid,) = play.ready_workers()
    assert play.pool.apply_async(fork_and_return, ("right",)).get(PATIENCE) == "right"
    child, _ = play.reported()
    result = play.pool.apply_async(tell_and_wait, ("next",))
    assert play.reported() == (pid, "next")
    wait_for_state(child, "T")
    os.kill(child, signal.SIGCONT)
    wait_for_death(child)
    play.let_through(1)
    assert result.get(PATIENCE) == "next"
    assert play.ready_workers() == [pid]


def test_an_initializer_that_returns_in_two_processes(fork: BaseContext, scene: SceneMaker) -> None:
    play = scene(fork, 1, know_in_two)
    (pid,) = {worker.pid for worker in play.workers}
    assert play.pool.map_async(tell, range(20), chunksize=1).get(PATIENCE) == list(range(20))
    assert {play.reported() for _ in range(20)} == {(pid, item) for item in range(20)}


def test_interrupted_while_it_sends_a_result(fork: BaseContext, scene: SceneMaker) -> None:
    """By an exception of a signal handler, for which the standard library's worker sends another result."""
    play = scene(fork)
    play.ready_workers()
    result = play.pool.apply_async(wait_and_be_interrupted, (LARGE,))
    pid, _ = play.reported()
    with HeldUp(play.pool):
        play.let_through(1)
        wait_for_bytes(worker_of(play, pid).channel.from_worker, 1)
        os.kill(pid, signal.SIGUSR1)
        assert play.reported() == (pid, "interrupted")
    with pytest.raises(WorkerDiedError, match=f"worker {pid} ended with exit code 1"):
        result.get(PATIENCE)
    assert play.pool.map(square, [3]) == [9]


# --- Pickling, callbacks -------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_or_unpickled(fork: BaseContext, scene: SceneMaker) -> None:
    """Is the error of its task; the workers stay."""
    play = scene(fork)
    pids = set(play.ready_workers())
    for function, item, error, match in (
        (make_unpicklable, None, MaybeEncodingError, "not to be pickled"),
        (make_poison, None, MaybeEncodingError, "not to be unpickled"),
        (square, Unpicklable(), ValueError, "not to be pickled"),
        (square, Poison(), ValueError, "not to be unpickled"),
    ):
        with pytest.raises(error, match=match):
            play.pool.apply_async(function, (item,)).get(PATIENCE)
    assert set(play.ready_workers()) == pids


def test_a_callback_that_raises_does_not_hold_up_other_results(
    fork: BaseContext, scene: SceneMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_type))
    pool = scene(fork).pool
    assert pool.apply_async(square, (3,), callback=raise_value_error).get(PATIENCE) == 9
    assert pool.map_async(square, [3], callback=raise_value_error).get(PATIENCE) == [9]
    assert pool.apply_async(square, (3,), callback=sys.exit).get(PATIENCE) == 9
    assert pool.apply_async(square, (3,)).get(PATIENCE) == 9
    assert told == [ValueError, ValueError, SystemExit]


# --- Workers that never get ready ----------------------------------------------------------------------------------


def test_an_initializer_that_fails(fork: BaseContext) -> None:
    pool = mpbakery.Pool(2, exit_at_once, (3,), context=fork)
    try:
        for _ in range(2):
            with pytest.raises(WorkerDiedError, match=r"is not run.*exit code 3; look at the pool's in") as caught:
                pool.map_async(square, range(10)).get(PATIENCE)
            assert (caught.value.given_up, caught.value.tries, caught.value.exitcode) == (True, 0, 3)
        close_and_join(pool)
    finally:
        in_thread(pool.terminate)


def test_processes_that_cannot_be_started(
    fork: BaseContext, scene: SceneMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones: that is said to who makes the pool. Later ones: to who gives it a task."""
    play = scene(fork, 1)
    (pid,) = play.ready_workers()

    def refuse(*_arguments: object) -> None:
        raise BlockingIOError(11, "no process for you")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BlockingIOError, match="no process for you"):
        mpbakery.Pool(1, context=fork)
    kill_at_once(pid)
    with pytest.raises(WorkerDiedError, match="the system refuses to start new ones") as caught:
        play.pool.apply_async(square, (3,)).get(PATIENCE)
    assert isinstance(caught.value.__cause__, BlockingIOError)


def test_a_spell_of_failing_starts(fork: BaseContext, scene: SceneMaker, tmp_path: Path) -> None:
    """As soon as a worker that has outlived it is through with a task, there are as many as there shall be."""
    forbidden = tmp_path / "forbidden"
    play = scene(fork, 3, forbidden=str(forbidden))
    pids = play.ready_workers()
    result = play.pool.apply_async(tell_and_wait, (None,))
    busy, _ = play.reported()
    forbidden.touch()
    kill_at_once(*(pid for pid in pids if pid != busy))
    wait_until(lambda: play.pool._dispatcher._hiring.has_given_up, "two places that stay empty")
    forbidden.unlink()
    play.let_through(1)
    assert result.get(PATIENCE) is None
    assert busy in play.ready_workers()


# --- The end of the pool, and of its parent ------------------------------------------------------------------------


def test_killed_while_the_pool_is_closed(ctx: BaseContext, scene: SceneMaker) -> None:
    play = scene(ctx)
    results = [play.pool.apply_async(tell_and_wait, (item,)) for item in range(4)]
    pid, item = play.reported()
    play.pool.close()
    kill_at_once(pid)
    play.let_through(3)
    in_thread(play.pool.join)
    for other, result in enumerate(results):
        assert result.ready()
        assert result.successful() is (other != item)


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at the same time", "before"])
def test_idle_workers_are_killed_at_the_end(fork: BaseContext, scene: SceneMaker, end: str, at_once: bool) -> None:
    play = scene(fork, 3)
    pids = play.ready_workers()

    def kill() -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has gone home

    def finish() -> None:
        getattr(play.pool, end)()
        play.pool.join()

    if at_once:
        in_threads([finish, kill])
    else:
        kill()
        in_thread(finish)


def test_terminated_in_the_middle_of_everything(ctx: BaseContext, scene: SceneMaker) -> None:
    play = scene(ctx)
    play.pool.apply_async(tell_and_make_bytes, (LARGE,))
    play.pool.map_async(tell_and_wait, range(10_000), chunksize=1)
    play.reported()
    pid, _ = play.reported()
    kill_at_once(pid)
    in_thread(play.pool.terminate)
    in_thread(play.pool.join)
    assert all(worker.exitcode is not None for worker in play.workers)


def test_closed_while_no_worker_can_be_started(fork: BaseContext) -> None:
    """None is, while a result is unpickled; what still waits for one is not forgotten."""
    pool = mpbakery.Pool(1, maxtasksperchild=1, context=fork)
    results = [pool.apply_async(LateArrival) for _ in range(5)]
    pool.close()
    pool.join()
    assert [result.ready() for result in results] == [True] * 5


def test_the_workers_end_with_their_parent(ctx: BaseContext, ctx_crew: Crew) -> None:
    """The busy one, too; and it was started last, so that it has inherited much of their parent."""
    ours, theirs = ctx.Pipe()
    parent = ctx_crew.start(own_a_pool, theirs, ctx)
    pids, busy = expect(ours)
    kill_at_once(parent.pid or 0)
    try:
        for pid in pids:
            wait_for_death(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            kill_at_once(busy)


def test_ctrl_c(ctx: BaseContext, ctx_crew: Crew) -> None:
    ours, theirs = ctx.Pipe()
    parent = ctx_crew.start(interrupted_in_the_middle, theirs, ctx)
    expect(ours)
    # CPython does not notice a signal that comes right before it waits for a lock: that calls for another one
    for _ in range(round(PATIENCE)):
        os.killpg(parent.pid or 0, signal.SIGINT)
        if ours.poll(1):
            break
    assert expect(ours) == "interrupted"
    ctx_crew.finish(PATIENCE)


# --- The error -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given_up", "unread"), [(False, None), (True, None), (False, 5)])
@pytest.mark.parametrize("exitcode", [None, 3, -9, -40])
def test_the_error_survives_pickling(exitcode: int | None, given_up: bool, unread: int | None) -> None:
    error = WorkerDiedError("work", 3, None, 4711, exitcode, 1, given_up, unread)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


# --- At random moments ---------------------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize("retries", [0, 1000])
def test_workers_killed_at_random_moments(fork: BaseContext, scene: SceneMaker, retries: int) -> None:
    """Every result is right, or it is an error if there are no retries; and no result is missing."""
    pool = scene(fork, 4, retries=retries, maxtasksperchild=50).pool
    choose = random.Random(retries)
    over = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not over.is_set():
            time.sleep(choose.uniform(0, 0.02))
            worker = choose.choice(list(pool._pool) or [None])
            if worker is not None and worker.pid is not None and worker.exitcode is None:
                worker.kill()
                kills += 1

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    lost = 0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        sizes = [choose.choice([0, 10, 100_000, 1_000_000]) for _ in range(50)]
        iterator = pool.imap(bytes, sizes)
        pauses = pool.map_async(dawdle, [0.002] * 8, chunksize=1)
        for size in sizes:
            try:
                assert len(iterator.next(PATIENCE)) == size
            except WorkerDiedError:
                lost += 1
        try:
            assert pauses.get(PATIENCE) == [0.002] * 8
        except WorkerDiedError:
            lost += 1
    over.set()
    killer.join()
    assert kills > 50
    assert (lost == 0) is (retries > 0), f"{lost} tasks lost in {kills} kills"
    close_and_join(pool)


# --- Negative control ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["busy", "idle"])
def test_the_standard_pool_does_hang(ctx: BaseContext, ctx_crew: Crew, when: str) -> None:
    """The same scenes, so that the tests above cannot pass for want of a death that matters."""
    ours, theirs = ctx.Pipe()
    parent = ctx_crew.start(kill_a_worker_of_the_standard_pool, theirs, ctx, when)
    try:
        assert expect(ours).count(False) == 1
    finally:
        os.killpg(parent.pid or 0, signal.SIGKILL)
