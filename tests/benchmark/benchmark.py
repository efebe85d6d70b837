"""The figures of mpbakery.Lock beside those of multiprocessing.Lock, measured in turn in the same run.

A script, not a test: it reports, and a missed bound does not make it fail.

    python tests/benchmark/benchmark.py                      everything, some three minutes
    python tests/benchmark/benchmark.py death timeout        two sections
    python tests/benchmark/benchmark.py --quick --json out.json

How it is measured: every section forks its own children with `os.fork`; what they measure they write into shared
memory. The measuring process itself neither waits for a lock nor wakes a waiter, so that what a lock does at its first
wait (importing ctypes, for one) is paid, and seen, in each child. Times are of time.monotonic_ns, which all processes
share. A figure is the median over rounds in which the two locks take turns; where the worst matters, it is shown too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import gc
import json
import mmap
import multiprocessing
import os
import platform
import random
import resource
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final, TextIO, final

try:
    import mpbakery
except ImportError:  # a checkout in which nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import mpbakery

Lock = Any  # mpbakery.Lock or multiprocessing's
Numbers = dict[str, Any]

FORK: Final = multiprocessing.get_context("fork")
MPBAKERY: Final = "mpbakery"
MULTIPROCESSING: Final = "multiprocessing"
MAKERS: Final[dict[str, Callable[[], Lock]]] = {
    MPBAKERY: functools.partial(mpbakery.Lock, ctx=FORK),
    MULTIPROCESSING: FORK.Lock,
}

#: what a waiter may import was there before this began: then its cost is not in the figures
UNPAID: Final = " (ctypes not counted)" if "ctypes" in sys.modules else ""

clock = time.monotonic_ns
US: Final = 1_000
MS: Final = 1_000_000
S: Final = 1_000_000_000


class Broken(Exception):
    """The measurement itself failed: there is no figure to report."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds that the locks take turns in, seconds of a run, tries of what is tried."""

    rounds: int = 3
    fast_rounds: int = 501
    passes: int = 1_000
    contention: float = 3.0
    idle: float = 5.0
    tries: int = 50
    timeouts: int = 10
    locks: int = 20_000
    throughput: float = 0.5


QUICK: Final = Effort(
    rounds=1, fast_rounds=51, passes=1_000, contention=0.5, idle=1.0, tries=5, timeouts=2, locks=2_000, throughput=0.2
)


@dataclass
class Figure:
    """One line of the report; `met` is None where there is no bound."""

    name: str
    bound: str
    measured: str
    multiprocessing: str
    met: bool | None
    numbers: Numbers
    section: str = field(default="")


# ---------------------------------------------------------------------------------------------------- children


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
def _time_limit(seconds: float) -> Iterator[None]:
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


# --------------------------------------------------------------------------------------------------- reporting


class Progress:
    """What is being measured, on stderr: one line that changes on a terminal, one line a section elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._section = ""

    def start(self, section: str) -> None:
        """A section begins."""
        self._section = section
        if self._live:
            self.step("")
        else:
            print(f"{section} ...", file=self._stream, flush=True)

    def step(self, what: str) -> None:
        """Part of a section begins."""
        if self._live:
            print(f"\r\x1b[K{self._section}: {what}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


progress = Progress(sys.stderr)


def in_turn(rounds: int, measure: Callable[[str], Any], what: str = "") -> dict[str, list[Any]]:
    """The results of measure(kind) for both kinds of lock, which take turns, and in going first."""
    results: dict[str, list[Any]] = {kind: [] for kind in MAKERS}
    for number in range(rounds):
        for kind in list(MAKERS)[:: 1 if number % 2 == 0 else -1]:
            progress.step(f"{what}, {kind}, round {number + 1} of {rounds}")
            results[kind].append(measure(kind))
    return results


def spread(values: list[float]) -> Numbers:
    """Least, median and greatest of `values`."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "count": len(values)}


def ratios(values: list[float], others: list[float]) -> Numbers:
    """How many times `others` the `values` are, by pairs of the same moment: the median, and where most are."""
    tenths = statistics.quantiles((value / other for value, other in zip(values, others, strict=True)), n=10)
    return {"low": tenths[0], "median": tenths[4], "high": tenths[8], "count": len(values)}


