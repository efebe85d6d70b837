"""`Condition`: threads wait under a lock until others notify them."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from mpbakery._errors import NotOwnedError, called
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.shared import DEFAULT_SLOTS
from mpbakery._primitives.shared_room import SharedRoom
from mpbakery._protocol.bakery import deadline_of, of_thread, replaceable
from mpbakery._protocol.waiting_room import Place
from mpbakery._system.layout import CONDITION, IDLE, LET_GO

_T = TypeVar("_T")


class Condition(SharedRoom):
    """A condition variable between processes, which takes the place of `multiprocessing.Condition`.

    Whoever waits longest is notified first. A process that dies while it waits does not cost anybody else a wake-up:
    the dead are passed over, and what one of them had been notified of and not noticed yet goes to the next.

    Args:
        lock: the mpbakery.Lock or RLock that goes with it, None for a new RLock.
        slots: how many threads, in all processes together, can wait at the same time; 1 to 65536. A
            process that has waited once keeps a place.
        name: what messages call the condition, at most 64 bytes of UTF-8; made up if None.
        ctx: a multiprocessing context, as in multiprocessing; processes of every start method can use it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError: the system has no memory or no descriptor left.
    """

    __slots__ = ("_acquirer", "_lock", "_releaser")

    _kind = CONDITION
    _keeping = True

    def __init__(
        self,
        lock: Lock | None = None,
        *,
        slots: int = DEFAULT_SLOTS,
        name: str | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        if lock is None:
            lock = RLock(slots=slots, name=name, ctx=ctx)
        elif not isinstance(lock, Lock):
            raise TypeError(f"lock is {lock!r}: give an mpbakery.Lock or RLock, or None for a new one")
        self._assemble(lock)
        self._create(slots=slots, name=name, ctx=ctx, link=lock._memory.identity)

    @replaceable("_acquirer.acquire")
    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:  # type: ignore[empty-body]
        """Acquire the lock, as its own method does."""

    @replaceable("_releaser.release")
    def release(self) -> None:
        """Release the lock, as its own method does."""

    @of_thread("_lock.__enter__")
    def __enter__(self) -> bool:  # type: ignore[empty-body]
        """Acquire the lock."""

    @of_thread("_lock.__exit__")
    def __exit__(self, *_exception: object) -> None:
        """Release the lock."""

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait until notified, and acquire the lock again.

        Args:
            timeout: the seconds to wait at most to be notified, None for no limit.

        Returns:
            Whether this was notified; False if the time was up first.

        Raises:
            NotOwnedError: the calling thread does not hold the lock.
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            SlotsExhausted: every slot belongs to a living thread.

        The lock is held afterwards also when this raises, whatever a signal handler raised; a notification that was
        meant for a call that raises goes to the next one who waits.
        """
        self._must_be_mine("wait")
        room = self._room
        deadline = deadline_of(True, timeout, None, room.machine.clock)
        self._pass_on()  # before a claim takes the slot of a dead one, if there is no other
        place = room.enter()
        notified = False
        try:
            ticket = room.line_up(place)
            timely = True
            while timely and not notified:
                timely = self._sleep(place, ticket, deadline)
                notified = self._was_notified(place, ticket)
        except BaseException:
            if self._lock._is_mine() and not place.lost and room.words[place.number] == LET_GO:
                self.notify()
            raise
        finally:
            if not place.lost:
                room.words[place.number] = IDLE
            try:
                room.leave(place)
            except BaseException:
                # a handler that raises here would take the notification along: the number does not tell of it any more
                if notified and self._lock._is_mine():
                    self.notify()
                raise
        return notified

    def _sleep(self, place: Place, ticket: int, deadline: float | None) -> bool:
        """Sleep without the lock; False if the time is up."""
        room, lock = self._room, self._lock
        depth = lock._depth()
        try:
            try:
                lock._release_wholly()
                room.sleep(place, ticket, deadline, lambda: bool(room.orphans()))
            finally:
                lock._acquire_again(depth)
        except BaseException:
            # it may have been raised on the way to the lock, which whoever called holds in any case
            lock._insist(depth)
            raise
        return not place.lost and (deadline is None or room.machine.clock() < deadline)

    def _was_notified(self, place: Place, ticket: int) -> bool:
        """Whether this was notified, if by way of the dead."""
        self._pass_on()
        return not place.lost and self._room.words[place.number] != ticket

    def _pass_on(self) -> None:
        """Give what the dead were notified of, and never knew, to the next ones."""
        for slot in self._room.orphans():
            self.notify()
            # only now: if this process dies in between, or a handler raises, others must still find it
            self._room.is_lost(slot)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate()` is true; it is called with the lock held.

        Args:
            predicate: a function whose result is looked at for its truth.
            timeout: the seconds to wait at most, None for no limit.

        Returns:
            What the predicate returned last: something false if the time was up first.

        Raises:
            As `wait`, and what the predicate raises.
        """
        clock = self._room.machine.clock
        deadline = deadline_of(True, timeout, None, clock)
        result = predicate()
        while not result:
            left = None if deadline is None else deadline - clock()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Let those `n` go who have waited longest, or all if there are fewer; they go on when they have the lock.

        Raises:
            NotOwnedError: the calling thread does not hold the lock.
        """
        self._must_be_mine("notify")
        room = self._room
        for slot in room.waiting():
            if n <= 0:
                break
            # one that a handler has let go in the meantime does not count twice
            if not room.is_lost(slot) and room.let_go(slot):
                n -= 1

    def notify_all(self) -> None:
        """Let everyone go who waits.

        Raises:
            NotOwnedError: the calling thread does not hold the lock.
        """
        self._must_be_mine("notify_all")
        for slot in self._room.waiting():
            self._room.let_go(slot)

    def locked(self) -> bool:
        """Whether somebody holds the lock at this moment."""
        return self._lock.locked()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock!r}, {len(self._room.waiting())})>"

    def _must_be_mine(self, verb: str) -> None:
        if not self._lock._is_mine():
            raise NotOwnedError(
                f"must acquire() condition before using {verb}(): {called(self._lock._memory.name)} is not held by "
                f"this thread"
            )

    def _parts(self) -> tuple[Any, ...]:
        return (self._lock,)

    def _assemble(self, *parts: Any) -> None:
        (lock,) = parts
        self._lock: Lock = lock
        self._acquirer = self._releaser = lock

    def _occupy(self) -> None:
        self._lock._register()
        super()._occupy()
