"""What a lock asks of the server, step by step, whoever waits for the answers: a thread or a task.

A lock is an advisory lock of PostgreSQL, which queues; and beside it a row, which numbers the acquisitions and knows
who has not released. The row is changed only by who holds the advisory lock.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import current_process
from typing import Final

import psycopg

from mpbakery.cluster._errors import DeadlockError, LockLost, ServerError
from mpbakery.cluster._session import IDLE, Attempt, Refused, Row, Session, SessionEnded, StaleSession, Steps
from mpbakery.cluster._values import Owner, Statistics, Waiting

#: How long the name of a lock may be, in bytes of UTF-8.
NAME_BYTES: Final = 255
#: The longest wait that the server can be told (ms).
_LONGEST: Final = 2**31 - 1

_DEADLOCK: Final = "40P01"
_TIME_IS_UP: Final = "55P03"
_FORBIDDEN: Final = "42501"
_NOT_THERE: Final = {"42P01", "3F000"}

#: One command each, so that the settings hold with the lock, and not without it.
_HOLD: Final = "set_config('idle_session_timeout', '0', false), set_config('application_name', $2, false)"
_WAIT = f"SELECT {_HOLD}, set_config('lock_timeout', $3, true), pg_advisory_lock($1)"
_TRY = f"""
SELECT granted, CASE WHEN granted THEN ({_HOLD}) IS NULL END FROM (SELECT pg_try_advisory_lock($1) AS granted) t"""

#: What an acquisition adds to the token of the one before. Most are not on disk yet when they are told, since that
#: would cost more than all else. So after a crash the server may have forgotten the last ones. But then all sessions
#: are new, and when a session acquires a lock for the first time, it goes on above all that can have been forgotten.
_NEXT: Final = (1, "off")
_FIRST: Final = (1 << 20, "on")
#: How many locks a session remembers to have acquired.
_MOST_NUMBERED: Final = 1000
#: The same from one timeline to the next: a standby that is promoted may have missed more of what its primary did.
_TIMELINE: Final = 1 << 40

#: A row for each acquisition, found from the newest on. If it were one row that is changed, each look would go through
#: all that it has been, as long as somebody anywhere waits for a lock: nothing is cleaned up before that.
_LAST = "SELECT * FROM mpbakery.locks WHERE key = $1 ORDER BY token DESC LIMIT 1"
_TAKE = f"""
WITH last AS MATERIALIZED ({_LAST}), gone AS (
    DELETE FROM mpbakery.locks l USING last
    WHERE l.key = last.key AND l.token = last.token AND last.name = $2 AND last.holder IS {{free}})
INSERT INTO mpbakery.locks (key, token, name, timeline, holder, backend, since, acquisitions, recoveries)
SELECT key, token + $4 + {_TIMELINE} * abs($6 - timeline), name, $6, $3, pg_backend_pid(), clock_timestamp(),
    acquisitions + 1, recoveries + {{recovery}}
FROM last WHERE name = $2 AND holder IS {{free}}
RETURNING token, set_config('synchronous_commit', $5, true)"""
_TAKE_FREE = _TAKE.format(free="NULL", recovery=0)
_TAKE_OVER = _TAKE.format(free="NOT NULL", recovery=1)
_INSERT = f"INSERT INTO mpbakery.locks (key, token, name, timeline) VALUES ($1, {_TIMELINE} * ($3 - 1), $2, $3)"

#: The lock is free only once the row says so for all to see, or the next one would take this one for dead.
_RELEASE = """BEGIN;
UPDATE mpbakery.locks SET holder = NULL WHERE key = {key} AND token = {token} RETURNING key; COMMIT;
SELECT pg_advisory_unlock({key}) {idle}"""
_WHO = f"SELECT name, holder, extract(epoch FROM clock_timestamp() - since) FROM ({_LAST}) last"
_WITHDRAW = f"""
UPDATE mpbakery.locks l SET holder = NULL FROM ({_LAST}) last
WHERE l.key = last.key AND l.token = last.token AND last.holder = $2 AND last.backend = pg_backend_pid()"""

#: Under a lock of its own: of two that create the same at once, PostgreSQL fails one.
_CREATE = f"""BEGIN; SELECT pg_advisory_xact_lock({0x6D7062616B657279}); CREATE SCHEMA IF NOT EXISTS mpbakery;
CREATE TABLE IF NOT EXISTS mpbakery.locks (
    key bigint NOT NULL,
    token bigint NOT NULL,
    name text NOT NULL,
    timeline bigint NOT NULL,
    holder text,
    backend integer,
    since timestamptz NOT NULL DEFAULT now(),
    acquisitions bigint NOT NULL DEFAULT 0,
    recoveries bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (key, token)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000); COMMIT"""
_IS_THERE = """
SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'mpbakery' AND c.relname = 'locks'"""
_COUNT_OTHERS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('mpbakery', 'pg_catalog', 'information_schema', 'pg_toast')"""

