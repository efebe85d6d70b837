"""The half-baked mutex recipe's program, made right: a family of forked processes prints lines, character by character.

The recipe forks five times, which makes 32 processes, and each of them prints ` ------ PID ------ ` again and again
under its lock. Here each prints so many lines and ends, every child is reaped, and the program looks at what was
printed: whether a line is broken, and whether all were served evenly.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import re
import select
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

import mpbakery
from mpbakery._programs.console import Console, duration, evenness, plural, show_evenness, table

_LINE: Final = re.compile(rb" ------ (\d+) ------ ")
_CHUNK: Final = 1 << 16
_POLL: Final = 0.01
#: The lock is given to the family after so many seconds, even if one is not there yet.
_START_LIMIT: Final = 5.0
#: How long the family may take to end when nobody reads its lines any more (s).
_END_LIMIT: Final = 0.5


@dataclass(frozen=True)
class Settings:
    """What to do: so many forks, so many lines for each process, with or without the lock.

    `limit` is how many seconds without a line count as a stall.
    """

    forks: int = 5
    rounds: int = 100
    locked: bool = True
    limit: float = 10.0


@dataclass(frozen=True)
class Result:
    """What was printed; `evenness` is Jain's index over the processes' lines when the first of them was through.

    It is None where these are too few.
    """

    processes: int
    processes_expected: int
    lines: int
    lines_expected: int
    broken: int
    evenness: float | None
    fewest: int
    reaped: bool
    stalled: bool
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether every process printed all its lines, none is broken, and every child was reaped."""
        expected = self.processes_expected, self.lines_expected, 0
        return self.reaped and (self.processes, self.lines, self.broken) == expected


class _Proof:
    """Reads the lines."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rest = b""
        self.by_process: collections.Counter[int] = collections.Counter()
        self.broken = 0
        #: how many lines everyone had printed when the first was through
        self.standings: list[int] = []

    def read(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._read_line(line)

    def finish(self) -> None:
        if self._rest:
            self._read_line(self._rest)

    def _read_line(self, line: bytes) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            self.broken += 1
            return
        pid = int(match[1])
        self.by_process[pid] += 1
        if not self.standings and self.by_process[pid] == self._settings.rounds:
            self.standings = list(self.by_process.values())


def run(settings: Settings, console: Console) -> Result:
    """Fork the family, and pass its lines on.

    Raises OSError if the system gives no process or descriptor.
    """
    proof = _Proof(settings)
    # all are to be served evenly, also of so few lines that a tenure is enough for them
    lock = mpbakery.Lock(name="halfbaked", tenure=0, ctx=multiprocessing.get_context("fork"))
    expected = 2**settings.forks
    with contextlib.closing(_Family(settings, lock)) as family:
        # Nobody starts before the others: the lock is given to them when all of them wait for it.
        with lock:
            family.start()
            _await_waiters(lock, expected)
        start = time.monotonic()
        stalled = False
        while not stalled:
            readable, _, _ = select.select([family.lines], [], [], settings.limit)
            stalled = not readable
            data = os.read(family.lines, _CHUNK) if readable else b""
            if not data:
                break
            proof.read(data)
            console.pass_on(data)
        proof.finish()
        seconds = time.monotonic() - start
        reaped = not stalled and family.has_ended(settings.limit) and family.status == 0
    standings = proof.standings or list(proof.by_process.values())
    standings += [0] * (expected - len(standings))
    return Result(
        processes=len(proof.by_process),
        processes_expected=expected,
        lines=sum(proof.by_process.values()),
        lines_expected=expected * settings.rounds,
        broken=proof.broken,
        evenness=evenness(standings),
        fewest=min(standings),
        reaped=reaped,
        stalled=stalled,
        seconds=seconds,
    )


def _await_waiters(lock: mpbakery.Lock, number: int) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while len(lock.statistics().waiters) < number and time.monotonic() < deadline:
        time.sleep(_POLL)


class _Family:
    """The processes, as their reader sees them: the first of them, and the pipe of their lines."""

    def __init__(self, settings: Settings, lock: mpbakery.Lock) -> None:
        self._settings = settings
        self._lock = lock
        self._first = 0
        self.lines, self._out = os.pipe()
        #: what the first process said at its end: 0 if it and all its descendants did all they should
        self.status: int | None = None

    def start(self) -> None:
        """Fork the first process, which forks the others."""
        self._first = os.fork()
        if not self._first:
            _be_first(self._settings, self._lock, self.lines, self._out)
        with contextlib.suppress(OSError):
            os.setpgid(self._first, self._first)  # as it does itself, or close() could come before it
        os.close(self._out)

    def has_ended(self, limit: float) -> bool:
        """Wait for the first process, which waits for its children, so many seconds at most; whether it has ended."""
        deadline = time.monotonic() + limit
        while self.status is None:
            pid, status = os.waitpid(self._first, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return False
            else:
                time.sleep(_POLL)
        return True

    def close(self) -> None:
        """See to it that the family has ended: it does by itself when nobody reads its lines any more."""
        os.close(self.lines)
        if not self._first:
            return
        if not self.has_ended(_END_LIMIT) or self.status:
            with contextlib.suppress(OSError):
                os.killpg(self._first, signal.SIGKILL)
        self.has_ended(_END_LIMIT)


def _be_first(settings: Settings, lock: mpbakery.Lock, lines: int, out: int) -> NoReturn:
    """Be the first process of the family, or, from a fork below on, any other one."""
    status = 1
    try:
        # A group of its own: Ctrl-C is for the reader, and the family ends when nobody reads any more.
        os.setpgid(0, 0)
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_DFL)
        os.close(lines)
        children, complete = _fork(settings.forks)
        if settings.locked:
            finished = _print_lines(settings.rounds, lock, out)
        else:
            with lock:
                pass  # the starting line
            finished = _print_lines(settings.rounds, contextlib.nullcontext(), out)
        os.close(out)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        status = 0 if complete and finished and not any(statuses) else 1
    finally:
        os._exit(status)


def _fork(times: int) -> tuple[list[int], bool]:
    """Fork so many times, as the children do from there on; this process's own children, and whether it worked."""
    children: list[int] = []
    for _ in range(times):
        try:
            pid = os.fork()
        except OSError as error:
            os.write(2, f"process {os.getpid()} cannot fork: {error.strerror}\n".encode())
            return children, False
        if pid:
            children.append(pid)
        else:
            children.clear()
    return children, True


