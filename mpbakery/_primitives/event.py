"""`Event`: a flag that processes wait for."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

from mpbakery._primitives.shared import DEFAULT_SLOTS
from mpbakery._primitives.shared_room import SharedRoom
from mpbakery._protocol.bakery import deadline_of
from mpbakery._system.layout import EVENT, FIRST_TICKET, FLAG, IDLE


class Event(SharedRoom):
    """A flag between processes, which takes the place of `multiprocessing.Event`.

    `set` takes no lock and needs no slot, so a signal handler may call it, whatever it interrupts. A process that dies
    while it waits or sets does not keep others from waking up.

    Args:
        slots: how many threads, in all processes together, can wait at the same time; 1 to 65536. A
            process that has waited once keeps a place.
        name: what messages call the event, at most 64 bytes of UTF-8; made up if None.
        ctx: a multiprocessing context, as in multiprocessing; processes of every start method can use it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError: the system has no memory or no descriptor left.
    """

    __slots__ = ()

    _kind = EVENT

    def __init__(self, *, slots: int = DEFAULT_SLOTS, name: str | None = None, ctx: BaseContext | None = None) -> None:
        self._create(slots=slots, name=name, ctx=ctx)

    def is_set(self) -> bool:
        """Whether the event is set; if so, what was written before `set` can be seen."""
        if not self._memory.words[FLAG]:
            return False
        if (order := self._room.machine.order) is not None:
            order()  # or what is read from now on could be what was there before set()
        return True

    def set(self) -> None:
        """Set the event, and let everyone go who waits for it."""
        room = self._room
        if room.machine.order is not None:
            room.machine.order()  # or the flag could be seen before what was written until now
        room.words[FLAG] = 1
        # Store, fence, look: whoever comes to wait has either seen the flag, or is seen here.
        room.machine.new_fence()()
        for slot, number in enumerate(room.numbers()):
            if number:
                room.let_go(slot, IDLE)

    def clear(self) -> None:
        """Clear the event: whoever waits from now on waits for the next `set`."""
        self._memory.words[FLAG] = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set.

        Args:
            timeout: the seconds to wait at most, None for no limit.

        Returns:
            Whether the event is set, or was for a moment while this waited; False if the time was up first.

        Raises:
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            SlotsExhausted: every slot belongs to a living thread.
        """
        deadline = deadline_of(True, timeout, None, self._room.machine.clock)
        while not self.is_set():
            room = self._room
            place = room.enter()
            try:
                if not place.lost:
                    room.words[place.number] = FIRST_TICKET
                # Store, fence, look: see set().
                room.machine.new_fence()()
                # The flag is looked at after each nap as well: whoever sets it may die, or raise, before it lets us go.
                if self.is_set() or room.sleep(place, FIRST_TICKET, deadline, self.is_set):
                    return True
                if not place.lost:
                    # before the time is up, it was seen set, and may have been cleared since
                    return deadline is None or room.machine.clock() < deadline or self.is_set()
            finally:
                if not place.lost:
                    # not IDLE: what is read from now on could be what was there before whoever let us go had set it
                    room.words[place.number] = room.machine.idle
                room.leave(place)
        return True

    def _parts(self) -> tuple[Any, ...]:
        # of multiprocessing's, this is the one whose attributes go along to a process that is started
        return (vars(self),) if vars(self) else ()

    def _assemble(self, *parts: Any) -> None:
        for attributes in parts:
            vars(self).update(attributes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"
