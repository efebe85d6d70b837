"""What a thread has in one lock: its slot, how far its attempts have come, and the calls that release through it."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from typing import Any, Final

from mpbakery._protocol.interfaces import Span
from mpbakery._protocol.line import Line
from mpbakery._system.layout import (
    ARRIVED,
    ATTENTION,
    CLOSED,
    DEADLINE,
    ENTERED,
    FOREIGN,
    HELD,
    INDEX,
    LEFT_BY_OTHERS,
    NOBODY,
    NUMBERS,
    OWNER,
    PARK,
    SCRATCH,
    record_of,
)
from mpbakery._system.memory import LateWord
from mpbakery._system.native import get_ident, local

# How far the innermost attempt to acquire of a thread has come, as a signal handler finds it: `Slot.attempt`.
NONE: Final = 0
UNDER_WAY: Final = 1
RETURNING: Final = 2  # it comes again: HELD is filled, and may have to be cleared again


class Slot:
    """One thread's slot: where its words are, and how far the thread's attempts to acquire have come.

    Asking for its truth value is the second half of a release, see `Memory.clearing`.
    """

    __slots__ = (
        "alone",
        "announced",
        "arrived",
        "attempt",
        "claimed_for",
        "deadline",
        "entered",
        "entered_at",
        "free",
        "generation",
        "heir",
        "held",
        "high",
        "ident",
        "idle",
        "index",
        "left",
        "left_by_others",
        "line",
        "lost",
        "must_enter",
        "number",
        "order",
        "park",
        "refence",
        "room",
        "take",
        "tenure",
        "times",
        "until",
        "words",
    )

    # where its words are, once it has an index
    number: int
    held: int
    entered_at: int
    park: int
    arrived: int
    deadline: int
    # what `Line.view` saw last
    high: int
    room: Span
    alone: memoryview

    def __init__(self, line: Line) -> None:
        self.line = line
        self.words = line.words
        self.times = line.times
        self.tenure = line.tenure
        #: the thread, as threading knows it
        self.ident = get_ident()
        self.index = -1
        #: what the slot was claimed for: it is this thread's as long as that exists
        self.claimed_for: object = None
        #: NONE, or how far the innermost attempt of this thread has come; UNDER_WAY as long as the thread has no slot.
        #: From its last look whether its place was taken to the stores that follow, the `generation` of that place:
        #: once that is replaced, this says no more that it is about to enter.
        self.attempt: object = UNDER_WAY
        #: this is a forked child, and the slot its parent's
        self.lost = False
        #: then, what the child has instead, if an attempt that was begun here goes on there
        self.heir: Seats | None = None
        #: whether nobody could do anything with an error that ends an attempt of this thread
        self.must_enter = False
        #: replaced by whoever takes the place of the attempt under way: a handler of its own thread, or a fork
        self.generation = object()
        #: until when (monotonic seconds) the thread may come again without standing in line
        self.until = 0.0
        #: the death that this thread has warned of and not taken over from yet, by the bits in the dead slot's HELD
        self.announced = 0
        #: how many acquisitions this slot has seen, and how many of them are known to have been released
        self.entered = 0
        self.left = 0
        self.left_by_others = SCRATCH
        #: what undoes an attempt stores in `number`: see `Machine.idle`
        self.idle = line.machine.idle
        self.order = line.machine.order
        fence = line.machine.new_fence()
        self.take = fence.take
        self.free = fence.free
        self.refence = fence.refence

    def see(self) -> None:
        """Look how many slots are in use, and know how the waiting room looks when only we choose in it."""
        self.high, self.room, self.alone = self.line.view(self.index)

    def is_in(self) -> bool:
        """Whether the thread, which has a slot, holds the lock."""
        words = self.words
        return words[self.held] != 0 and words[OWNER] & INDEX == self.held and self.attempt != RETURNING

    def __bool__(self) -> bool:
        """The rest of a release, right after the store that cleared this thread's HELD: wake the next in line.

        Raises ValueError if nobody held the lock.
        """
        if self.lost:
            # This is a forked child, and the end of a `with` that was begun before the fork: it gives back what the
            # child has got itself meanwhile, and nothing of its parent's.
            if self.line.is_held_here():
                self.line.release_for_another()
            return False
        # Store, fence, look: else a waiter that sees the lock held and parks, and we, who see nobody, miss each other.
        try:
            self.free()
        except RuntimeError:
            self.refree()
        if self.words[ATTENTION]:
            if get_ident() != self.ident:
                self.words[FOREIGN] = 1  # another thread, which has kept what releases here
            self.line.attend()
            self.left = max(self.left, self.line.left_by_others(self.left_by_others, self.entered))
        # Counted rather than marked as held, because a handler may acquire and release between the store and here.
        left = self.left + 1
        if left == self.entered:
            self.left = left
        elif left < self.entered:
            # less what a handler has acquired since the store, and keeps
            self.left = self.entered - self._releases_under_way() - self.is_in()
        else:
            self.line.release_for_another()
        return False

    def fence(self) -> None:
        """A full fence that leaves the private lock taken, as `free` expects to find it in the next release."""
        try:
            self.free()
        except RuntimeError:
            pass  # a handler's fence has left it free; what follows is a fence in any case
        self.take()

    def refree(self) -> None:
        """A full fence that leaves the private lock free, as `free` has just found it.

        Another thread's acquisition, or a handler's fence, has left it so.
        """
        self.take()
        self.refence()

    def look(self, generation: object, recovering: int) -> tuple[int, int] | None:
        """What is in the way of the head of the line, as a word and what stands in it until then; None if nothing is.

        What this found can change, until the head enters, only by what replaces the `generation` of its place. Not in
        its way is the dead owner that it takes over from, the one with the HELD word `recovering`.
        """
        words = self.words
        owner = words[OWNER]
        last = owner & INDEX
        since = words[last]
        if since:
            if last != recovering:
                return last, since
        elif self.tenure and owner not in (self.held, NOBODY) and not owner & CLOSED:
            # Store, fence, look, as who comes again does, in its HELD and here: at least one of us sees the other. No
            # call before the store, at which a handler could take our place at the head.
            order = self.order
            self.attempt = generation
            if self.generation is generation:
                words[OWNER] = owner | CLOSED
            self.attempt = UNDER_WAY
            if order is not None:
                order()  # or, if a handler raises, the next head could be one before this is seen, and enter before it
            self.fence()
            since = words[last]
            if since:
                return last, since
        return None

    def release_for_heir(self) -> None:
        """At the end of a `with` that was begun before the fork, in the child: release what it got, if it did."""
        heir, self.heir = self.heir, None
        if heir is not None:
            heir.release()

    def _releases_under_way(self) -> int:
        """How many releases of this slot are suspended beneath this one, by signal handlers, with their counting to do.

        What else is missing in the count was interrupted by an exception before it could be counted.
        """
        releases = 0
        frame = sys._getframe(1).f_back
        while frame is not None:
            releases += frame.f_code is Slot.__bool__.__code__ and frame.f_locals.get("self") is self
            frame = frame.f_back
        return releases


class InItsThread:
    """A `release` that calls the one of whichever thread it is called in, wherever it was looked up: in C as well.

    Two threads cannot share what releases through one slot. As soon as one of them has cleared HELD, the slot's own
    thread may acquire and release once more; the other one would then count a release too many, and go on to release
    what somebody else has acquired. Nor is a count of permits kept where there is no GIL.
    """

    __slots__ = ("release",)

    def __init__(self, seats: Seats) -> None:
        self.release: Callable[[], None] = functools.partial(operator.methodcaller("release"), seats)


class Claimer:
    """What a slot is claimed for, until it is collected."""

    __slots__ = ("__weakref__",)


class OnFirstUse:
    """An attribute of `Seats` that a thread does not have yet; once it has, this is not asked."""

    __slots__ = ("_name",)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, seats: Seats, owner: type | None = None) -> Any:
        self._provide(seats)
        return seats.__dict__[self._name]

    @staticmethod
    def _provide(seats: Seats) -> None:
        seats.build()


class Seats(local):
    """What the calling thread has in one lock: its slot, and the two calls that release through it.

    Not made in __init__: a signal handler that uses the lock would find it half done.
    """

    __slots__ = ("line",)  # the same in all threads

    slot: Slot = OnFirstUse()  # type: ignore[assignment]
    late: LateWord = OnFirstUse()  # type: ignore[assignment]
    release: Callable[[], None] = OnFirstUse()  # type: ignore[assignment]
    leave: Callable[..., None] = OnFirstUse()  # type: ignore[assignment]

    def __init__(self, line: Line) -> None:
        self.line = line

    def new_slot(self) -> Slot:
        """What stands for the calling thread."""
        return Slot(self.line)

    def late_word(self, slot: Slot) -> LateWord:
        """The word that what releases clears, as long as the thread has no slot."""
        return self.line.memory.late_word()

    def late_offset(self, record: int) -> Callable[[], int]:
        """Where that word is, once the thread has the slot with this record."""
        return self.late.offset_to(record + HELD)

    def calls(self, record: int, slot: Slot) -> tuple[Callable[[], None], Callable[..., None]]:
        """What releases through the slot with this record: `release`, and `leave` for the end of a `with`."""
        return self.line.memory.clearing(record + HELD, slot)

    def build(self) -> None:
        """Give the calling thread what it needs on its first use of the lock."""
        slot = self.new_slot()
        late = self.late_word(slot)
        release, leave = self.line.memory.clearing(late, slot)
        # no call from here on, nor a jump that is taken
        if "slot" not in self.__dict__:
            self.late = late
            self.release = release
            self.leave = leave
            self.slot = slot

    def settle(self, index: int, claimed_for: object) -> None:
        """The thread has got slot `index`; nothing has happened if an exception comes in between."""
        slot = self.slot
        late = self.late
        line = slot.line
        record = record_of(line.slots, index)
        view = line.view(index)
        entered = line.words[record + ENTERED]
        release, leave = self.calls(record, slot)
        late_offset = self.late_offset(record)
        # No call from here on, so that no handler that acquires can have got this thread another slot after the look.
        # What releases through the slot is there before the slot can be used.
        if slot.index < 0:
            late.offset = late_offset
            self.release = release
            self.leave = leave
            slot.high, slot.room, slot.alone = view
            slot.number = NUMBERS + index
            slot.held = record + HELD
            slot.entered_at = record + ENTERED
            slot.left_by_others = record + LEFT_BY_OTHERS
            slot.park = record + PARK
            slot.arrived = record + ARRIVED
            slot.deadline = record + DEADLINE
            slot.entered = slot.left = entered
            slot.claimed_for = claimed_for
            slot.index = index
            slot.attempt = NONE
