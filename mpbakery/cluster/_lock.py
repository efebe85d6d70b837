"""`Lock`, and what it has in common with its asynchronous twin."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar, cast

import psycopg

from mpbakery._errors import NotOwnedError
from mpbakery._protocol.bakery import deadline_of
from mpbakery.cluster import _protocol
from mpbakery.cluster._errors import DeadlockError, LockLost, OwnerDiedWarning, ServerError
from mpbakery.cluster._protocol import NAME_BYTES
from mpbakery.cluster._session import (
    Attempt,
    Connect,
    Refused,
    Session,
    SessionEnded,
    StaleSession,
    Steps,
    describe,
    moments,
    run,
)
from mpbakery.cluster._values import Owner, Statistics

_F = TypeVar("_F", bound=Callable[..., Any])
_L = TypeVar("_L", bound="ClusterLock")

#: After how many seconds, at least and at most, a machine may be given up.
_LEAST: Final = 6
_MOST: Final = 86_400
#: How many idle sessions a process keeps with each server.
_MOST_IDLE: Final = 4


class Sessions:
    """The sessions of this process with one server."""

    #: all of them; a forked child has none
    known: ClassVar[dict[tuple[str, float], Sessions]] = {}

    def __init__(self) -> None:
        self.idle: list[Session] = []
        #: those that are used to acquire locks, or hold them
        self.busy: list[Session] = []

    def one_for(self, user: object, key: int) -> Session | None:
        """A session for a thread or task to acquire a lock with, None if there is none."""
        for session in list(self.busy):
            # The one that holds its other locks, so that the server sees a deadlock. Not one that holds this lock: the
            # server would give it once more. Nor one in the midst of something that a signal handler has interrupted.
            if session.user is user and key not in session.held and not (session.guard.locked() or session.is_lost()):
                return session
        return self.idle_one()

    def idle_one(self) -> Session | None:
        """A session that nobody uses."""
        while self.idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                session = self.idle.pop()
                if not session.is_lost():
                    return session
        return None

    def find(self, user: object, key: int) -> Attempt | None:
        """The acquisition by which this process holds a lock: the thread's or task's own one, or else another's."""
        found = None
        for session in list(self.busy):
            attempt = session.held.get(key)
            if attempt is not None and (found is None or session.user is user):
                found = attempt
        return found

    def retire(self, session: Session) -> bool:
        """Whether who has used a session needs it no more. Then it is to be kept, once its guard is free."""
        if session.held:
            return False
        if session in self.busy:
            self.busy.remove(session)
        session.user = None
        return True

    def keep(self, session: Session) -> None:
        """Have a session ready for who needs one next."""
        if session.is_lost() or len(self.idle) >= _MOST_IDLE:
            session.close()
        else:
            self.idle.append(session)


os.register_at_fork(after_in_child=Sessions.known.clear)