def times(ratio: Numbers) -> str:
    """A ratio in words."""
    return f"{ratio['median']:.2f} x ({ratio['low']:.1f} to {ratio['high']:.1f})"


def ratio_figure(
    name: str, bound: str, limit: float | None, found: dict[str, list[float]], show: Callable[[float], str]
) -> Figure:
    """A figure whose bound is a multiple of multiprocessing's, None for no bound."""
    ratio = ratios(found[MPBAKERY], found[MULTIPROCESSING])
    values = {kind: spread(measured) for kind, measured in found.items()}
    return Figure(
        name,
        bound,
        f"{show(values[MPBAKERY]['median'])}, {times(ratio)}",
        show(values[MULTIPROCESSING]["median"]),
        None if limit is None else ratio["median"] <= limit,
        {"ratio": ratio, **values},
    )


def table(figures: list[Figure]) -> str:
    """The report: aligned columns, one block a section."""
    met = {True: "yes", False: "NO", None: "-"}
    head = ("figure", "bound", MPBAKERY, MULTIPROCESSING, "met?")
    rows = [(one.name, one.bound, one.measured, one.multiprocessing, met[one.met]) for one in figures]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    lines = [line(head)]
    section = None
    for one, row in zip(figures, rows, strict=True):
        if one.section != section:
            section = one.section
            lines.append(f"-- {section} ".ljust(sum(widths) + 2 * (len(widths) - 1), "-"))
        lines.append(line(row))
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """What the figures depend on, apart from the code."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mpbakery": mpbakery.__version__,
        "machine": f"{cores} cores of {model}, {platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
    }


class Disturbance:
    """How much of the machine other processes use while this one measures: a figure is worth less the more it is."""

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float | None:
        """The share of all processors that others have used since this was made, 0 to 1; None where it is unknown."""
        now = self._read()
        if self._start is None or now is None:
            return None
        total, busy, own = (late - early for late, early in zip(now, self._start, strict=True))
        return max(0.0, (busy - own) / total) if total else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            cpu_line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return None
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in cpu_line.split()[1:9]]
        own = os.times()
        # idle and waiting for a disk are no use; time stolen by a hypervisor is
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], sum(own[:4])


# ------------------------------------------------------------------------------------------------- uncontended


def time_passes(lock: Lock, passes: int) -> float:
    """What `with lock: pass` takes, in ns, without the loop around it."""
    start = time.perf_counter_ns()
    for _ in repeat(None, passes):
        with lock:
            pass
    middle = time.perf_counter_ns()
    for _ in repeat(None, passes):
        pass
    end = time.perf_counter_ns()
    return ((middle - start) - (end - middle)) / passes


def registered_child(crew: Crew, lock: Lock) -> None:
    """Register, or for multiprocessing's lock acquire once, and then wait without using the processor."""
    if isinstance(lock, mpbakery.Lock):
        mpbakery.register(lock)
    else:
        with lock:
            pass
    crew.ready()


def uncontended(effort: Effort) -> Iterator[Figure]:
    """`with lock: pass` while nobody else wants the lock; and the same with 256 processes registered."""
    alone = {kind: make() for kind, make in MAKERS.items()}
    for lock in alone.values():
        time_passes(lock, effort.passes)
    quiet = in_turn(effort.fast_rounds, lambda kind: time_passes(alone[kind], effort.passes), "alone")
    yield ratio_figure("with lock: pass", "5 x multiprocessing's", 5, quiet, lambda value: f"{value:.0f} ns")
    children = 256
    crowded = {kind: make() for kind, make in MAKERS.items()}
    for lock in crowded.values():
        time_passes(lock, effort.passes)
    with Crew() as crew:
        for number in range(children):
            progress.step(f"starting child {number + 1} of {children}")
            for lock in crowded.values():
                crew.start(registered_child, crew, lock)
        crew.await_ready(children * len(crowded))

        def both(kind: str) -> tuple[float, float]:
            return time_passes(alone[kind], effort.passes), time_passes(crowded[kind], effort.passes)

        pairs = in_turn(effort.fast_rounds, both, "among 256")
    one, many = ({kind: [pair[which] for pair in found] for kind, found in pairs.items()} for which in (0, 1))
    growth = {kind: ratios(many[kind], one[kind]) for kind in MAKERS}
    text = {kind: f"{statistics.median(many[kind]):.0f} ns, {times(growth[kind])}" for kind in MAKERS}
    yield Figure(
        "the same, 256 processes registered",
        "2 x with one",
        text[MPBAKERY],
        text[MULTIPROCESSING],
        growth[MPBAKERY]["median"] <= 2,
        {kind: {"ratio": growth[kind], "ns_256": spread(many[kind]), "ns_1": spread(one[kind])} for kind in MAKERS},
    )


