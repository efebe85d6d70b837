"""Explore the interleavings of the lock's protocol.

    python tests/evidence/explorer/explore.py [--long] [--json FILE] [--only WORD]

Prints a row for each search with the schedules and states that it went through; exits with 1 if one of them broke a
promise, and tells the schedule that does it, which `--replay SCENARIO MODEL SCHEDULE` shows step by step.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

from evidence.explorer import protocol
from evidence.explorer.scenarios import SCENARIOS
from evidence.explorer.scenarios.condition import CONDITIONS
from evidence.explorer.scenarios.event import EVENTS
from evidence.explorer.scenarios.lock import LOCKS
from evidence.explorer.scenarios.semaphore import SEMAPHORES
from evidence.explorer.search import DepthFirst, Outcome, ScheduleError, at_random, replay
from evidence.explorer.simulated.operations import MODELS, PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER
from support.command_line import Parser, StatusLine, in_range

#: A worker tells how far it is about this often (s).
_NEWS: Final = 0.5


@dataclass(frozen=True)
class Search:
    """One search: of everything, up to a bound of pre-emptions, or at random."""

    scenario: str
    model: str
    bound: int | None = None
    #: this many executions at random, instead of depth first
    random: int = 0
    seed: int = 1

    def how(self) -> str:
        """In words."""
        if self.random:
            return "at random"
        return "exhaustive" if self.bound is None else f"{self.bound} pre-emptions"


def short_searches(seed: int) -> list[Search]:
    """What is searched on every change, the longest first."""
    exhaustive = [Search("2x2", SEQUENTIAL), Search("2x2", TOTAL_STORE_ORDER, 2)]
    exhaustive.append(Search("2x1", PARTIAL_STORE_ORDER))
    exhaustive += [Search("one comes again", model) for model in MODELS]
    exhaustive.append(Search("semaphore, 2x1", SEQUENTIAL))
    exhaustive += [Search("condition, one of two", SEQUENTIAL), Search("event, two wait", TOTAL_STORE_ORDER)]
    at_random = _at_random(LOCKS, 1_000, seed) + _at_random(SEMAPHORES, 300, seed)
    at_random += _at_random(EVENTS | CONDITIONS, 100, seed)
    return [*exhaustive, Search("3x1", SEQUENTIAL, 3), *at_random]


def long_searches(seed: int) -> list[Search]:
    """What is searched on demand."""
    exhaustive = [Search("2x2", model) for model in (PARTIAL_STORE_ORDER, TOTAL_STORE_ORDER, SEQUENTIAL)]
    exhaustive += [Search(name, model) for name in ("2x1, tenure", "semaphore, 2x1") for model in MODELS]
    waiting = ("event, two wait", "event, set and cleared", "condition, one of two", "condition, one by one")
    exhaustive += [Search(name, model) for name in waiting for model in MODELS]
    bounded = [Search(name, model, 4) for name in ("3x1", "one comes again, three") for model in MODELS]
    bounded += [Search("semaphore, 3x1", model, 2) for model in MODELS]
    names = ("deaths", "a newcomer", "handlers", "event, set by handlers", "condition, raising", "condition, deaths")
    deaths = [Search(name, model, 2) for name in names for model in MODELS]
    return [*exhaustive, *bounded, *deaths, *_at_random(SCENARIOS, 60_000, seed)]


def _at_random(names: Iterable[str], count: int, seed: int) -> list[Search]:
    return [Search(name, model, random=count, seed=seed) for name in names for model in MODELS]


def run_search(search: Search, news: Connection) -> None:
    """In a process of its own: run a search, and tell how far it is and how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    shipped = protocol.load()
    scenario = SCENARIOS[search.scenario]
    begin = time.monotonic()
    told = begin

    def progress(outcome: Outcome) -> None:
        nonlocal told
        if time.monotonic() - told > _NEWS:
            told = time.monotonic()
            news.send((outcome.schedules, None, 0.0))

    if search.random:
        outcome = at_random(scenario, shipped, search.model, seed=search.seed, count=search.random, progress=progress)
    else:
        outcome = DepthFirst(scenario, shipped, search.model, search.bound).run(progress=progress)
    news.send((outcome.schedules, outcome, time.monotonic() - begin))


