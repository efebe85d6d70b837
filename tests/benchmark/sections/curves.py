"""How figures change with what they depend on: rows of the report, and what the pictures are drawn from."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from typing import Any, Final

from benchmark.children import Crew, shared, time_limit
from benchmark.figures import Figure, spread
from benchmark.measuring import (
    MAKERS,
    MPBAKERY,
    MS,
    MULTIPROCESSING,
    US,
    Effort,
    Lock,
    S,
    clock,
    in_turn,
    progress,
    time_passes,
)
from benchmark.sections.contention import Load, busy, contend
from benchmark.sections.uncontended import registered_child

PROCESSES: Final = 8
#: Where waits are told apart (ns): ten in each power of ten, from 100 ns to 100 s.
BOUNDS: Final = [int(100 * 10 ** (step / 10)) for step in range(91)]
HOLDS: Final = (0, US, 3 * US, 10 * US, 30 * US, 100 * US, 300 * US, MS)
REGISTERED: Final = (1, 4, 16, 64, 256, 1024)


def waits(effort: Effort) -> Iterator[Figure]:
    """How long 8 processes wait for a lock that they hold for 100 us, again and again."""
    found = in_turn(effort.rounds, functools.partial(_waits, effort.contention, 100 * US), "waits")
    numbers = {kind: [sum(column) for column in zip(*counts, strict=True)] for kind, counts in found.items()}
    text = {
        kind: " / ".join(_short(_quantile(counts, part)) for part in (0.5, 0.999, 1))
        for kind, counts in numbers.items()
    }
    yield Figure(
        "8 processes, 100 us busy: half, 99.9 %, all have it within",
        "",
        text[MPBAKERY],
        text[MULTIPROCESSING],
        None,
        {"bounds_ns": BOUNDS, **numbers},
    )


def _waits(seconds: float, hold: int, kind: str) -> list[int]:
    """How many waits there were of each length."""
    lock = MAKERS[kind]()
    width = len(BOUNDS) + 1
    board = shared(1 + PROCESSES * width)
    with Crew() as crew, time_limit(seconds + 30):
        for row in range(PROCESSES):
            crew.start(_record, crew, lock, hold, board, 1 + row * width)
        crew.await_ready(PROCESSES)
        board[0] = clock() + int(seconds * S)
        crew.open_gate()
        crew.join()
    return [sum(board[1 + at :: width]) for at in range(width)]


def _record(crew: Crew, lock: Lock, hold: int, board: memoryview, first: int) -> None:
    counts = [0] * (len(BOUNDS) + 1)
    crew.ready()
    end = board[0]
    while (asked := clock()) < end:
        with lock:
            got = clock()
            busy(hold)
        counts[bisect.bisect(BOUNDS, got - asked)] += 1
    board[first : first + len(counts)] = memoryview(bytearray(8 * len(counts))).cast("q")
    for at, count in enumerate(counts):
        board[first + at] = count


def _quantile(counts: list[int], part: float) -> float:
    """The upper end of what that part of all waits was within (ns)."""
    most = part * sum(counts)
    reached = next(at for at, below in enumerate(itertools.accumulate(counts)) if below >= most)
    return BOUNDS[min(reached, len(BOUNDS) - 1)]


def _short(ns: float) -> str:
    return f"{ns / MS:.3g} ms" if ns >= MS else f"{ns / US:.3g} us"


def holds(effort: Effort) -> Iterator[Figure]:
    """Acquisitions a second of 8 processes, against how long they hold the lock."""
    for hold in HOLDS:
        load = Load(PROCESSES, effort.throughput, functools.partial(busy, hold) if hold else None)
        outcomes = in_turn(effort.rounds, functools.partial(contend, load), f"{hold / US:g} us")
        rate = {kind: spread([one.per_second for one in found]) for kind, found in outcomes.items()}
        text = {kind: f"{numbers['median']:,.0f} /s" for kind, numbers in rate.items()}
        numbers: dict[str, Any] = {"hold_ns": hold, **rate}
        yield Figure(
            f"8 processes, {hold / US:g} us busy: acquisitions",
            "",
            text[MPBAKERY],
            text[MULTIPROCESSING],
            None,
            numbers,
        )


def registered(effort: Effort) -> Iterator[Figure]:
    """`with lock: pass` while nobody else wants the lock, against how many processes have used it."""
    locks = {kind: make() for kind, make in MAKERS.items()}
    for lock in locks.values():
        time_passes(lock, effort.passes)
    with Crew() as crew:
        children = 0
        for count in [count for count in REGISTERED if count <= effort.registered]:
            for number in range(children + 1, count):
                progress.step(f"starting child {number} of {effort.registered - 1}")
                for lock in locks.values():
                    crew.start(registered_child, crew, lock)
            crew.await_ready((max(0, count - 1) - children) * len(locks))
            children = max(children, count - 1)
            found = in_turn(
                max(3, effort.fast_rounds // 10), lambda kind: time_passes(locks[kind], effort.passes), f"among {count}"
            )
            cost = {kind: spread(times) for kind, times in found.items()}
            text = {kind: f"{numbers['median']:.0f} ns" for kind, numbers in cost.items()}
            numbers: dict[str, Any] = {"registered": count, **cost}
            yield Figure(
                f"with lock: pass, {count} registered", "", text[MPBAKERY], text[MULTIPROCESSING], None, numbers
            )