# -------------------------------------------------------------------------------------------------- contention


def busy(ns: int) -> None:
    """Use the processor for that long."""
    end = clock() + ns
    while clock() < end:
        pass


@dataclass(frozen=True)
class Load:
    """What each of some processes does with a lock, again and again: hold it, give it back, pause."""

    processes: int
    seconds: float
    hold: Callable[[], object] | None
    pause: Callable[[], object] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a Load."""

    acquisitions: list[int]
    longest_wait: float
    per_second: float

    @property
    def jain(self) -> float:
        """Jain's fairness index: 1 if all got the lock equally often, 1/n if one got it always."""
        total = sum(self.acquisitions)
        return total**2 / (len(self.acquisitions) * sum(count**2 for count in self.acquisitions)) if total else 0.0


def contender(crew: Crew, lock: Lock, load: Load, board: memoryview, row: int) -> None:
    """Acquire until the time in board[0]; leave in the row how often that succeeded and the longest wait."""
    hold, pause = load.hold, load.pause
    count = longest = 0
    crew.ready()
    end = board[0]
    while (asked := clock()) < end:
        with lock:
            got = clock()
            if got - asked > longest:
                longest = got - asked
            if got < end:
                count += 1
            if hold is not None:
                hold()
        if pause is not None:
            pause()
    board[1 + 2 * row], board[2 + 2 * row] = count, longest


def contend(load: Load, kind: str) -> Outcome:
    """Let the processes of `load` loose on a new lock."""
    lock = MAKERS[kind]()
    board = shared(1 + 2 * load.processes)
    with Crew() as crew, _time_limit(load.seconds + 30):
        for row in range(load.processes):
            crew.start(contender, crew, lock, load, board, row)
        crew.await_ready(load.processes)
        board[0] = clock() + int(load.seconds * S)
        crew.open_gate()
        crew.join()
    counts, waits = list(board[1::2]), list(board[2::2])
    return Outcome(counts, max(waits) / MS, sum(counts) / load.seconds)


def fairness(effort: Effort) -> Iterator[Figure]:
    """8 processes, 1 ms under the lock, no pause: who gets it how often, and who waits how long."""
    for name, hold in (
        ("sleep", functools.partial(time.sleep, 0.001)),
        ("busy", functools.partial(busy, MS)),
    ):
        load = Load(8, effort.contention, hold)
        outcomes = in_turn(effort.rounds, functools.partial(contend, load), f"1 ms {name}")
        jain = {kind: spread([one.jain for one in found]) for kind, found in outcomes.items()}
        wait = {kind: spread([one.longest_wait for one in found]) for kind, found in outcomes.items()}
        rate = {kind: spread([one.per_second for one in found]) for kind, found in outcomes.items()}
        what = f"8 processes, 1 ms {name}"
        yield Figure(
            f"{what}: Jain's index",
            ">= 0.99",
            f"{jain[MPBAKERY]['median']:.4f} (worst {jain[MPBAKERY]['min']:.4f})",
            f"{jain[MULTIPROCESSING]['median']:.4f} (worst {jain[MULTIPROCESSING]['min']:.4f})",
            jain[MPBAKERY]["median"] >= 0.99,
            jain,
        )
        yield Figure(
            f"{what}: longest wait",
            "36 ms",
            f"{wait[MPBAKERY]['median']:.1f} ms (worst {wait[MPBAKERY]['max']:.1f})",
            f"{wait[MULTIPROCESSING]['median']:.0f} ms (worst {wait[MULTIPROCESSING]['max']:.0f})",
            wait[MPBAKERY]["median"] <= 36,
            wait,
        )
        yield Figure(
            f"{what}: acquisitions/s",
            "",
            f"{rate[MPBAKERY]['median']:.0f}",
            f"{rate[MULTIPROCESSING]['median']:.0f}",
            None,
            rate,
        )


