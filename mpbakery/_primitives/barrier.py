"""`Barrier`: processes wait until enough of them have come."""

from __future__ import annotations

import operator
from collections.abc import Callable
from multiprocessing.context import BaseContext
from threading import BrokenBarrierError
from typing import Any, Final

from mpbakery._primitives import snapshot
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.shared import DEFAULT_SLOTS, checked_slots
from mpbakery._primitives.shared_room import SharedRoom
from mpbakery._primitives.snapshot import Owner
from mpbakery._protocol.bakery import deadline_of
from mpbakery._protocol.waiting_room import Place
from mpbakery._system.layout import BARRIER, FLAG, GUARD, IDLE, LET_GO, MAX_SLOTS, NUMBERS, TURNED_AWAY, VALUE_AT

#: How often one who waits looks whether the one before it is alive (s).
_LOOK: Final = 0.1


class _Guard(RLock):
    """The lock around a barrier's state, which does not warn: what a death means, the barrier says.

    It is recursive, so that the action, or a signal handler, can abort the barrier.
    """

    __slots__ = ()

    _kind = GUARD

    def _announcer(self) -> Callable[[int, bool], Owner]:
        memory = self._memory
        return lambda slot, _: snapshot.read_slot_owner(memory, slot)


class Barrier(SharedRoom):
    """A barrier between processes, which takes the place of `multiprocessing.Barrier`.

    When a process dies while it waits, the barrier breaks for all others, instead of having them wait for ever.

    Args:
        parties: how many threads, in all processes together, have to come before all of them go on.
        action: a function that one of them calls before they go on.
        timeout: the default for `wait`: the seconds to wait at most, None for no limit.
        slots: how many threads, in all processes together, can wait at the same time, not less than there are parties;
            1 to 65536. A process that has waited once keeps a place. None for 1024, or for twice the parties if those
            are more.
        name: what messages call the barrier, at most 64 bytes of UTF-8; made up if None.
        ctx: a multiprocessing context, as in multiprocessing; processes of every start method can use it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError: the system has no memory or no descriptor left.
    """

    __slots__ = ("_action", "_guard", "_timeout")

    _kind = BARRIER
    _keeping = True

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        slots: int | None = None,
        name: str | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        try:
            number = operator.index(parties)
        except TypeError:
            raise TypeError(f"parties is {parties!r}: give a whole number, from 1 on") from None
        if number < 1:
            raise ValueError(f"parties is {number}: parties must be >= 1, as many as wait for each other")
        if number > MAX_SLOTS:
            raise ValueError(f"parties is {number}: give at most {MAX_SLOTS}, so many threads can wait at one barrier")
        if slots is None:
            slots = max(DEFAULT_SLOTS, min(2 * number, MAX_SLOTS))
        slots = checked_slots(slots)
        if slots < number:
            raise ValueError(
                f"slots is {slots}, for {number} parties: the barrier would never open, since each needs a slot; give "
                f"at least {number}, or None"
            )
        deadline_of(True, timeout, None, lambda: 0.0)
        self._assemble(_Guard(slots=slots, name=name, ctx=ctx), action, timeout)
        self._create(slots=slots, name=name, ctx=ctx, value=number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come.

        Args:
            timeout: the seconds to wait at most; None for the barrier's own default.

        Returns:
            In which place this one came, from 0 on.

        Raises:
            threading.BrokenBarrierError: the barrier is broken, or was broken or reset meanwhile: by `abort`, by a
                timeout, by a party that died while it waited, by an action that raised.
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            SlotsExhausted: every slot belongs to a living thread.
        """
        room = self._room
        deadline = deadline_of(True, self._timeout if timeout is None else timeout, None, room.machine.clock)
        place = room.enter()
        try:
            with self._guard:
                self._look_for_the_dead()
                if self.broken:
                    raise BrokenBarrierError("the barrier is broken: reset() makes it usable again")
                waiting = room.waiting()
                if len(waiting) + 1 >= self.parties:
                    self._open(waiting)
                    return len(waiting)
                ticket = room.line_up(place)
            room.sleep(place, ticket, deadline, lambda: self._lost_sight(place), nap=_LOOK)
            with self._guard:
                self._look_for_the_dead()
                if not place.lost and room.words[place.number] == ticket:
                    self._break()
                if place.lost or room.words[place.number] != LET_GO:
                    raise BrokenBarrierError("the barrier broke while this party waited at it")
            return len(waiting)
        finally:
            if not place.lost:
                room.words[place.number] = IDLE
            room.leave(place)

    def reset(self) -> None:
        """Make the barrier usable again: whoever waits at it gets a BrokenBarrierError."""
        with self._guard:
            self._break()
            self._memory.words[FLAG] = 0

    def abort(self) -> None:
        """Break the barrier: whoever waits at it, and whoever comes from now on, gets a BrokenBarrierError."""
        with self._guard:
            self._break()

    @property
    def parties(self) -> int:
        """How many have to come."""
        return self._memory.words[VALUE_AT]

    @property
    def n_waiting(self) -> int:
        """How many wait at this moment."""
        return len(self._room.waiting())

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""
        return self._memory.words[FLAG] != 0

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__name__} at {id(self):#x}: {state}>"

    def _open(self, waiting: list[int]) -> None:
        try:
            if self._action is not None:
                self._action()
                if self.broken:
                    raise BrokenBarrierError("the barrier was broken by its own action")
            for slot in waiting:
                self._room.let_go(slot)
        except BaseException:
            self._break()
            raise

    def _break(self) -> None:
        self._memory.words[FLAG] = 1
        for slot in self._room.waiting():
            self._room.let_go(slot, TURNED_AWAY)

    def _look_for_the_dead(self) -> None:
        """Break the barrier if somebody died in the middle of a change of its state, or while waiting at it."""
        lost = [slot for slot in self._room.waiting() if self._room.is_lost(slot)]
        if lost or self._guard.recovered_from is not None:
            self._break()

    def _lost_sight(self, place: Place) -> bool:
        """Whether the barrier is broken, or a party has died.

        The one that came before the one at `place`, for the first one the last; or the one that has the barrier's state
        in its hands, which may be the last that was to come.
        """
        waiting = self._room.waiting()
        mine = place.number - NUMBERS
        before = waiting[waiting.index(mine) - 1] if mine in waiting else mine
        # it may also have been broken by a handler, just before the one at `place` took its ticket
        return self.broken or self._room.table.is_dead(before) or self._guard._line.owner_died(at_once=True)

    def _parts(self) -> tuple[Any, ...]:
        return self._guard, self._action, self._timeout

    def _assemble(self, *parts: Any) -> None:
        self._guard, self._action, self._timeout = parts

    def _occupy(self) -> None:
        self._guard._register()
        super()._occupy()
