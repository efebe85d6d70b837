"""A running program over a while: how often each lock is taken, how long it is held, how long its line is.

The program counts acquisitions itself; all else is seen by looking often: the share of looks at which a lock was held,
and the mean length of its line. How long one waits, and holds, follows from these (Little's law: as many stand in line,
on average, as come in the time that one waits).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mpbakery._errors import InspectionError
from mpbakery._inspect import judge
from mpbakery._inspect.decode import LOCKS, SEMAPHORES, Place
from mpbakery._inspect.family import Family, Key, Seen
from mpbakery._inspect.judge import Ring
from mpbakery._inspect.model import DEADLOCK, FINE
from mpbakery._inspect.people import People, Scene
from mpbakery._system import procfs

#: After so many seconds new processes, and what they share, are looked for, if that takes no more than this share.
_SEARCH: Final = 5.0
_SEARCH_SHARE: Final = 0.01
#: The share of a processor that looking may take, beside the drawing.
_SHARE: Final = 0.02
#: So long what nobody uses is looked at, each time that rows are made (s).
_PATROL: Final = 0.02
#: The shortest time between two looks (s).
_SHORTEST: Final = 0.05


@dataclass(frozen=True)
class Row:
    """What was seen of a primitive since the last row of it.

    `rate` is how often a second it was acquired, `held` the share of the time in which it was held, `in_line` how many
    stood in line on average, `longest` the longest wait that was seen (s). `note` says what is wrong, if anything.
    """

    kind: str
    name: str
    identity: str
    rate: float
    held: float
    in_line: float
    longest: float
    verdict: str
    note: str

    @property
    def wait(self) -> float | None:
        """The mean wait (s), None if nobody got it."""
        return self.in_line / self.rate if self.rate else None

    @property
    def hold(self) -> float | None:
        """For how long it is held, on average (s); None if nobody got it."""
        return self.held / self.rate if self.rate and self.held else None


class _Track:
    """One primitive since the last row."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.place = seen.place
        self.scene: Scene | None = None
        self.start_anew(time.monotonic())

    def start_anew(self, now: float) -> None:
        self.count = _count(self.place)
        self.since = now
        self.looks = self.held = self.in_line = 0
        self.longest = 0.0

    @property
    def is_busy(self) -> bool:
        return self.place.owner is not None or bool(self.place.line) or _count(self.place) != self.count

    def note(self, place: Place, now: float) -> None:
        self.place = place
        self.looks += 1
        self.held += place.owner is not None
        line = place.line
        self.in_line += len(line)
        self.longest = max([self.longest, *(now - seat.arrived for seat in line if seat.arrived)])

    def row(self, now: float, verdict: str, note: str) -> Row:
        return Row(
            kind=self.place.type,
            name=self.place.name,
            identity=self.place.identity,
            rate=max(0, _count(self.place) - self.count) / max(now - self.since, 1e-9),
            held=self.held / self.looks if self.place.kind in LOCKS else 0.0,
            in_line=self.in_line / self.looks,
            longest=self.longest,
            verdict=verdict,
            note=note,
        )