#: Every lock, and who holds or awaits it: that the row tells who held it last, and the server who holds it now.
_LOOK: Final = """
SELECT r.name, r.acquisitions, r.recoveries, r.holder, w.granted, w.application_name,
    extract(epoch FROM clock_timestamp() -
        CASE WHEN NOT w.granted THEN w.waitstart WHEN w.pid = r.backend THEN r.since END),
    r.token
FROM ({which}) r LEFT JOIN (
    SELECT l.classid, l.objid, l.granted, l.waitstart, l.pid, a.application_name
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
) w ON w.classid = ((r.key >> 32) & 4294967295)::oid AND w.objid = (r.key & 4294967295)::oid
ORDER BY r.name, w.granted DESC, w.waitstart"""
_LOOK_AT_ONE: Final = _LOOK.format(which=_LAST)
LOOK_AT_ALL: Final = _LOOK.format(which="SELECT * FROM mpbakery.locks")

_SHOWN = re.compile(r"mpbakery (\d+) (\d+) (\S+) (.*)", re.DOTALL)


def key_of(name: str) -> int:
    """The number that the server knows a lock by: 64 bits, so that no two names in use have the same."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def shown_as() -> str:
    """What the server shows as the name of a session: who uses it, in the 63 bytes of ASCII that it keeps."""
    host = re.sub(r"[^!-~]", "?", socket.gethostname())[:20]
    process = re.sub(r"[^ -~]", "?", current_process().name)
    return f"mpbakery {os.getpid()} {threading.get_native_id()} {host} {process}"[:63]


def freshen(session: Session) -> Steps[None]:
    """See whether a session can be used that was left idle, for which the server may have ended it.

    Raises:
        StaleSession: it cannot.
    """
    if not session.is_new and not session.held:
        try:
            yield from session.ask("")
        except SessionEnded as error:
            raise StaleSession(*error.args) from None
    session.is_new = False


def acquire(
    session: Session,
    attempt: Attempt,
    key: int,
    name: str,
    seconds: float | None,
    announce: Callable[[Owner], object],
) -> Steps[bool]:
    """Acquire a lock through a session, in so many seconds, 0 for one try, None without limit; whether it was.

    `announce` is called with the owner that died, if one did, before the lock is taken over from it.
    """
    shown = shown_as()
    yield from freshen(session)
    if seconds == 0:
        ((granted, *_),) = yield from session.ask(_TRY, key, shown)
        if granted != "t":
            return False
    else:
        # to the server, 0 is no limit, and so not the shortest
        limit = 0 if seconds is None else min(max(math.ceil(seconds * 1000), 1), _LONGEST)
        session.awaiting = True
        try:
            yield from session.ask(_WAIT, key, shown, limit)
        except Refused as error:
            if error.code == _TIME_IS_UP:
                session.awaiting = False
                return False
            if error.code == _DEADLOCK:
                raise DeadlockError(name) from None
            raise
        session.awaiting = False
    dead: Owner | None = None
    # After the wait, in a command of its own, which sees what was done meanwhile; and which nobody sends who died.
    row = (key, name, shown, *(_NEXT if key in session.numbered else _FIRST), session.timeline)
    rows = yield from _note(session, _TAKE_FREE, *row)
    while not rows:
        dead = yield from _look_who_died(session, key, name)
        if dead is not None:
            announce(dead)
        rows = yield from _note(session, _TAKE_FREE if dead is None else _TAKE_OVER, *row)
    if len(session.numbered) >= _MOST_NUMBERED:
        session.numbered.clear()
    session.numbered.add(key)
    attempt.token = int(rows[0][0])
    attempt.recovered_from = dead
    session.held[key] = attempt
    return True


def _note(session: Session, command: str, *parameters: object) -> Steps[list[Row]]:
    """Do something to the row of a lock, in the table, which is made if it is missing."""
    try:
        return (yield from session.ask(command, *parameters))
    except Refused as error:
        if error.code not in _NOT_THERE:
            raise
    yield from create(session)
    return (yield from session.ask(command, *parameters))


def create(session: Session) -> Steps[None]:
    """Make the table, if it is not there; warn if it is not alone."""
    # asked first: who may not make it may not ask for it to be made if it is not there, either
    if (yield from session.ask(_IS_THERE)):
        return
    try:
        yield from session.ask(_CREATE)
    except Refused as error:
        yield from session.ask("ROLLBACK")
        if error.code != _FORBIDDEN:
            raise
        raise ServerError(
            f"the role has no right to make the table mpbakery.locks at {session.where} ({error}): let the owner of "
            f"the database run `python3 -m mpbakery cluster URL` once, and `GRANT USAGE ON SCHEMA mpbakery TO role; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON mpbakery.locks TO role`"
        ) from None
    if (yield from count_others(session)):
        warnings.warn(
            f"the database of the locks at {session.where} has tables of others, which VACUUM cannot clean up as long "
            f"as anybody waits for a lock: give the locks a database of their own",
            RuntimeWarning,
            stacklevel=2,
        )


def count_others(session: Session) -> Steps[int]:
    """How many tables the database has that are none of ours."""
    ((others,),) = yield from session.ask(_COUNT_OTHERS)
    return int(others)


def _look_who_died(session: Session, key: int, name: str) -> Steps[Owner | None]:
    """Why the row could not be taken: who has died, None if it was not there, and now is."""
    rows = yield from session.ask(_WHO, key)
    if not rows:
        yield from session.ask(_INSERT, key, name, session.timeline)
        return None
    ((other, holder, held),) = rows
    if other != name:
        raise ServerError(f"lock {name!r} has the same key as lock {other!r} at {session.where}: give it another name")
    return None if holder is None else _owner(holder, held)


def release(session: Session, attempt: Attempt, key: int, name: str) -> Steps[None]:
    """Give back what an attempt has acquired.

    Raises:
        LockLost: it was not held any more.
    """
    idle = _idle_from_now_on(session, key)
    try:
        rows = yield from session.ask(_RELEASE.format(key=key, token=attempt.token, idle=idle))
    except SessionEnded:
        rows = []
    del session.held[key]
    if len(rows) != 2 or rows[1][0] != "t":
        raise LockLost(name, attempt.token)


def withdraw(session: Session, key: int) -> Steps[None]:
    """Undo an attempt that was interrupted, wherever that was: nobody holds or awaits the lock because of it."""
    try:
        session.held.pop(key, None)
        yield from session.stop()
        try:
            yield from session.ask(_WITHDRAW, key, shown_as())
        except Refused:
            pass  # it had not come to be noted, or what has failed fails again
        yield from session.ask(f"SELECT pg_advisory_unlock({key}) {_idle_from_now_on(session, key)}")
    except (Refused, SessionEnded, psycopg.Error):
        session.close()
    except BaseException:
        session.close()
        raise


def _idle_from_now_on(session: Session, key: int) -> str:
    """What to add to a command by which a session gives back a lock, which may be its last one."""
    return "" if session.held.keys() - {key} else f", set_config('idle_session_timeout', '{IDLE}', false)"


def look(session: Session, key: int) -> Steps[Statistics]:
    """Who holds a lock and who waits for it."""
    yield from freshen(session)
    try:
        rows = yield from session.ask(_LOOK_AT_ONE, key)
    except Refused as error:
        if error.code not in _NOT_THERE:
            raise
        rows = []
    return understand(rows)


def understand(rows: list[Row]) -> Statistics:
    """What the rows of one lock mean."""
    owner: Owner | None = None
    waiters: list[Waiting] = []
    for *_, granted, shown, seconds, _token in rows:
        if granted == "t":
            owner = _owner(shown, seconds)
        elif granted == "f":
            one = _owner(shown, seconds)
            waiters.append(Waiting(one.pid, one.thread, one.process, float(seconds or 0), one.host))
    acquisitions, recoveries = (int(number) for number in rows[0][1:3]) if rows else (0, 0)
    return Statistics(owner, tuple(waiters), acquisitions, recoveries)


def _owner(shown: str, seconds: str | None) -> Owner:
    match = _SHOWN.fullmatch(shown)
    pid, thread, host, process = match.groups() if match else ("0", "0", "?", shown)
    return Owner(int(pid), int(thread), process, time.monotonic() - float(seconds or 0), host)
