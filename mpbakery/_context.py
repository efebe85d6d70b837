"""`get_context`: multiprocessing's contexts, with everything in them made of locks and memory of ours."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.queues
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from mpbakery._primitives.barrier import Barrier
from mpbakery._primitives.condition import Condition
from mpbakery._primitives.event import Event
from mpbakery._primitives.lock import TENURE, Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.semaphore import BoundedSemaphore, Semaphore
from mpbakery._primitives.shared import DEFAULT_SLOTS
from mpbakery._system import packets
from mpbakery._work import values
from mpbakery._work.pools.pool import Pool
from mpbakery._work.queues import piped, queue
from mpbakery._work.values import AnyLock, C, Character, Content, Float, Integer, OrTrue, T

if TYPE_CHECKING:
    import ctypes
    from ctypes import _SimpleCData
    from multiprocessing.sharedctypes import Synchronized, SynchronizedArray, SynchronizedBase, SynchronizedString

S = TypeVar("S", bound="Factories")


class Factories(BaseContext):
    """What a context makes. `install` puts these functions into multiprocessing's own contexts as well."""

    def Lock(  # type: ignore[override]
        self,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
        robust: bool = True,
        tenure: float = TENURE,
    ) -> Lock:
        """A lock that is not recursive."""
        return Lock(slots=slots, name=name, robust=robust, tenure=tenure, ctx=self.get_context())

    def RLock(  # type: ignore[override]
        self,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
        robust: bool = True,
        tenure: float = TENURE,
    ) -> RLock:
        """A recursive lock."""
        return RLock(slots=slots, name=name, robust=robust, tenure=tenure, ctx=self.get_context())

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
        slots: int | None = None,
        name: str | None = None,
    ) -> Barrier:
        """A barrier."""
        return Barrier(parties, action, timeout, slots=slots, name=name, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> multiprocessing.queues.Queue[Any]:
        """A queue."""
        return _queues().Queue(maxsize, ctx=self.get_context())  # type: ignore[no-any-return]

    def JoinableQueue(self, maxsize: int = 0) -> multiprocessing.queues.JoinableQueue[Any]:
        """A queue with `task_done` and `join`."""
        return _queues().JoinableQueue(maxsize, ctx=self.get_context())  # type: ignore[no-any-return]

    def SimpleQueue(self) -> multiprocessing.queues.SimpleQueue[Any]:
        """A queue without a limit, and without a thread that sends for the one who puts."""
        return _queues().SimpleQueue(ctx=self.get_context())  # type: ignore[no-any-return]

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

    @overload
    def RawValue(self, typecode_or_type: type[C], *args: Any) -> C: ...
    @overload
    def RawValue(self, typecode_or_type: str, *args: Any) -> Any: ...
    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A shared ctypes object without a lock."""
        return values.RawValue(typecode_or_type, *args, ctx=self.get_context())

    @overload
    def RawArray(self, typecode_or_type: type[C], size_or_initializer: Content) -> ctypes.Array[C]: ...
    @overload
    def RawArray(self, typecode_or_type: str, size_or_initializer: Content) -> Any: ...
    def RawArray(self, typecode_or_type: Any, size_or_initializer: Content) -> Any:
        """A shared ctypes array without a lock."""
        return values.RawArray(typecode_or_type, size_or_initializer, ctx=self.get_context())

    @overload  # type: ignore[override]
    def Value(
        self, typecode_or_type: Integer, *args: Any, lock: OrTrue = True, tenure: float = TENURE
    ) -> Synchronized[int]: ...
    @overload
    def Value(
        self, typecode_or_type: Float, *args: Any, lock: OrTrue = True, tenure: float = TENURE
    ) -> Synchronized[float]: ...
    @overload
    def Value(
        self, typecode_or_type: str, *args: Any, lock: OrTrue = True, tenure: float = TENURE
    ) -> Synchronized[Any]: ...
    @overload
    def Value(
        self, typecode_or_type: type[_SimpleCData[T]], *args: Any, lock: OrTrue = True, tenure: float = TENURE
    ) -> Synchronized[T]: ...
    @overload
    def Value(
        self, typecode_or_type: type[C], *args: Any, lock: OrTrue = True, tenure: float = TENURE
    ) -> SynchronizedBase[C]: ...
    @overload
    def Value(self, typecode_or_type: type[C], *args: Any, lock: Literal[False], tenure: float = TENURE) -> C: ...
    @overload
    def Value(
        self, typecode_or_type: str | type[C], *args: Any, lock: bool | AnyLock = True, tenure: float = TENURE
    ) -> Any: ...
    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True, tenure: float = TENURE) -> Any:
        """A shared ctypes object with a lock."""
        return values.Value(typecode_or_type, *args, lock=lock, tenure=tenure, ctx=self.get_context())

    @overload  # type: ignore[override]
    def Array(
        self, typecode_or_type: Integer, size_or_initializer: Content, *, lock: OrTrue = True, tenure: float = TENURE
    ) -> SynchronizedArray[int]: ...
    @overload
    def Array(
        self, typecode_or_type: Float, size_or_initializer: Content, *, lock: OrTrue = True, tenure: float = TENURE
    ) -> SynchronizedArray[float]: ...
    @overload
    def Array(
        self, typecode_or_type: Character, size_or_initializer: Content, *, lock: OrTrue = True, tenure: float = TENURE
    ) -> SynchronizedString: ...
    @overload
    def Array(
        self, typecode_or_type: str, size_or_initializer: Content, *, lock: OrTrue = True, tenure: float = TENURE
    ) -> SynchronizedArray[Any]: ...
    @overload
    def Array(
        self,
        typecode_or_type: type[_SimpleCData[T]],
        size_or_initializer: Content,
        *,
        lock: OrTrue = True,
        tenure: float = TENURE,
    ) -> SynchronizedArray[T]: ...
    @overload
    def Array(
        self, typecode_or_type: type[C], size_or_initializer: Content, *, lock: Literal[False], tenure: float = TENURE
    ) -> ctypes.Array[C]: ...
    @overload
    def Array(
        self,
        typecode_or_type: str | type[C],
        size_or_initializer: Content,
        *,
        lock: bool | AnyLock = True,
        tenure: float = TENURE,
    ) -> Any: ...
    def Array(
        self, typecode_or_type: Any, size_or_initializer: Content, *, lock: Any = True, tenure: float = TENURE
    ) -> Any:
        """A shared ctypes array with a lock."""
        return values.Array(typecode_or_type, size_or_initializer, lock=lock, tenure=tenure, ctx=self.get_context())

    @overload  # type: ignore[override]
    def get_context(self: S, method: None = None) -> S: ...
    @overload
    def get_context(self, method: Literal["fork"]) -> ForkContext: ...
    @overload
    def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
    @overload
    def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
    @overload
    def get_context(self, method: str) -> ForkContext | SpawnContext | ForkServerContext: ...
    def get_context(self, method: str | None = None) -> Factories:
        """This context, or that of another start method."""
        return self if method is None else get_context(method)


class ForkContext(Factories, multiprocessing.context.ForkContext):
    """Children are forked."""


class SpawnContext(Factories, multiprocessing.context.SpawnContext):
    """Children are started anew."""


class ForkServerContext(Factories, multiprocessing.context.ForkServerContext):
    """Children are forked from a server process, which was started anew."""


_contexts: Final[dict[str, ForkContext | SpawnContext | ForkServerContext]] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def _queues() -> Any:
    """The module with the queues that are made here."""
    return queue if packets.are_there() else piped


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
