"""When an attempt fails that has a limit of time."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import mpbakery
from benchmark.children import Crew, await_queue, idle_holder, shared, time_limit
from benchmark.figures import Figure, spread
from benchmark.measuring import MAKERS, MPBAKERY, MS, MULTIPROCESSING, Broken, Effort, Lock, clock, in_turn


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
    with Crew() as held, Crew() as queue, Crew() as crew, time_limit(20 + tries):
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
