"""What lives in shared memory, and how it travels between processes: by fork, as a place in a segment, or by name."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import sys
import weakref
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, ClassVar, Final, Generic, TypeVar, cast, overload

from mpbakery._errors import SharingError, UnknownLockError, called
from mpbakery._protocol.slots import SlotTable
from mpbakery._system import identity, names
from mpbakery._system.layout import KINDS, MAX_SLOTS, NAME_BYTES
from mpbakery._system.machine import ThisMachine
from mpbakery._system.memory import Memory, attach, create
from mpbakery._system.segments import Segment
from mpbakery._system.starting import starting_process

#: How many threads can use what is shared at the same time, unless told otherwise.
DEFAULT_SLOTS: Final = 1024

#: How many calls deep the hook of forks may go.
_DEPTH: Final = 200
#: How often it may fail for want of memory or stack.
_FAILURES: Final = 10

_S = TypeVar("_S", bound="Shared")
_T = TypeVar("_T")

#: Everything of this process by its identity, and what `register` keeps alive.
_known: weakref.WeakValueDictionary[bytes, Shared] = weakref.WeakValueDictionary()
_registered: dict[bytes, Shared] = {}


class Told(Generic[_T]):
    """What something tells of itself, like a property; a program may give it an attribute of that name, as of any."""

    def __init__(self, tell: Callable[[Any], _T]) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), tell)
        self._tell = tell

    @overload
    def __get__(self, instance: None, owner: type) -> Told[_T]: ...
    @overload
    def __get__(self, instance: Any, owner: type | None = None) -> _T: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Told[_T] | _T:
        return self if instance is None else self._tell(instance)


class Shared:
    """Something that processes share, in memory with slots for their threads."""

    __slots__ = ()  # the two below are slots of its subclasses: of several bases, only one can have any

    #: what its memory says that it is
    _kind: ClassVar[int]
    #: whether the numbers of dead slots mean something to those who use it
    _keeping: ClassVar[bool] = False

    _memory: Memory
    _table: SlotTable

    def _create(
        self,
        *,
        slots: int,
        name: str | None,
        ctx: BaseContext | None,
        robust: bool = True,
        value: int = 0,
        link: bytes = b"",
        tenure: float = 0.0,
    ) -> None:
        """Make the memory; `value`, `link` and `tenure` are for the use of whatever this is."""
        _check_context(ctx)
        memory = create(
            self._kind,
            checked_slots(slots),
            name=names.made_up(KINDS[self._kind]) if name is None else _checked_name(name),
            robust=bool(robust),
            namespace=identity.this_namespace(),
            value=value,
            link=link,
            tenure=tenure,
            others=len(_known),
        )
        self._adopt(memory)

    def _adopt(self, memory: Memory) -> None:
        self._memory = memory  # type: ignore[misc]
        machine = ThisMachine(memory.segment.mapping, memory.place)
        claims = memory.segment.claims
        self._table = SlotTable(memory, claims, identity, machine, keeping=self._keeping)  # type: ignore[misc]
        self._set_up(machine)
        _known[memory.identity] = self

    def _set_up(self, machine: ThisMachine) -> None:
        """What it needs in this process beside its memory and its table of slots."""
        raise NotImplementedError

    def _occupy(self) -> None:
        """Claim a slot for the calling thread, if it has none."""
        raise NotImplementedError

    def _abandon_slots(self) -> None:
        """In a forked child: what was under way in the parent must not touch the parent's slots."""
        raise NotImplementedError

    def _has_slots(self) -> bool:
        """Whether the calling thread has a slot, as far as it knows."""
        raise NotImplementedError

    @Told
    def name(self) -> str:
        """What messages call it."""
        return self._memory.name

    def fileno(self) -> int:
        """The descriptor that must stay open while threads that have not used it yet shall be able to."""
        return self._table.descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        memory = self._memory
        if starting_process() is None:
            return find, (memory.identity, memory.name)
        return receive, (memory.segment, memory.place, memory.identity, memory.name, type(self), self._parts())

    def _parts(self) -> tuple[Any, ...]:
        """What else a process that is being started needs, for `_assemble`."""
        return ()

    def _assemble(self, *parts: Any) -> None:
        """Take what `_parts` gave in the process that made this one."""

    def _register(self) -> None:
        """Claim the calling thread's slot now, and keep this alive and known in this process."""
        self._occupy()
        _registered[self._memory.identity] = self

    def _renew(self) -> None:
        """In a forked child: start without slots; the parent's stay the parent's."""
        # The slots are asked as well: a hook that was interrupted behind renew() is run again.
        if self._table.is_touched() or self._has_slots():
            self._table.renew()
            self._abandon_slots()


def everything_known() -> list[Shared]:
    """Everything that this process has at this moment."""
    # not by values(), a loop that fails if another thread, or a handler, makes something in the middle of it
    return [known for reference in _known.valuerefs() if (known := reference()) is not None]


def register(*locks: Shared) -> None:
    """Make locks usable in this process, for the initializer of a Pool or a ProcessPoolExecutor.

    Claims a slot in each lock for the calling thread at once, so that a shortage shows when a worker starts rather
    than in the middle of its work, and makes the locks known for as long as the process lives, so that they can
    arrive in the arguments of tasks.

    A lock that did not arrive here itself is passed over, and raises `UnknownLockError` when it is used: an initializer
    that fails would have many a pool start one worker after another for ever.

    Raises:
        TypeError: an argument is neither a lock nor another of mpbakery's primitives.
        SlotsExhausted, ClaimFileLostError, ClaimsRefusedError, ForeignNamespaceError: as `Lock.acquire`.
    """
    for lock in locks:
        if not isinstance(lock, (Shared, _UnknownLock)):
            raise TypeError(f"cannot register {lock!r}: register() takes mpbakery locks, as in register(lock, other)")
    for lock in locks:
        if isinstance(lock, Shared):
            lock._register()