class ClusterLock:
    """What `Lock` and `AsyncLock` have in common."""

    #: for how long to wait for a session that another thread is using (s)
    _patience: ClassVar[float] = 1.0

    def __init__(self, url: str, name: str, *, lost_after: float = 30) -> None:
        self._url = _checked_url(url)
        self._name = _checked_name(name)
        self._lost_after = _checked_seconds(lost_after)
        self._key = _protocol.key_of(name)

    @property
    def name(self) -> str:
        """What all who use the lock call it."""
        return self._name

    @property
    def token(self) -> int:
        """The number of this acquisition, which is greater than those of all before it.

        Hand it to the store with each write, and have the store refuse a number smaller than the last one it has seen.

        Raises:
            NotOwnedError: this process does not hold the lock.
        """
        attempt = self._find()
        if attempt is None:
            raise NotOwnedError(
                f"lock {self._name!r} is not held by this process, so there is no token: acquire it first"
            )
        return attempt.token

    @property
    def lost(self) -> bool:
        """Whether this process has acquired the lock, but its session has ended, so that others may be inside.

        The kernel of this machine is asked, not the server. `False` is no promise: it may not be known yet here.
        """
        attempt = self._find()
        return attempt is not None and attempt.session is not None and attempt.session.is_lost()

    @property
    def recovered_from(self) -> Owner | None:
        """The dead owner that the lock was taken over from, as long as this process holds it; None otherwise."""
        attempt = self._find()
        return attempt.recovered_from if attempt is not None else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._url, self._name, self._lost_after)

    def __repr__(self) -> str:
        attempt = self._find()
        state = "not held here" if attempt is None else "lost" if self.lost else f"token {attempt.token}"
        return f"<{type(self).__name__}({self._name!r} at {describe(self._url)}, {state})>"

    def _user(self) -> object:
        """The calling thread or task."""
        raise NotImplementedError

    def _sessions(self) -> Sessions:
        known, server = Sessions.known, (self._url, self._lost_after)
        found = known.get(server)
        return found if found is not None else known.setdefault(server, Sessions())

    def _find(self) -> Attempt | None:
        return self._sessions().find(self._user(), self._key)

    def _announce(self, owner: Owner) -> None:
        held = time.monotonic() - owner.since
        died = OwnerDiedWarning(self._name, owner.pid, owner.thread, owner.process, held, owner.host)
        warnings.warn(died, stacklevel=6)

    def _acquiring(self, attempt: Attempt, deadline: float | None) -> Steps[bool]:
        """Acquire the lock; whether it was acquired by the deadline. To be undone if it raises."""
        user, sessions = self._user(), self._sessions()
        own = sessions.find(user, self._key)
        holder = own.session if own is not None else None
        if deadline is None and holder is not None and holder.user is user and not holder.is_lost():
            raise DeadlockError(self._name)
        while True:
            session = sessions.one_for(user, self._key) or (yield Connect(self._url, self._lost_after))
            session.user = session.user or user
            with session.guard:
                if session.user is not user:
                    continue  # another thread has released what it held, and a third one uses it now
                attempt.session = session
                if session not in sessions.busy:
                    sessions.busy.append(session)
                seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
                stale = False
                try:
                    acquired = yield from _protocol.acquire(
                        session, attempt, self._key, self._name, seconds, self._announce
                    )
                except StaleSession:
                    acquired, stale = False, True
                except Refused as error:
                    raise ServerError(f"the server at {session.where} refuses lock {self._name!r}: {error}") from None
                except SessionEnded as error:
                    if not session.is_inherited():
                        raise ServerError(
                            f"the session with the server at {session.where} ended while lock {self._name!r} was being "
                            f"acquired ({error}): it is not held; try again"
                        ) from None
                    # a signal handler has forked, and this is the child, which has no sessions yet
                    sessions = self._sessions()
                    continue
                if acquired:
                    return True
                attempt.session = None
                idle = sessions.retire(session)
            if idle:
                sessions.keep(session)
            if not stale:
                return False

    def _undoing(self, attempt: Attempt) -> Steps[None]:
        """Undo an attempt that was interrupted, or what it has acquired."""
        session, attempt.session = attempt.session, None
        if session is None:
            return
        try:
            if self._is_in_use(session):
                session.close()
            else:
                with session.guard:
                    yield from _protocol.withdraw(session, self._key)
        finally:
            session.held.pop(self._key, None)
            if self._sessions().retire(session):
                self._sessions().keep(session)

    def _is_in_use(self, session: Session) -> bool:
        """Whether something goes on in a session that does not come to its end soon."""
        deadline = time.monotonic() + self._patience
        while session.guard.locked() and time.monotonic() < deadline:
            time.sleep(0.001)
        return session.guard.locked()

    def _to_release(self) -> Attempt:
        """What is to be released."""
        attempt = self._find()
        if attempt is None or attempt.session is None:
            raise ValueError(
                f"release of lock {self._name!r}, which this process does not hold: it was released twice, or acquired "
                f"by another process, such as the parent of this one"
            )
        if self._is_in_use(attempt.session):
            raise NotOwnedError(
                f"lock {self._name!r} cannot be released from here and now: the thread or task that has acquired it is "
                f"waiting for another lock; let that one release it"
            )
        return attempt

    def _releasing(self, attempt: Attempt) -> Steps[None]:
        """Release what was acquired. To be undone if it raises."""
        session = attempt.session
        if session is not None:
            with session.guard:
                try:
                    yield from _protocol.release(session, attempt, self._key, self._name)
                except Refused as error:
                    raise ServerError(
                        f"lock {self._name!r} is released, but the server at {session.where} refused to note it, so "
                        f"that the next one will be told that this one died: {error}"
                    ) from None
                idle = self._sessions().retire(session)
            if idle:
                self._sessions().keep(session)

    def _looking(self) -> Steps[Statistics]:
        """Ask the server what it knows about the lock."""
        sessions = self._sessions()
        while True:
            session = sessions.idle_one() or (yield Connect(self._url, self._lost_after))
            try:
                with session.guard:
                    statistics = yield from _protocol.look(session, self._key)
            except StaleSession:
                continue
            except (Refused, SessionEnded) as error:
                raise ServerError(
                    f"the server at {session.where} does not tell of lock {self._name!r}: {error}"
                ) from None
            sessions.keep(session)
            return statistics


