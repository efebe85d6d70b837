"""`Semaphore` and `BoundedSemaphore`: the interface of multiprocessing's."""

from __future__ import annotations

import operator
from multiprocessing.context import BaseContext
from typing import Final

from mpbakery._primitives import snapshot
from mpbakery._primitives.shared import DEFAULT_SLOTS, Shared
from mpbakery._primitives.snapshot import SemaphoreStatistics
from mpbakery._protocol.permits import PermitBakery
from mpbakery._system.layout import BOUNDED_SEMAPHORE, SEMAPHORE, VALUE_AT
from mpbakery._system.machine import ThisMachine

#: As many as multiprocessing's semaphores can count here.
MOST_PERMITS: Final = 2**31 - 1


class Semaphore(PermitBakery, Shared):
    """A semaphore between processes, which takes the place of `multiprocessing.Semaphore`.

    Whoever comes first is served first. A process that dies while it waits does not keep others waiting; the permits
    that a process had taken are gone when it dies, because a semaphore cannot know who has them.

    Args:
        value: how many permits there are in the beginning; 0 to 2147483647.
        slots: how many threads, in all processes together, can use the semaphore at the same time; 1 to 65536.
        name: what messages call the semaphore, at most 64 bytes of UTF-8; made up if None.
        ctx: a multiprocessing context, as in multiprocessing; processes of every start method can use it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError: the system has no memory or no descriptor left.
    """

    __slots__ = ("__dict__", "_memory", "_table")

    _kind = SEMAPHORE

    def __init__(
        self,
        value: int = 1,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"value is {value!r}: give a whole number, from 0 to {MOST_PERMITS}") from None
        if not 0 <= number <= MOST_PERMITS:
            raise ValueError(f"value is {number}: give a number from 0 to {MOST_PERMITS}")
        self._create(slots=slots, name=name, ctx=ctx, value=number)

    def get_value(self) -> int:
        """How many permits can be had at this moment."""
        return self.permits()

    def locked(self) -> bool:
        """Whether no permit can be had at this moment."""
        return self.permits() == 0

    def statistics(self) -> SemaphoreStatistics:
        """How many permits can be had, and who waits for one in which order."""
        memory = self._memory
        waiters, in_use = snapshot.read_waiters(memory), snapshot.count_slots_in_use(memory)
        return SemaphoreStatistics(self.get_value(), waiters, memory.slots, in_use)

    @property
    def _semlock(self) -> Semaphore:
        """What the standard library's queues ask how many permits there are, by the two names below."""
        return self

    _get_value = get_value
    _is_zero = locked

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"

    def _set_up(self, machine: ThisMachine) -> None:
        PermitBakery.__init__(self, self._memory, self._table, machine, lambda _slot, _announce: None)


class BoundedSemaphore(Semaphore):
    """A semaphore that never has more permits than it was made with; in place of `multiprocessing.BoundedSemaphore`.

    `release` raises ValueError for one permit too many. The release and the look at the bound are two steps, as in
    multiprocessing: of two processes that both release one too many at the very same moment, one may get away with it.

    Args and Raises: as `Semaphore`.
    """

    __slots__ = ()

    _kind = BOUNDED_SEMAPHORE

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._memory.words[VALUE_AT]})>"
