"""`get_context`: multiprocessing's contexts, with everything in them made of locks and memory of ours."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing import context
from multiprocessing.context import BaseContext
from typing import Any, Final, Literal, overload

from mpbakery._primitives.barrier import Barrier
from mpbakery._primitives.condition import Condition
from mpbakery._primitives.event import Event
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.semaphore import BoundedSemaphore, Semaphore
from mpbakery._primitives.shared import DEFAULT_SLOTS
from mpbakery._work import queues, values
from mpbakery._work.pool import Pool


class Factories(BaseContext):
    """What a context makes. `install` puts these functions into multiprocessing's own contexts as well."""

    def Lock(self, *, slots: int = DEFAULT_SLOTS, name: str | None = None, robust: bool = True) -> Lock:  # type: ignore[override]
        """A lock that is not recursive."""
        return Lock(slots=slots, name=name, robust=robust, ctx=self.get_context())

    def RLock(self, *, slots: int = DEFAULT_SLOTS, name: str | None = None, robust: bool = True) -> RLock:  # type: ignore[override]
        """A recursive lock."""
        return RLock(slots=slots, name=name, robust=robust, ctx=self.get_context())

    def Condition(self, lock: Any = None, *, slots: int = DEFAULT_SLOTS, name: str | None = None) -> Condition:  # type: ignore[override]
        """A condition variable, with a recursive lock of its own unless one is given."""
        return Condition(lock, slots=slots, name=name, ctx=self.get_context())

    def Semaphore(self, value: int = 1, *, slots: int = DEFAULT_SLOTS, name: str | None = None) -> Semaphore:  # type: ignore[override]
        """A semaphore."""
        return Semaphore(value, slots=slots, name=name, ctx=self.get_context())

    def BoundedSemaphore(  # type: ignore[override]
        self, value: int = 1, *, slots: int = DEFAULT_SLOTS, name: str | None = None
    ) -> BoundedSemaphore:
        """A semaphore to which no more can be given back than was taken."""
        return BoundedSemaphore(value, slots=slots, name=name, ctx=self.get_context())

    def Event(self, *, slots: int = DEFAULT_SLOTS, name: str | None = None) -> Event:  # type: ignore[override]
        """An event."""
        return Event(slots=slots, name=name, ctx=self.get_context())

    def Barrier(  # type: ignore[override]
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
    ) -> Barrier:
        """A barrier."""
        return Barrier(parties, action, timeout, slots=slots, name=name, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> queues.Queue:
        """A queue over a pipe, which a thread of the one who puts feeds."""
        return queues.Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> queues.JoinableQueue:
        """A queue with `task_done` and `join`."""
        return queues.JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> queues.SimpleQueue:
        """A pipe with locks."""
        return queues.SimpleQueue(ctx=self.get_context())

    def Pool(  # type: ignore[override]
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        retries: int = 0,
    ) -> Pool:
        """A pool of worker processes."""
        return Pool(processes, initializer, initargs, maxtasksperchild, self.get_context(), retries=retries)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A shared ctypes object without a lock."""
        return values.RawValue(typecode_or_type, *args, ctx=self.get_context())

    def RawArray(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any]) -> Any:
        """A shared ctypes array without a lock."""
        return values.RawArray(typecode_or_type, size_or_initializer, ctx=self.get_context())

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """A shared ctypes object with a lock."""
        return values.Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any], *, lock: Any = True) -> Any:
        """A shared ctypes array with a lock."""
        return values.Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def get_context(self, method: str | None = None) -> Any:
        """This context, or that of another start method."""
        return self if method is None else get_context(method)


class ForkContext(Factories, context.ForkContext):
    """Children are forked."""


class SpawnContext(Factories, context.SpawnContext):
    """Children are started anew."""


class ForkServerContext(Factories, context.ForkServerContext):
    """Children are forked from a server process, which was started anew."""


_contexts: Final[dict[str, ForkContext | SpawnContext | ForkServerContext]] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


@overload
def get_context(method: Literal["fork"]) -> ForkContext: ...
@overload
def get_context(method: Literal["spawn"]) -> SpawnContext: ...
@overload
def get_context(method: Literal["forkserver"]) -> ForkServerContext: ...
@overload
def get_context(method: str | None = None) -> ForkContext | SpawnContext | ForkServerContext: ...
def get_context(method: str | None = None) -> ForkContext | SpawnContext | ForkServerContext:
    """A multiprocessing context whose locks, semaphores, queues, pools and shared values are mpbakery's.

    Args:
        method: "fork", "spawn" or "forkserver"; None for the start method that `multiprocessing.get_context()` has,
            which is fixed by this as it is by that.

    Raises:
        ValueError: there is no such start method, or not on this system.
    """
    if method is None:
        method = multiprocessing.get_context().get_start_method()
    try:
        found = _contexts[method]
    except KeyError:
        raise ValueError(f"cannot find context for {method!r}: give {', '.join(map(repr, _contexts))}") from None
    found._check_available()
    return found
