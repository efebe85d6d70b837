"""Locks that are broken in a known way, to see that the tests would notice."""

from __future__ import annotations

import inspect
import mmap
import os
import textwrap
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, ClassVar

import mpbakery
from mpbakery._primitives.shared_room import SharedRoom
from mpbakery._protocol import bakery
from mpbakery._protocol.line import Line
from mpbakery._protocol.permits import PermitSeats
from mpbakery._protocol.seats import Claimer, Seats, Slot
from mpbakery._protocol.slots import SlotTable
from mpbakery._protocol.waiting_room import Place, WaitingRoom
from mpbakery._system.layout import CHOOSING, ENTERED, GIVEN, HIGH, IDLE, NUMBERS, PID, RECORD, record_of


class NoLock:
    """Lets everybody in."""

    recovered_from = None

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Say that it was acquired."""
        return True

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_exception: object) -> None:
        pass


class Open(mpbakery.Lock):
    """Lets everybody in, and is one of ours in everything else."""

    __slots__ = ()

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Say that it was acquired."""
        return True

    __enter__ = acquire

    def __exit__(self, *_exception: object) -> None:
        pass

    def release(self) -> None:
        """Do nothing."""


class HalfBakedMutex:
    """The recipe that this project started from: Lamport's bakery in two byte arrays, with the pid as the index.

    Two processes whose pids share an index write into the same cells.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._choosing = mmap.mmap(-1, slots)
        self._number = mmap.mmap(-1, slots)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take a ticket, and wait for all that are lower."""
        choosing, number = self._choosing, self._number
        mine = os.getpid() % self._slots
        choosing[mine] = 1
        number[mine] = 1 + max(number[: self._slots])
        choosing[mine] = 0
        for other in range(self._slots):
            while choosing[other]:
                os.sched_yield()
            while number[other] and (number[other], other) < (number[mine], mine):
                os.sched_yield()
        return True

    def release(self) -> None:
        """Give the ticket back."""
        self._number[os.getpid() % self._slots] = 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exception: object) -> None:
        self.release()


class Silent:
    """A lock that is taken over from the dead without a word."""

    recovered_from = None

    def __init__(self, lock: mpbakery.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_exception: object) -> None:
        self._lock.release()


