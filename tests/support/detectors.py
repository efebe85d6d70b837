"""Detectors of a broken exclusion, and the workers that visit them."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import threading
import time
import warnings
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import mpbakery
from support.workers import PATIENCE, AnyLock, Crew, begin, in_thread, in_threads, wait_until


class Verdict(NamedTuple):
    """What the two detectors have seen."""

    collisions: int
    entered: int
    counted: int

    @property
    def lost_updates(self) -> int:
        """How many increments another worker's store has wiped out."""
        return self.entered - self.counted


class Detectors:
    """Two independent witnesses of a lock that lets two in, in memory that all workers share.

    Occupancy: a worker leaves its mark when it comes in, and looks when it comes and when it goes whether the mark is
    as it must be. Lost updates: a counter is loaded, and stored one higher a moment later.
    """

    _MARK, _COUNTER, _OWN = 0, 1, 2

    def __init__(self, context: BaseContext, workers: int) -> None:
        # per worker: the collisions that it saw, how often it was inside, and whether it is ready
        self._cells: Any = context.RawArray("Q", self._OWN + 3 * workers)

    def start_together(self, worker: int) -> None:
        """Wait until every worker has come here."""
        self.is_ready(worker)
        wait_until(lambda: all(self._cells[self._OWN + 2 :: 3]), "all workers at the start")

    def is_ready(self, worker: int) -> None:
        """Others need not wait for this worker."""
        self._cells[self._OWN + 3 * worker + 2] = 1

    def visit(self, worker: int) -> None:
        """One stay under the lock."""
        cells = self._cells
        mark = worker + 1
        collided = cells[self._MARK] != 0
        cells[self._MARK] = mark
        count = cells[self._COUNTER]
        os.sched_yield()
        cells[self._COUNTER] = count + 1
        collided = collided or cells[self._MARK] != mark
        cells[self._MARK] = 0
        own = self._OWN + 3 * worker
        cells[own] += collided
        cells[own + 1] += 1

    def verdict(self) -> Verdict:
        """The outcome, when all workers have ended."""
        cells = self._cells
        return Verdict(sum(cells[self._OWN :: 3]), sum(cells[self._OWN + 1 :: 3]), cells[self._COUNTER])

    def assert_exclusion(self, entered: int) -> None:
        """Insist that the workers were inside `entered` times, and never two of them at once."""
        assert self.verdict() == Verdict(collisions=0, entered=entered, counted=entered)


def visit_often(lock: AnyLock, detectors: Detectors, worker: int, rounds: int) -> None:
    """A worker of a stress test."""
    detectors.start_together(worker)
    for _ in range(rounds):
        with lock:
            detectors.visit(worker)


