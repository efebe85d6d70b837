"""The protocol of a semaphore: the bakery as the waiting room, and permits behind it.

There is no atomic addition in Python's memory, so no word has two writers. Permits that are given back are counted in a
word of the slot through which they are given, and permits that are taken in TAKEN, which the head of the line alone
writes; what can be had is the sum of the former, less the latter, plus what there was in the beginning:

    acquire   doorway and wait as in the bakery           -> i is at the head
              until VALUE + sum(GIVEN) > TAKEN
    enter     TAKEN = TAKEN + 1; number[i] = IDLE         full fence, then wake the new head if there is one more
    release   GIVEN[i] = GIVEN[i] + 1                     full fence, then wake the head if ATTENTION is called for

Why no more get in than there are permits: only the head takes one, and there is one head; it stays the head until its
store to TAKEN is visible; and a sum of counters that only grow is never more than what was given.

Why no wake-up is lost: the head calls for ATTENTION, fence, and looks at the sum; who gives adds to the sum, fence, and
looks whether ATTENTION is called for. One of them sees the other.

Whoever becomes the head while it sleeps in line does not know it, and has not called for ATTENTION. So whoever leaves
the line, or goes to its end, does so too, as in the bakery; and looks at the sum, and attends if there is a permit.

Where there is a bound, what is given beyond it is an error of the program. The head throws it away when it takes its
permit: nobody else could, and a sum above the bound has no other meaning.

`acquire` repeats the shape of the bakery's. They cannot share a function: between the looks at whose the slot is and
the stores that follow there may be no call, at which a signal handler could run.

What a semaphore cannot know is who has a permit: it may be given back by somebody else. So a permit that a process has
taken dies with it, as in multiprocessing. Its place in the line does not.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from mpbakery._protocol.bakery import Bakery, deadline_of, of_thread, replaceable
from mpbakery._protocol.interfaces import Machine, SharedMemory, Table
from mpbakery._protocol.line import Line
from mpbakery._protocol.naps import NAP
from mpbakery._protocol.seats import NONE, UNDER_WAY, Claimer, OnFirstUse, Seats, Slot
from mpbakery._protocol.waiter import HEAD, Waiter
from mpbakery._system.layout import (
    ATTENTION,
    BOUNDED_SEMAPHORE,
    CHOOSING,
    GIVEN,
    HELD,
    HIGH,
    IDLE,
    KIND_AT,
    RECORD,
    TAKEN,
    VALUE_AT,
    record_of,
)

#: What the program has done wrong when there are more permits than the bound allows.
TOO_MANY: Final = "semaphore or lock released too many times: all its permits have been given back already"
#: The bound of a semaphore that has none.
UNBOUNDED: Final = 2**63


class PermitLine(Line):
    """The waiting room of one semaphore, as a process sees it: it is held when there is no permit."""

    __slots__ = ("_first", "_initial", "bound")

    def __init__(
        self, memory: SharedMemory, table: Table, machine: Machine, told: Callable[[int, bool], object]
    ) -> None:
        super().__init__(memory, table, machine, told)
        self._first = record_of(memory.slots, 0) + GIVEN
        self._initial = memory.words[VALUE_AT]
        self.bound = self._initial if memory.words[KIND_AT] == BOUNDED_SEMAPHORE else UNBOUNDED

    def total(self) -> int:
        """How many permits there were in the beginning and were given back since."""
        return self._initial + sum(self.spans[self._first : self._first + self.words[HIGH] * RECORD : RECORD].tolist())

    def step(self, slot: PermitSlot) -> int:
        """What the head of the line, which is `slot`, adds to TAKEN when it takes a permit; 0 if there is none."""
        total = self.total()
        permits = total - self.words[TAKEN]
        if permits <= 0:
            return 0
        if self.bound == UNBOUNDED:
            # The total first: what this slot gives meanwhile, in a handler, makes this less, not more.
            slot.others = total - self.words[slot.entered_at]
        return 1 if permits <= self.bound else permits - self.bound + 1

    def permits(self) -> int:
        """How many permits there are, those beyond the bound included.

        For others than the head of the line, that is how many there were at some moment during this call.
        """
        while True:
            taken = self.words[TAKEN]
            total = self.total()
            if self.words[TAKEN] == taken:
                return total - taken

    def is_held(self) -> bool:
        """Whether there is no permit at this moment."""
        return self.permits() <= 0

    def owner_died(self, *, at_once: bool = False) -> bool:
        """Nobody owns a permit."""
        return False

    if sys.version_info < (3, 12):
        # There, calls into C count for the recursion limit, and a release goes one call deeper than an acquisition that
        # nobody is in the way of: a permit could be taken that cannot be given back. Tuples are compared one call
        # deeper than what is in them.
        def view(self, index: int) -> tuple[int, Any, Any]:
            """The same, for a comparison as deep as a release."""
            high, room, alone = super().view(index)
            return high, (room,), (alone,)


class PermitWaiter(Waiter):
    """An attempt to acquire that has to wait."""

    __slots__ = ()

    _line: PermitLine

    def _grace(self, ahead: list[tuple[int, int]]) -> float:
        """As long as there is a permit for each of those ahead and one more, they are about to go, unless they died."""
        return NAP if ahead and self._line.permits() > len(ahead) else super()._grace(ahead)

    def _look_at_obstacle(self) -> bool:
        return False


class PermitSlot(Slot):
    """One thread's slot. Asking for its truth value is the second half of a release."""

    __slots__ = ("others", "taking")

    line: PermitLine

    def __init__(self, line: PermitLine) -> None:
        super().__init__(line)
        #: so many permits there were in the beginning and were given back through other slots since, or more; not
        #: kept where there is a bound, since those beyond it have to be noticed
        self.others = -UNBOUNDED
        #: what the head stores in TAKEN when it takes the permit that `look` has seen
        self.taking = 0

    def look(self, generation: object, recovering: int) -> tuple[int, int] | None:
        """What is in the way of the head of the line, as a word and what stands in it until then; None if nothing is.

        What this found can change, until the head takes its permit, only by what replaces the `generation` of its
        place.
        """
        words = self.words
        taken = words[TAKEN]
        step = 1 if self.others + words[self.entered_at] > taken else self.line.step(self)
        if not step:
            words[ATTENTION] = 1
            # Store, fence, look: whoever gives a permit back has done it by now, or will see that this is called for.
            self.fence()
            step = self.line.step(self)
            if not step:
                return ATTENTION, 1
        self.taking = taken + step
        return None

    def __bool__(self) -> bool:
        """Wake the head of the line, if it waits for a permit.

        Raises ValueError if there are more permits than the bound allows.
        """
        if self.lost:
            self.release_for_heir()  # a forked child: a permit that was taken before is its parent's
            return False
        try:
            self.free()
        except RuntimeError:
            self.refree()
        if self.words[ATTENTION]:
            self.line.attend()
        if self.line.bound != UNBOUNDED and self.line.permits() > self.line.bound:
            raise ValueError(TOO_MANY)
        return False


