"""Who stands behind the slots: which process and which thread, whether it lives, and what it does."""

from __future__ import annotations

from typing import NamedTuple

from mpbakery._inspect import doing
from mpbakery._inspect.decode import LOCKS, Place, Seat
from mpbakery._inspect.family import Family, Key, Seen
from mpbakery._system import procfs
from mpbakery._system.layout import QUEUE_LOCK
from mpbakery._system.procfs import Sleep


class Who(NamedTuple):
    """A thread: its process and its native id, both as the one who looks knows them."""

    pid: int
    thread: int


class Person(NamedTuple):
    """Somebody who holds a primitive, or waits for it."""

    who: Who
    seat: Seat
    is_dead: bool


class Scene(NamedTuple):
    """A primitive at one moment, and who is at it."""

    seen: Seen
    place: Place
    holder: Person | None
    line: tuple[Person, ...]

    @property
    def key(self) -> Key:
        """What tells the primitive from all others."""
        return self.seen.key

    @property
    def living(self) -> list[Person]:
        """Those in line who live: the dead are cleared away as soon as somebody has to pass them."""
        return [person for person in self.line if not person.is_dead]

    @property
    def can_be_stuck(self) -> bool:
        """Whether one thread holds it at a time, which is not idle meanwhile, as readers of a queue are."""
        return self.place.kind in LOCKS - {QUEUE_LOCK}


class People:
    """What is known of everybody during one inspection."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._dead: dict[tuple[int, int, int], bool] = {}
        self._inside: dict[int, dict[int, int] | None] = {}

    def scene(self, seen: Seen, place: Place) -> Scene:
        """Who is at a primitive."""
        holder = None if place.owner is None else self.person(place.owner, place.namespace)
        return Scene(seen, place, holder, tuple(self.person(seat, place.namespace) for seat in place.line))

    def person(self, seat: Seat, namespace: int) -> Person:
        """Who has a slot."""
        host = self._family.host_of(seat.pid, namespace)
        key = seat.pid, namespace, seat.start
        dead = self._dead.get(key)
        if dead is None:
            dead = self._dead[key] = self._family.is_dead(host, seat.start)
        if not host or dead:
            return Person(Who(seat.pid, seat.thread), seat, dead)
        threads = self._threads_inside(host)
        thread = seat.thread if threads is None else threads.get(seat.thread, 0)
        return Person(Who(host, thread), seat, dead)

    def forget_deaths(self) -> None:
        """Look anew who is dead."""
        self._dead.clear()

    def sleep_of(self, who: Who) -> Sleep | None:
        """What a thread does, None if it has ended."""
        return procfs.sleep_of(who.pid, who.thread) if who.thread else None

    def describe(self, person: Person) -> str:
        """What somebody does, in words."""
        if person.is_dead:
            return doing.DEAD
        if person.who.pid not in self._family.members:
            return "out of sight"
        return doing.describe(person.who.pid, self.sleep_of(person.who))

    def awaited_child(self, who: Who) -> int:
        """The process for whose end a thread waits, 0 if it does not."""
        child = doing.awaited_child(self.sleep_of(who))
        if not child or self._threads_inside(who.pid) is None:
            return child
        return self._family.host_of(child, procfs.namespace_of(who.pid)) or 0

    def _threads_inside(self, pid: int) -> dict[int, int] | None:
        """The threads of a process by their numbers in its PID namespace; None if that is the one who looks' own."""
        if pid not in self._inside:
            inside = procfs.number_inside(pid)
            self._inside[pid] = (
                None
                if inside in {0, pid}
                else {procfs.number_inside(pid, thread): thread for thread in procfs.threads(pid)}
            )
        return self._inside[pid]
