"""Storms of signals on `with lock`, whose handlers raise, acquire the lock, or both; and what the lock has lost then.

A script, not a test; `tox run -e storm` runs it, and test_storm.py a short one.

    python tests/evidence/storms/storm.py                    100,000 signals a row, two rows at a time, in minutes
    python tests/evidence/storms/storm.py --signals 1000000  for longer

Each signal comes at a random moment of the main thread's `with lock`, or shortly before or after; in some rows seven
other threads contend for the lock meanwhile. The last rows are the same storm on the locks of the standard library. A
row says how many signals came while the lock's own Python code ran, at how many places of it (bytecodes), how often the
lock was left held, and how many places in the line and slots were lost. Anything else that must not be (two were in at
once, the lock was not to be had, a thread hangs, the storm ended early) counts as "other".

The exit status: 0, 1 if mpbakery.Lock lost anything, 2 for a mistake in the arguments, 128 and the signal's number
after Ctrl-C or SIGTERM, which end it at once, with the rows so far.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.sharedctypes
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

import mpbakery
from evidence.storms import storms
from mpbakery._programs.console import Console, duration, table
from support.command_line import Parser, Results, in_range
from support.workers import Crew

#: kind of lock, what handlers do, threads
ROWS: Final = (
    *(("mpbakery", handlers, threads) for threads in (1, 8) for handlers in ("raise", "acquire", "both")),
    ("multiprocessing", "raise", 1),
    ("threading", "raise", 1),
)

#: What ends the storm early.
ENDING: Final = (signal.SIGINT, signal.SIGTERM)

#: A row takes less than this a signal, and beside (s): else it is taken for hung.
_LONGEST: Final = 0.01
_GRACE: Final = 60.0
_LOOK: Final = 0.1


@dataclass
class Row:
    """What a storm has come to."""

    lock: str
    handlers: str
    threads: int
    signals: int
    #: how many of them came while the lock's own code ran, and at how many places
    hits: int
    places: int
    #: what was wrong, how often
    wrong: dict[str, int]
    examples: list[str]
    seconds: float


def rage(connection: Connection, kind: str, handlers: str, threads: int, signals: int, progress: Any) -> None:
    """A child's storm; Ctrl-C is its parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    start = time.monotonic()
    report = storms.storm_on_with(kind, handlers, threads, signals, progress)
    connection.send((time.monotonic() - start, *report))


class Raging:
    """One storm, in a child."""

    def __init__(self, crew: Crew, kind: str, handlers: str, threads: int, signals: int) -> None:
        self._what = (kind, handlers, threads, signals)
        self._ours, theirs = crew.context.Pipe(duplex=False)
        self._progress = multiprocessing.sharedctypes.RawValue("Q", 0)
        self._start = time.monotonic()
        self._limit = _GRACE + _LONGEST * signals
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the crew knows of its child
        self._child = crew.start(rage, theirs, *self._what, self._progress, seconds=self._limit, storm=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        theirs.close()

    def await_end(self, console: Console) -> Row:
        """What it has come to, with its progress on the console until then."""
        kind, handlers, threads, signals = self._what
        label = f"{kind}.Lock, {handlers}, {threads} thread{'s' if threads > 1 else ''}"
        try:
            while not self._ours.poll(_LOOK):
                console.progress(label, self._progress.value, signals)
            seconds, counts, examples, places, *_rest = self._ours.recv()
        except EOFError:
            self._child.join()
            seconds = time.monotonic() - self._start
            counts, examples, places = {"hung" if seconds >= self._limit else "died": 1}, [], {}
        console.clear()
        return Row(kind, handlers, threads, signals, sum(places.values()), len(places), counts, examples, seconds)


def show(rows: list[Row]) -> list[str]:
    """The rows as an aligned table."""
    head = ("lock", "handlers", "threads", "signals", "in its code", "places")
    lost = {"held": "left held", "ticket left": "tickets", "slot lost": "slots"}
    lines = [(*head, *lost.values(), "other", "time")]
    for row in rows:
        known = [row.wrong.get(what, 0) for what in lost]
        numbers = (row.threads, row.signals, row.hits, row.places, *known, sum(row.wrong.values()) - sum(known))
        lines.append((row.lock, row.handlers, *(f"{number:,}" for number in numbers), duration(row.seconds)))
    return table(lines, "<<" + ">" * (len(lines[0]) - 2))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser("storm", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--signals", type=in_range(int, 1, 10**9), default=100_000, help="how many a row; 100,000 if not given"
    )
    parser.add_argument(
        "--jobs", type=in_range(int, 1, 1_000), default=2, help="how many rows at a time; 2 if not given"
    )
    options = parser.parse_args(arguments)
    options.results = parser.results(options)
    return options


def end(number: int, _frame: object) -> None:
    """End the program, by way of what it has to clean up, which no second signal is to cut off."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run all rows and report; the exit status."""
    options = parse(arguments)
    for number in ENDING:
        signal.signal(number, end)
    console = Console(quiet=options.results.alone)
    crew = Crew(multiprocessing.get_context("fork"))
    rows: list[Row] = []
    try:
        to_come = list(ROWS)
        raging: list[Raging] = []
        while to_come or raging:
            while to_come and len(raging) < options.jobs:
                raging.append(Raging(crew, *to_come.pop(0), options.signals))
            rows.append(raging.pop(0).await_end(console))
    finally:
        crew.close()
        console.clear()
        report(rows, options.results)
    return 1 if any(row.wrong for row in rows if row.lock == "mpbakery") else 0


def report(rows: list[Row], results: Results) -> None:
    """Print the rows, and examples of what mpbakery.Lock has lost."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    results.write({"python": python, "mpbakery": mpbakery.__version__, "rows": [asdict(row) for row in rows]})
    if results.alone:
        return
    print(python, *show(rows), sep="\n", flush=True)
    for row in rows:
        if row.lock == "mpbakery":
            print(*row.examples, sep="\n", end="\n" if row.examples else "")


if __name__ == "__main__":
    sys.exit(main())