class OnFirstRelease(OnFirstUse):
    """An attribute of `PermitSeats` that a thread has as soon as it has a slot."""

    __slots__ = ()

    @staticmethod
    def _provide(seats: Seats) -> None:
        cast("PermitSeats", seats).claim()


class PermitSeats(Seats):
    """What the calling thread has in one semaphore."""

    __slots__ = ()

    slot: PermitSlot
    release: Callable[[], None] = OnFirstRelease()  # type: ignore[assignment]
    leave: Callable[..., None] = OnFirstRelease()  # type: ignore[assignment]

    def claim(self) -> None:
        """Give the calling thread a slot, if it has none: what it gives back is counted there."""
        while self.slot.index < 0:
            claimer = Claimer()
            index = self.line.table.claim(claimer, None)
            if index is not None:
                self.settle(index, claimer)

    def build(self) -> None:
        """Give the calling thread what it needs on its first use of the semaphore, but what gives back."""
        slot = self.new_slot()
        late = self.late_word(slot)
        # no call from here on, nor a jump that is taken
        if "slot" not in self.__dict__:
            self.late = late
            self.slot = slot

    def new_slot(self) -> PermitSlot:
        """What stands for the calling thread."""
        return PermitSlot(cast("PermitLine", self.line))

    def calls(self, record: int, slot: Slot) -> tuple[Callable[[], None], Callable[..., None]]:
        """What gives back a permit through the slot with this record."""
        count = itertools.count(self.line.words[record + GIVEN] + 1)
        return self.line.memory.counting(record + GIVEN, record + HELD, count, slot)


