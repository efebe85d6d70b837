"""What comes of a lock whose holder is killed."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterator

import mpbakery
from benchmark.children import Crew, await_queue, idle_holder, shared, time_limit
from benchmark.figures import Figure, spread
from benchmark.measuring import FORK, MAKERS, MS, MULTIPROCESSING, Broken, Effort, Lock, clock, progress


def heir(crew: Crew, lock: Lock, board: memoryview) -> None:
    """Wait for the lock, tell who got it, when, and from whom, and keep it."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        lock.acquire()
        got = clock()
    board[0], board[1] = os.getpid(), got
    board[2] = lock.recovered_from.pid if lock.recovered_from else 0
    crew.ready()


def hand_over(waiters: int, *, reap: bool) -> float:
    """Kill a holder while that many wait: the time until the next in line has the lock, in ms."""
    lock = mpbakery.Lock(ctx=FORK)
    board = shared(3)
    with Crew() as crew, time_limit(20):
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
    with Crew() as crew, time_limit(20):
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