def throughput(effort: Effort) -> Iterator[Figure]:
    """Acquisitions per second of 2, 4 and 8 processes, for short and long holds; all of them busy, not asleep."""
    for name, hold, pause in (
        ("0 / 0", 0, 0),
        ("10 us / 10 us", 10 * US, 10 * US),
        ("100 us / 0", 100 * US, 0),
        ("1 ms / 0", MS, 0),
    ):
        for processes in (2, 4, 8):
            load = Load(
                processes,
                effort.throughput,
                functools.partial(busy, hold) if hold else None,
                functools.partial(busy, pause) if pause else None,
            )
            what = f"{processes} processes, hold / pause {name}"
            outcomes = in_turn(effort.rounds, functools.partial(contend, load), what)
            rate = {kind: spread([one.per_second for one in found]) for kind, found in outcomes.items()}
            wait = {kind: spread([one.longest_wait for one in found]) for kind, found in outcomes.items()}
            text = {kind: f"{rate[kind]['median']:,.0f} /s, {wait[kind]['median']:.1f} ms" for kind in MAKERS}
            numbers = {kind: {"per_second": rate[kind], "longest_wait_ms": wait[kind]} for kind in MAKERS}
            yield Figure(f"{what}; longest wait", "", text[MPBAKERY], text[MULTIPROCESSING], None, numbers)


# --------------------------------------------------------------------------------------------------------- cpu


def holder(crew: Crew, lock: Lock) -> None:
    """Hold the lock until the gate opens."""
    with lock:
        crew.ready()


def cpu_seconds() -> float:
    """User and system time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def costed_waiter(lock: Lock, board: memoryview, row: int) -> None:
    """Leave in the row how much CPU a wait costs, in us, and how long it took."""
    start, used = clock(), cpu_seconds()
    lock.acquire()
    board[2 * row], board[2 * row + 1] = int((cpu_seconds() - used) * 1e6), clock() - start
    lock.release()


def wait_idle(kind: str, seconds: float, waiters: int) -> float:
    """The CPU that `waiters` processes use together to wait for a lock that is held that long, in seconds."""
    lock = MAKERS[kind]()
    board = shared(2 * waiters)
    with Crew() as crew, _time_limit(seconds + 30):
        crew.start(holder, crew, lock)
        crew.await_ready(1)
        for row in range(waiters):
            crew.start(costed_waiter, lock, board, row)
        time.sleep(seconds)
        crew.open_gate()
        crew.join()
    if min(board[1::2]) < 0.9 * seconds * S:
        raise Broken(f"a process waited {min(board[1::2]) / S:.2f} s only for a lock that was held for {seconds} s")
    return sum(board[0::2]) / 1e6


def cpu(effort: Effort) -> Iterator[Figure]:
    """What 8 processes burn that wait 5 s for a held lock, all that they import for it included."""
    costs = in_turn(effort.rounds, lambda kind: wait_idle(kind, effort.idle, 8), f"8 wait {effort.idle:g} s")
    total = {kind: spread(values) for kind, values in costs.items()}
    yield Figure(
        f"8 processes wait {effort.idle:g} s: CPU, all together{UNPAID}",
        "0.25 s",
        f"{total[MPBAKERY]['median']:.3f} s (worst {total[MPBAKERY]['max']:.3f})",
        f"{total[MULTIPROCESSING]['median']:.3f} s (worst {total[MULTIPROCESSING]['max']:.3f})",
        total[MPBAKERY]["median"] < 0.25,
        total,
    )


# ------------------------------------------------------------------------------------------------------- death


def idle_holder(crew: Crew, lock: Lock) -> None:
    """Hold the lock until killed."""
    lock.acquire()
    crew.ready()


def heir(crew: Crew, lock: Lock, board: memoryview) -> None:
    """Wait for the lock, tell who got it, when, and from whom, and keep it."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        lock.acquire()
        got = clock()
    board[0], board[1] = os.getpid(), got
    board[2] = lock.recovered_from.pid if lock.recovered_from else 0
    crew.ready()


