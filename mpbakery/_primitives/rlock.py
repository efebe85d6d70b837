"""`RLock`: a lock that its owner can acquire again."""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from mpbakery._errors import NotOwnedError, called
from mpbakery._primitives.lock import Lock
from mpbakery._protocol.bakery import Bakery, replaceable
from mpbakery._protocol.line import Line
from mpbakery._protocol.seats import Seats, Slot
from mpbakery._system.fence import pop_release_offset
from mpbakery._system.layout import ATTENTION, RECURSIVE_LOCK, SCRATCH, WORD
from mpbakery._system.machine import ThisMachine
from mpbakery._system.memory import LateWord

_NOTHING = SCRATCH * WORD
_ONCE_MORE = (_NOTHING,)


class RecursiveSlot(Slot):
    """One thread's slot, and what each of its releases clears."""

    __slots__ = ("offsets",)

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        #: A release takes the last one off, and clears what is there: HELD for the first acquisition, nothing for each
        #: one inside it. Below them, what a release clears that is one too many.
        self.offsets = [_NOTHING]

    def expect_one_release(self) -> None:
        """Whatever was acquired and released before: the next release clears HELD."""
        self.offsets[:] = (_NOTHING, self.held * WORD)

    def __bool__(self) -> bool:
        """The rest of a release, after the store in C.

        Raises NotOwnedError if the thread does not hold the lock.
        """
        if self.lost:
            self.release_for_heir()
            return False
        if len(self.offsets) > 1:
            return False
        if not self.offsets:
            self.offsets.append(_NOTHING)
            raise NotOwnedError(
                f"attempt to release recursive lock not owned by thread: only the thread that acquired "
                f"{called(self.line.memory.name)} can release it, and as often as it did"
            )
        # What others hold is never released: that is for Lock, whose releases have to be counted.
        # Store, fence, look, as in `Slot`.
        try:
            self.free()
        except RuntimeError:
            self.refree()
        if self.words[ATTENTION]:
            self.line.attend()
        return False


class RecursiveSeats(Seats):
    """What the calling thread has in one recursive lock."""

    __slots__ = ()

    slot: RecursiveSlot

    def new_slot(self) -> RecursiveSlot:
        """What stands for the calling thread."""
        return RecursiveSlot(self.line)

    def late_word(self, slot: Slot) -> LateWord:
        """The word that what releases clears: another one each time."""
        late = super().late_word(slot)
        late.offset = pop_release_offset(cast("RecursiveSlot", slot).offsets)
        return late

    def late_offset(self, record: int) -> Callable[[], int]:
        """The same."""
        return self.late.offset

    def calls(self, record: int, slot: Slot) -> tuple[Callable[[], None], Callable[..., None]]:
        """The same as before the thread had a slot."""
        return self.release, self.leave


class _Caller(LateWord):
    """What a release clears, and does then, in whichever thread and forked child it is called; asked for in C."""

    __slots__ = ("seats",)

    __index__ = property(operator.attrgetter("seats.late.offset"))
    __bool__ = property(operator.attrgetter("seats.slot.__bool__"))

    seats: RecursiveSeats


class RLock(Lock):
    """A recursive lock between processes, which takes the place of `multiprocessing.RLock`.

    The thread that holds it can acquire it again, and has to release it as often; no other thread can release it. All
    else is as in `Lock`: order, owner death, signals. A forked child does not hold what its parent holds.

    Args and Raises: as `Lock`.
    """

    __slots__ = ("_caller", "_everywhere")

    _seats: RecursiveSeats

    _kind = RECURSIVE_LOCK
    _frames = Lock._frames + 1
    _frames_of_deadlock = Lock._frames_of_deadlock + 1

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Acquire the lock, once more if the calling thread holds it already.

        Args, Returns, Raises, Warns: as `Lock.acquire`.
        """
        slot = self._seats.slot
        if slot.index >= 0:
            if slot.words[slot.held] and (not slot.attempt or slot.is_in()):
                # not with append(): a handler that raises behind a call would leave it acquired once too often
                slot.offsets += _ONCE_MORE
                return True
            slot.expect_one_release()
        try:
            acquired = Bakery.acquire(self, block, timeout, blocking)
            slot = self._seats.slot  # another one, if a handler has forked and this is the child
            if acquired and len(slot.offsets) < 2:
                slot.expect_one_release()  # the thread had no slot before
            if not acquired:
                del slot.offsets[1:]
        except BaseException:
            if self._is_mine():
                # it has been acquired, and a signal handler raised on the way here
                self._release_wholly()
            raise
        return acquired

    __enter__ = acquire

    # Whoever keeps it, as multiprocessing's Value does, may call it in other threads: one of another thread would take
    # what that thread holds.
    @replaceable("_releaser.release")
    def release(self) -> None:
        """Release the lock once; it is free when it has been released as often as it was acquired.

        Raises:
            NotOwnedError: the calling thread does not hold the lock.

        It is released whatever a signal handler raises in the meantime.
        """

    def __repr__(self) -> str:
        owner = self._describe_owner()
        depth = self._depth() if self._is_mine() else 0 if owner == "None" else "nonzero"
        return f"<{type(self).__name__}({owner}, {depth})>"

    def _set_up(self, machine: ThisMachine) -> None:
        self._caller = _Caller()
        release, _ = self._memory.clearing(self._caller, self._caller)
        self._everywhere = SimpleNamespace(release=release)
        super()._set_up(machine)

    def _new_seats(self) -> RecursiveSeats:
        self._caller.seats = RecursiveSeats(self._line)
        return self._caller.seats

    def _releaser_of(self, seats: Seats) -> object:
        return self._everywhere

    def _expect_one_release(self) -> None:
        if self._has_slots():
            self._seats.slot.expect_one_release()

    def _release_wholly(self) -> None:
        self._expect_one_release()
        self.release()

    def _depth(self) -> int:
        return len(self._seats.slot.offsets) - 1

    def _deepen(self, depth: int) -> None:
        slot = self._seats.slot
        slot.offsets[:] = (_NOTHING, slot.held * WORD, *[_NOTHING] * (depth - 1))