class _Leaving:
    """The end of a `with`: `__exit__`, as a property that makes one for each block."""

    def __get__(self, lock: Lock | None, _owner: type | None = None) -> _Leaving | _Exit:
        return self if lock is None else _Exit(lock)

    def __call__(self, lock: Lock, /, *exception: object) -> None:
        """Release, as an attribute of the class, which is where contextlib.ExitStack looks."""
        lock._leave(*exception)


def _leaving(method: _F) -> _F:
    return cast("_F", _Leaving())


class _Exit:
    """Releases at the end of one `with` block, whatever signal handlers raise.

    The block keeps this from before it acquires the lock, and drops it when it is over. If a handler raises at the very
    entry of `__call__`, or just after the lock was acquired, nothing else would know that the lock is to be released.
    """

    #: until all is set up
    _over = True

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._process = os.getpid()
        self._moment = next(moments)
        self._over = False

    def __call__(self, *exception: object) -> None:
        # A child that was forked within the block gives back nothing of its parent's.
        if self._process == os.getpid() or self._lock._find() is not None:
            self._lock._leave(*exception)
        self._over = True

    def __del__(self) -> None:
        if not self._over and self._process == os.getpid():
            self._lock._leave_later(self._moment)


class Lock(ClusterLock):
    """A lock between processes on any machines, which one PostgreSQL server hands out.

    Whoever comes first is served first. When the process that holds it dies, the server gives it to the next in line,
    with an `OwnerDiedWarning`; one that is stopped is waited for. As `mpbakery.Lock`, it is not recursive. It can be
    pickled, and sent anywhere; whoever has the same server and name has the same lock. Each thread that holds or awaits
    locks has one connection.

    Args:
        url: the server and the database, `postgresql://user@host:port/database`, or anything that libpq understands.
            What is missing comes from the usual variables and files, such as PGHOST, PGPASSWORD and ~/.pgpass.
        name: what all who use the lock call it, at most 255 bytes of UTF-8.
        lost_after: the seconds, from 6 to 86400, after which the server gives up a machine that it does not hear from.
            The holder knows before that.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.

    The server is not asked before the lock is used. After it was restarted or failed over, two can be inside at once:
    see docs/cluster.md, and `token`.
    """

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Acquire the lock; the order of arrival at the server decides who gets it.

        Args:
            block: whether to wait for the lock; False tries once.
            timeout: the seconds to wait at most, None for no limit; below zero counts as zero. Not looked at if
                `block` is false. It does not limit how long a connection takes, for which the URL has connect_timeout.
            blocking: another name for `block`, as in `threading.Lock`.

        Returns:
            Whether the lock was acquired.

        Raises:
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            ServerError: the server cannot be reached, is not what a lock needs, or has ended the session.
            DeadlockError: the wait would never end.

        Warns:
            OwnerDiedWarning: who held the lock died, or lost its connection. If the warning is turned into an error,
                the lock is not acquired, and the next one to acquire it is told again.

        A call that raises does not hold the lock, and leaves no place in the queue behind.
        """
        attempt = Attempt(entered=False)
        try:
            return run(self._acquiring(attempt, deadline_of(block, timeout, blocking, time.monotonic)))
        except BaseException:
            run(self._undoing(attempt))
            raise

    def __enter__(self) -> bool:
        attempt = Attempt(entered=True)
        try:
            return run(self._acquiring(attempt, None))
        except BaseException:
            run(self._undoing(attempt))
            raise

    def release(self) -> None:
        """Release the lock, whichever thread of this process has acquired it.

        Raises:
            ValueError: this process does not hold the lock.
            LockLost: the session that held it had ended, so that others may have been inside.
            NotOwnedError: another thread holds it, and cannot be disturbed, as it is waiting for another lock.
            ServerError: it was released, but the server could not note it.
        """
        attempt = self._to_release()
        try:
            run(self._releasing(attempt))
        except BaseException:
            run(self._undoing(attempt))
            raise

    @_leaving
    def __exit__(self, *_exception: object) -> None:
        """Release the lock. That it was lost is told only where the block has raised nothing."""

    def _leave(self, _kind: object = None, error: object = None, _trace: object = None) -> None:
        try:
            self.release()
        except LockLost:
            if error is None:
                raise

    def _leave_later(self, moment: int) -> None:
        """Release what a `with` has acquired after that moment, and could not release."""
        attempt = self._find()
        if attempt is not None and attempt.entered and attempt.moment > moment:
            run(self._undoing(attempt))

    def locked(self) -> bool:
        """Whether somebody holds the lock at this moment, as the server says."""
        return self.owner is not None

    @property
    def owner(self) -> Owner | None:
        """Who holds the lock at this moment, as the server says; None if nobody does."""
        return self.statistics().owner

    def statistics(self) -> Statistics:
        """Who holds the lock, who waits for it in which order, and how often it was acquired, as the server says.

        Raises:
            ServerError: the server cannot be reached, or does not tell.
        """
        return run(self._looking())

    def _user(self) -> object:
        return threading.current_thread()


def _rebuild(kind: type[_L], url: str, name: str, lost_after: float) -> _L:
    """A lock that was pickled."""
    return kind(url, name, lost_after=lost_after)


def _checked_url(url: str) -> str:
    if not isinstance(url, str):
        raise TypeError(f"url is {type(url).__name__}: give a string, as in 'postgresql://host/database'")
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # without libpq's words: it quotes the URL, and so the password
        raise ValueError(
            "url is none that libpq understands: write postgresql://user@host:port/database, with %-escapes for what "
            "is special in URLs"
        ) from None
    return url


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}: give a string, which all who use the lock have in common")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"name is {name!r}, which cannot be written in UTF-8: give another one") from None
    if not 1 <= size <= NAME_BYTES or "\0" in name:
        raise ValueError(f"name has {size} bytes: give 1 to {NAME_BYTES} bytes of UTF-8 without a NUL")
    return name


def _checked_seconds(lost_after: float) -> float:
    if isinstance(lost_after, (str, bytes, bool)) or not isinstance(lost_after, (int, float)):
        raise TypeError(f"lost_after is {lost_after!r}: give seconds, as a number from {_LEAST} to {_MOST}")
    if not _LEAST <= lost_after <= _MOST or math.isnan(lost_after):
        raise ValueError(f"lost_after is {lost_after!r}: give {_LEAST} to {_MOST} seconds")
    return lost_after