def visit_on_one_core(lock: AnyLock, detectors: Detectors, worker: int, rounds: int) -> None:
    """`visit_often` on the first core that this process may use."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    visit_often(lock, detectors, worker, rounds)


def visit_in_threads(lock: AnyLock, detectors: Detectors, first: int, count: int, rounds: int) -> None:
    """Threads that are the workers `first` to `first + count - 1`."""
    workers = range(first, first + count)
    in_threads([functools.partial(visit_often, lock, detectors, worker, rounds) for worker in workers])


def visit_and_come_again(lock: AnyLock, detectors: Detectors, worker: int, rounds: int) -> None:
    """A worker that does not wait for the others."""
    for _ in range(rounds):
        with lock:
            detectors.visit(worker)


def visit_for_a_while(
    connection: Connection, lock: AnyLock, detectors: Detectors, worker: int, seconds: float, stay: float
) -> None:
    """A worker that comes again at once, and reports how often it was inside and its longest wait."""
    detectors.start_together(worker)
    end = time.monotonic() + seconds
    count, longest = 0, 0.0
    while (start := time.monotonic()) < end:
        with lock:
            longest = max(longest, time.monotonic() - start)
            detectors.visit(worker)
            count += 1
            time.sleep(stay)
    connection.send((count, longest))


def visit_in_generations(lock: AnyLock, detectors: Detectors, worker: int, rounds: int, generations: int) -> None:
    """A worker that forks two more after a third of its rounds, the second one while it holds the lock."""
    children = Crew(multiprocessing.get_context("fork"))
    descendants = (2 * worker + 2, 2 * worker + 3) if generations > 1 else ()

    def fork(place: int) -> None:
        children.start(visit_in_generations, lock, detectors, descendants[place], rounds, generations - 1)

    for done in range(rounds):
        if descendants and done == rounds // 3:
            fork(0)
        with lock:
            if descendants and done == rounds // 3:
                fork(1)
            detectors.visit(worker)
    children.finish()


def visit_as_it_comes(lock: AnyLock, detectors: Detectors, worker: int, rounds: int, blocking: float) -> None:
    """A worker that tries, waits for a while, or waits as long as it takes, as chance has it."""
    choose = random.Random(worker)
    detectors.start_together(worker)
    entered = 0
    while entered < rounds:
        way = choose.random()
        if way < blocking:
            got_it = lock.acquire()
        elif way < (1 + blocking) / 2:
            got_it = lock.acquire(False)
        else:
            got_it = lock.acquire(True, choose.choice((0, 1e-6, 1e-4, 1e-3, 5e-3)))
        if got_it:
            detectors.visit(worker)
            lock.release()
            entered += 1


def visit_released_by_a_partner(lock: AnyLock, detectors: Detectors, worker: int, rounds: int) -> None:
    """A worker whose partner, another thread, releases what it acquires."""
    to_release = threading.Semaphore(0)
    detectors.start_together(worker)

    def visit() -> None:
        for _ in range(rounds):
            lock.acquire()
            detectors.visit(worker)
            to_release.release()

    def release() -> None:
        for _ in range(rounds):
            assert to_release.acquire(timeout=PATIENCE)
            lock.release()

    in_threads([visit, release])


def visit_in_forked_threads(lock: mpbakery.Lock, detectors: Detectors, children: int) -> None:
    """One thread visits all the time; another one forks children, three at a time, that visit a few times."""
    enough = threading.Event()

    def visit() -> None:
        while not enough.is_set():
            with lock:
                detectors.visit(0)

    def fork() -> None:
        try:
            running: list[int] = []
            for worker in range(1, children + 1):
                pid = os.fork()
                if pid == 0:
                    begin(30)
                    visit_and_come_again(lock, detectors, worker, 3)
                    os._exit(0)
                running.append(pid)
                if len(running) == 3:
                    assert os.waitpid(running.pop(0), 0)[1] == 0
            for pid in running:
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            enough.set()

    in_threads([visit, fork])


def write_ledger(lock: mpbakery.Lock, ledger: Any) -> None:
    """Under the lock: write the same number into two cells, and look whether the last one to do so came to an end.

    The cells: the two numbers, whether it is enough, and how often they differed after a death, without a death, and
    were changed by somebody else under the lock.
    """
    if ledger[0] != ledger[1]:
        ledger[3 if lock.recovered_from else 4] += 1
    number = max(ledger[0], ledger[1]) + 1
    ledger[0] = number
    os.sched_yield()
    if ledger[0] != number:
        ledger[5] += 1
    ledger[1] = number


def keep_ledger(lock: mpbakery.Lock, ledger: Any) -> None:
    """A worker that writes the ledger until it is enough."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    while not ledger[2]:
        with lock:
            write_ledger(lock, ledger)


def keep_ledger_in_every_way(lock: mpbakery.Lock, ledger: Any, seed: int) -> None:
    """A worker, or up to three threads of one, that writes the ledger under `with`, after a try or a wait with a limit,
    released by itself or by another thread, and in children that it forks."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    threads = seed % 3 + 1

    def write_once(choose: random.Random) -> None:
        way = choose.random()
        if way < 0.6:
            with lock:
                write_ledger(lock, ledger)
        elif lock.acquire(way < 0.8, choose.choice((0, 1e-5, 1e-4, 2e-3))):
            write_ledger(lock, ledger)
            if way < 0.95:
                lock.release()
            else:
                in_thread(lock.release)

    def keep(choose: random.Random) -> None:
        while not ledger[2]:
            if threads == 1 and choose.random() < 0.02:
                pid = os.fork()
                if pid == 0:
                    begin(30)
                    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
                    for _ in range(3):
                        write_once(choose)
                    os._exit(0)
                os.waitpid(pid, 0)
            write_once(choose)

    in_threads([functools.partial(keep, random.Random(4 * seed + thread)) for thread in range(threads)])
