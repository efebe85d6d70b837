"""Processes that have a pool, for tests in which something becomes of them, or of what is theirs alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import active_children, get_context, util
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from support.namespaces import fork_with_pid, sleep_for_ever
from support.pool_scenes import HeldUp
from support.pool_tasks import (
    dawdle,
    exit_at_once,
    kill_at_once,
    know,
    limit_memory,
    square,
    tell_and_wait,
    wait_and_make,
)
from support.processes import state_of
from support.workers import PATIENCE, begin, expect, wait_until


def own_a_pool(connection: Connection, context: BaseContext) -> None:
    """Have a pool of three whose last worker is busy, and wait to be killed."""
    reports, theirs = context.Pipe(duplex=False)
    gate, _ours = context.Pipe(duplex=False)
    pool = mpbakery.Pool(3, know, (theirs, gate, ""), context=context)
    pids = [worker.pid for worker in pool._pool]
    first = [pool.apply_async(tell_and_wait, (None,)) for _ in pids]
    for _ in pids:
        expect(reports)
    last = pids[-1]
    os.write(_ours.fileno(), bytes(len(pids)))
    for result in first:
        result.get()
    busy = None
    while busy != last:
        result = pool.apply_async(tell_and_wait, (None,))
        busy, _ = expect(reports)
        if busy != last:
            os.write(_ours.fileno(), b".")
            result.get()
    connection.send((pids, last))
    signal.pause()


def interrupted_in_the_middle(connection: Connection, context: BaseContext) -> None:
    """Get a KeyboardInterrupt while a map is under way."""
    os.setsid()  # the test interrupts all this by its group
    reports, theirs = context.Pipe(duplex=False)
    gate, _ours = context.Pipe(duplex=False)
    with mpbakery.Pool(2, know, (theirs, gate, ""), context=context) as pool:
        result = pool.map_async(tell_and_wait, range(10))
        expect(reports)
        expect(reports)
        try:
            connection.send(None)
            result.get()
        except KeyboardInterrupt:
            connection.send("interrupted")


def lose_workers_unseen(connection: Connection, context: BaseContext) -> None:
    """Have workers die whose ends the system tells nobody; send what comes of it, and what waiting costs then (s)."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with mpbakery.Pool(1, begin, context=context) as pool:
        error = None
        try:
            pool.apply(exit_at_once, (3,))
        except mpbakery.WorkerDiedError as caught:
            error = caught
        kill_at_once(pool.apply(os.getpid))
        result = pool.apply(square, (3,))
        before = time.process_time()
        time.sleep(0.3)
        connection.send((error, result, len(active_children()), time.process_time() - before))
    pool.join()


