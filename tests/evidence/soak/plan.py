"""The plan of a soak: who does what with which lock, and when who is killed or stopped.

It is a pure function of the seed and the size, the same on every Python; what comes of it depends on the scheduler.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

#: The steps of a script. In FORK_INSIDE, the process forks while it holds the lock.
VISIT: Final = "visit"
FORK: Final = "fork"
FORK_INSIDE: Final = "fork inside"
OWN_LOCK: Final = "own lock"
PAUSE: Final = "pause"

KILL: Final = "kill"
STOP: Final = "stop"

#: A worker, its child, and the child of that.
GENERATIONS: Final = 3
#: Threads of a process at most.
THREADS: Final = 3
#: The locks 0 and 1 live as long as the soak, the others for a round.
LASTING: Final = 2
#: Processes that live as long as the soak: one forked, one spawned.
VETERANS: Final = 2
#: How many different lives there are for each place; its occupants lead them in turn.
_LIVES: Final = 4


class Size(NamedTuple):
    """What makes the plan, beside the seed."""

    seconds: float
    workers: int
    locks: int

    @property
    def mortals(self) -> int:
        """How many places there are for processes that may be killed."""
        return self.workers * GENERATIONS

    @property
    def places(self) -> int:
        """How many processes there can be at once; the last one is the conductor."""
        return self.mortals + VETERANS + 1

    def is_spawned(self, place: int) -> bool:
        """Whether the process in `place` is spawned, and not forked."""
        if place >= self.mortals:
            return place == self.mortals + 1
        return place % GENERATIONS == 0 and self.uses_spawn(place)

    def uses_spawn(self, place: int) -> bool:
        """Whether the process in `place` descends from a spawned one, and so knows only locks made for spawn."""
        if place >= self.mortals:
            return place == self.mortals + 1
        return place // GENERATIONS % 4 == 3


def is_for_spawn(lock: int) -> bool:
    """Whether that lock is made for spawn, and not for fork."""
    return lock % 2 == 1


class Step(NamedTuple):
    """One thing to do: `timeout` is for acquire, None for as long as it takes; `seconds` is how long to stay."""

    what: str
    lock: int
    timeout: float | None
    seconds: float


Script = tuple[Step, ...]


class Life(NamedTuple):
    """What a process does: in every turn, a script for each of its threads. Without a number of turns, to the end."""

    scripts: tuple[Script, ...]
    turns: int | None
    #: the lock that the process ends with, held; None if it ends as it should
    keeps: int | None


class Event(NamedTuple):
    """Something is done to whoever is in `place`, `moment` seconds after the round began; a stop lasts `seconds`."""

    moment: float
    what: str
    place: int
    seconds: float


class Round(NamedTuple):
    """The life of the locks that do not last."""

    seconds: float
    events: tuple[Event, ...]
    #: all are killed at the end, instead of being told to leave
    killed: bool


class Plan:
    """All of it, for that seed. Rounds are drawn when they are asked for: a day of them would be a lot of memory."""

    def __init__(self, seed: int, size: Size) -> None:
        self._seed = seed
        self._size = size
        choose = random.Random(f"lives {seed}")
        #: of each place
        self.lives = tuple(
            tuple(_draw_life(choose, size, place) for _ in range(_LIVES)) for place in range(size.mortals + VETERANS)
        )

    def rounds(self) -> Iterator[Round]:
        """The rounds, in their order; the same ones every time."""
        choose = random.Random(f"rounds {self._seed}")
        left = self._size.seconds
        while left > 0:
            one = _draw_round(choose, self._size, min(left, choose.uniform(2, 6)))
            yield one
            left -= one.seconds

    def digest(self) -> str:
        """The same for the same plan."""
        digest = hashlib.sha256(repr(self.lives).encode())
        for one in self.rounds():
            digest.update(repr(one).encode())
        return digest.hexdigest()[:16]


def _draw_life(choose: random.Random, size: Size, place: int) -> Life:
    veteran = place >= size.mortals
    locks = [
        lock for lock in range(LASTING if veteran else size.locks) if is_for_spawn(lock) or not size.uses_spawn(place)
    ]
    threads = choose.choice((1, 1, 2, THREADS))
    scripts = tuple(_draw_script(choose, locks, main=not thread, veteran=veteran) for thread in range(threads))
    if veteran:
        return Life(scripts, None, None)
    keeps = choose.choice(locks) if choose.random() < 0.1 else None
    return Life(scripts, choose.choice((1, 5, 20, 60)), keeps)


def _draw_script(choose: random.Random, locks: Sequence[int], *, main: bool, veteran: bool) -> Script:
    favourites = [choose.choice(locks) for _ in range(choose.choice((1, 2, 4)))]
    if not veteran and choose.random() < 0.3:
        # in a hurry, so that a kill hits it in the middle of acquire and release
        return tuple(Step(VISIT, choose.choice(favourites), choose.choice((None, 0, 0.001)), 0) for _ in range(40))
    return tuple(_draw_step(choose, favourites, main=main, veteran=veteran) for _ in range(8))


def _draw_step(choose: random.Random, favourites: Sequence[int], *, main: bool, veteran: bool) -> Step:
    lock = choose.choice(favourites)
    way = choose.random()
    if way < 0.15 and main and not veteran:
        return Step(FORK if way < 0.1 else FORK_INSIDE, lock, None, 0)
    if way > (0.8 if veteran else 0.97):
        return Step(OWN_LOCK, lock, None, 0)
    if way > (0.6 if veteran else 0.85):
        return Step(PAUSE, lock, None, choose.choice((0, 0.0003, 0.003, 0.02)))
    timeout = choose.choice((None, None, None, 0, 0.0001, 0.001, 0.01, 0.1))
    return Step(VISIT, lock, timeout, choose.choice((0, 0, 0, 0.0003, 0.002, 0.01)))


def _draw_round(choose: random.Random, size: Size, seconds: float) -> Round:
    events: list[Event] = []
    moment = 0.0
    while (moment := moment + choose.uniform(0.01, 0.16)) < seconds:
        for _ in range(choose.choice((1, 1, 1, 1, 4))):  # sometimes a holder dies together with its heirs
            worker = choose.choice(range(size.workers))
            generation = choose.choice((0, 0, 0, 1, 1, 2))
            # a spawned process takes its time to start, and must get to something before it is killed
            if worker % 4 != 3 or generation or choose.random() < 0.3:
                events.append(Event(moment, KILL, worker * GENERATIONS + generation, 0))
    moment = 0.0
    while (moment := moment + choose.uniform(0.1, 0.8)) < seconds:
        place = choose.choice(range(size.mortals + VETERANS))
        events.append(Event(moment, STOP, place, choose.choice((0.01, 0.1, 0.4, 1))))
    return Round(seconds, tuple(sorted(events)), choose.random() < 0.3)
