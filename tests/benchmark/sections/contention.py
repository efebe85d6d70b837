"""What processes get of a lock that all of them want."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmark.children import Crew, shared, time_limit
from benchmark.figures import Figure, spread
from benchmark.measuring import IN_ORDER, MAKERS, MPBAKERY, MS, MULTIPROCESSING, US, Effort, Lock, S, clock, in_turn


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


def contend(load: Load, kind: str, makers: dict[str, Callable[[], Lock]] = MAKERS) -> Outcome:
    """Let the processes of `load` loose on a new lock."""
    lock = makers[kind]()
    board = shared(1 + 2 * load.processes)
    with Crew() as crew, time_limit(load.seconds + 30):
        for row in range(load.processes):
            crew.start(contender, crew, lock, load, board, row)
        crew.await_ready(load.processes)
        board[0] = clock() + int(load.seconds * S)
        crew.open_gate()
        crew.join()
    counts, waits = list(board[1::2]), list(board[2::2])
    return Outcome(counts, max(waits) / MS, sum(counts) / load.seconds)


def fairness(effort: Effort) -> Iterator[Figure]:
    """8 processes, 1 ms under the lock, no pause, tenure=0: who gets it how often, and who waits how long."""
    for name, hold in (
        ("sleep", functools.partial(time.sleep, 0.001)),
        ("busy", functools.partial(busy, MS)),
    ):
        load = Load(8, effort.contention, hold)
        outcomes = in_turn(effort.rounds, functools.partial(contend, load, makers=IN_ORDER), f"1 ms {name}")
        jain = {kind: spread([one.jain for one in found]) for kind, found in outcomes.items()}
        wait = {kind: spread([one.longest_wait for one in found]) for kind, found in outcomes.items()}
        rate = {kind: spread([one.per_second for one in found]) for kind, found in outcomes.items()}
        what = f"8 processes, 1 ms {name}, tenure=0"
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
