"""multiprocessing's queues over locks and semaphores of ours."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import queues
from multiprocessing.context import BaseContext
from typing import Any, cast

from mpbakery._errors import OwnerDiedWarning
from mpbakery._primitives import snapshot
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.semaphore import MOST_PERMITS, Semaphore
from mpbakery._primitives.snapshot import Owner


class Queue(queues.Queue):  # type: ignore[type-arg]
    """A queue over a pipe, as `multiprocessing.Queue`."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(_limit(maxsize), ctx=cast("Any", _Parts(ctx, limited=maxsize > 0)))


class JoinableQueue(queues.JoinableQueue):  # type: ignore[type-arg]
    """A queue that can be waited for until all is done that was put into it, as `multiprocessing.JoinableQueue`."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(_limit(maxsize), ctx=cast("Any", _Parts(ctx, limited=maxsize > 0)))


class SimpleQueue(queues.SimpleQueue[Any]):
    """A pipe with locks, as `multiprocessing.SimpleQueue`."""

    def __init__(self, *, ctx: BaseContext) -> None:
        super().__init__(ctx=cast("Any", _Parts(ctx)))


def _limit(maxsize: int) -> int:
    """How many items a queue takes.

    Without a limit, multiprocessing would ask `multiprocessing.synchronize` for one, which cannot be imported where
    there is no `sem_open`.
    """
    return maxsize if maxsize > 0 else MOST_PERMITS


class _Parts:
    """The context that the standard library's code is given to make a queue of."""

    def __init__(self, ctx: BaseContext, *, limited: bool = True) -> None:
        self._ctx = ctx
        self._limited = limited

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def Lock(self) -> _QueueLock:
        return _QueueLock(ctx=self._ctx)

    def BoundedSemaphore(self, value: int) -> Semaphore | _Endless:
        # A queue gives no place back that it has not taken. So the semaphore need not be a bounded one, which costs
        # twice as much.
        return Semaphore(value, ctx=self._ctx) if self._limited else _Endless(self._ctx)


class _QueueLock(Lock):
    """The lock of one end of a queue, which is taken over even where the warning that its owner died is an error.

    Nobody but the queue could do that, and it would fail for ever.
    """

    __slots__ = ()

    _frames = Lock._frames + 1

    def _announcer(self) -> Callable[[int, bool], Owner]:
        memory, announce = self._memory, super()._announcer()

        def tell(slot: int, aloud: bool) -> Owner:
            try:
                return announce(slot, aloud)
            except OwnerDiedWarning:
                return snapshot.read_slot_owner(memory, slot)

        return tell


class _Endless:
    """The places of a queue without a limit: only how many are taken matters, and nobody waits for one."""

    def __init__(self, ctx: BaseContext) -> None:
        self._taken = Semaphore(0, ctx=ctx)
        self._given = Semaphore(0, ctx=ctx)

    def acquire(self, _block: bool = True, _timeout: float | None = None) -> bool:
        self._taken.release()
        return True

    def release(self) -> None:
        self._given.release()

    def get_value(self) -> int:
        given = self._given.get_value()  # first, or the queue could seem to have less than no items
        return MOST_PERMITS + given - self._taken.get_value()

    def locked(self) -> bool:
        return False

    # what is asked before CPython 3.14, and how
    _get_value = get_value
    _is_zero = locked

    @property
    def _semlock(self) -> _Endless:
        return self