def needs_descriptor(ctx: BaseContext | None) -> bool:
    """Whether the processes of a context, None for the default one, inherit nothing but what is behind a descriptor."""
    ctx = multiprocessing.get_context() if ctx is None else ctx
    _check_context(ctx)
    return ctx.get_start_method() != "fork"


def _check_context(ctx: BaseContext | None) -> None:
    if ctx is not None and not hasattr(ctx, "get_start_method"):
        raise TypeError(f"ctx is {ctx!r}: give a context, as in ctx=multiprocessing.get_context('spawn')")


def checked_slots(slots: int) -> int:
    """A number of slots, as an argument gives it.

    Raises TypeError and ValueError for what is none, or out of range.
    """
    try:
        number = operator.index(slots)
    except TypeError:
        raise TypeError(f"slots is {slots!r}: give a whole number, from 1 to {MAX_SLOTS}") from None
    if not 1 <= number <= MAX_SLOTS:
        raise ValueError(f"slots is {number}: give a number from 1 to {MAX_SLOTS}, one for every thread at a time")
    return number


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}: give a string, or None for a made-up name")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"name is {name!r}, which cannot be written in UTF-8: give another one") from None
    if size > NAME_BYTES or "\0" in name:
        raise ValueError(f"name is {name!r}: give at most {NAME_BYTES} bytes of UTF-8 without a NUL, or None")
    return name


class _UnknownLock:
    """Stands for a lock that arrived where it is not known: every use of it says so.

    Unpickling does not, because what an exception does there is up to who unpickles: workers of multiprocessing's
    pools and its copies, and of dask, die of it. Then the task is lost and waited for for ever, or given to one worker
    after another.
    """

    def __init__(self, identity: bytes, name: str) -> None:
        self._identity = identity
        self._name = name

    def _error(self) -> UnknownLockError:
        return UnknownLockError(self._name, self._identity.hex())

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and any(hasattr(kind, name) for kind in _kinds()):
            raise self._error()
        # who tries whether it is a data frame, for example, is no user of the lock
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> bool:
        raise self._error()

    def __exit__(self, *_exception: object) -> None:
        raise self._error()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return find, (self._identity, self._name)

    def __repr__(self) -> str:
        return f"<UnknownLock({self._name})>"


def _kinds() -> list[type[Shared]]:
    kinds: list[type[Shared]] = [Shared]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return kinds


def find(identity: bytes, name: str) -> Shared | _UnknownLock:
    """A lock that was pickled as its identity."""
    if not isinstance(identity, bytes) or not isinstance(name, str):
        raise TypeError(f"a pickled lock is its identity and its name, not {identity!r} and {name!r}")
    lock = _known.get(identity)
    return _UnknownLock(identity, name) if lock is None else lock


def receive(segment: Segment, place: int, identity: bytes, name: str, kind: type[_S], parts: tuple[Any, ...]) -> _S:
    """What was sent to a process that is starting."""
    known = _known.get(identity)
    if isinstance(known, kind):
        return known
    memory = attach(segment, place, kind._kind)
    if memory.identity != identity:
        raise SharingError(
            f"at place {place} of segment {segment.identity:x} is {called(memory.name, memory.kind)}, not {name}, "
            f"which was announced: only what mpbakery itself sends can be used"
        )
    shared = kind.__new__(kind)
    shared._assemble(*parts)
    shared._adopt(memory)
    return shared


def _after_fork_in_child() -> None:
    """Renew everything, whatever handlers raise meanwhile: the interpreter would drop that, and the child go on."""
    interruption: BaseException | None = None
    failures = 0
    while failures < _FAILURES:
        try:
            identity.forget()
            for shared in list(_known.values()):
                shared._renew()
            for call in _last_resort:
                call.__setstate__((bool, (), {}, None))
            break
        except (MemoryError, RecursionError):
            failures += 1
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _restore_recursion_limit() -> None:
    try:
        sys.setrecursionlimit(sys.getrecursionlimit() - _DEPTH)
    except RecursionError:
        pass  # the fork came just below it


# A child that is forked at the recursion limit could not call the hook, and would go on with its parent's slots. So the
# limit is raised before, in C.
_raise_limit = map(sys.setrecursionlimit, map(_DEPTH.__add__, iter(sys.getrecursionlimit, None)))
os.register_at_fork(after_in_child=functools.partial(next, _raise_limit))
os.register_at_fork(after_in_child=_after_fork_in_child)
# once more, for a handler that raises at the entry of the first one; else there is nothing left to do
os.register_at_fork(after_in_child=_after_fork_in_child)
# A child that could not let go of its parent's slots all the same, for want of memory or of stack, must not go on: two
# could be in. These need neither. Each fork has them ready, and a child that has let go makes nothing of them.
_last_resort: Final[tuple[Any, ...]] = (
    functools.partial(os.write, 2, b"mpbakery: a forked child that cannot let go of its parent's locks has to end\n"),
    functools.partial(os._exit, os.EX_OSERR),
)
for _call in _last_resort:
    os.register_at_fork(before=functools.partial(_call.__setstate__, _call.__reduce__()[2]), after_in_child=_call)
os.register_at_fork(after_in_child=_restore_recursion_limit)
