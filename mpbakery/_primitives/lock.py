"""`Lock`: the interface of multiprocessing's lock, and what it tells of itself."""

from __future__ import annotations

import functools
import math
import os
import threading
import warnings
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Final

from mpbakery._errors import MpbakeryError, OwnerDiedWarning, is_from_handler
from mpbakery._primitives import deadlocks, snapshot
from mpbakery._primitives.shared import DEFAULT_SLOTS, Shared, Told
from mpbakery._primitives.snapshot import Owner, Statistics
from mpbakery._protocol.bakery import Bakery
from mpbakery._system import names
from mpbakery._system.layout import INDEX, LOCK, OWNER
from mpbakery._system.machine import ThisMachine
from mpbakery._system.memory import Memory

#: The tenure of a lock unless told otherwise (s).
TENURE: Final = 0.0005
#: What is wrong at one moment and may not be at the next.
_WANTS: Final = (RecursionError, MemoryError)
#: After so many errors that signal handlers hardly ever raise, they are none of theirs.
_FAILURES: Final = 10


class Lock(Bakery, Shared):
    """A lock between processes, which takes the place of `multiprocessing.Lock`.

    Whoever comes first is served first, the threads of a process like any other contender. The lock survives its
    owner: when the process that holds it dies, the next in line gets it, with an `OwnerDiedWarning`. Like
    multiprocessing's, it is not recursive, and any thread of any process may release it.

    Args:
        slots: how many threads, in all processes together, can use the lock at the same time; 1 to 65536.
        name: what messages call the lock, at most 64 bytes of UTF-8; made up if None.
        robust: whether the lock is taken over from an owner that died; if not, it stays locked until somebody
            releases it.
        tenure: for how many seconds, from when it has come in by the line, a thread may acquire the lock again and
            again before those who wait in it; 0 for strictly first come, first served. Nobody waits longer than
            (longest hold + tenure) times the number of processes.
        ctx: a multiprocessing context, as in multiprocessing; the lock goes to processes of every start method.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError: the system has no memory or no descriptor left.

    The algorithm is Lamport's bakery (CACM 17(8), 1974), with an owner register behind it: see docs/protocol.md.
    """

    __slots__ = ("__dict__", "_memory", "_table")

    _kind = LOCK
    #: how many frames there are between the one who acquires and the warning that the owner died, or of a deadlock
    _frames = 7
    _frames_of_deadlock = 6

    def __init__(
        self,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
        robust: bool = True,
        tenure: float = TENURE,
        ctx: BaseContext | None = None,
    ) -> None:
        self._create(slots=slots, name=name, robust=robust, tenure=checked_tenure(tenure), ctx=ctx)

    def _set_up(self, machine: ThisMachine) -> None:
        Bakery.__init__(self, self._memory, self._table, machine, self._announcer())
        if self._kind in deadlocks.KINDS:
            self._line.doubt = functools.partial(deadlocks.tell, self._frames_of_deadlock)

    def _announcer(self) -> Callable[[int, bool], Owner]:
        """What tells of an owner's death, if it is to be told aloud, and says who it was."""
        return functools.partial(_announce, self._memory, self._frames)

    @Told
    def owner(self) -> Owner | None:
        """Who holds the lock at this moment, None if nobody does. The owner may have died."""
        return snapshot.read_owner(self._memory)

    @Told
    def recovered_from(self) -> Owner | None:
        """The dead owner that the lock was taken over from, as long as this process holds it; None otherwise."""
        token, owner = self._line.recovered
        memory = self._memory
        held = memory.words[OWNER] & INDEX
        return owner if token and memory.times[held] == token and isinstance(owner, Owner) else None

    def statistics(self) -> Statistics:
        """Who holds the lock, who waits for it in which order, and what it has seen so far."""
        return snapshot.read_statistics(self._memory)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={self._describe_owner()})>"

    def _is_mine(self) -> bool:
        """Whether the calling thread holds the lock."""
        slot = self._seats.slot
        return slot.index >= 0 and slot.is_in()

    def _describe_owner(self) -> str:
        """The forms of multiprocessing's locks."""
        owner = snapshot.read_owner(self._memory)
        if owner is None:
            return "None"
        if owner.pid != os.getpid():
            return "SomeOtherProcess"
        if owner.thread != threading.get_native_id():
            return "SomeOtherThread"
        thread = threading.current_thread().name
        return names.of_this_process() + ("" if thread == "MainThread" else f"|{thread}")

    # --- For a condition over this lock ----------------------------------------------------------------------------

    def _release_wholly(self) -> None:
        """Release what the calling thread holds, however often it has acquired it."""
        self.release()

    def _acquire_again(self, depth: int) -> None:
        """Acquire after `_release_wholly`; nothing more if the calling thread holds the lock already."""
        if not self._is_mine():
            slot = self._seats.slot
            slot.must_enter = True
            try:
                self.acquire()
            finally:
                slot.must_enter = False
        self._deepen(depth)

    def _insist(self, depth: int) -> None:
        """The same, whatever signal handlers raise meanwhile, and whoever has died.

        Raises what is raised again and again, and so not by handlers: nobody could ever end this.
        """
        failures = 0
        while True:
            try:
                try:
                    self._acquire_again(depth)
                except OwnerDiedWarning as death:
                    self._take_as_told(death)
                    self._acquire_again(depth)
            except (*_WANTS, MpbakeryError, OSError):
                failures += 1
                if failures == _FAILURES:
                    raise
                continue
            except BaseException:  # noqa: S112 - what is raised in the end is what had been raised before
                continue
            return

    def _take_as_told(self, death: OwnerDiedWarning) -> None:
        """The calling thread need not be told of this death once more."""
        words = self._memory.words
        since = words[words[OWNER] & INDEX]
        owner = snapshot.read_owner(self._memory)
        if owner is not None and (owner.pid, owner.thread) == (death.pid, death.thread):
            self._seats.slot.announced = since

    def _depth(self) -> int:
        """How often the calling thread has acquired what it holds."""
        return 1

    def _deepen(self, depth: int) -> None:
        """Have it count as acquired so often."""


def checked_tenure(tenure: float) -> float:
    """`tenure` as a float.

    Raises TypeError and ValueError for what is no length of time.
    """
    try:
        seconds = float(tenure) if not isinstance(tenure, (str, bytes, bytearray)) else None
    except (TypeError, ValueError):
        seconds = None
    except OverflowError:
        seconds = math.inf if tenure > 0 else -math.inf
    if seconds is None:
        raise TypeError(f"tenure is {tenure!r}: give seconds as a number, 0 for strictly first come, first served")
    if not seconds >= 0:
        raise ValueError(f"tenure is {tenure!r}: give 0 seconds or more, 0 for strictly first come, first served")
    return seconds


def _announce(memory: Memory, frames: int, slot: int, aloud: bool) -> Owner:
    owner = snapshot.read_slot_owner(memory, slot)
    if aloud:
        held = ThisMachine.clock() - owner.since
        warning = OwnerDiedWarning(memory.name, owner.pid, owner.thread, owner.process, held)
        try:
            warnings.warn(warning, stacklevel=frames)
        except Exception as error:
            # Who turns the warning into an error leaves the lock to the next one. Not so where it could not be
            # shown, as on a closed stderr: nobody would ever have the lock where all are like that.
            if error is warning or isinstance(error, _WANTS) or is_from_handler(error):
                raise
    return owner
