"""What locks cost to make and to have."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmark.children import Crew, shared, time_limit
from benchmark.figures import Figure, Numbers, ratios, spread, times
from benchmark.measuring import MAKERS, MPBAKERY, MS, MULTIPROCESSING, US, Effort, Lock, clock, in_turn


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
    with Crew() as crew, time_limit(60):
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
