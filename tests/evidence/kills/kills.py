"""Queues whose writers and readers are killed and stopped at random; then the figures.

A script, not a test; `tox run -e kills` runs it, and test_kills.py runs a short one.

    python tests/evidence/kills/kills.py                          a minute, on queues of all kinds in turn
    python tests/evidence/kills/kills.py --queue limited --seed 7
    python tests/evidence/kills/kills.py --queue multiprocessing  to see what becomes of the standard library's

Four processes put items of 10 bytes to a megabyte, with checksums, and three get them. Some ten times a second, one of
them is killed (SIGKILL), or stopped for a while (SIGSTOP), and killed then or not; a new one takes the place of each
that is killed. One that puts and one that gets are never killed: they have to get on, and must not grow.

The exit status: 0, 1 if anything is wrong, 2 for a mistake in the arguments, 128 and the signal's number after Ctrl-C
or SIGTERM, which end it at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[2:4])

import mpbakery
from evidence.kills.crowd import DESCRIPTORS, LIVES, MEMORY, MOMENT, VETERAN, Board, read, write
from mpbakery._work.queues import piped
from support.command_line import Parser, StatusLine, in_range

WRITERS: Final = 4
READERS: Final = 3
#: How many items a queue with a limit takes.
LIMIT: Final = 5
#: From one strike to the next (s), at most; half of it on average.
_PAUSE: Final = 0.08
#: How many of the strikes are stops, and how long these take at most (s).
_STOPS: Final = 0.3
_STOPPED: Final = 2.0
#: After which part of the time the memory of those who live all the time is taken for what it should stay.
_WARM: Final = 0.3
#: How much more memory they may have in the end (bytes): several items of the largest size are under way in each.
_GROWTH: Final = 24 << 20

FORK: Final = multiprocessing.get_context("fork")
MAKERS: Final[dict[str, Callable[[], Any]]] = {
    "queue": lambda: mpbakery.get_context("fork").Queue(),
    "limited": lambda: mpbakery.get_context("fork").Queue(LIMIT),
    "joinable": lambda: mpbakery.get_context("fork").JoinableQueue(),
    "simple": lambda: mpbakery.get_context("fork").SimpleQueue(),
    "piped": lambda: piped.Queue(ctx=mpbakery.get_context("fork")),
    "multiprocessing": lambda: FORK.Queue(),
}
#: Those that have to stand it.
SOUND: Final = ("queue", "limited", "joinable", "simple")


@dataclass
class Figures:
    """What came of it with one queue."""

    queue: str
    seed: int
    seconds: float = 0.0
    put: int = 0
    got: int = 0
    killed_writers: int = 0
    killed_readers: int = 0
    stops: int = 0
    #: items that were put, and lost with one who was killed: in the hands of a reader, and waiting in a writer
    lost_in_hand: int = 0
    lost_waiting: int = 0
    torn: int = 0
    twice: int = 0
    longest_pause: float = 0.0
    #: of those who live all the time: when they were warm, and at the end
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: what must not be
    wrong: list[str] = field(default_factory=list)


class Person:
    """One of those who put or get, in one place of the board; another one comes when it is killed."""

    def __init__(self, place: int, veteran: bool) -> None:
        self.place = place
        self.veteran = veteran
        self.process: BaseProcess | None = None
        self.life = -1
        self.begun = 0.0
        #: until when it is stopped (monotonic seconds), 0 if it is not, and whether it is to be killed then
        self.stopped = 0.0
        self.doomed = False

    @property
    def writes(self) -> bool:
        """Whether it puts."""
        return self.place < WRITERS


class Scene:
    """One queue, and all who are at it."""

    def __init__(self, kind: str, seed: int, seconds: float, patience: float) -> None:
        self.figures = Figures(kind, seed)
        self._items = MAKERS[kind]()
        self._board = Board()
        self._chance = random.Random(seed)
        self._seconds = seconds
        self._patience = patience
        self._lives = 0
        self._well: set[int] = set()  # the lives that ended by themselves
        self._people = [Person(place, place in {0, WRITERS}) for place in range(WRITERS + READERS)]
        self._warm: dict[int, tuple[int, int]] = {}
        self._tasks_lost = 0

    def run(self, show: Callable[[str], None], interrupted: Callable[[], bool]) -> None:
        """Let it happen, and see what came of it."""
        start = time.monotonic()
        try:
            for person in self._people:
                self._begin(person)
            while (passed := time.monotonic() - start) < self._seconds and not interrupted():
                time.sleep(self._chance.uniform(0, _PAUSE))
                self._look_after_all()
                if self.figures.wrong:
                    return
                self._strike(self._chance.choice(self._people))
                if passed > self._seconds * _WARM and not self._warm:
                    self._warm = self._measure()
                show(f"{self.figures.queue}: {passed:.0f} s, {sum(self._board.put):,} put, {self._kills():,} kills")
            if not interrupted():
                self._finish()
        finally:
            self.figures.seconds = round(time.monotonic() - start, 1)
            for person in self._people:
                self._end(person)
            if hasattr(self._items, "cancel_join_thread"):
                self._items.cancel_join_thread()  # nobody is there any more who could get something
            self._count()

    def _kills(self) -> int:
        return self.figures.killed_readers + self.figures.killed_writers

    def _begin(self, person: Person) -> None:
        """Start a process in a place."""
        seed = self._chance.getrandbits(32)
        person.begun, person.stopped, person.doomed = time.monotonic(), 0.0, False
        self._board.write(person.place, MOMENT, time.monotonic_ns())
        if person.writes:
            person.life = self._lives
            self._lives += 1
            if self._lives == VETERAN:
                raise RuntimeError("there were more lives than the board has room for: let it take less time")
            arguments: tuple[Any, ...] = (self._items, self._board, person.place, person.life, seed, person.veteran)
            person.process = FORK.Process(target=write, args=arguments)
        else:
            arguments = (self._items, self._board, person.place, seed, person.veteran)
            person.process = FORK.Process(target=read, args=arguments)
        person.process.start()

    def _end(self, person: Person) -> None:
        """Kill a process, if there is one."""
        if person.process is not None:
            person.process.kill()
            person.process.join()
            person.process.close()
            person.process = None

    def _strike(self, person: Person) -> None:
        """Stop or kill somebody."""
        if person.process is None or person.stopped:
            return
        stop = self._chance.random() < _STOPS
        if stop:
            os.kill(person.process.pid or 0, signal.SIGSTOP)
            person.stopped = time.monotonic() + self._chance.uniform(0, _STOPPED)
            person.doomed = not person.veteran and self._chance.random() < 0.5
            self.figures.stops += 1
        elif not person.veteran:
            self._kill(person)

    def _kill(self, person: Person) -> None:
        if person.writes:
            self.figures.killed_writers += 1
        else:
            self.figures.killed_readers += 1
        self._end(person)
        self._begin(person)

    def _look_after_all(self) -> None:
        """Let go on who was stopped long enough, and find out who does not get on, or has ended."""
        now = time.monotonic()
        for person in self._people:
            process = person.process
            if process is None:
                continue
            if person.stopped:
                if now >= person.stopped:
                    self._wake(person)
                continue
            if process.exitcode is not None:
                if process.exitcode:
                    self.figures.wrong.append(f"{self._name(person)} ended with status {process.exitcode}")
                    return
                self._well.add(person.life)
                self._end(person)
                self._begin(person)
                continue
            pause = now - self._board.read(person.place, MOMENT) / 1e9
            self.figures.longest_pause = max(self.figures.longest_pause, pause)
            if pause > self._patience:
                os.kill(process.pid or 0, signal.SIGABRT)
                self.figures.wrong.append(f"{self._name(person)} does not get on for {pause:.1f} s")

    def _wake(self, person: Person) -> None:
        assert person.process is not None
        person.stopped = 0.0
        if person.doomed:
            self._kill(person)
        else:
            self._board.write(person.place, MOMENT, time.monotonic_ns())
            os.kill(person.process.pid or 0, signal.SIGCONT)

    def _name(self, person: Person) -> str:
        return f"{'writer' if person.writes else 'reader'} {person.place}"

    def _measure(self) -> dict[int, tuple[int, int]]:
        """Descriptors and memory of those who are never killed."""
        board = self._board
        return {
            person.place: (board.read(person.place, DESCRIPTORS), board.read(person.place, MEMORY))
            for person in self._people
            if person.veteran
        }

    def _finish(self) -> None:
        """Let all come to an end by themselves, and see whether the queue is as it should be."""
        for person in self._people:
            if person.stopped:
                person.doomed = False
                self._wake(person)
        last = self._measure()
        self._board.end()
        self._join([person for person in self._people if person.writes])
        readers = [person for person in self._people if not person.writes]
        for _ in readers:
            self._items.put(None)
        self._join(readers)
        for place, (first, memory) in self._warm.items():
            name = "writer" if place < WRITERS else "reader"
            self.figures.descriptors[name] = (first, last[place][0])
            self.figures.memory[name] = (memory, last[place][1])
            if last[place][0] > first + 1:  # one can be on its way at the moment
                self.figures.wrong.append(f"the {name} has {last[place][0]} descriptors, and had {first}")
            if last[place][1] > memory + _GROWTH:
                self.figures.wrong.append(f"the {name} has {last[place][1]:,} bytes, and had {memory:,}")
        if not self.figures.wrong:
            self.figures.wrong += self._look_at_the_queue()

    def _join(self, people: list[Person]) -> None:
        end = time.monotonic() + self._patience
        for person in people:
            assert person.process is not None
            person.process.join(max(0.0, end - time.monotonic()))
            if person.process.exitcode is None:
                os.kill(person.process.pid or 0, signal.SIGABRT)
                self.figures.wrong.append(f"{self._name(person)} does not come to an end")
            elif person.process.exitcode:
                self.figures.wrong.append(f"{self._name(person)} ended with status {person.process.exitcode}")
            else:
                self._well.add(person.life)
                self._end(person)

    def _look_at_the_queue(self) -> Iterator[str]:
        """What is wrong with a queue that nobody uses any more."""
        items = self._items
        if not items.empty():
            yield "something is left in the queue"
            return
        if hasattr(items, "join"):
            for _ in range(READERS):
                items.task_done()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                items.join()
            self._tasks_lost = sum(warning.message.tasks for warning in caught)  # type: ignore[union-attr]
        if self.figures.queue == "limited":
            yield from self._look_at_the_places()
        if hasattr(items, "qsize") and items.qsize():
            yield f"an empty queue says that it has {items.qsize()} items"

    def _look_at_the_places(self) -> Iterator[str]:
        """Whether there are as many as there were, soon."""
        items = self._items
        count = 0
        for _ in range(4):
            count = 0
            try:
                while True:
                    items.put(count, timeout=3)
                    count += 1
            except queue.Full:
                pass
            for _ in range(count):
                items.get()
            if count > LIMIT:
                break
        if count != LIMIT:
            yield f"the queue has {count} places, and had {LIMIT}"

    def _count(self) -> None:
        """Whether what was put was got."""
        figures, board = self.figures, self._board
        wrong = board.wrong()
        figures.torn, figures.twice = wrong["torn"], wrong["twice"]
        figures.wrong += [f"{count} items: {name}" for name, count in wrong.items() if count]
        figures.put, figures.got = sum(board.put), board.got[:].count(b"\1")
        for life in range(LIVES):
            missing, behind = board.lost(life)
            well = life in self._well or life >= VETERAN
            figures.lost_in_hand += missing + (behind if well else 0)
            figures.lost_waiting += 0 if well else behind
        if self._tasks_lost > figures.lost_in_hand + figures.lost_waiting + self._kills():
            figures.wrong.append(f"join() says that {self._tasks_lost} tasks were lost")
        # what the processes that are killed at the end have is no loss
        if not figures.wrong and figures.lost_in_hand > figures.killed_readers + READERS:
            figures.wrong.append(f"{figures.lost_in_hand} items were lost, with {figures.killed_readers} readers")


def table(all_figures: list[Figures]) -> str:
    """The figures, a column a queue."""
    rows = [
        ("queue", [figures.queue for figures in all_figures]),
        ("seconds", [f"{figures.seconds:.0f}" for figures in all_figures]),
        ("items put", [f"{figures.put:,}" for figures in all_figures]),
        ("items got", [f"{figures.got:,}" for figures in all_figures]),
        ("writers killed", [f"{figures.killed_writers:,}" for figures in all_figures]),
        ("readers killed", [f"{figures.killed_readers:,}" for figures in all_figures]),
        ("stopped", [f"{figures.stops:,}" for figures in all_figures]),
        ("lost with a reader", [f"{figures.lost_in_hand:,}" for figures in all_figures]),
        ("lost with a writer", [f"{figures.lost_waiting:,}" for figures in all_figures]),
        ("torn, twice", [f"{figures.torn}, {figures.twice}" for figures in all_figures]),
        ("longest pause of one", [f"{figures.longest_pause:.1f} s" for figures in all_figures]),
    ]
    for name in ("writer", "reader"):
        pairs = [figures.descriptors.get(name, (0, 0)) for figures in all_figures]
        rows.append((f"descriptors of a {name}", [f"{first} -> {last}" for first, last in pairs]))
        pairs = [figures.memory.get(name, (0, 0)) for figures in all_figures]
        rows.append((f"memory of a {name}, MiB", [f"{first >> 20} -> {last >> 20}" for first, last in pairs]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}" + "".join(f"{value:>16}" for value in values) for name, values in rows)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser("kills", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=in_range(float, 1, 36000), default=60, help="how long, all queues together; 60")
    add("--queue", choices=MAKERS, action="append", help=f"which queue; {', '.join(SOUND)} if not given")
    add("--seed", type=in_range(int, 0, 2**64), help="what chance begins with; made up if not given")
    add("--patience", type=in_range(float, 1, 3600), default=20, help="seconds until a process counts as stuck; 20")
    options = parser.parse_args(arguments)
    options.results = parser.results(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Kill and report; the exit status."""
    options = parse(arguments)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"kills: seed {seed}", file=sys.stderr, flush=True)
    kinds = options.queue or SOUND
    noted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: noted.append(number))
    line = StatusLine()
    found = []
    for kind in kinds:
        scene = Scene(kind, seed, options.seconds / len(kinds), options.patience)
        scene.run(line.show, lambda: bool(noted))
        found.append(scene.figures)
        if noted:
            break
    line.clear()
    if not options.results.alone:
        print(table(found))
        for figures in found:
            for what in figures.wrong:
                print(f"WRONG: {figures.queue}: {what}")
    options.results.write([asdict(figures) for figures in found])
    return 1 if any(figures.wrong for figures in found) else 128 + noted[0] if noted else 0


if __name__ == "__main__":
    sys.exit(main())