def await_queue(lock: mpbakery.Lock, waiters: int) -> tuple[int, ...]:
    """Until that many wait in an order that stays; their pids in it."""
    queue: tuple[int, ...] = ()
    while True:
        last, queue = queue, tuple(one.pid for one in lock.statistics().waiters)
        if len(queue) == waiters and queue == last:
            return queue
        time.sleep(0.001)


def hand_over(waiters: int, *, reap: bool) -> float:
    """Kill a holder while that many wait: the time until the next in line has the lock, in ms."""
    lock = mpbakery.Lock(ctx=FORK)
    board = shared(3)
    with Crew() as crew, _time_limit(20):
        victim = crew.start(idle_holder, crew, lock)
        crew.await_ready(1)
        for _ in range(waiters):
            crew.start(heir, crew, lock, board)
        await_queue(lock, waiters)
        # a moment of their naps that is another one in every try
        time.sleep(random.uniform(0.005, 0.205))
        queue = await_queue(lock, waiters)
        killed = clock()
        crew.kill(victim)
        if reap:
            crew.reap(victim)
        crew.await_ready(1)
        if (board[0], board[2]) != (queue[0], victim):
            raise Broken(
                f"process {board[0]} took the lock over from {board[2]}; first in line was {queue[0]}, behind {victim}"
            )
    return (board[1] - killed) / MS


def robbed(lock: Lock, board: memoryview) -> None:
    """Wait one second for a lock whose holder was killed."""
    board[0] = bool(lock.acquire(timeout=1.0))


def hangs() -> bool:
    """Whether multiprocessing.Lock is not handed over within a second when its holder is killed."""
    lock = MAKERS[MULTIPROCESSING]()
    board = shared(1)
    with Crew() as crew, _time_limit(20):
        victim = crew.start(idle_holder, crew, lock)
        crew.await_ready(1)
        crew.kill(victim)
        crew.reap(victim)
        crew.start(robbed, lock, board)
        crew.join()
    return not board[0]


def death(effort: Effort) -> Iterator[Figure]:
    """A SIGKILLed holder: how soon the next in line has the lock, whether the dead one is reaped or a zombie."""
    other = "hangs (nothing in 1 s)" if hangs() else "handed over within 1 s"
    for waiters in (1, 20):
        for reap, body in ((True, "reaped"), (False, "zombie")):
            took = []
            for number in range(effort.tries):
                progress.step(f"{waiters} waiting, {body}, try {number + 1} of {effort.tries}")
                took.append(hand_over(waiters, reap=reap))
            good = sum(ms <= 250 for ms in took)
            ms = spread(took)
            yield Figure(
                f"holder SIGKILLed ({body}), {waiters} waiting",
                f"250 ms, {effort.tries} of {effort.tries}",
                f"{good} of {len(took)}: median {ms['median']:.0f}, max {ms['max']:.0f} ms",
                other,
                good == len(took),
                {"within_bound": good, "milliseconds": ms},
            )


# ----------------------------------------------------------------------------------------------------- timeout


def impatient(crew: Crew, lock: Lock, board: memoryview, row: int, tries: int) -> None:
    """Time acquire(timeout=0.2) some times, leaving in the row what each took, -1 if it did not return False."""
    crew.ready()
    for number in range(tries):
        start = clock()
        got = lock.acquire(timeout=0.2)
        took = clock() - start
        board[row * tries + number] = -1 if got is not False else took


def patient(crew: Crew, lock: Lock) -> None:
    """Wait for the lock without limit."""
    crew.ready()
    lock.acquire()