class Board:
    """What is shown while the searches run, and when they have ended."""

    def __init__(self, searches: list[Search], *, quiet: bool) -> None:
        self._searches = searches
        self._quiet = quiet
        self._line = StatusLine(quiet=quiet)
        self.running: dict[int, int] = {}
        self.ended: dict[int, tuple[Outcome, float]] = {}
        self._width = max(len(search.scenario) for search in searches)

    def header(self) -> None:
        """The head of the table."""
        if not self._quiet:
            print(
                f"{'scenario':<{self._width}}  model  {'search':<14}  {'schedules':>10}  {'states':>9}  {'seconds':>7}"
            )

    def progress(self) -> None:
        """The line that is written over and over."""
        schedules = sum(self.running.values())
        self._line.show(
            f"{len(self.ended)} of {len(self._searches)} searches done, {schedules:,} schedules in those that run"
        )

    def row(self, number: int) -> None:
        """The row of a search that has ended."""
        self._line.clear()
        if self._quiet:
            return
        search = self._searches[number]
        outcome, seconds = self.ended[number]
        states = f"{outcome.states:,}" if outcome.states else "-"
        what = "" if outcome.violation is None else f"  BROKEN: {outcome.violation}"
        print(
            f"{search.scenario:<{self._width}}  {search.model:<5}  {search.how():<14}  {outcome.schedules:>10,}  "
            f"{states:>9}  {seconds:>7.1f}{what}",
            flush=True,
        )
        if outcome.violation is not None:
            print(f"    --replay {search.scenario!r} {search.model} {outcome.schedule!r}")

    def summary(self) -> None:
        """The totals."""
        outcomes = [outcome for outcome, _seconds in self.ended.values()]
        broken = sum(outcome.violation is not None for outcome in outcomes)
        print(
            f"{sum(o.schedules for o in outcomes):,} schedules of {sum(o.steps for o in outcomes):,} steps, "
            f"{sum(o.states for o in outcomes):,} states; {broken} of {len(outcomes)} searches broke a promise"
        )

    def for_programs(self) -> list[dict[str, object]]:
        """Everything."""
        return [
            {
                "scenario": self._searches[number].scenario,
                "model": self._searches[number].model,
                "search": self._searches[number].how(),
                "schedules": outcome.schedules,
                "states": outcome.states,
                "steps": outcome.steps,
                "complete": outcome.complete,
                "seconds": round(seconds, 1),
                "violation": None if outcome.violation is None else str(outcome.violation),
                "schedule": outcome.schedule,
            }
            for number, (outcome, seconds) in sorted(self.ended.items())
        ]


def run_all(searches: list[Search], jobs: int, board: Board) -> None:
    """Run searches side by side, each in a process of its own."""
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(searches))
    workers: dict[int, tuple[BaseProcess, Connection]] = {}
    board.header()
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                number, search = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                worker = context.Process(target=run_search, args=(search, theirs))
                worker.start()
                theirs.close()
                workers[number] = worker, ours
            ready = wait([ours for _process, ours in workers.values()], _NEWS)
            for number, (process, ours) in list(workers.items()):
                if ours not in ready:
                    continue
                try:
                    board.running[number], outcome, seconds = ours.recv()
                except EOFError:
                    raise RuntimeError(f"the process of {searches[number]} has died") from None
                if outcome is not None:
                    del workers[number]
                    process.join()
                    ours.close()
                    del board.running[number]
                    board.ended[number] = outcome, seconds
                    board.row(number)
            board.progress()
    finally:
        for process, _ours in workers.values():
            process.kill()
            process.join()


def show_replay(scenario: str, model: str, schedule: str) -> int:
    """Print an execution step by step."""
    if scenario not in SCENARIOS or model not in MODELS:
        known = ", ".join(repr(name) for name in SCENARIOS)
        print(
            f"there is no scenario {scenario!r} under {model!r}: take one of {known}; {', '.join(MODELS)}",
            file=sys.stderr,
        )
        return 2
    try:
        world = replay(SCENARIOS[scenario], protocol.load(), model, schedule)
    except ValueError as error:
        kind = "the schedule does not fit" if isinstance(error, ScheduleError) else "that is no schedule"
        print(f"{kind}: {error}", file=sys.stderr)
        return 2
    print(*(world.log or []), sep="\n")
    print(world.violation or "no promise was broken")
    return 0 if world.violation is None else 1


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = Parser("explore", description="Explore the interleavings of the lock's protocol.")
    parser.add_argument("--long", action="store_true", help="hours instead of minutes")
    jobs = multiprocessing.cpu_count()
    parser.add_argument("--jobs", type=in_range(int, 1, 1_000), default=jobs, help="searches side by side")
    parser.add_argument("--only", metavar="WORD", default="", help="only scenarios with this in their names")
    parser.add_argument("--seed", type=int, default=1, help="of the random searches (default 1)")
    parser.add_argument("--replay", nargs=3, metavar=("SCENARIO", "MODEL", "SCHEDULE"), help="show one execution")
    options = parser.parse_args(arguments)
    if options.replay:
        return show_replay(*options.replay)
    searches = [
        s for s in (long_searches if options.long else short_searches)(options.seed) if options.only in s.scenario
    ]
    if not searches:
        parser.error(f"no scenario has {options.only!r} in its name")
    results = parser.results(options)
    board = Board(searches, quiet=results.alone)
    interrupted = False
    try:
        run_all(searches, options.jobs, board)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted", file=sys.stderr)
    results.write(board.for_programs())
    if board.ended and not results.alone:
        board.summary()
    if interrupted:
        return 130
    return 1 if any(outcome.violation is not None for outcome, _seconds in board.ended.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
