"""Run CPython's own tests of multiprocessing, of locks and of process pools against mpbakery.

A script, not a test; `tox run -e conformance` runs it. It runs on the Python that it is started with.

    python tests/evidence/conformance/conform.py                          every start method, in every place
    python tests/evidence/conformance/conform.py fork --place here        one start method, here; a minute
    python tests/evidence/conformance/conform.py fork --only TestPool     some classes
    python tests/evidence/conformance/conform.py fork --of multiprocessing --place here
                                                                 multiprocessing's own: to see what it fails itself

The exit status: 0, 1 if anything is wrong, 2 for a mistake in the arguments, 128 and the signal's number after Ctrl-C
or SIGTERM, which end everything at once. What is excluded, and why, stands in exclusions.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

from evidence.conformance.reports import Row
from evidence.conformance.running import Interrupted, run_all
from evidence.conformance.units import CLASSES, HERE, METHODS, OURS, PLACES, THEIRS, all_units
from support.command_line import Parser, StatusLine

_WIDTH: Final = max(len(f"{suite}.{name}") for suite, names in CLASSES.items() for name in names)
_HEADER: Final = (
    f"{'version':<8} {'method':<10} {'place':<10} {'class':<{_WIDTH}} {'ran':>4} {'passed':>6} {'failed':>6} "
    f"{'excluded':>8} {'skipped':>7} {'seconds':>7}"
)


class Board:
    """What is shown while the units run, and when they have ended."""

    def __init__(self, count: int, *, quiet: bool) -> None:
        self.rows: list[Row] = []
        self._count = count
        self._quiet = quiet
        self._line = StatusLine()
        if not quiet:
            print(_HEADER)

    def progress(self, running: int) -> None:
        """The line that is written over and over, on a terminal."""
        self._line.show(f"{len(self.rows)} of {self._count} done, {running} run")

    def show(self, row: Row) -> None:
        """The row of a unit that has ended."""
        self.rows.append(row)
        self._line.clear()
        if self._quiet:
            return
        suite, name, method, place, _whose = row.unit
        line = f"{row.version:<8} {method:<10} {place:<10} {f'{suite}.{name}':<{_WIDTH}} "
        if row.lack:
            print(f"{line}NOT RUN: {row.lack}", flush=True)
            return
        ran, passed, failed, excluded, skipped = _counts(row)
        print(
            f"{line}{ran:>4} {passed:>6} {failed:>6} {excluded:>8} {skipped:>7} {row.seconds:>7.1f}"
            f"{'  WRONG' if row.problems else ''}",
            flush=True,
        )
        for text in [*row.problems, *row.details]:
            print("    " + text.rstrip().replace("\n", "\n    "), flush=True)

    def summary(self, seconds: float) -> str:
        """The totals, in a line."""
        rows = self.rows
        missing = sum(bool(row.lack) for row in rows)
        ran, passed, failed, excluded, skipped = (
            sum(counts) for counts in zip(*(_counts(row) for row in rows), strict=True)
        )
        return (
            f"{ran} tests ran, {passed} passed, {failed} failed; {excluded} are excluded, {skipped} skipped themselves;"
            f" {len(self.wrong())} of {len(rows)} classes wrong, {missing} not run; {seconds:.0f} s"
        )

    def wrong(self) -> list[Row]:
        """The rows that make this fail."""
        return [row for row in self.rows if row.problems]


def _counts(row: Row) -> tuple[int, ...]:
    return row.ran, row.passed, row.failed, row.excluded, row.skipped


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser(
        "conform", description=__doc__.partition("\n")[0], epilog="what is excluded, and why: see exclusions.py"
    )
    add = parser.add_argument
    add("methods", nargs="*", metavar="METHOD", help=f"start methods; all if none is given: {', '.join(METHODS)}")
    add("--place", action="append", choices=PLACES, help="where; all if not given, and for multiprocessing, here")
    add("--only", metavar="WORD", default="", help="only classes with this in their names")
    add("--of", choices=(OURS, THEIRS), default=OURS, help="whose locks; mpbakery's if not given")
    add("--jobs", type=int, default=os.cpu_count(), help="how many classes side by side; one for each processor")
    add("--limit", type=float, default=180.0, metavar="SECONDS", help="when a class counts as hung; 180")
    options = parser.parse_args(arguments)
    for method in options.methods:
        if method not in METHODS:
            parser.error(f"there is no start method {method!r}: give {', '.join(METHODS)}")
    if options.jobs < 1 or not options.limit > 0:
        parser.error("--jobs and --limit have to be more than 0")
    if options.of == THEIRS and set(options.place or [HERE]) != {HERE}:
        parser.error("multiprocessing's own can be tested here only: it has no locks in other places")
    options.results = parser.results(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status."""
    options = parse(arguments)
    places = options.place or ([HERE] if options.of == THEIRS else PLACES)
    units = list(all_units(options.methods or METHODS, places, options.of, options.only))
    if not units:
        print(f"conform: no class has {options.only!r} in its name", file=sys.stderr)
        return 2
    begin = time.monotonic()
    board = Board(len(units), quiet=options.results.alone)
    status = 0
    try:
        run_all(units, options.jobs, options.limit, board.show, board.progress)
    except Interrupted as interruption:
        print(f"\nconform: interrupted, after {len(board.rows)} of {len(units)} classes", file=sys.stderr)
        status = 128 + interruption.number
    options.results.write([{**asdict(row), "unit": row.unit._asdict()} for row in board.rows])
    if board.rows and not options.results.alone:
        print(board.summary(time.monotonic() - begin))
    if status:
        return status
    if not any(row.passed for row in board.rows):
        print("conform: nothing was run", file=sys.stderr)
        return 1
    return 1 if board.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
