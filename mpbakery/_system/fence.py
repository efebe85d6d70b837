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

On other machines a lock operation is an acquire or a release, not a full barrier. What is one there is a system call
that has one in the kernel. `_barrier` makes it of FUTEX_WAKE, on a word on which nobody sleeps: before that looks for
sleepers, it has a full barrier, as otherwise it could miss one (`futex_hb_waiters_pending`, "full barrier (B)", in
kernel/futex/waitwake.c). It keeps the processor. Where there is no ctypes, or no such system call, a trip through the
scheduler is a full barrier as well: Linux promises one there (membarrier(2) rests on it). But that gives the processor
away, and one fence takes as long as others want it.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, Final, SupportsIndex, TypeVar, cast

from mpbakery._system.native import FUTEX_CALL, new_lock, sleep

Order = Callable[[], object]

_T = TypeVar("_T")
_FUTEX_WAKE_PRIVATE: Final = 129

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
        self.free: Callable[[], object] = lock.release

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


class KernelFence(Fence):
    """Full fences for machines whose lock operations are no full barriers. Threads may share one."""

    __slots__ = ()

    def __init__(self) -> None:
        self.take = _barrier(True)
        self.free = _barrier(None)

    def __call__(self) -> None:
        """A full fence."""
        self.free()


def _find_library() -> Any:
    """What the system call can be made with, None if it cannot be made."""
    if TOTAL_STORE_ORDER or FUTEX_CALL is None:
        return None
    try:
        import ctypes

        # of the kind that keeps the GIL: the call is over before another thread could do anything
        library = ctypes.PyDLL(None)
        return library if library.syscall(FUTEX_CALL, None, _FUTEX_WAKE_PRIVATE, 0) == 0 else None
    except (ImportError, AttributeError, OSError):
        return None


_library: Final = _find_library()


def _barrier(result: _T) -> Callable[[], _T]:
    """A full fence that returns `result`, without a line of Python being run."""
    if _library is None:
        return functools.partial(next, map({None: result}.__getitem__, iter(yield_, ...)))
    call = _library["syscall"]  # another one each time
    # Rather a KeyError than no fence, should the call be refused one day. The C library cannot go on then, either.
    call.restype = {0: result}.__getitem__
    # nobody can sleep on the word at address 0
    return functools.partial(call, FUTEX_CALL, None, _FUTEX_WAKE_PRIVATE, 0)


def fenced(value: int) -> SupportsIndex:
    """`value`, so that whoever asks for it has all earlier stores made visible first.

    Where a signal handler must not come between a fence and a store, the store is one call into C, with this as what is
    stored, or where: it is converted to a number before the store. On machines that need no fence it is one.
    """
    if TOTAL_STORE_ORDER:
        return value
    return cast("SupportsIndex", type("Fenced", (), {"__index__": staticmethod(_barrier(value))})())


def pop_release_offset(offsets: list[int]) -> Callable[[], int]:
    """The same for the last one of `offsets`, which is taken off, in C as well."""
    if TOTAL_STORE_ORDER:
        return offsets.pop
    return functools.partial(next, map(offsets.pop, iter(_barrier(-1), ...)))


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
    words: Iterator[int] = itertools.repeat(word) if TOTAL_STORE_ORDER else iter(_barrier(word), ...)
    return cast("SupportsIndex", _Next(map({None: offset}.__getitem__, map(store, words, values))))


_shared: Final = None if TOTAL_STORE_ORDER else KernelFence()


def new_fence() -> Fence:
    """A fence of this machine's kind, for one thread."""
    return _shared or Fence()


#: The order fence, None where the machine needs none.
order: Final[Order | None] = None if _shared is None else _shared.free
