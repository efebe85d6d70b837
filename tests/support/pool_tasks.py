"""What workers of a pool run in the tests, in a module that spawned ones can import."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from multiprocessing import active_children
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, ForkProcess
from pathlib import Path
from types import FrameType
from typing import Any

import mpbakery
from support.processes import mapped_memory, state_of
from support.workers import PATIENCE, begin, expect, wait_until

#: To the test, and from it; every worker has the same.
_reports: Connection | None = None
_gate: Connection | None = None


def know(reports: Connection, gate: Connection, forbidden: str) -> None:
    """The initializer of a scene's workers, which fails while there is a file of the forbidden name."""
    global _reports, _gate
    begin()
    if os.path.exists(forbidden):
        os._exit(1)
    _reports, _gate = reports, gate


def limit_memory(more: int) -> None:
    """From now on, this process gets only so much more memory (bytes)."""
    gc.collect()  # what is freed later could be had again
    resource.setrlimit(resource.RLIMIT_AS, (mapped_memory() + more, resource.RLIM_INFINITY))


def die_while_reading(size: int) -> None:
    """The initializer of workers that are killed when they have read the first part of a task so large (bytes)."""
    begin()

    def look(frame: FrameType, event: str, function: object) -> None:
        if event == "c_return" and function is os.readv and len(frame.f_locals["content"]) >= size:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)


def report(item: Any) -> None:
    """Tell the test who has come where."""
    assert _reports is not None
    _reports.send((os.getpid(), item))


def pass_gate() -> None:
    """Wait until the test lets one through; for ever, if the test's end of the gate is gone."""
    assert _gate is not None
    if not os.read(_gate.fileno(), 1):
        signal.pause()


def tell(item: Any) -> Any:
    report(item)
    return item


def tell_and_wait(item: Any) -> Any:
    report(item)
    pass_gate()
    return item


def square(number: int) -> int:
    return number * number


def subtract(first: int, second: int) -> int:
    return first - second


def raise_value_error(item: Any) -> None:
    raise ValueError(item)


def exit_at_once(code: int) -> None:
    os._exit(code)


def exit_at_three(number: int) -> int:
    if number == 3:
        os._exit(4)
    return number


def tell_and_make_bytes(size: int) -> bytes:
    report(size)
    return bytes(size)


def count_to_death(path: str, deaths: int) -> int:
    """Kill the worker, the first `deaths` times."""
    with open(path, "ab") as file:
        file.write(b".")
    count = Path(path).stat().st_size
    if count <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def leave_a_child(item: Any) -> None:
    """Fork a child that lives on with everything that the worker has open, and wait to be killed."""
    child = os.fork()
    if child == 0:
        signal.pause()
    report(child)
    signal.pause()


def fork_and_return(item: Any) -> Any:
    """Return in two processes; the new one returns "wrong", after it has told who it is, and was continued."""
    if os.fork() == 0:
        report(None)
        os.kill(os.getpid(), signal.SIGSTOP)
        return "wrong"
    return item


def know_in_two(*knowledge: Any) -> None:
    """The initializer of a scene's workers, which forks and returns in both processes."""
    know(*knowledge)
    os.fork()


def tell_and_be_interrupted(size: int) -> bytes:
    """Return so many bytes, and have a signal handler raise, SIGUSR1's, even if that is after it."""

    def interrupt(_number: int, _frame: object) -> None:
        report("interrupted")
        raise ValueError("in the middle of whatever")

    signal.signal(signal.SIGUSR1, interrupt)
    return tell_and_make_bytes(size)


def dawdle(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class NoDaemon(ForkProcess):
    """A process that may have children, whatever a pool wants it to be."""

    @property
    def daemon(self) -> bool:
        return False

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        pass


class Nestable(mpbakery.Pool):
    """The recipe for a pool whose tasks may have pools."""

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        return NoDaemon(*args, **kwds)


def have_a_pool(number: int) -> int:
    begin()
    with mpbakery.Pool(1, begin) as pool:
        result: int = pool.apply_async(square, (number,)).get(PATIENCE)
        return result


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self) -> str:
        raise ValueError("not to be pickled")


class Poison:
    """Can be pickled, and not be unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return raise_value_error, ("not to be unpickled",)


def make_unpicklable(_item: Any) -> Unpicklable:
    return Unpicklable()


def make_poison(_item: Any) -> Poison:
    return Poison()


def kill_at_once(*pids: int) -> None:
    """Kill processes, and wait until they are dead: until then, they could still eat what is written for others."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_for_death(pid)


def wait_for_death(pid: int) -> None:
    wait_until(lambda: state_of(pid) in {"", "X", "Z"}, f"the end of process {pid}")


# --- Processes that have a pool ------------------------------------------------------------------------------------


def own_a_pool(connection: Connection, context: BaseContext) -> None:
    """Have a pool of three whose last worker is busy, and wait to be killed."""
    reports, theirs = context.Pipe(duplex=False)
    gate, _ours = context.Pipe(duplex=False)
    pool = mpbakery.Pool(3, know, (theirs, gate, ""), context=context)
    pids = [worker.pid for worker in pool._pool]  # type: ignore[attr-defined]
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
