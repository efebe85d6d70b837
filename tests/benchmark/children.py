"""Children of a measurement: started, let go at once, killed and reaped; and what they share."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Final, final

import mpbakery
from benchmark.measuring import Broken, Lock


@final
class Crew:
    """Forked children, of which none outlives the `with` block, nor this process."""

    #: nothing is ever written here: it is closed when this process ends, however it ends
    _lifeline: Final = os.pipe()

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._bell = os.pipe()
        self._gate = os.pipe()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_exception: object) -> None:
        # an interrupt in the middle of this would leave children behind
        with _signals_blocked():
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
            for pid in self._pids:
                os.waitpid(pid, 0)
            self._pids.clear()
            for descriptor in (*self._bell, *self._gate):
                os.close(descriptor)

    def start(self, work: Callable[..., object], *arguments: object) -> int:
        """Fork a child that does work(*arguments) and exits; its pid."""
        sys.stdout.flush()
        sys.stderr.flush()
        # else a signal could leave a child that nobody knows of, or have a child run on in its parent's code
        with _signals_blocked():
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    self._settle_in_child()
                    work(*arguments)
                    status = 0
                except BaseException:  # reported by the status
                    traceback.print_exc()
                finally:
                    os._exit(status)
            self._pids.add(pid)
            return pid

    def _settle_in_child(self) -> None:
        """Leave signals to the parent; and have SIGIO end this child when the parent is gone.

        SIGIO comes when the last writing end of the lifeline is closed, and the parent alone keeps one.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(self._lifeline[1])
        with contextlib.suppress(OSError):  # no /proc: then only the parent's own cleaning up ends this child
            # a description of its own, since who gets the signal belongs to that
            end = os.open(f"/proc/self/fd/{self._lifeline[0]}", os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)

    def ready(self) -> None:
        """In a child: tell the parent that this point is reached, and wait until it opens the gate."""
        os.write(self._bell[1], b".")
        os.read(self._gate[0], 1)

    def await_ready(self, children: int) -> None:
        """Until that many children have told that they are ready."""
        while children:
            children -= len(os.read(self._bell[0], children))

    def open_gate(self) -> None:
        """Let all go on that are ready, at once."""
        os.write(self._gate[1], b"." * len(self._pids))

    def join(self) -> None:
        """Until all children have ended. Raises Broken if one of them failed."""
        for pid in sorted(self._pids):
            _, status = os.waitpid(pid, 0)
            self._pids.discard(pid)
            if status:
                raise Broken(f"child {pid} failed, with exit code {os.waitstatus_to_exitcode(status)}")

    def kill(self, pid: int) -> None:
        """SIGKILL a child; it stays a zombie until `reap`."""
        os.kill(pid, signal.SIGKILL)

    def reap(self, pid: int) -> None:
        """Wait for a child that was killed."""
        os.waitpid(pid, 0)
        self._pids.discard(pid)


_SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGALRM}


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Broken inside the block if it is not done in time: whatever hangs, the benchmark does not."""

    def over(*_signal: object) -> None:
        raise Broken(f"not done after {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def shared(words: int) -> memoryview:
    """That many 64-bit integers, shared with the children that are forked from now on."""
    return memoryview(mmap.mmap(-1, max(words, 1) * 8)).cast("q")


def idle_holder(crew: Crew, lock: Lock) -> None:
    """Hold the lock until killed."""
    lock.acquire()
    crew.ready()


def await_queue(lock: mpbakery.Lock, waiters: int) -> tuple[int, ...]:
    """Until that many wait in an order that stays; their pids in it."""
    queue: tuple[int, ...] = ()
    while True:
        last, queue = queue, tuple(one.pid for one in lock.statistics().waiters)
        if len(queue) == waiters and queue == last:
            return queue
        time.sleep(0.001)
