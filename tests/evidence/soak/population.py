"""The processes of a soak, as their conductor sees them: started, stopped, killed, found dead or stuck, and reaped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple

from evidence.soak.board import BEAT, ENDED, OUT, Board, Trace, seats_of
from evidence.soak.life import World, inhabit
from evidence.soak.plan import Life, Size
from support.processes import status_of

#: How long a process may take to print what it is at (s).
_PRINTING: Final = 0.5


class Death(NamedTuple):
    """A process that was killed, or has ended, and what its threads were at."""

    killed: bool
    traces: list[Trace]


class Stuck(Exception):
    """A process does not get on; `trace` is what it is at, if it has come to its place."""

    def __init__(self, pid: int, seconds: float, trace: Trace | None) -> None:
        super().__init__(pid, seconds, trace)
        self.pid = pid
        self.seconds = seconds
        self.trace = trace


class _Pending(NamedTuple):
    """A process, and the moment that matters (monotonic seconds)."""

    pid: int
    moment: float


class Population:
    """All processes but the conductor; they are one process group, and orphans among them come to the conductor."""

    def __init__(self, board: Board, size: Size, patience: float, blame: Callable[[str], object]) -> None:
        self._board = board
        self._size = size
        self._patience = patience
        self._blame = blame
        self._group = 0
        self._spawned: dict[int, BaseProcess] = {}
        self._killed: set[int] = set()
        #: by place: who has been started, when, and has not come to its place yet
        self._starting: dict[int, _Pending] = {}
        #: by place: who is stopped, and until when
        self._stopped: dict[int, _Pending] = {}
        #: by place, and by lock (the last one stands for locks of one's own): when a stop was last in the way
        self._awake = [0.0] * size.places
        self._undisturbed = [0.0] * (size.locks + 1)

    def start(self, place: int, world: World, lives: tuple[tuple[Life, ...], ...]) -> None:
        """Start a process for a place that is free; the first one becomes the leader of the group."""
        arguments = (world._replace(group=self._group), place, lives)
        with _without_interrupts():
            if self._size.is_spawned(place):
                process = multiprocessing.get_context("spawn").Process(target=inhabit, args=arguments)
                process.start()
                pid = process.pid or 0
                self._spawned[pid] = process
            else:
                pid = os.fork()
                if not pid:
                    inhabit(*arguments)
                self._group = self._group or pid
                os.setpgid(pid, self._group)  # so that `end` finds it, however far it has come
        self._starting[place] = _Pending(pid, time.monotonic())

    def is_free(self, place: int) -> bool:
        """Whether nobody is in a place, nor on the way to it."""
        return not self._board.pid(place) and place not in self._starting

    def kill(self, place: int) -> None:
        """Kill whoever is in a place."""
        if pid := self._board.pid(place):
            self._killed.add(pid)
            _send(pid, signal.SIGKILL)

    def stop(self, place: int, seconds: float) -> bool:
        """Stop whoever is in a place for that long; whether somebody was."""
        pid = self._board.pid(place)
        if not pid or place in self._stopped:
            return False
        _send(pid, signal.SIGSTOP)
        self._stopped[place] = _Pending(pid, time.monotonic() + seconds)
        return True

    def continue_all(self) -> None:
        """Let all run on that are stopped."""
        for place in list(self._stopped):
            self._continue(place)

    def _continue(self, place: int) -> None:
        _send(self._stopped.pop(place).pid, signal.SIGCONT)
        self._awake[place] = time.monotonic()

    def tend(self) -> Iterator[Death]:
        """What is to be done all the time; who has died since the last time. Raises Stuck."""
        for place, starting in list(self._starting.items()):
            if self._board.pid(place) == starting.pid:
                del self._starting[place]
        yield from self._settle()
        now = time.monotonic()
        for place, stopped in list(self._stopped.items()):
            if now >= stopped.moment:
                self._continue(place)
        self._reap()
        self._watch(now)

    def end(self) -> Iterator[Death]:
        """Kill and reap everybody, also those that have not come to their places; who has died since the last time."""
        for process in self._spawned.values():
            process.kill()
        try:
            os.killpg(self._group, signal.SIGKILL)
            while True:
                os.waitpid(-self._group, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        for process in self._spawned.values():
            process.join()
        self._starting.clear()
        self._killed.update(self._board.pid(place) for place in range(self._size.places))
        yield from self._settle()

    def _settle(self) -> Iterator[Death]:
        """Look what the dead were at, and then make their places free."""
        for place in range(self._size.places):
            pid = self._board.pid(place)
            if not pid or not _is_gone(pid):
                continue
            ended = bool(self._board.words[self._board.place(place) + ENDED])
            if not ended and pid not in self._killed:
                self._blame(f"process {pid} in place {place} died by itself")
            self._killed.discard(pid)
            self._stopped.pop(place, None)
            if place in self._starting and self._starting[place].pid == pid:
                del self._starting[place]
            yield Death(not ended, [trace for trace in map(self._board.trace, seats_of(place)) if trace.phase != OUT])
            self._board.clear(place)

    def _reap(self) -> None:
        """Reap our children, and those that have lost their parents."""
        # multiprocessing may have reaped them already, when the next one was started
        for pid, process in list(self._spawned.items()):
            if process.exitcode is not None:
                process.close()
                del self._spawned[pid]
                self._missed(pid)
        try:
            while found := os.waitid(os.P_PGID, self._group, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in self._spawned:
                    self._spawned[found.si_pid].join()
                else:
                    os.waitpid(found.si_pid, 0)
                    self._missed(found.si_pid)
        except ChildProcessError:
            pass

    def _missed(self, pid: int) -> None:
        """See whether a process that has been reaped had not come to its place yet."""
        for place, starting in list(self._starting.items()):
            if starting.pid == pid and self._board.pid(place) != pid:
                del self._starting[place]
                self._blame(f"process {pid} ended before it came to place {place}")

    def _watch(self, now: float) -> None:
        """Raise Stuck if somebody has not got on for too long, though nobody that was stopped stood in the way."""
        for place in self._stopped:
            self._awake[place] = now
            for trace in map(self._board.trace, seats_of(place)):
                if trace.phase != OUT:
                    self._undisturbed[trace.lock] = now
        for starting in self._starting.values():
            if now - starting.moment > self._patience:
                raise Stuck(starting.pid, now - starting.moment, None)
        for place in range(self._size.places - 1):
            for seat in seats_of(place):
                trace = self._board.trace(seat)
                beat = self._board.times[self._board.seat(seat) + BEAT]
                since = max(beat, self._undisturbed[trace.lock], self._awake[place])
                if trace.phase != OUT and now - since > self._patience:
                    raise Stuck(self._board.pid(place), now - since, trace)


def report(pids: list[int]) -> None:
    """Have processes, and the children of the first of them, print what their threads are at."""
    for pid in [*pids, *_children_of(pids[0])]:
        gone = _is_gone(pid)
        print(f"soak: process {pid} is {'dead' if gone else 'at:'}", file=sys.stderr, flush=True)
        if not gone:
            _send(pid, signal.SIGUSR1)
            time.sleep(_PRINTING)


def _children_of(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))
    except OSError:
        return []  # it is gone, or the kernel does not tell


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _is_gone(pid: int) -> bool:
    """Whether no thread of that process runs any more; it may not have been reaped yet."""
    fields = status_of(pid)
    return not fields or (fields[0] in {b"Z", b"X"} and int(fields[17]) <= 1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C is the conductor's: a child that is started in here never gets it, not even in its first moments."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