class Watch:
    """Everything in the program of one process, watched.

    Raises InspectionError where there is nothing to see, or no longer.
    """

    def __init__(self, pid: int, stuck: float) -> None:
        self._pid = pid
        self._stuck = stuck
        self._family: Family | None = None
        self._tracks: dict[Key, _Track] = {}
        self._rings: list[Ring] = []
        self._candidates: list[Ring] = []
        #: of what was in use at the last look; and the rest, in turn
        self._busy: dict[Key, _Track] = {}
        self._keys: list[Key] = []
        self._next = 0
        self._search_at = self._looked = 0.0
        self._pause = _SHORTEST
        self._search()

    def close(self) -> None:
        """Close what was opened for reading."""
        if self._family is not None:
            self._family.close()
            self._family = None

    @property
    def processes(self) -> int:
        """How many processes share something."""
        return len(self._family.members) if self._family else 0

    @property
    def primitives(self) -> int:
        """How much there is."""
        return len(self._tracks)

    @property
    def rings(self) -> list[Ring]:
        """The deadlocks, at the last rows."""
        return self._rings

    @property
    def pause(self) -> float:
        """How many seconds from now the next look is due."""
        return max(0.0, self._looked + self._pause - time.monotonic())

    def look(self) -> None:
        """Look at what is in use."""
        start = time.monotonic()
        for track in self._busy.values():
            place = track.seen.again()
            if place is not None:
                track.note(place, start)
        self._looked = time.monotonic()
        self._pause = max(_SHORTEST, (self._looked - start) / _SHARE)

    def rows(self) -> list[Row]:
        """What was seen since the last call, and is now, of all that is or was in use.

        Of thousands that nobody uses, some are looked at each time: one that comes into use shows some rows later.
        """
        now = time.monotonic()
        if now >= self._search_at or not _runs(self._pid):
            self._search()
        people = People(self._known_family())
        before: dict[Key, Scene | None] = {}
        scenes: dict[Key, Scene] = {}
        for key, track in self._due(now):
            place = track.seen.again()
            if place is None:
                self._search_at = 0.0  # its process has ended, or it is another one now: look for all of them anew
                continue
            track.note(place, now)
            before[key] = track.scene
            track.scene = scenes[key] = people.scene(track.seen, place)
            if track.is_busy:
                self._busy[key] = track
            else:
                self._busy.pop(key, None)
        entangled = self._find_rings(scenes, people)
        rows = []
        for key, scene in scenes.items():
            first = before[key]
            verdict, note = (FINE, "") if first is None else judge.judge(first, scene, now, self._stuck)
            if key in entangled:
                verdict, note = DEADLOCK, "one of a ring"
            track = self._tracks[key]
            rows.append(track.row(now, verdict, note))
            track.start_anew(now)
        return rows

    def _due(self, now: float) -> Iterator[tuple[Key, _Track]]:
        """What is in use, and of the rest as many as there is time for, in turn."""
        yield from list(self._busy.items())
        for _ in range(len(self._keys)):
            if time.monotonic() - now > _PATROL:
                return
            self._next = (self._next + 1) % len(self._keys)
            key = self._keys[self._next]
            if key not in self._busy:
                yield key, self._tracks[key]

    def _find_rings(self, scenes: dict[Key, Scene], people: People) -> set[Key]:
        """The locks of the rings that were there at the last rows, and still are."""
        self._rings = [
            ring
            for ring in self._candidates
            if judge.is_still_there(ring, lambda scene: scenes.get(scene.key), people.awaited_child)
        ]
        busy = [scene for scene in scenes.values() if scene.holder or scene.line]
        self._candidates = judge.find_rings(busy, people.awaited_child)
        return {edge.wants.key for ring in self._rings for edge in ring if edge.wants}

    def _known_family(self) -> Family:
        if self._family is None:
            raise InspectionError(f"process {self._pid} is not watched any more")
        return self._family

    def _search(self) -> None:
        if not _runs(self._pid) and self._family is not None:
            self._pid = next(filter(_runs, sorted(self._family.members)), self._pid)
        if not _runs(self._pid):
            raise InspectionError(f"process {self._pid} has ended")
        start = time.monotonic()
        family = Family(self._pid)
        self.close()
        self._family = family
        tracks = {}
        for seen in family.primitives():
            track = tracks[seen.key] = self._tracks.get(seen.key) or _Track(seen)
            track.seen = seen
        self._tracks = tracks
        self._keys = list(tracks)
        self._busy = {key: track for key, track in tracks.items() if track.is_busy}
        now = time.monotonic()
        self._search_at = now + max(_SEARCH, (now - start) / _SEARCH_SHARE)


def _runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    sleep = procfs.sleep_of(pid, pid)
    return sleep is not None and sleep.state not in "ZX"


def _count(place: Place) -> int:
    """How often it was acquired since it was made."""
    return place.taken if place.kind in SEMAPHORES else place.acquisitions
