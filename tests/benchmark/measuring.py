"""What is measured, how long, and in which order: the locks take turns."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import mpbakery
from support.command_line import StatusLine

Lock = Any  # mpbakery.Lock or multiprocessing's
Numbers = dict[str, Any]

FORK: Final = multiprocessing.get_context("fork")
MPBAKERY: Final = "mpbakery"
MULTIPROCESSING: Final = "multiprocessing"
MAKERS: Final[dict[str, Callable[[], Lock]]] = {
    MPBAKERY: functools.partial(mpbakery.Lock, ctx=FORK),
    MULTIPROCESSING: FORK.Lock,
}

#: The same, but first come, first served to the letter.
IN_ORDER: Final[dict[str, Callable[[], Lock]]] = {
    **MAKERS,
    MPBAKERY: functools.partial(mpbakery.Lock, tenure=0, ctx=FORK),
}

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
    registered: int = 1024
    items: int = 100_000


QUICK: Final = Effort(
    rounds=1,
    fast_rounds=51,
    passes=1_000,
    contention=0.5,
    idle=1.0,
    tries=5,
    timeouts=2,
    locks=2_000,
    throughput=0.2,
    registered=16,
    items=4_000,
)


class Progress:
    """What is being measured, on stderr: one line that changes on a terminal, one line a section elsewhere."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._section = ""

    def start(self, section: str) -> None:
        """A section begins."""
        self._section = section
        if self._line.live:
            self.step("")
        else:
            print(f"{section} ...", file=sys.stderr, flush=True)

    def step(self, what: str) -> None:
        """Part of a section begins."""
        self._line.show(f"{self._section}: {what}")

    def clear(self) -> None:
        """Leave an empty line."""
        self._line.clear()


progress = Progress()


def in_turn(rounds: int, measure: Callable[[str], Any], what: str = "") -> dict[str, list[Any]]:
    """The results of measure(kind) for both kinds of lock, which take turns, and in going first."""
    results: dict[str, list[Any]] = {kind: [] for kind in MAKERS}
    for number in range(rounds):
        for kind in list(MAKERS)[:: 1 if number % 2 == 0 else -1]:
            progress.step(f"{what}, {kind}, round {number + 1} of {rounds}")
            results[kind].append(measure(kind))
    return results


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