def time_out(impatients: int, patients: int, tries: int, kind: str) -> list[float]:
    """What acquire(timeout=0.2) takes in `impatients` processes at once, behind `patients` that wait on, in ms."""
    lock = MAKERS[kind]()
    board = shared(impatients * tries)
    with Crew() as held, Crew() as queue, Crew() as crew, _time_limit(20 + tries):
        held.start(idle_holder, held, lock)
        held.await_ready(1)
        for _ in range(patients):
            queue.start(patient, queue, lock)
        queue.await_ready(patients)
        queue.open_gate()
        if isinstance(lock, mpbakery.Lock):
            await_queue(lock, patients)
        else:
            time.sleep(0.1)  # it does not say who waits
        for row in range(impatients):
            crew.start(impatient, crew, lock, board, row, tries)
        crew.await_ready(impatients)
        crew.open_gate()
        crew.join()
    if min(board) < 0:
        raise Broken(f"acquire(timeout=0.2) on a held {kind} lock did not return False")
    return [took / MS for took in board]


def timeout(effort: Effort) -> Iterator[Figure]:
    """acquire(timeout=0.2) on a held lock: when it returns False."""
    for what, impatients, patients in (
        ("1 waiting", 1, 0),
        ("20 waiting, all with it", 20, 0),
        ("behind 20 that wait on", 1, 20),
    ):
        found = in_turn(1, functools.partial(time_out, impatients, patients, effort.timeouts), what)
        ms = {kind: spread(values[0]) for kind, values in found.items()}
        good = sum(200 <= took <= 250 for took in found[MPBAKERY][0])
        text = {
            kind: f"{one['min']:.1f} to {one['max']:.1f} ms, median {one['median']:.1f}" for kind, one in ms.items()
        }
        yield Figure(
            f"acquire(timeout=0.2), {what}",
            "False after 200 to 250 ms",
            text[MPBAKERY] + f" ({good} of {ms[MPBAKERY]['count']})",
            text[MULTIPROCESSING],
            good == ms[MPBAKERY]["count"],
            {"within_bound": good, **ms},
        )


# ---------------------------------------------------------------------------------------------------- creation


def time_creation(make: Callable[[], Lock], locks: int) -> float:
    """What making a lock takes, in us, while all of them are kept."""
    gc.collect()
    start = time.perf_counter_ns()
    kept = [make() for _ in range(locks)]
    took = (time.perf_counter_ns() - start) / locks / US
    del kept
    return took


def descriptors() -> int:
    """How many descriptors this process has open; -1 where it cannot tell."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # less the one that lists
    except OSError:
        return -1


def resident_kib() -> int:
    """The memory of this process that is resident now; -1 where it cannot tell."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * mmap.PAGESIZE // 1024
    return -1


CROWD: Final = ("ms", "descriptors_before", "descriptors_after", "kib_before", "kib_after", "kib_used")


