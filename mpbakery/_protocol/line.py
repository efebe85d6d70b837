"""The line of one lock, as a process sees it: who is in it, who holds the lock, whom to wake."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from mpbakery._errors import called
from mpbakery._protocol.interfaces import Machine, SharedMemory, Span, Table
from mpbakery._protocol.naps import FAR, NAP
from mpbakery._protocol.numbers import Numbered
from mpbakery._system.layout import (
    ATTENTION,
    AWAKE,
    CHOOSING,
    ENTERED,
    FOREIGN,
    HELD,
    HIGH,
    IDLE,
    INDEX,
    LEFT_BY_OTHERS,
    NUMBERS,
    OWNER,
    PARK,
    PARKED,
    TENURE_AT,
    record_of,
    slot_of,
)
from mpbakery._system.native import get_ident


class Line(Numbered):
    """The waiting room of one lock, as a process sees it.

    It has no references back to what holds it, so that a lock is freed as soon as nobody refers to it.
    """

    __slots__ = (
        "_looked",
        "doubt",
        "machine",
        "memory",
        "recovered",
        "slots",
        "table",
        "tenure",
        "times",
        "told",
        "waking",
    )

    def __init__(
        self, memory: SharedMemory, table: Table, machine: Machine, told: Callable[[int, bool], object]
    ) -> None:
        self.memory = memory
        self.words = memory.words
        self.spans = memory.spans
        self.times = memory.times
        self.slots = memory.slots
        self.table = table
        self.machine = machine
        #: for how many seconds who has entered through the line may come again without it
        self.tenure = memory.times[TENURE_AT]
        #: told(slot, announce) returns who the dead holder behind a slot was, and announces the death; may raise
        self.told = told
        #: doubt(slot), called while an attempt without a limit of time waits for long, tells of a deadlock, and whether
        #: it has; may raise
        self.doubt: Callable[[Any], bool] | None = None
        #: who died, and the acquisition (the time in HELD) that took over from it
        self.recovered: tuple[float, object] = (0.0, None)
        #: for each thread of this process that is about to wake another, the word on which that is parked
        self.waking: dict[int, int] = {}
        self._looked = -NAP

    def is_held(self) -> bool:
        """Whether somebody, dead or alive, holds the lock at this moment."""
        return self.words[self.words[OWNER] & INDEX] != 0

    def is_held_here(self) -> bool:
        """Whether a thread of this process holds the lock."""
        held = self.words[OWNER] & INDEX
        slot = slot_of(self.slots, held)
        return slot >= 0 and self.words[held] != 0 and self.table.is_mine(slot)

    def owner_died(self, *, at_once: bool = False) -> bool:
        """Whether the lock is held by a dead process, as far as an inexpensive look can tell: one every NAP.

        `at_once` looks even if the last look was a moment ago.
        """
        now = self.machine.clock()
        if not self.memory.robust or (now - self._looked < NAP and not at_once):
            return False
        self._looked = now
        held = self.words[OWNER] & INDEX
        slot = slot_of(self.slots, held)
        return slot >= 0 and self.words[held] != 0 and self.table.is_dead(slot)

    def view(self, index: int) -> tuple[int, Span, memoryview]:
        """HIGH, the waiting room, and how the room looks when only slot `index` is in it, choosing."""
        high = self.words[HIGH]
        alone = [high] + [IDLE] * high
        alone[1 + index] = CHOOSING
        return high, self.spans[HIGH : NUMBERS + high], memoryview(array("Q", alone))

    def attend(self) -> None:
        """There is something to be had, and ATTENTION is called for: wake the head of the line."""
        words = self.words
        words[ATTENTION] = 0
        # Store, fence, look: a head that parks has either seen what there is, or is seen to be parked. And one that
        # comes later and calls for ATTENTION must not have that cleared behind its back.
        self.machine.new_fence()()
        if words[FOREIGN]:
            words[ATTENTION] = 1
        self.wake()

    def wake(self) -> None:
        """Wake the head of the line, if it is parked."""
        interrupted = self.waking.get(get_ident())
        if interrupted is not None:
            self.machine.unpark(interrupted)  # we are a signal handler, and whoever was to be waked must not sleep on
        waiting = [(number, slot) for slot, number in enumerate(self.numbers()) if number > CHOOSING]
        if waiting:
            head = min(waiting)
            self._unpark(head[1], AWAKE)
            if len(waiting) > FAR:
                # the one behind it is next to be the head, and must not find out at the end of a long nap only
                waiting.remove(head)
                self._unpark(min(waiting)[1], PARKED)

    def _unpark(self, slot: int, from_above: int) -> None:
        park = record_of(self.slots, slot) + PARK
        if self.words[park] > from_above:
            thread = get_ident()
            self.waking[thread] = park
            self.words[park] = AWAKE
            self.machine.unpark(park)
            self.waking.pop(thread, None)

    def wake_if_free(self) -> None:
        """After a place in line was given up: whoever is the head now may sleep, and must hear of the next release."""
        if self.machine.order is not None:
            self.machine.order()  # ATTENTION must not be seen, and cleared, before the line is seen as it is now
        self.words[ATTENTION] = 1
        # Store, fence, look: whoever releases has either done it by now, or will see that ATTENTION is called for.
        self.machine.new_fence()()
        if not self.is_held():
            self.attend()

    def release_for_another(self, *_exit_arguments: object) -> None:
        """Release a lock that another thread acquired, of this or another process.

        Raises ValueError if nobody holds the lock.
        """
        # Under the claim lock, so that the holder can tell one that is about to be through from one that has died.
        self.table.exclusively(self._clear_for_another, NAP)
        self.machine.new_fence()()
        self.wake()

    def _clear_for_another(self) -> bool:
        words = self.words
        held = words[OWNER] & INDEX
        if not words[held]:
            raise ValueError(
                f"semaphore or lock released too many times: nobody holds {called(self.memory.name)}; it was released "
                f"twice, or never acquired (or its holder died, and another process has already taken it over and "
                f"released it)"
            )
        record = held - HELD
        entered = words[record + ENTERED]
        # These before the lock is free: its holder could acquire and release again, and miss that this counts.
        words[record + LEFT_BY_OTHERS] = 2 * entered
        words[FOREIGN] = 1
        words[ATTENTION] = 1
        if self.machine.order is not None:
            self.machine.order()
        words[held] = 0
        words[record + LEFT_BY_OTHERS] = 2 * entered + 1
        return True

    def left_by_others(self, word: int, entered: int) -> int:
        """The last acquisition that LEFT_BY_OTHERS, in `word`, says to have been released by another thread.

        Just after acquisition `entered` was released through the slot. Whoever died on the way to release that one for
        us has not done so, or it would be somebody else's lock that we go on to release.
        """
        mark = self.words[word]
        if mark == 2 * entered:
            mark = self.table.exclusively(lambda: self.words[word], NAP)
        return mark >> 1 if mark & 1 else 0
