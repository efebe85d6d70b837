"""What workers of a pool run in the tests, in a module that spawned ones can import."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import mpbakery
from support.processes import mapped_memory, state_of
from support.workers import PATIENCE, begin, wait_until

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


def stop_at_two(number: int) -> int:
    if number == 2:
        raise StopIteration(number)
    return number


def take_pipes(what: str) -> str:
    """Close all descriptors but the first three, and have pipes of one's own in the place of those that were pipes."""
    descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    pipes = {}
    for descriptor in descriptors:
        try:
            if descriptor > 2 and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                pipes[descriptor] = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError:
            pass  # that of the list itself
    os.closerange(3, max(descriptors) + 1)
    if what == "replaced":
        reader, writer = os.pipe()
        for descriptor, mode in pipes.items():
            os.dup2(reader if mode == os.O_RDONLY else writer, descriptor)
    return what


def exit_at_three(number: int) -> int:
    if number == 3:
        os._exit(4)
    return number


def tell_and_make_bytes(size: int) -> bytes:
    report(size)
    return bytes(size)


def wait_and_make(size: int) -> bytes:
    """Make bytes, not at once."""
    time.sleep(0.01)
    return bytes(size)


def wait_and_make_bytes(size: int) -> bytes:
    report(size)
    pass_gate()
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


def wait_and_be_interrupted(size: int) -> bytes:
    """Return so many bytes, and have a signal handler raise, SIGUSR1's, even if that is after it."""

    def interrupt(_number: int, _frame: object) -> None:
        report("interrupted")
        raise ValueError("in the middle of whatever")

    signal.signal(signal.SIGUSR1, interrupt)
    return wait_and_make_bytes(size)


def wait_a_moment(item: Any) -> Any:
    time.sleep(0.05)
    return item


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


class Liar:
    """An iterable that says that it has another length."""

    def __init__(self, length: int, items: Iterable[Any]) -> None:
        self._length = length
        self._items = items

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


class SlowArrival:
    """Is unpickled only when the gate is open."""

    gate: ClassVar[threading.Event]
    is_there: ClassVar[threading.Event] = threading.Event()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return SlowArrival.arrive, ()

    @staticmethod
    def arrive() -> None:
        """Wait for the gate."""
        SlowArrival.is_there.set()
        assert SlowArrival.gate.wait(PATIENCE)


class LateArrival:
    """Takes its time to be unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[float]]:
        return time.sleep, (0.1,)


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


def interrupt_at_once() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill_at_once(*pids: int) -> None:
    """Kill processes, and wait until they are dead: until then, they could still eat what is written for others."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_for_death(pid)


def wait_for_death(pid: int) -> None:
    wait_until(lambda: state_of(pid) in {"", "X", "Z"}, f"the end of process {pid}")