def make_crowd(make: Callable[[], Lock], locks: int, board: memoryview) -> None:
    """Make that many locks, keep them all, and use each once; leave the words of CROWD."""
    make()  # what is made once a process
    before = descriptors(), resident_kib()
    start = clock()
    kept = [make() for _ in range(locks)]
    took = clock() - start
    after = descriptors(), resident_kib()
    for lock in kept:
        with lock:
            pass
    for word, value in enumerate((took // MS, before[0], after[0], before[1], after[1], resident_kib())):
        board[word] = value


def crowd(kind: str, locks: int) -> Numbers:
    """What it takes to have many locks at once, in a process of their own."""
    board = shared(len(CROWD))
    with Crew() as crew, _time_limit(60):
        crew.start(make_crowd, MAKERS[kind], locks, board)
        crew.join()
    return dict(zip(CROWD, board, strict=True))


def creation(effort: Effort) -> Iterator[Figure]:
    """What a lock costs to make, and 20,000 of them at once."""
    made = in_turn(effort.fast_rounds // 5, lambda kind: time_creation(MAKERS[kind], 50), "50 locks")
    us = {kind: spread(values) for kind, values in made.items()}
    ratio = ratios(made[MPBAKERY], made[MULTIPROCESSING])
    yield Figure(
        "making a lock",
        "3 x multiprocessing's",
        f"{us[MPBAKERY]['median']:.1f} us, {times(ratio)}",
        f"{us[MULTIPROCESSING]['median']:.1f} us",
        ratio["median"] <= 3,
        {"ratio": ratio, **us},
    )
    many = {kind: found[0] for kind, found in in_turn(1, lambda kind: crowd(kind, effort.locks), "a crowd").items()}
    name = f"{effort.locks:,} locks at once"
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    seconds = {kind: f"{one['ms'] / 1000:.2f} s" for kind, one in many.items()}
    yield Figure(f"{name}: time", "", seconds[MPBAKERY], seconds[MULTIPROCESSING], None, many)
    opened = {
        kind: f"{one['descriptors_before']} before, {one['descriptors_after']} after" for kind, one in many.items()
    }
    yield Figure(
        f"{name}: descriptors",
        f"not used up ({limit:,})",
        opened[MPBAKERY],
        opened[MULTIPROCESSING],
        many[MPBAKERY]["descriptors_after"] < min(limit, effort.locks),
        many,
    )
    resident = {
        kind: " / ".join(f"{one[key] / 1024:.0f}" for key in ("kib_before", "kib_after", "kib_used"))
        for kind, one in many.items()
    }
    yield Figure(
        f"{name}: MiB before / after / when used", "", resident[MPBAKERY], resident[MULTIPROCESSING], None, many
    )


# ------------------------------------------------------------------------------------------------------ family


def time_calls(semaphore: Any, passes: int) -> float:
    """What acquire() and release() take, as two calls, in ns, without the loop around them."""
    start = time.perf_counter_ns()
    for _ in repeat(None, passes):
        semaphore.acquire()
        semaphore.release()
    middle = time.perf_counter_ns()
    for _ in repeat(None, passes):
        pass
    end = time.perf_counter_ns()
    return ((middle - start) - (end - middle)) / passes


def trivial(number: int) -> int:
    """A task that takes no time."""
    return number


def time_map(pool: Any, tasks: int, **options: int) -> float:
    """What `Pool.map` of trivial tasks takes, in seconds."""
    start = time.perf_counter()
    if pool.map(trivial, range(tasks), **options) != list(range(tasks)):
        raise Broken("a pool has mapped wrongly")
    return time.perf_counter() - start


def produce(queue: Any, items: int) -> None:
    """Put numbers into a queue."""
    for item in range(items):
        queue.put(item)


def time_queue(context: Any, items: int) -> float:
    """How many items a second come through a queue from another process."""
    queue = context.Queue()
    producer = context.Process(target=produce, args=(queue, items))
    producer.start()
    try:
        first = queue.get(timeout=60)
        start = time.perf_counter()
        for expected in range(first + 1, items):
            if queue.get(timeout=60) != expected:
                raise Broken("a queue has lost an item")
        seconds = time.perf_counter() - start
        producer.join()
    finally:
        producer.kill()
        queue.close()
    return (items - 1) / seconds


def family(effort: Effort) -> Iterator[Figure]:
    """Semaphore, Pool and Queue beside those of multiprocessing."""
    contexts: dict[str, Any] = {MPBAKERY: mpbakery.get_context("fork"), MULTIPROCESSING: FORK}
    semaphores = {kind: context.Semaphore() for kind, context in contexts.items()}
    measures: dict[str, Callable[[Any, int], float]] = {
        "with semaphore: pass": time_passes,
        "semaphore.acquire(), .release()": time_calls,
    }
    for name, measure in measures.items():
        for semaphore in semaphores.values():
            measure(semaphore, effort.passes)

        def once(kind: str, measure: Callable[[Any, int], float] = measure) -> float:
            return measure(semaphores[kind], effort.passes)

        found = in_turn(effort.fast_rounds, once, name)
        yield ratio_figure(name, "6 x multiprocessing's", 6, found, lambda value: f"{value:.0f} ns")
    tasks = 10_000
    with contextlib.ExitStack() as stack:
        pools = {kind: stack.enter_context(context.Pool(2)) for kind, context in contexts.items()}
        ways: list[tuple[dict[str, int], float | None]] = [({}, 1.3), ({"chunksize": 1}, None)]
        for chunks, bound in ways:
            name = f"Pool.map of {tasks:,} tasks" + (", one by one" if chunks else "")
            for pool in pools.values():
                time_map(pool, tasks, **chunks)

            def mapping(kind: str, chunks: dict[str, int] = chunks) -> float:
                return time_map(pools[kind], tasks, **chunks)

            found = in_turn(10 * effort.rounds, mapping, name)
            limit = f"{bound} x multiprocessing's" if bound else ""
            yield ratio_figure(name, limit, bound, found, lambda value: f"{value * 1000:.1f} ms")
    found = in_turn(3 * effort.rounds, lambda kind: time_queue(contexts[kind], 20_000), "Queue")
    through = ratios(found[MPBAKERY], found[MULTIPROCESSING])
    rates = {kind: spread(values) for kind, values in found.items()}
    yield Figure(
        "Queue: items a second",
        "0.6 x multiprocessing's",
        f"{rates[MPBAKERY]['median']:,.0f}, {times(through)}",
        f"{rates[MULTIPROCESSING]['median']:,.0f}",
        through["median"] >= 0.6,
        {"ratio": through, **rates},
    )


# -------------------------------------------------------------------------------------------------------- main

SECTIONS: Final[dict[str, Callable[[Effort], Iterator[Figure]]]] = {
    "uncontended": uncontended,
    "fairness": fairness,
    "cpu": cpu,
    "death": death,
    "timeout": timeout,
    "creation": creation,
    "throughput": throughput,
    "family": family,
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:<13}{(section.__doc__ or '').splitlines()[0]}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(
        description="Measure mpbakery.Lock beside multiprocessing.Lock.",
        epilog=f"sections:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="section", help="what to measure; everything if none is given")
    parser.add_argument("--quick", action="store_true", help="less of everything: shows that it runs, not how fast")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to FILE; - is stdout, without the table")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    return options


def measure(names: list[str], effort: Effort, report: list[Figure], disturbed: dict[str, float | None]) -> None:
    """Append the figures of the named sections to `report`, as they come, and note how disturbed each section was."""
    for name in names:
        progress.start(name)
        disturbance = Disturbance()
        try:
            for figure in SECTIONS[name](effort):
                figure.section = name
                report.append(figure)
        except (Broken, OSError, mpbakery.MpbakeryError) as error:
            raise Broken(f"section {name} broke: {error}") from error
        finally:
            disturbed[name] = disturbance.share()
            progress.clear()


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; the exit status: 0, 1 if a measurement broke, 130 if it was interrupted."""
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        out: TextIO | None = None
        if options.json == "-":
            out = sys.stdout
        elif options.json:
            try:
                out = stack.enter_context(open(options.json, "w", encoding="utf-8"))
            except OSError as error:
                print(f"benchmark: cannot write {options.json}: {error.strerror}", file=sys.stderr)
                return 2
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        start = time.monotonic()
        report: list[Figure] = []
        disturbed: dict[str, float | None] = {}
        status = 0
        machine = environment()
        try:
            measure(options.sections or list(SECTIONS), QUICK if options.quick else Effort(), report, disturbed)
        except KeyboardInterrupt:
            print("benchmark: interrupted", file=sys.stderr)
            status = 128 + signal.SIGINT
        except Broken as error:
            print(f"benchmark: {error}", file=sys.stderr)
            status = 1
        seconds = round(time.monotonic() - start, 1)
        if report and out is not sys.stdout:
            print(", ".join(f"{name} {value}" for name, value in machine.items()))
            print(table(report))
            missed = sum(one.met is False for one in report)
            bounds = sum(one.met is not None for one in report)
            quick = " (--quick: too short to be a figure)" if options.quick else ""
            shares = ", ".join(f"{name} {share:.0%}" for name, share in disturbed.items() if share is not None)
            print(f"other processes used of the machine: {shares or 'unknown'}")
            print(f"{bounds - missed} of {bounds} bounds met, in {seconds} s{quick}")
        if out is not None:
            figures = [asdict(one) for one in report]
            result = {
                "environment": machine,
                "quick": options.quick,
                "seconds": seconds,
                "used_by_others": disturbed,
                "figures": figures,
            }
            json.dump(result, out, indent=2)
            print(file=out)
    return status


if __name__ == "__main__":
    sys.exit(main())
