"""What it costs to wait."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator

from benchmark.children import Crew, shared, time_limit
from benchmark.figures import Figure, spread
from benchmark.measuring import MAKERS, MPBAKERY, MULTIPROCESSING, Broken, Effort, Lock, S, clock, in_turn


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
    with Crew() as crew, time_limit(seconds + 30):
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
    # what a waiter may import was there before this began: then its cost is not in the figures
    unpaid = " (ctypes not counted)" if "ctypes" in sys.modules else ""
    total = {kind: spread(values) for kind, values in costs.items()}
    yield Figure(
        f"8 processes wait {effort.idle:g} s: CPU, all together{unpaid}",
        "0.25 s",
        f"{total[MPBAKERY]['median']:.3f} s (worst {total[MPBAKERY]['max']:.3f})",
        f"{total[MULTIPROCESSING]['median']:.3f} s (worst {total[MULTIPROCESSING]['max']:.3f})",
        total[MPBAKERY]["median"] < 0.25,
        total,
    )
