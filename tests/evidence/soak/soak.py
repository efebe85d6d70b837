"""Minutes of random work on many locks, while processes are killed, stopped, forked and ended; then the figures.

A script, not a test; `tox run -e soak` runs it, and test_soak.py runs a short one.

    python tests/evidence/soak/soak.py                       five minutes, with a seed that it prints
    python tests/evidence/soak/soak.py --seed 7 --minutes 1  the same plan each time; its digest is printed, too

Some locks live as long as the soak, others are made and dropped with each round of a few seconds, and processes make
locks of their own now and then. Workers, their children and the children of those, some of them with threads, do what
the plan says; they are killed (SIGKILL) and stopped (SIGSTOP) when the plan says so. Two processes live all the time.

The exit status: 0, 1 if anything is wrong, 2 for a mistake in the arguments, 128 and the signal's number after Ctrl-C
or SIGTERM, which end it at once, with the figures so far.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TextIO

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

from evidence.soak.conductor import Conductor
from evidence.soak.locks import MAKERS
from evidence.soak.plan import Plan, Size
from evidence.soak.verdict import Figures

#: How often there is a line about the progress, where there is no terminal (s).
_SELDOM: Final = 10.0
_OFTEN: Final = 0.2


class Progress:
    """How far the soak is, on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._start = self._last = time.monotonic()

    def show(self, count: Callable[[], Figures]) -> None:
        """Say it, if it is time to."""
        now = time.monotonic()
        if now - self._last < (_OFTEN if self._live else _SELDOM):
            return
        self._last = now
        figures = count()
        planned = figures.rounds_planned
        line = (
            f"{_minutes(now - self._start)}, round {min(figures.rounds + 1, planned)} of {planned}: "
            f"{figures.acquisitions:,} acquisitions, {figures.kills:,} kills, "
            f"{figures.recoveries:,} recoveries, {len(figures.wrong)} wrong"
        )
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be rewritten
            print(f"\r\x1b[K{line[:width]}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def table(figures: Figures) -> str:
    """The figures in two columns."""
    rows = [
        ("seed, plan", f"{figures.seed}, {figures.plan}"),
        ("rounds", f"{figures.rounds} of {figures.rounds_planned}, in {_minutes(figures.seconds)} minutes"),
        ("processes", f"{figures.processes:,}"),
        ("locks", f"{figures.locks:,} made and dropped, and {figures.own_locks:,} by processes for themselves"),
        ("acquisitions", f"{figures.acquisitions:,}"),
        ("timeouts", f"{figures.timeouts:,}"),
        ("stops", f"{figures.stops:,}"),
        (
            "kills survived",
            f"{figures.kills:,}: {figures.killed_holders:,} of holders, {figures.killed_waiters:,} of waiters, "
            f"{figures.killed_idle:,} of others",
        ),
        ("exits with the lock", f"{figures.exits_with_the_lock:,}"),
        ("recoveries", f"{figures.recoveries:,}, and {figures.own_recoveries:,} of processes' own locks"),
        ("deaths not told", f"{figures.untold:,}"),
        ("deaths told wrongly", f"{figures.told_wrongly:,}"),
        ("told to one that died", f"{figures.heirs_that_died:,} at once, and the next one was told of that death"),
        ("updates cut off", f"{figures.unfinished:,}, {figures.mended:,} of them mended"),
        ("slots reclaimed", f"{figures.slots_reclaimed:,}"),
        ("lost updates", f"{figures.lost_updates:,}"),
        ("collisions", f"{figures.collisions:,}"),
        ("longest wait", f"{figures.longest_wait:.3f} s"),
    ]
    for name, (first, last) in figures.descriptors.items():
        size, last_size = (size >> 10 for size in figures.memory[name])
        rows.append((name, f"{first} descriptors, {last} at the end; {size:,} KiB, {last_size:,} at the end"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def number(convert: Callable[[str], Any], least: float, most: float) -> Callable[[str], Any]:
    """What argparse converts an argument with, that has to be in a range."""

    def checked(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {least:g} to {most:g}")
        return value

    return checked


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> Any:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser(prog="soak", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=number(float, 0.01, 600), default=5, help="how long; 5 if not given")
    add("--seed", type=number(int, 0, 2**64), help="what the plan is drawn from; made up if not given")
    add("--workers", type=number(int, 1, 200), default=8, help="each with a child, and a child of that; 8")
    add("--locks", type=number(int, 3, 500), default=10, help="how many at a time; 10")
    add("--patience", type=number(float, 1, 3600), default=30, help="seconds until a process counts as stuck; 30")
    add("--lock", choices=MAKERS, default="sound", help="a broken lock, to see that it is noticed")
    add("--json", metavar="FILE", help="write the figures to FILE; - is stdout, without the table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Soak and report; the exit status."""
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        out: TextIO | None = None
        if options.json == "-":
            out = sys.stdout
        elif options.json:
            try:
                out = stack.enter_context(open(options.json, "w", encoding="utf-8"))
            except OSError as error:
                print(f"soak: cannot write {options.json}: {error.strerror}", file=sys.stderr)
                return 2
        figures, status = soak(options)
        if out is not sys.stdout:
            print(table(figures))
            for what in figures.wrong:
                print(f"WRONG: {what}")
        if out is not None:
            json.dump({**asdict(figures), "slots_reclaimed": figures.slots_reclaimed}, out, indent=2)
            print(file=out)
    return 1 if figures.wrong else status


def soak(options: argparse.Namespace) -> tuple[Figures, int]:
    """Draw the plan and carry it out; the figures, and the exit status if nothing is wrong."""
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    size = Size(options.minutes * 60, options.workers, options.locks)
    plan = Plan(seed, size)
    figures = Figures(seed, plan.digest())
    progress = Progress(sys.stderr)
    conductor = Conductor(plan, size, figures, MAKERS[options.lock], options.patience, progress.show)
    status = 0

    def interrupt(number: int, _frame: object) -> None:
        nonlocal status
        status = 128 + number
        conductor.interrupted = True

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    print(f"soak: seed {seed}, plan {figures.plan}", file=sys.stderr, flush=True)
    conductor.run()
    progress.clear()
    return figures, status


if __name__ == "__main__":
    sys.exit(main())