class SlowWords:
    """The words of a lock's memory, with a pause at the point that matters most: between the last look at the owner
    and the store that makes a process the owner. The protocol must bear that, as it bears any other pause."""

    def __init__(self, words: Any, slots: int) -> None:
        self._words = words
        self._records = record_of(slots, 0)

    def __getitem__(self, word: int) -> int:
        value: int = self._words[word]
        return value

    def __setitem__(self, word: int, value: int) -> None:
        self._words[word] = value
        if word >= self._records and (word - self._records) % RECORD == ENTERED:
            self.pause((word - self._records) // RECORD)

    def pause(self, slot: int) -> None:
        """What happens at that point."""
        time.sleep(1e-4)


class WordsWithoutChoosing(SlowWords):
    """Nobody sees that somebody is in the doorway."""

    def __setitem__(self, word: int, value: int) -> None:
        if word >= self._records or value != CHOOSING:
            super().__setitem__(word, value)


class WordsClearedTooEarly(SlowWords):
    """The place in the line is given up before the owner is visible."""

    def pause(self, slot: int) -> None:
        self._words[NUMBERS + slot] = IDLE
        super().pause(slot)


def lock_with(words: type[SlowWords], ctx: BaseContext) -> mpbakery.Lock:
    """A lock that sees its memory through `words`."""
    lock = mpbakery.Lock(ctx=ctx)
    line = lock._line
    line.words = words(line.words, line.slots)
    lock._seats = Seats(line)
    return lock


# --- Faults that show when a process dies: each function breaks a lock in the process that calls it ------------------


class TableOfImmortals(SlotTable):
    """Takes nobody for dead."""

    __slots__ = ()

    def is_dead(self, slot: int) -> bool:
        """No."""
        return False


def believe_in_eternal_life(lock: mpbakery.Lock | mpbakery.Semaphore) -> None:
    """Neither take the lock over from the dead, nor take them out of the line."""
    lock._table.__class__ = TableOfImmortals


class TableThatKeepsTheDead(SlotTable):
    """Reclaims no slot."""

    __slots__ = ()

    def _reap(self, slot: int, mine: object) -> bool:
        return False


def keep_the_dead(lock: mpbakery.Lock) -> None:
    """Leave the slots of the dead as they are."""
    lock._table.__class__ = TableThatKeepsTheDead


class WordsWithHighTooLate:
    """HIGH is raised after the slot has got its PID."""

    def __init__(self, words: Any, slots: int) -> None:
        self._words = words
        self._records = record_of(slots, 0)
        self._pending = 0

    def __getitem__(self, word: int | slice) -> Any:
        return self._pending if word == HIGH and self._pending else self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        if word == HIGH:
            self._pending = value
            return
        self._words[word] = value
        if self._pending and word >= self._records and (word - self._records) % RECORD == PID:
            self._words[HIGH] = self._pending
            self._pending = 0


def raise_high_too_late(lock: mpbakery.Lock) -> None:
    """Let the slot be somebody's before anybody can see that there is such a slot."""
    memory = lock._memory
    memory.words = WordsWithHighTooLate(memory.words, memory.slots)  # type: ignore[assignment]


def tell_twice(lock: mpbakery.Lock) -> None:
    """Tell whoever takes over of the death, and then once more."""
    tell = lock._line.told

    def told(slot: int, aloud: bool) -> object:
        tell(slot, aloud)
        return tell(slot, aloud)

    lock._line.told = told


def tell_nobody(lock: mpbakery.Lock) -> None:
    """Take over without a word."""
    tell = lock._line.told
    lock._line.told = lambda slot, _aloud: tell(slot, False)


class TrustfulLine(Line):
    """Counts what another thread set out to release as released."""

    __slots__ = ()

    def left_by_others(self, word: int, entered: int) -> int:
        """Whether it is done or not."""
        return self.words[word] >> 1


def trust_who_sets_out(lock: mpbakery.Lock) -> None:
    """Go on to release somebody else's lock when one died that had set out to release ours."""
    lock._line.__class__ = TrustfulLine


class OnceLock(mpbakery.RLock):
    """Does not count how often it was acquired."""

    __slots__ = ()

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Acquire, unless the calling thread holds it already."""
        return self._is_mine() or super().acquire(block, timeout, blocking)

    __enter__ = acquire


def release_at_once(lock: mpbakery.RLock) -> None:
    """Release a recursive lock with the first release."""
    lock.__class__ = OnceLock


class SeatsThatClear(PermitSeats):
    """Clears the count of permits that were given, before there is a new one."""

    __slots__ = ()

    def calls(self, record: int, slot: Slot) -> tuple[Callable[[], None], Callable[..., None]]:
        """What gives back a permit."""
        words = self.line.words

        def give(*_exception: object) -> None:
            given = words[record + GIVEN]
            words[record + GIVEN] = 0
            words[record + GIVEN] = given + 1
            bool(slot)

        return give, give


def clear_before_counting(semaphore: mpbakery.Semaphore) -> None:
    """Give a permit back in two stores, as `pack_into` does."""
    semaphore._seats = SeatsThatClear(semaphore._line)
    semaphore._releaser = semaphore._releaser_of(semaphore._seats)


class RoomOfTrust(WaitingRoom):
    """Whoever waits in it looks after nothing."""

    __slots__ = ()

    def sleep(
        self, place: Place, ticket: int, deadline: float | None, look: Callable[[], bool] | None = None, nap: float = 0
    ) -> bool:
        """Sleep until somebody lets this place go."""
        return super().sleep(place, ticket, deadline, None, nap)


def trust_to_be_let_go(shared: SharedRoom) -> None:
    """Do not look from time to time whether whoever was to let one go has died."""
    shared._room.__class__ = RoomOfTrust


class ConditionThatTidiesUp(mpbakery.Condition):
    """Clears away the trace of a death before it has passed on what the dead was notified of."""

    __slots__ = ()

    def _pass_on(self) -> None:
        for slot in self._room.orphans():
            self._room.is_lost(slot)
            self.notify()


def tidy_up_first(condition: mpbakery.Condition) -> None:
    """Have a notification exist for a moment in one process's mind alone."""
    condition.__class__ = ConditionThatTidiesUp


class BarrierForGhosts(mpbakery.Barrier):
    """Counts the dead as parties."""

    __slots__ = ()

    def _look_for_the_dead(self) -> None:
        if self._guard.recovered_from is not None:
            self._break()


def count_the_dead(barrier: mpbakery.Barrier) -> None:
    """Let the others through with those who died while they waited."""
    barrier.__class__ = BarrierForGhosts


# --- Faults that show when a signal handler runs: each function breaks the code of the process that calls it ---------


def leave_in_python() -> None:
    """Make `__exit__` a Python function, as that of multiprocessing.Lock is."""

    def leave(lock: mpbakery.Lock, *_exception: object) -> None:
        lock.release()

    bakery.Bakery.__exit__ = leave  # type: ignore[assignment,method-assign]


def keep_slots() -> None:
    """Claim slots for something that does not end with an attempt that failed."""

    class Undying(Claimer):
        everyone: ClassVar[list[Undying]] = []

        def __init__(self) -> None:
            self.everyone.append(self)

    bakery.Claimer = Undying  # type: ignore[attr-defined]


def keep_place_in_line() -> None:
    """Have an attempt that is interrupted keep its ticket."""
    _omit(
        bakery.Bakery,
        "acquire",
        "                words[number] = slot.idle\n                slot.announced = announced\n",
    )


def reap_whatever_was_claimed() -> None:
    """Clear a dead one's slot away, though it be that of this thread by now."""
    _omit(SlotTable, "_reap", " and words[record + PID] == dead and words[record + START] == start")


def go_on_in_the_parents_slot() -> None:
    """Have an attempt not notice, in the child, that a handler has forked."""
    _omit(bakery.Bakery, "_abandon_slots", "    slot.lost = True\n")


def leave_for_the_parent() -> None:
    """Have a child that leaves its parent's `with` clear what its parent has acquired."""
    _omit(bakery.Bakery, "_abandon_slots", "    seats.late.offset = seats.late.offset_to(SCRATCH)\n")


def _omit(owner: type, name: str, part: str) -> None:
    """Take a part of its source out of a method."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(part) == 1, f"{name} has {source.count(part)} times {part!r}"
    namespace: dict[str, object] = {}
    exec(source.replace(part, ""), function.__globals__, namespace)
    setattr(owner, name, namespace[name])
