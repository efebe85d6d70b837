"""A room in which threads wait until somebody lets them go: behind conditions, events and barriers.

A thread that waits has a place, which is a slot of the primitive's memory. Its number is a ticket as long as it waits;
whoever lets it go puts another value there and wakes it. Nobody else writes the number of a living process.

A process that is killed leaves its number behind, and its wake-up, if it had been let go but did not know it yet: both
can be seen, since the slot says whose it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from mpbakery._protocol.interfaces import Machine, SharedMemory, Table
from mpbakery._protocol.naps import LONGEST_NAP, NAP
from mpbakery._protocol.numbers import Numbered
from mpbakery._system.layout import ARRIVED, DEADLINE, FIRST_TICKET, LET_GO, NUMBERS, record_of


class Place:
    """Where one thread waits. The slot is its process's until this is collected."""

    __slots__ = ("__weakref__", "lost", "number", "record")

    def __init__(self) -> None:
        #: the word that others let this thread go by, and the first one of the slot's record
        self.number = 0
        self.record = 0
        #: this is a forked child, and the place its parent's
        self.lost = False


class WaitingRoom(Numbered):
    """The waiting room of one primitive, as a process sees it."""

    __slots__ = ("_free", "_places", "_slots", "machine", "table", "times")

    def __init__(self, memory: SharedMemory, table: Table, machine: Machine) -> None:
        self.words = memory.words
        self.spans = memory.spans
        self.times = memory.times
        self._slots = memory.slots
        self.table = table
        self.machine = machine
        self._free: list[Place] = []
        self._places: weakref.WeakSet[Place] = weakref.WeakSet()

    def renew(self) -> None:
        """In a forked child: start without places; the parent's stay the parent's."""
        for place in list(self._places):
            place.lost = True
        self._free = []
        self._places = weakref.WeakSet()

    @property
    def is_used(self) -> bool:
        """Whether this process has places."""
        return bool(self._places)

    def enter(self) -> Place:
        """A place for the calling thread, in which it does not wait yet; to be given back with `leave`.

        The caller clears the number itself before, in its own frame: a handler that raises at the entry of a function
        would leave a ticket behind. And only if the place is not lost, looking right before the store, without a call:
        a handler could fork there, and the child would write its parent's number.

        Raises SlotsExhausted, ClaimFileLostError, ClaimsRefusedError, ForeignNamespaceError.
        """
        # In one piece between threads and signal handlers. A place that is lost before it is given back is collected.
        try:
            return self._free.pop()
        except IndexError:
            pass
        while True:
            place = Place()
            self._places.add(place)
            index = self.table.claim(place, None)
            if index is not None and not place.lost:
                place.number = NUMBERS + index
                place.record = record_of(self._slots, index)
                return place

    def leave(self, place: Place) -> None:
        """Give a place back, whose number is IDLE again; the process keeps one for the next of its threads."""
        # No call between the look and append(): a handler could fork there, and the child would have its parent's.
        free = self._free
        if not free and not place.lost:
            free.append(place)

    def waiting(self) -> list[int]:
        """The slots of those who wait, in the order of their tickets."""
        tickets = sorted((number, slot) for slot, number in enumerate(self.numbers()) if number >= FIRST_TICKET)
        return [slot for _ticket, slot in tickets]

    def line_up(self, place: Place) -> int:
        """Wait from now on, behind everyone: the ticket. Nobody else may do so at the same time."""
        ticket = max(FIRST_TICKET - 1, *self.numbers()) + 1
        if not place.lost:
            self.words[place.number] = ticket
        return ticket

    def let_go(self, slot: int, how: int = LET_GO) -> bool:
        """End the waiting of `slot`; False if it does not wait (any more)."""
        number = NUMBERS + slot
        words = self.words
        # no call between the look and the store: a handler could let it go there
        if words[number] >= FIRST_TICKET:
            words[number] = how
        else:
            return False
        self.machine.unpark(number)
        return True

    def is_lost(self, slot: int) -> bool:
        """Whether the process of `slot` is proved to be gone; what it left in the room is then cleared away."""
        if not self.table.is_dead(slot):
            return False
        self.table.reap(slot, self.machine.clock() + NAP)
        return True

    def orphans(self) -> list[int]:
        """The slots of those who were let go, and died before they knew it."""
        return [slot for slot, number in enumerate(self.numbers()) if number == LET_GO and self.table.is_dead(slot)]

    def sleep(
        self, place: Place, ticket: int, deadline: float | None, look: Callable[[], bool] | None = None, nap: float = 0
    ) -> bool:
        """Sleep until somebody lets this place go; False when the time is up or there is something to look after.

        `look()` says so, and is asked after each nap; a nap takes `nap` seconds, 0 for one that grows.
        """
        words, machine, number = self.words, self.machine, place.number
        arrived, until = machine.clock(), 0.0 if deadline is None else deadline
        if not place.lost:
            self.times[place.record + ARRIVED] = arrived
            self.times[place.record + DEADLINE] = until
        for _ in range(machine.spins):
            if words[number] != ticket:
                return True
        naps = 0
        while not place.lost and words[number] == ticket:
            now = machine.clock()
            if deadline is not None and now >= deadline:
                return False
            naps += 1
            seconds = nap or min(NAP * naps, LONGEST_NAP)
            machine.park(number, ticket, seconds if deadline is None else min(seconds, deadline - now), naps)
            if look is not None and words[number] == ticket and look():
                return False
        return not place.lost
