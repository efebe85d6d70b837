"""`Value`, `Array`, `RawValue`, `RawArray`: multiprocessing's ctypes objects, in memory that needs no file system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from multiprocessing import context, sharedctypes
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar, overload

from mpbakery._primitives.lock import TENURE
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.shared import needs_descriptor
from mpbakery._protocol.bakery import OfThread, Replaceable
from mpbakery._work.arena import Piece, allocate

if TYPE_CHECKING:
    from ctypes import _SimpleCData
    from multiprocessing.sharedctypes import Synchronized, SynchronizedArray, SynchronizedBase, SynchronizedString

T = TypeVar("T")
C = TypeVar("C", bound="ctypes._CData")
Integer: TypeAlias = Literal["b", "B", "h", "H", "i", "I", "l", "L", "q", "Q"]
Float: TypeAlias = Literal["f", "d"]
Character: TypeAlias = "Literal['c'] | type[ctypes.c_char]"
Content: TypeAlias = "int | Sequence[Any]"
OrTrue: TypeAlias = "AnyLock | Literal[True]"
_Context: TypeAlias = "BaseContext | None"

# the standard library has no types for these two
_TYPES: Final[dict[object, Any]] = sharedctypes.typecode_to_type  # type: ignore[attr-defined]
_rebuild: Final[Callable[[Any, Piece, None], Any]] = sharedctypes.rebuild_ctype  # type: ignore[attr-defined]


class AnyLock(Protocol):
    """A lock for the accesses to a value: of mpbakery, of multiprocessing, or of a manager."""

    def acquire(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


#: What wraps values here, by what does in the standard library.
_wrappers: Final[dict[type, type]] = {}


@overload
def RawValue(typecode_or_type: type[C], *args: Any, ctx: _Context = None) -> C: ...
@overload
def RawValue(typecode_or_type: str, *args: Any, ctx: _Context = None) -> Any: ...
def RawValue(typecode_or_type: Any, *args: Any, ctx: _Context = None) -> Any:
    """A ctypes object in shared memory, without a lock.

    Args:
        typecode_or_type: a ctypes type, or a typecode as of the `array` module.
        args: what the type is called with.
        ctx: the multiprocessing context whose processes will use it, None for the default one. For spawn and
            forkserver, 64 KiB of such objects keep an unlinked file in memory open.

    Raises:
        TypeError: that is no ctypes type.
        OSError: the system has no memory or no descriptor left.
    """
    value = _new(_type_of(typecode_or_type), ctx)
    value.__init__(*args)
    return value


@overload
def RawArray(typecode_or_type: type[C], size_or_initializer: Content, *, ctx: _Context = None) -> ctypes.Array[C]: ...
@overload
def RawArray(typecode_or_type: str, size_or_initializer: Content, *, ctx: _Context = None) -> Any: ...
def RawArray(typecode_or_type: Any, size_or_initializer: Content, *, ctx: _Context = None) -> Any:
    """A ctypes array in shared memory, without a lock: so many zeros, or the elements given. Else as `RawValue`."""
    kind = _type_of(typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new(kind * size_or_initializer, ctx)
    array = _new(kind * len(size_or_initializer), ctx)
    array.__init__(*size_or_initializer)
    return array


@overload
def Value(
    typecode_or_type: Integer, *args: Any, lock: OrTrue = True, tenure: float = TENURE, ctx: _Context = None
) -> Synchronized[int]: ...
@overload
def Value(
    typecode_or_type: Float, *args: Any, lock: OrTrue = True, tenure: float = TENURE, ctx: _Context = None
) -> Synchronized[float]: ...
@overload
def Value(
    typecode_or_type: str, *args: Any, lock: OrTrue = True, tenure: float = TENURE, ctx: _Context = None
) -> Synchronized[Any]: ...
@overload
def Value(
    typecode_or_type: type[_SimpleCData[T]],
    *args: Any,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> Synchronized[T]: ...
@overload
def Value(
    typecode_or_type: type[C], *args: Any, lock: OrTrue = True, tenure: float = TENURE, ctx: _Context = None
) -> SynchronizedBase[C]: ...
@overload
def Value(
    typecode_or_type: type[C], *args: Any, lock: Literal[False], tenure: float = TENURE, ctx: _Context = None
) -> C: ...
@overload
def Value(
    typecode_or_type: str | type[C],
    *args: Any,
    lock: bool | AnyLock = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> Any: ...
def Value(typecode_or_type: Any, *args: Any, lock: Any = True, tenure: float = TENURE, ctx: _Context = None) -> Any:
    """A ctypes object in shared memory, with a lock around each access to it.

    Args:
        typecode_or_type: a ctypes type, or a typecode as of the `array` module.
        args: what the type is called with.
        lock: True for an `mpbakery.RLock` of its own, False for none at all (then it is a `RawValue`), or the lock.
        tenure: in seconds, that of a lock of its own, as for `Lock`.
        ctx: as for `RawValue`.

    Raises:
        AttributeError: `lock` is no lock.
        TypeError, OSError: as `RawValue`.
        TypeError, ValueError: `tenure` is no length of time.
    """
    return _locked(RawValue(typecode_or_type, *args, ctx=ctx), lock, tenure, ctx)


@overload
def Array(
    typecode_or_type: Integer,
    size_or_initializer: Content,
    *,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> SynchronizedArray[int]: ...
@overload
def Array(
    typecode_or_type: Float,
    size_or_initializer: Content,
    *,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> SynchronizedArray[float]: ...
@overload
def Array(
    typecode_or_type: Character,
    size_or_initializer: Content,
    *,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> SynchronizedString: ...
@overload
def Array(
    typecode_or_type: str,
    size_or_initializer: Content,
    *,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> SynchronizedArray[Any]: ...
@overload
def Array(
    typecode_or_type: type[_SimpleCData[T]],
    size_or_initializer: Content,
    *,
    lock: OrTrue = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> SynchronizedArray[T]: ...
@overload
def Array(
    typecode_or_type: type[C],
    size_or_initializer: Content,
    *,
    lock: Literal[False],
    tenure: float = TENURE,
    ctx: _Context = None,
) -> ctypes.Array[C]: ...
@overload
def Array(
    typecode_or_type: str | type[C],
    size_or_initializer: Content,
    *,
    lock: bool | AnyLock = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> Any: ...
def Array(
    typecode_or_type: Any,
    size_or_initializer: Content,
    *,
    lock: Any = True,
    tenure: float = TENURE,
    ctx: _Context = None,
) -> Any:
    """A ctypes array in shared memory, with a lock around each access to it: `RawArray` with the lock of `Value`."""
    return _locked(RawArray(typecode_or_type, size_or_initializer, ctx=ctx), lock, tenure, ctx)


def _type_of(typecode_or_type: Any) -> Any:
    return _TYPES.get(typecode_or_type, typecode_or_type)


def _new(kind: Any, ctx: BaseContext | None) -> Any:
    try:
        size = ctypes.sizeof(kind)
    except TypeError:
        raise TypeError(
            f"bad typecode {kind!r}: give a ctypes type, or one of the typecodes {', '.join(map(str, _TYPES))}"
        ) from None
    piece = allocate(size, sendable=needs_descriptor(ctx))
    return _rebuild(kind, piece, None)


def _locked(value: Any, lock: Any, tenure: float, ctx: BaseContext | None) -> Any:
    if lock is False:
        return value
    if lock is None or lock == True:  # noqa: E712 - 1 is as good as True in the standard library
        lock = RLock(tenure=tenure, ctx=ctx)
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"lock is {lock!r}, which has no method 'acquire': give True, False, or a lock")
    return _synchronized(value, lock)


class _OfItsLock:
    """What a synchronized object has from its lock, looked up at each call.

    The standard library looks it up once; but `release` of a lock of ours is another function in each thread.
    """

    _obj: Any
    _lock: Any

    acquire = Replaceable("_acquirer.acquire", "Acquire the lock, as its own method does.")
    release = Replaceable("_releaser.release", "Release the lock, as its own method does.")
    __enter__ = OfThread("_lock.__enter__", "Acquire the lock.")
    __exit__ = OfThread("_lock.__exit__", "Release the lock.")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        context.assert_spawning(self)
        return _synchronized, (self._obj, self._lock)


def _synchronized(value: Any, lock: Any) -> Any:
    # the context would only be asked for a lock
    wrapper = sharedctypes.synchronized(value, lock, ctx=context._default_context)
    kind = type(wrapper)
    if kind not in _wrappers:
        _wrappers[kind] = type(kind.__name__, (_OfItsLock, kind), {})
    wrapper.__class__ = _wrappers[kind]
    del vars(wrapper)["acquire"], vars(wrapper)["release"]
    wrapper._acquirer = wrapper._releaser = lock
    return wrapper
