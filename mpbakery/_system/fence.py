"""Memory order: all reasoning about which store is seen before which load.

A processor may let a load overtake an earlier store of its own (every machine), and on machines other than x86
stores overtake stores and loads overtake loads. Two kinds of fence keep the protocol's order:

- a *full fence* between a store and a load of another word. Every machine needs it, in three places:
  fence A after CHOOSING (else two processes scan an empty room at once), fence B after the ticket (else two heads),
  and one between "the lock is free" or "I have parked" and the look at the other's word (else a lost wake-up);
- an *order fence* between two stores or two loads. x86-64 keeps these in order by itself, so there it is None.

A full fence without C code: on x86 a locked instruction is one, and an uncontended `threading.Lock` executes one
whenever it changes hands. `acquire(False)` on a lock that is taken may execute none, hence the second line of
`Fence`. (`threading.RLock` executes none where its owner comes again.) A lock operation that waits is never used:
whatever comes in between two bytecodes may have taken the lock, a signal handler or a trace function that acquires,
and the thread would wait for itself.

On other machines a lock operation is an acquire or a release, not a full barrier. A trip through the kernel's
scheduler is: Linux promises a full barrier there (membarrier(2) rests on it), so `yield_` is both fences.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import platform
from collections.abc import Callable, Iterator
from typing import Final, SupportsIndex, cast

from mpbakery._system.native import new_lock, sleep

Order = Callable[[], object]

#: Let another process have the processor. Where there is no `sched_yield`, the shortest sleep is such a trip as well.
yield_: Final[Callable[[], None]] = getattr(os, "sched_yield", functools.partial(sleep, 1e-6))

#: x86-64 makes stores visible in their order, and its loads read in theirs (total store order).
TOTAL_STORE_ORDER: Final = platform.machine().lower() in {"x86_64", "amd64"}


class Fence:
    """Full fences for one thread, as two halves of a private lock that is taken by one fence and freed by the next.

    `take` is a full fence where it returns True; where it returns False, `refence` must follow. The halves are offered
    apart because the fast path of a lock can use one for acquire and the other for release, at half the price.
    """

    __slots__ = ("free", "take")

    def __init__(self) -> None:
        lock = new_lock()
        # bound in C: handing False over at each call would cost 3 to 10 % of an acquisition
        self.take: Callable[[], bool] = functools.partial(lock.acquire, False)
        self.free: Callable[[], None] = lock.release

    def refence(self) -> None:
        """A full fence, given that `take` just found the private lock taken."""
        try:
            self.free()
        except RuntimeError:
            # a signal handler on this thread came in between and freed it: that was a locked instruction too, later
            # than the store that this fence is for
            pass

    def __call__(self) -> None:
        """A full fence."""
        if not self.take():
            self.refence()


class SchedulerFence(Fence):
    """Full fences for machines whose lock operations are no full barriers: a trip through the scheduler."""

    __slots__ = ()

    def __init__(self) -> None:
        self.take = self._take
        self.free = yield_

    @staticmethod
    def _take() -> bool:
        yield_()
        return True

    def __call__(self) -> None:
        """A full fence."""
        yield_()


class _Yields:
    """Iterated over, calls `yield_` once and gives nothing, without a line of Python being run."""

    __iter__ = staticmethod(functools.partial(iter, yield_, None))


def release_offset(offset: int) -> SupportsIndex:
    """`offset`, so that whoever asks for it has all earlier stores made visible first.

    What was written under a lock must be visible before the store that frees it. That store is one call into C,
    which a signal handler cannot come before (see `Memory.clearing`), so there is no place for a fence in Python in
    front of it. On machines that need one the offset itself is it: `sum(_Yields(), offset)` runs in C when the store's
    offset is converted to a number, which is before the store.
    """
    if TOTAL_STORE_ORDER:
        return offset
    fenced = type("FencedOffset", (), {"__index__": staticmethod(functools.partial(sum, _Yields(), offset))})
    return cast("SupportsIndex", fenced())


def pop_release_offset(offsets: list[int]) -> Callable[[], int]:
    """The same for the last one of `offsets`, which is taken off, in C as well."""
    if TOTAL_STORE_ORDER:
        return offsets.pop
    pop = type("Pop", (), {"__iter__": staticmethod(functools.partial(map, offsets.pop, (-1,)))})
    fenced = type("Fenced", (), {"__iter__": staticmethod(functools.partial(itertools.chain, _Yields(), pop()))})
    return functools.partial(sum, fenced())


class _Next:
    """Converted to a number, is the next value of an iterator, without a line of Python being run."""

    __slots__ = ("_step",)

    __index__ = property(operator.attrgetter("_step"))

    def __init__(self, values: Iterator[int]) -> None:
        self._step = functools.partial(next, values)


def storing_release_offset(
    store: Callable[[int, int], None], word: int, values: Iterator[int], offset: int
) -> SupportsIndex:
    """`offset`, so that whoever asks for it has the next one of `values` stored in `word` first, in C as well."""
    words: Iterator[int] = itertools.repeat(word)
    if not TOTAL_STORE_ORDER:
        words = map({None: word}.__getitem__, iter(yield_, ...))
    return cast("SupportsIndex", _Next(map({None: offset}.__getitem__, map(store, words, values))))


def new_fence() -> Fence:
    """A fence of this machine's kind, for one thread."""
    return Fence() if TOTAL_STORE_ORDER else SchedulerFence()


#: The order fence, None where the machine needs none.
order: Final[Order | None] = None if TOTAL_STORE_ORDER else yield_
