"""multiprocessing's queues over locks and semaphores of ours."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import queues
from multiprocessing.context import BaseContext
from typing import Any, cast

from mpbakery._errors import OwnerDiedWarning
from mpbakery._primitives import semaphore, snapshot
from mpbakery._primitives.condition import Condition
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.semaphore import MOST_PERMITS
from mpbakery._primitives.snapshot import Owner
from mpbakery._system import names
from mpbakery._system.layout import KINDS, MAX_SLOTS, QUEUE_LOCK, RECURSIVE_LOCK


class _Fed:
    """A queue whose pipe is fed by a thread of each process that puts."""

    _sem: semaphore.Semaphore | _Endless
    _wlock: Any

    def _start_thread(self) -> None:
        try:
            # What refuses the thread a slot is to be raised in `put`. In the thread it would be printed, and the item
            # be lost.
            lock = self._wlock
            self._wlock = _FeedersLock(lock)
            try:
                super()._start_thread()  # type: ignore[misc]
            finally:
                self._wlock = lock
        except BaseException:
            self._sem.release()
            raise


class Queue(_Fed, queues.Queue):  # type: ignore[type-arg]
    """A queue over a pipe, as `multiprocessing.Queue`."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(_limit(maxsize), ctx=cast("Any", _Parts(ctx, limited=maxsize > 0)))


class JoinableQueue(_Fed, queues.JoinableQueue):  # type: ignore[type-arg]
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
    """The context that the standard library's code is given to make a queue of.

    Every thread that uses a queue needs slots in its parts, and nobody can give a queue more of them. So it has as many
    as there can be.
    """

    def __init__(self, ctx: BaseContext, *, limited: bool = True) -> None:
        self._ctx = ctx
        self._limited = limited
        self._options: Any = {"slots": MAX_SLOTS, "name": names.made_up(KINDS[QUEUE_LOCK]), "ctx": ctx}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def Lock(self) -> _QueueLock:
        return _QueueLock(**self._options)

    def Condition(self) -> Condition:
        return Condition(_QueueRLock(**self._options), **self._options)

    def Semaphore(self, value: int) -> semaphore.Semaphore:
        return semaphore.Semaphore(value, **self._options)

    def BoundedSemaphore(self, value: int) -> semaphore.Semaphore | _Endless:
        # A queue gives no place back that it has not taken. So the semaphore need not be a bounded one, which costs
        # twice as much.
        return self.Semaphore(value) if self._limited else _Endless(self)


class _QueueLock(Lock):
    """The lock of one end of a queue, which is taken over even where the warning that its owner died is an error.

    Nobody but the queue could do that, and it would fail for ever.
    """

    __slots__ = ()

    _kind = QUEUE_LOCK
    _frames = Lock._frames + 1

    def _announcer(self) -> Callable[[int, bool], Owner]:
        memory, announce = self._memory, super()._announcer()

        def tell(slot: int, aloud: bool) -> Owner:
            try:
                return announce(slot, aloud)
            except OwnerDiedWarning:
                return snapshot.read_slot_owner(memory, slot)

        return tell


class _QueueRLock(_QueueLock, RLock):
    """The same around the count of what is not done."""

    __slots__ = ()

    _kind = RECURSIVE_LOCK
    _frames = RLock._frames + 1


class _FeedersLock:
    """The lock of the writing end, for a thread that is about to be started: it has a slot as soon as this is made."""

    def __init__(self, lock: _QueueLock) -> None:
        self._lock = lock
        self._sit_down = lock._reserve()

    @property
    def acquire(self) -> Callable[..., bool]:
        """Looked up by that thread before it does anything else."""
        self._sit_down()
        return self._lock.acquire

    @property
    def release(self) -> Callable[[], None]:
        return self._lock.release


class _Endless:
    """The places of a queue without a limit: only how many are taken matters, and nobody waits for one."""

    def __init__(self, parts: _Parts) -> None:
        self._taken = parts.Semaphore(0)
        self._given = parts.Semaphore(0)

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