def want_memory(connection: Connection, context: BaseContext, size: int) -> None:
    """Have no memory for a result that is so large, and send its error, and the result of another task."""
    with mpbakery.Pool(1, begin, context=context) as pool:
        pool.apply(square, (3,))
        limit_memory(size // 2)
        error = None
        try:
            pool.apply(bytes, (size,))
        except MemoryError as caught:
            error = caught
        connection.send((str(error), pool.apply(square, (3,))))


def kill_a_worker_of_the_standard_pool(connection: Connection, context: BaseContext, when: str) -> None:
    """What becomes of multiprocessing's Pool: send whether the result came."""
    os.setsid()  # the test ends all this by its group
    reports, theirs = context.Pipe(duplex=False)
    gate, ours = context.Pipe(duplex=False)
    pool = context.Pool(2, know, (theirs, gate, ""))
    results = [pool.apply_async(tell_and_wait, (item,)) for item in range(2)]
    pids = [expect(reports)[0] for _ in results]
    if when == "busy":
        kill_at_once(pids[0])
        os.write(ours.fileno(), b".")
    else:
        os.write(ours.fileno(), b"..")
        for result in results:
            result.get()
        kill_at_once(*pids)
        results = [pool.apply_async(square, (3,))]
    for result in results:
        result.wait(0.7)
    connection.send([result.ready() for result in results])
    signal.pause()


def _somebody_is_busy(pool: mpbakery.Pool) -> bool:
    return any(worker.is_busy for worker in pool._pool)


def terminate_the_deaf(connection: Connection, context: BaseContext) -> None:
    """Have handlers of SIGTERM that do nothing, in the workers too; tell whether terminate() returns in time."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    found = {}
    for name, task, most in (
        ("idle", None, 1.5),
        ("a short task", 0.5, 1.9),
        ("a long task", 60, 10),
    ):
        pool = mpbakery.Pool(2, context=context)
        pool.map(square, range(4))
        if task is not None:
            pool.apply_async(time.sleep, (task,))
            wait_until(partial(_somebody_is_busy, pool), "a worker at work")
        before = time.monotonic()
        pool.terminate()
        found[name] = time.monotonic() - before < most
        pool.join()
    with mpbakery.Pool(2, signal.signal, (signal.SIGTERM, signal.SIG_IGN), context=context) as pool:
        pool.map(square, range(4))
        pool.apply_async(time.sleep, (60,))
    found["ignored"] = True
    connection.send(found)


def note_terminations(connection: Connection, context: BaseContext) -> None:
    """Have workers note that they are asked to end, and tell how many have."""
    reports, theirs = context.Pipe(duplex=False)
    with mpbakery.Pool(2, clean_up_at_the_end, (theirs,), context=context) as pool:
        for _ in range(2):
            pool.apply_async(time.sleep, (60,))
        wait_until(lambda: all(worker.is_busy for worker in pool._pool), "two tasks")
        # they have begun to read it, or will not begin before the signal
        time.sleep(0.1)
    theirs.close()
    noted = 0
    try:
        while reports.recv():
            noted += 1
    except EOFError:
        pass
    connection.send(noted)


def clean_up_at_the_end(reports: Connection) -> None:
    """The initializer of workers that say so when SIGTERM comes."""

    def clean_up(_number: int, _frame: object) -> None:
        reports.send(True)
        os._exit(0)

    signal.signal(signal.SIGTERM, clean_up)


class Interrupted(Exception):
    """What a handler raises."""


def _interrupt(_number: int, _frame: object) -> None:
    raise Interrupted


def interrupt_work(connection: Connection, context: BaseContext, interrupts: int) -> None:
    """Be interrupted while giving a pool something to do; send how often, and how many results never come.

    One that comes while something is collected interrupts nothing: Python cannot raise it there.
    """
    choose = random.Random(1)
    pool = mpbakery.Pool(2, begin, context=context)
    pool.map(square, range(4))
    signal.signal(signal.SIGALRM, _interrupt)
    counted = 0
    for number in range(interrupts):
        try:
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-5, 1e-3))
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                if number % 3 == 0:
                    pool.apply_async(square, (1,))
                elif number % 3 == 1:
                    pool.map_async(square, range(5))
                else:
                    pool.imap(square, range(5))
        except Interrupted:
            counted += 1
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    pool.close()
    pool.join()
    connection.send((counted, len(pool._cache)))


def interrupt_close(connection: Connection, context: BaseContext) -> None:
    """Be interrupted while terminate() waits for a worker that takes its time, and call it once more."""
    signal.signal(signal.SIGUSR1, _interrupt)
    pool = mpbakery.Pool(1, signal.signal, (signal.SIGTERM, signal.SIG_IGN), context=context)
    pool.apply(square, (3,))
    pool.apply_async(time.sleep, (60,))
    wait_until(partial(_somebody_is_busy, pool), "a worker at work")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        pool.terminate()
        outcome = "not interrupted"
    except Interrupted:
        outcome = "interrupted"
    pool.terminate()
    connection.send((outcome, len(active_children())))


def fork_and_use(connection: Connection, context: BaseContext) -> None:
    """Use a pool in a forked child; send the errors, how that child ended, and a result of the parent's."""
    reports, theirs = context.Pipe(duplex=False)
    with mpbakery.Pool(3, begin, context=context) as pool:
        pending, iterator = pool.apply_async(time.sleep, (60,)), pool.imap(time.sleep, [60])
        child = os.fork()
        if child == 0:
            with pool_again(pool):
                theirs.send(
                    [
                        _error_of(call)
                        for call in (
                            lambda: pool.apply(square, (3,)),
                            lambda: pool.apply_async(square, (3,)),
                            lambda: pool.map(square, [3]),
                            lambda: pool.map_async(square, [3]),
                            lambda: pool.starmap(square, [(3,)]),
                            lambda: pool.imap(square, [3]),
                            lambda: pool.imap_unordered(square, [3]),
                            pool.close,
                            pool.join,
                            pending.get,
                            iterator.next,
                        )
                    ]
                )
            os._exit(0)
        _, status = os.waitpid(child, 0)
        connection.send((expect(reports), os.waitstatus_to_exitcode(status), pool.apply(square, (3,))))


@contextlib.contextmanager
def pool_again(pool: mpbakery.Pool) -> Iterator[None]:
    """The end of the `with` block of a pool, in whatever process."""
    try:
        yield
    finally:
        pool.__exit__(None, None, None)


def _error_of(call: Callable[[], object]) -> str:
    try:
        return f"no error, but {call()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def leave_a_fork(connection: Connection, context: BaseContext) -> None:
    """Have a forked child exit as programs do, while tasks run; send how it has ended, and the results."""
    with mpbakery.Pool(2, begin, context=context) as pool:
        results = [pool.apply_async(dawdle, (seconds,)) for seconds in (0, 1)]
        wait_until(partial(_somebody_is_busy, pool), "a worker at work")
        child = os.fork()
        if child == 0:
            util._exit_function()  # type: ignore[attr-defined]
            os._exit(0)
        _, status = os.waitpid(child, 0)
        connection.send((os.waitstatus_to_exitcode(status), [result.get() for result in results]))


def meet_reused_pid(connection: Connection) -> None:
    """The first process of a PID namespace, whose children nobody reaps: a worker dies, and a stranger gets its pid."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with mpbakery.Pool(1, begin, context=get_context("fork")) as pool:
        victim = pool.apply(os.getpid)
        result = pool.apply_async(time.sleep, (60,))
        wait_until(partial(_somebody_is_busy, pool), "a worker at work")
        with HeldUp(pool):  # or the death would be noticed at once
            kill_at_once(victim)
            time.sleep(0.05)  # the kernel tells start times in hundredths of a second
            stranger = fork_with_pid(victim, sleep_for_ever)
        error = _error_of(partial(result.get, PATIENCE))
    alive = state_of(stranger) == "S"
    os.kill(stranger, signal.SIGKILL)
    connection.send((victim, stranger, error, alive))


class WantsModule:
    """Imports a module when it is pickled."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        importlib.import_module("slow_module")
        return WantsModule, ()


def make_something_slow(_item: object) -> Any:
    return importlib.import_module("slow_module").Result()


def name_something_slow(_item: object) -> str:
    return type(make_something_slow(None)).__name__


def import_while_forking(connection: Connection, context: BaseContext, folder: str, when: str) -> None:
    """Have a thread of a pool import a module while the pool starts workers that import it too; send the results."""
    sys.path.insert(0, folder)
    with mpbakery.Pool(2, begin, context=context, maxtasksperchild=1) as pool:
        if when == "unpickled":
            made = pool.map_async(make_something_slow, range(4), chunksize=1).get(PATIENCE)
            connection.send([type(item).__name__ for item in made])
        else:
            # Both workers end after their task, and the next ones are started while the third task is pickled.
            tasks = [pool.apply_async(dawdle, (0.05,)) for _ in range(2)]
            slow = [pool.apply_async(name_something_slow, (WantsModule(),)) for _ in range(4)]
            for task in tasks:
                task.get(PATIENCE)
            connection.send([result.get(PATIENCE) for result in slow])


def lack_memory(connection: Connection) -> None:
    """Take all memory for a moment, while results come; send the kinds of what came, and whether the pool goes on."""
    pool = mpbakery.Pool(2, begin, context=get_context("fork"))
    pool.map(square, range(10))
    results = [pool.apply_async(wait_and_make, (20_000,)) for _ in range(300)]  # longer than the spell
    limit_memory(3_000_000)
    hog: list[bytearray] = []
    for size in (1 << 16, 400):  # with the last bytes gone, CPython itself ends the process now and then
        try:
            while True:
                hog.append(bytearray(size))
        except MemoryError:
            pass
    time.sleep(0.7)
    hog.clear()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kinds = []
    for result in results:
        try:
            kinds.append(type(result.get(PATIENCE)).__name__)
        except Exception as error:
            kinds.append(type(error).__name__)
    threads = pool._dispatcher.thread, pool._dispatcher.messenger.thread, pool._taskqueue.thread
    connection.send((kinds, pool.apply(square, (3,)), all(thread.is_alive() for thread in threads)))
    pool.terminate()
