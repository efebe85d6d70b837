"""A crowd of threads in a few processes, all after one lock: whether there are ever two in, and whether it stays whole.

A script, not a test; test_crowd.py runs a short one. It is for the free-threaded builds of CPython, where the threads
of a process share all that the lock keeps there, and no GIL lets them take turns; it runs on any other as well.

    python tests/evidence/crowd/crowd.py                                   a minute of each kind of lock
    python tests/evidence/crowd/crowd.py --seconds 600 --kinds Lock        longer, of one

Each thread takes the lock in every way that there is, as chance has it: with `with`, by a try, with a time limit; it
has another thread release it, without the GIL through the `release` that it has looked up itself, and takes it again at
once; it looks at the lock from outside. Threads end after some hundred rounds, and others get their slots.

The exit status: 0, 1 if anything was wrong, 2 for a mistake in the arguments.
"""

from __future__ import annotations

import argparse
import collections
import functools
import multiprocessing
import operator
import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

import mpbakery
from mpbakery._system.native import FREE_THREADED
from support.command_line import Parser, in_range
from support.detectors import Detectors
from support.workers import PATIENCE, Crew, expect

KINDS: Final[dict[str, Callable[..., Any]]] = {
    "Lock": mpbakery.Lock,
    "RLock": mpbakery.RLock,
    "Semaphore": functools.partial(mpbakery.Semaphore, 1),
    "BoundedSemaphore": functools.partial(mpbakery.BoundedSemaphore, 1),
}
#: After so many rounds a thread ends.
_LIFE: Final = 400
_LOOK_UP_AND_RELEASE: Final = operator.methodcaller("release")
_TIMEOUTS: Final = (0, 1e-6, 1e-4, 1e-3, 5e-3)


class Member:
    """One thread of the crowd, and then its successors."""

    def __init__(self, lock: Any, detectors: Detectors, worker: int, releases: queue.SimpleQueue[Any]) -> None:
        self._lock = lock
        self._detectors = detectors
        self._worker = worker
        self._releases = releases
        self._choose = random.Random(worker)
        self.entered = 0

    def live(self, end: float) -> None:
        """Take the lock again and again."""
        for _ in range(_LIFE):
            if time.monotonic() >= end:
                break
            self._take_once(self._choose.random())

    def _take_once(self, way: float) -> None:
        lock = self._lock
        if way < 0.5:
            with lock:
                self._visit()
        elif way < 0.7:
            if lock.acquire(False):
                self._visit()
                lock.release()
        elif way < 0.85:
            if lock.acquire(True, self._choose.choice(_TIMEOUTS)):
                self._visit()
                lock.release()
        elif way < 0.95 and not isinstance(lock, mpbakery.RLock):
            assert lock.acquire(True, PATIENCE)
            self._visit()
            # with the GIL, a release that is looked up here is of this thread, which is a known limit
            self._releases.put(lock.release if FREE_THREADED else functools.partial(_LOOK_UP_AND_RELEASE, lock))
        else:
            repr(lock)
            lock.statistics()

    def _visit(self) -> None:
        self._detectors.visit(self._worker)
        self.entered += 1


def _release(releases: queue.SimpleQueue[Any], failures: list[BaseException]) -> None:
    while (release := releases.get()) is not None:
        try:
            release()
        except Exception as error:
            failures.append(error)


def crowd(connection: Connection, lock: Any, detectors: Detectors, first: int, threads: int, seconds: float) -> None:
    """One process of it, whose threads are the workers from `first` on; reports how often they were in."""
    releases: queue.SimpleQueue[Any] = queue.SimpleQueue()
    failures: list[BaseException] = []
    partner = threading.Thread(target=_release, args=(releases, failures))
    partner.start()
    members = [Member(lock, detectors, first + place, releases) for place in range(threads)]
    detectors.start_together(first)
    end = time.monotonic() + seconds

    def succeed(member: Member) -> None:
        while time.monotonic() < end and not failures:
            thread = threading.Thread(target=guarded, args=(member,))
            thread.start()
            thread.join()

    def guarded(member: Member) -> None:
        try:
            member.live(end)
        except BaseException as error:
            failures.append(error)

    minders = [threading.Thread(target=succeed, args=(member,)) for member in members]
    for minder in minders:
        minder.start()
    for minder in minders:
        minder.join()
    releases.put(None)
    partner.join()
    connection.send((sum(member.entered for member in members), collections.Counter(map(repr, failures))))


def assemble(kind: str, processes: int, threads: int, seconds: float) -> tuple[int, list[str]]:
    """Let a crowd have a lock of a kind; how often somebody was in, and what was wrong."""
    context = multiprocessing.get_context("fork")
    lock = KINDS[kind](slots=4 * processes * threads, ctx=context)
    detectors = Detectors(context, processes * threads)
    # of each process, one thread says for all that it is ready
    for worker in range(processes * threads):
        if worker % threads:
            detectors.is_ready(worker)
    crew = Crew(context)
    try:
        pipes = []
        for process in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            limit = seconds + PATIENCE
            crew.start(crowd, theirs, lock, detectors, process * threads, threads, seconds, seconds=limit)
            pipes.append(ours)
        entered, wrong = 0, []
        for ours in pipes:
            count, failures = expect(ours, seconds + PATIENCE)
            entered += count
            wrong += [f"{times} times {failure}" for failure, times in failures.items()]
        crew.finish()
    except (AssertionError, EOFError) as error:
        return 0, [f"did not come to its end: {error!r}"]
    finally:
        crew.close()
    verdict = detectors.verdict()
    if verdict.collisions or verdict.lost_updates or verdict.entered != entered:
        wrong.append(f"{verdict} of {entered} stays")
    if not lock.acquire(False):
        wrong.append(f"left held: {lock!r}")
    return entered, wrong


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    parser = Parser("crowd", description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("--seconds", type=in_range(float, 0.1, 1e6), default=60.0, help="for each kind of lock")
    parser.add_argument("--processes", type=in_range(int, 1, 1000), default=2)
    parser.add_argument("--threads", type=in_range(int, 1, 1000), default=8, help="in each process")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(arguments)
    results = parser.results(options)
    rows = {}
    for kind in options.kinds:
        entered, wrong = assemble(kind, options.processes, options.threads, options.seconds)
        rows[kind] = {"entered": entered, "wrong": wrong}
        if not results.alone:
            print(f"{kind}: {entered:,} times in", *wrong, sep="\n  ", flush=True)
    gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    results.write({"rows": rows, "GIL": gil()})
    return int(any(row["wrong"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
