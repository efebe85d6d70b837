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
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

from evidence.soak.conductor import Conductor
from evidence.soak.locks import MAKERS
from evidence.soak.plan import Plan, Size
from evidence.soak.verdict import Figures
from support.command_line import Parser, StatusLine, in_range

#: How often there is a line about the progress, where there is no terminal (s).
_SELDOM: Final = 10.0
_OFTEN: Final = 0.2


class Progress:
    """How far the soak is, on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._start = self._last = time.monotonic()

    def show(self, count: Callable[[], Figures]) -> None:
        """Say it, if it is time to."""
        now = time.monotonic()
        if now - self._last < (_OFTEN if self._line.live else _SELDOM):
            return
        self._last = now
        figures = count()
        planned = figures.rounds_planned
        line = (
            f"{_minutes(now - self._start)}, round {min(figures.rounds + 1, planned)} of {planned}: "
            f"{figures.acquisitions:,} acquisitions, {figures.kills:,} kills, "
            f"{figures.recoveries:,} recoveries, {len(figures.wrong)} wrong"
        )
        if self._line.live:
            self._line.show(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        self._line.clear()


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


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser("soak", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=in_range(float, 0.01, 600), default=5, help="how long; 5 if not given")
    add("--seed", type=in_range(int, 0, 2**64), help="what the plan is drawn from; made up if not given")
    add("--workers", type=in_range(int, 1, 200), default=8, help="each with a child, and a child of that; 8")
    add("--locks", type=in_range(int, 3, 500), default=10, help="how many at a time; 10")
    add("--patience", type=in_range(float, 1, 3600), default=30, help="seconds until a process counts as stuck; 30")
    add("--lock", choices=MAKERS, default="sound", help="a broken lock, to see that it is noticed")
    options = parser.parse_args(arguments)
    options.results = parser.results(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Soak and report; the exit status."""
    options = parse(arguments)
    figures, status = soak(options)
    if not options.results.alone:
        print(table(figures))
        for what in figures.wrong:
            print(f"WRONG: {what}")
    options.results.write({**asdict(figures), "slots_reclaimed": figures.slots_reclaimed})
    return 1 if figures.wrong else status


def soak(options: argparse.Namespace) -> tuple[Figures, int]:
    """Draw the plan and carry it out; the figures, and the exit status if nothing is wrong."""
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    size = Size(options.minutes * 60, options.workers, options.locks)
    plan = Plan(seed, size)
    figures = Figures(seed, plan.digest())
    progress = Progress()
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
