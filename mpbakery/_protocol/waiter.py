"""An attempt to acquire that has to wait: its ticket, the line ahead of it, and what it does until its turn comes."""

from __future__ import annotations

import math
from typing import Final

from mpbakery._protocol.naps import DOUBT, LONG_NAP, NAP, nap_of
from mpbakery._protocol.seats import Slot
from mpbakery._system.layout import (
    ATTENTION,
    AWAKE,
    CHOOSING,
    HIGH,
    INDEX,
    NUMBERS,
    OWNER,
    PARKED,
    PARKED_LONG,
    slot_of,
)

#: How many seconds an attempt whose time is up waits for processes in the doorway: they are there for microseconds.
DOORWAY_GRACE: Final = 0.001

HEAD: Final = 1
GAVE_UP: Final = 2
LOST: Final = 3


class Waiter:
    """An attempt to acquire that did not find itself alone: from the doorway to the head of the line."""

    __slots__ = (
        "_arrived",
        "_at_head",
        "_doubted",
        "_line",
        "_looked",
        "_rounds",
        "_slot",
        "_ticket",
        "_until",
        "_watched",
        "deadline",
        "death",
        "generation",
        "recovering",
    )

    def __init__(self, slot: Slot, deadline: float | None) -> None:
        self._slot = slot
        self._line = slot.line
        self.deadline = deadline
        #: the slot's generation when the ticket was taken
        self.generation: object = None
        #: the HELD word of the dead owner that is to be taken over from, 0 if none; and who it was
        self.recovering = 0
        self.death: object = None
        self._ticket = 0
        self._at_head = False
        self._watched = (0, 0)
        self._rounds = 0
        self._doubted = DOUBT
        self._arrived = self._looked = self._line.machine.clock()
        #: what others can read of when it ends
        self._until = 0.0 if deadline is None else max(deadline, self._arrived)

    def await_turn(self) -> int:
        """Wait for one's turn: HEAD, with the lock free or to be taken over; GAVE_UP; or LOST, if the slot was.

        What it found can change until the caller acts upon it only by what bumps the slot's generation.
        """
        slot = self._slot
        order = self._line.machine.order
        while not slot.lost:
            if slot.generation is not self.generation and not self._doorway():
                continue
            ahead = [] if self._at_head else self._ahead()
            if ahead:
                number, place = ahead[-1]
                going_on = self._pause(NUMBERS + place, number, ahead)
            else:
                self._at_head = True  # and will be as long as it has this ticket: who comes later draws a higher one
                if order is not None:
                    order()  # OWNER must not be read before the room: it would be of the time before the last owner
                obstacle = slot.look(self.generation, self.recovering)
                if obstacle is None:
                    return HEAD
                going_on = self._pause(*obstacle, ahead)
            if not going_on:
                return GAVE_UP
        return LOST

    def _doorway(self) -> bool:
        """Take a ticket; False if a handler took the place in the meantime."""
        slot, words = self._slot, self._slot.words
        self.recovering = 0
        self._at_head = False
        # No call, nor a jump that is taken (where CPython 3.10 runs handlers, too), between a look at whose the slot is
        # and the store: the CHOOSING of a child that a handler has forked would go into its parent's slot.
        if not slot.lost:
            generation = slot.generation
            # again each time: a handler that came to the lock itself has left its own, and its wait had another end
            slot.times[slot.arrived] = self._arrived
            slot.times[slot.deadline] = self._until
            words[slot.number] = CHOOSING
        else:
            return False
        # fence A: without it two processes could both scan a room in which neither is choosing yet
        slot.fence()
        if words[HIGH] != slot.high:
            slot.see()
        ticket = max(self._line.numbers()) + 1
        if slot.generation is generation:
            words[slot.number] = ticket
        else:
            return False
        self._ticket = ticket
        self.generation = generation
        # If we are a signal handler, our flow may have been the head of the line, or on the way to wake that. The fence
        # in here is B: without it two processes could both look before they see the other's ticket, and both be heads.
        self._line.wake_if_free()
        return True

    def _ahead(self) -> list[tuple[int, int]]:
        """Who is ahead of us, as (number, slot) in their order, those in the doorway first."""
        mine = (self._ticket, self._slot.index)
        return sorted(
            (number, slot) for slot, number in enumerate(self._line.numbers()) if number and (number, slot) < mine
        )

    def _pause(self, word: int, value: int, ahead: list[tuple[int, int]]) -> bool:
        """Wait until `word` is no longer `value`, or for a while; False when the time is up."""
        machine = self._line.machine
        in_doorway = bool(ahead) and ahead[-1][0] == CHOOSING
        deadline = self.deadline
        if deadline is not None and (grace := self._grace(ahead)):
            deadline = max(deadline, self._arrived) + grace
        if self._watched != (word, value):
            self._watched = (word, value)
            self._rounds = 0
            if self._poll(word, value, deadline):
                return True
        now = machine.clock()
        if deadline is not None and now >= deadline:
            return self._look(ahead)
        if now - self._looked >= NAP:
            if self._look(ahead):
                return True  # and look at the next one at once: many may have died together
            self._looked = now
        if deadline is None and now - self._arrived >= self._doubted:
            self._wonder()
        seconds = nap_of(len(ahead))
        if deadline is not None:
            seconds = min(seconds, deadline - now)
        if in_doorway:
            machine.nap(seconds, self._rounds)  # who is in the doorway wakes nobody
        else:
            self._park(word, value, seconds, ahead)
        self._rounds += 1
        return True

    def _wonder(self) -> None:
        """Look whether this wait is for ever."""
        self._doubted *= 2
        doubt = self._line.doubt
        if doubt is None or doubt(self._slot):
            self._doubted = math.inf

    def _grace(self, ahead: list[tuple[int, int]]) -> float:
        """How many seconds to wait for those ahead when the time is up."""
        return DOORWAY_GRACE if ahead and ahead[-1][0] == CHOOSING else 0.0

    def _poll(self, word: int, value: int, deadline: float | None) -> bool:
        """Look at `word` for some microseconds, then between yields; whether it changed."""
        machine, words = self._line.machine, self._slot.words
        for _ in range(machine.spins):
            if words[word] != value:
                return True
        for _ in range(machine.yields):
            if deadline is not None and machine.clock() >= deadline:
                return False
            machine.yield_()
            if words[word] != value:
                return True
        return False

    def _park(self, word: int, value: int, seconds: float, ahead: list[tuple[int, int]]) -> None:
        slot, words = self._slot, self._slot.words
        kind = PARKED_LONG if seconds > LONG_NAP else PARKED
        fence = self._line.machine.new_fence()
        if not slot.lost:
            words[slot.park] = kind
        else:
            return
        # Whoever leaves the line calls for ATTENTION to the next head. And one that waits for ATTENTION to be cleared
        # has called for it before it looked: doing so once more would hide from it that it was.
        if not ahead and word != ATTENTION:
            if self._line.machine.order is not None:
                self._line.machine.order()  # ATTENTION must not be seen before the reason for it
            words[ATTENTION] = 1
        # Store, fence, look: whoever lets us go on either has done it by now, or will see that we are parked.
        fence()
        while words[word] == value and slot.generation is self.generation:
            self._line.machine.park(slot.park, kind, min(seconds, LONG_NAP), self._rounds)
            seconds -= LONG_NAP
            # The nap of one far down the line goes on if nobody has ended it. Not if the one ahead is dead: all between
            # here and the head may be, and nobody else would find out.
            if seconds <= 0 or words[slot.park] != kind or self._line.table.is_dead(ahead[-1][1]):
                break
        if not slot.lost:
            words[slot.park] = AWAKE

    def _look(self, ahead: list[tuple[int, int]]) -> bool:
        """Look whether the process that we wait for is dead, and if so, help ourselves on; whether it was."""
        line = self._line
        if ahead:
            if not line.table.is_dead(ahead[-1][1]):
                return False
            # No longer than a nap: who has the claim lock may wait behind us, in a handler that came into its claim.
            until = line.machine.clock() + NAP
            return line.table.reap(ahead[-1][1], until if self.deadline is None else min(until, self.deadline))
        return self._look_at_obstacle()

    def _look_at_obstacle(self) -> bool:
        """The same for the head, which waits for the owner."""
        line, slot = self._line, self._slot
        held = line.words[OWNER] & INDEX
        since = line.words[held]
        if not line.owner_died(at_once=True) or line.words[held] != since or slot.generation is not self.generation:
            return False  # the second: it released, and only then it ended; the third: whoever is the head now is told
        dead = slot_of(line.slots, held)
        # Told before it is done, so that whoever turns the warning into an error leaves the death to be told again.
        # A handler of warnings may itself acquire this lock: that inner attempt takes over and need not tell again.
        announce = slot.announced != since
        slot.announced = since
        self.death = line.told(dead, announce)
        self.recovering = held
        return True