def _print_lines(rounds: int, lock: AbstractContextManager[object], out: int) -> bool:
    """Print this process's lines, character by character; False if nobody reads them."""
    line = f" ------ {os.getpid()} ------ \n".encode()
    characters = [line[place : place + 1] for place in range(len(line))]
    try:
        for _ in range(rounds):
            with lock:
                for character in characters:
                    os.write(out, character)
    except BrokenPipeError:
        return False
    return True


def report(result: Result, settings: Settings, console: Console) -> None:
    """Print the short summary at the end."""
    if result.stalled:
        console.tell(f"Stuck: no line in {duration(settings.limit)}.", good=False)
    reaped = "all reaped" if result.reaped else "NOT all ended as they should"
    forks, rounds = plural(settings.forks, "fork"), settings.rounds
    each = f"{plural(rounds, 'line')} from each process"
    rows = [
        ("processes", f"{result.processes:,} of {result.processes_expected:,}", f"from {forks}, {reaped}"),
        ("whole lines", f"{result.lines:,} of {result.lines_expected:,}", each),
        ("broken lines", f"{result.broken:,}", "" if settings.locked else "without the lock"),
        ("evenness", show_evenness(result.evenness), "Jain's index when the first was through"),
        ("last in line", f"{result.fewest:,} of {rounds:,}", "lines printed by then"),
        ("time", duration(result.seconds), f"{result.lines / max(result.seconds, 1e-9):,.0f} lines a second"),
    ]
    console.gap()
    for line in table(rows, "<><"):
        console.say(line)


def as_json(result: Result) -> dict[str, Any]:
    """Everything for a machine; times in seconds."""
    return {**asdict(result), "right": result.is_right}