class PermitBakery(Bakery):
    """A semaphore over shared memory: acquire, release, `with`."""

    __slots__ = ()

    _line: PermitLine
    _seats: PermitSeats

    @staticmethod
    def _new_line(memory: SharedMemory, table: Table, machine: Machine, told: Callable[[int, bool], object]) -> Line:
        return PermitLine(memory, table, machine, told)

    def _new_seats(self) -> PermitSeats:
        return PermitSeats(self._line)

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Take a permit; the order of arrival decides who gets one.

        Args:
            block: whether to wait for a permit; False tries once (and waits at most about 50 milliseconds for those
                ahead, if there are permits for all of them and for this one).
            timeout: the seconds to wait at most, None for no limit; below zero counts as zero. Not looked at if
                `block` is false.
            blocking: another name for `block`, as in `threading.Semaphore`.

        Returns:
            Whether a permit was taken.

        Raises:
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            SlotsExhausted: every slot of the semaphore belongs to a living thread.
            ClaimFileLostError: this thread has no slot yet, and the descriptor that it needs to claim one was closed.
            ClaimsRefusedError: likewise, and the system refuses the record locks that it takes.
            ForeignNamespaceError: the semaphore was made in another PID namespace.

        A call that raises, whatever and wherever a signal handler raised, has taken no permit and leaves no place in
        the queue behind.
        """
        deadline: float | None = None
        nested: object
        if timeout is not None or not block or blocking is not None:
            deadline = deadline_of(block, timeout, blocking, self._clock)
            if deadline == 0 and self._line.is_held():
                return False
        while True:
            slot = self._seats.slot
            if not slot.attempt:
                nested = NONE
            else:
                if not self._make_usable(deadline):
                    return False
                slot = self._seats.slot
                if slot.index >= 0:
                    nested = slot.attempt
                else:
                    continue
            # The rules for calls and jumps are those of Bakery.acquire.
            words = slot.words
            number = slot.number
            taken = False
            waiter: PermitWaiter | None = None
            try:
                slot.attempt = UNDER_WAY
                generation = slot.generation
                words[number] = CHOOSING
                # fence A: without it two processes could both find the room empty
                if not slot.take():
                    slot.refence()
                at_head = (
                    slot.room == slot.alone
                    # or TAKEN could be read before the room, as it was before the last one entered
                    and (slot.order is None or slot.order() is None)
                )
                if at_head:
                    taking = words[TAKEN] + 1
                    # the slot's GIVEN is where a lock has ENTERED
                    if slot.others + words[slot.entered_at] < taking:
                        at_head = slot.look(generation, 0) is None
                        taking = slot.taking
                while True:
                    if at_head:
                        order = slot.order
                        # Nothing has been taken since the permit was seen: a handler that took one on this thread has
                        # changed the generation, and nobody else is at the head.
                        if slot.generation is generation:
                            words[TAKEN] = taking
                            taken = True
                            if order is None:
                                words[number] = IDLE
                            else:
                                order()  # or the next head could be one before it sees what was taken
                                if not slot.lost:
                                    words[number] = IDLE
                                else:
                                    break
                            slot.attempt = nested
                            if waiter is None:
                                return True
                            slot.line.wake_if_free()  # there may be one more, and whoever gave it woke us
                            if not slot.lost:
                                return True
                            break
                    if waiter is None:
                        waiter = PermitWaiter(slot, deadline)
                    outcome = waiter.await_turn()
                    if outcome != HEAD:
                        break
                    at_head = True
                    generation = waiter.generation
                    taking = slot.taking
                if not slot.lost:
                    words[number] = IDLE
                else:
                    slot.heir = self._seats
                    continue
                slot.attempt = nested
                slot.line.wake_if_free()
            except BaseException:
                # No call before all is undone, nor a jump that is taken (where CPython 3.10 runs handlers, too).
                if not slot.lost:
                    words[number] = slot.idle  # not IDLE: the next head could be one before it sees what was taken
                    slot.attempt = nested
                    if taken:
                        try:
                            self._seats.release()
                        except ValueError:
                            pass  # somebody has given too many meanwhile, and is told
                    slot.line.wake_if_free()
                raise
            return False

    __enter__ = acquire

    @replaceable("_releaser.release")
    def release(self) -> None:
        """Give back a permit, whoever took it, in this or another process.

        Raises:
            ValueError: a bounded semaphore has more permits now than it was made with.
            SlotsExhausted, ClaimFileLostError, ClaimsRefusedError, ForeignNamespaceError: as `acquire`, if this thread
                has no slot yet.

        The permit is given back whatever a signal handler raises in the meantime.
        """

    @of_thread("_seats.leave")
    def __exit__(self, *_exception: object) -> None:
        """Give back a permit."""

    def permits(self) -> int:
        """How many permits can be had at this moment."""
        return max(0, min(self._line.permits(), self._line.bound))
