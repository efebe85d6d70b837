"""A session with the server: as long as it lives, the locks that it holds are held.

A session is one connection to one backend of the server. What goes on in it is written as generators, which yield what
they need: `run` sees to that as a thread does, and `_async_lock.py` as a task does.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
import weakref
from collections.abc import Generator
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus

from mpbakery.cluster._errors import ServerError
from mpbakery.cluster._values import Owner

_T = TypeVar("_T")
Row = tuple[Any, ...]


class Connect(NamedTuple):
    """A new session is needed."""

    url: str
    lost_after: float


class Ready(NamedTuple):
    """Something is to happen at a descriptor, events of poll(2); or so many seconds to pass, if not None."""

    descriptor: int
    events: int
    seconds: float | None


#: What goes on, step by step: each yields what it needs, and is sent the session if it needs one.
Steps = Generator["Connect | Ready", Any, _T]

#: The oldest server that tells when somebody began to wait, and looks whether a waiting client is still there.
_OLDEST: Final = 14
#: How long to wait for the server to answer a new connection, unless the URL says otherwise (s).
_CONNECT: Final = 10
#: How soon the server forgets a client that died while it waited (ms).
_CLIENT_CHECK: Final = 250
#: How long the server keeps a session that holds nothing (ms): who is through with locks shall not use up a connection.
IDLE: Final = 60_000
#: What poll(2) says of a socket whose other end is closed, beside errors, which it says always.
_ENDED: Final = getattr(select, "POLLRDHUP", 0)
#: How long what was interrupted may take to come to its end (s).
_CANCEL: Final = 2.0

#: What a lock relies on, whatever the server, the database or the role has been set to.
_SETTINGS: Final = {
    # a wait takes as long as it takes
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": str(IDLE),
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    # not this: see `_protocol.py` for when it has to be on
    "synchronous_commit": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "search_path": "pg_catalog",
    # the index, and from its end: see `_protocol.py`
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}

#: Of what the server or libpq says about a connection that it refuses: some words, and what to do about it.
_REMEDIES: Final = (
    ("too many", "let fewer threads and processes hold or await locks, or raise max_connections"),
    ("connection slots", "let fewer threads and processes hold or await locks, or raise max_connections"),
    ("password", "give the right one in the URL, in PGPASSWORD, or in the file ~/.pgpass"),
    ("authentication failed", "look at the server's pg_hba.conf"),
    ("pg_hba.conf", "have the server's pg_hba.conf let this machine in"),
    ("role", "make it with CREATE ROLE, or name another one in the URL"),
    ("database", "make it with CREATE DATABASE, or name another one in the URL"),
    ("refused", "is PostgreSQL running there, and does it listen on that address and port?"),
    ("no such file", "is PostgreSQL running there, and is that the folder of its socket?"),
    ("timeout", "is that address right, and does a firewall let this machine through?"),
    ("resolve", "is the name of the host right?"),
    ("starting up", "try again in a moment"),
    ("shutting down", "try again in a moment"),
)


class SessionEnded(Exception):
    """The connection is gone, and with it all that the session held."""


class StaleSession(SessionEnded):
    """The same, found out before anything was asked for: another session will do."""


class Refused(Exception):
    """The server has answered with an error, and the session goes on."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


class Attempt:
    """An attempt to acquire a lock, and what it has led to."""

    def __init__(self, *, entered: bool) -> None:
        #: where it goes on
        self.session: Session | None = None
        self.token = 0
        self.recovered_from: Owner | None = None
        #: whether a `with` has made it, and when, among all attempts of the process
        self.entered = entered
        self.moment = next(moments)


moments = itertools.count(1)


class _Connection(psycopg.Connection[Row]):
    """A connection that may be open when its process ends: then its locks are given back."""

    def __del__(self, *_arguments: Any) -> None:
        pass  # psycopg would warn


#: All sessions of this process that may be open; a fork copies their sockets.
_open: weakref.WeakSet[Session] = weakref.WeakSet()
#: How often this process was forked: a connection that was being made meanwhile has a copy that nobody knows of.
_forks = 0


class Session:
    """One connection to the server, for one thread or task at a time.

    Args:
        url: where the server is, as libpq understands it.
        lost_after: after how many seconds without a sign of life the server gives up on this machine. This side gives
            up before that, and so knows first.

    Raises:
        ServerError: the server cannot be reached, or is not what a lock needs.
    """

    def __init__(self, url: str, lost_after: float) -> None:
        self._process = os.getpid()
        self.where = describe(url)
        self._connection = _connect(url, lost_after)
        self._pg = self._connection.pgconn
        self._descriptor = self._pg.socket
        #: the thread or task whose locks it holds, and these, by their keys
        self.user: object = None
        self.held: dict[int, Attempt] = {}
        #: the names of commands that the server has planned
        self._prepared: dict[str, bytes] = {}
        #: the keys of locks that it has acquired before
        self.numbered: set[int] = set()
        #: whether it waits for a lock
        self.awaiting = False
        #: held while something goes on in it
        self.guard = threading.Lock()
        #: whether nothing was asked of it yet
        self.is_new = True
        _open.add(self)
        #: how often the server was failed over: another one each time that a standby is promoted
        self.timeline = run(self._settle(lost_after))

    def _settle(self, lost_after: float) -> Steps[int]:
        """See that the server is what a lock needs, and have it behave; its timeline."""
        where = self.where
        major = self._pg.server_version // 10_000
        if major < _OLDEST:
            raise ServerError(f"the server at {where} is PostgreSQL {major}: a lock needs {_OLDEST} or later")
        ((backend, standby),) = yield from self.ask("SELECT pg_backend_pid(), pg_is_in_recovery()")
        if int(backend) != self._pg.backend_pid:
            # PgBouncer and its like make up a number: before anything is set in a session that may be another's next
            raise ServerError(
                f"between here and the server at {where} is a connection pooler, such as PgBouncer: it can give two "
                f"clients one session, and so the same lock, or keep the lock of one that died; connect to the server "
                f"itself"
            )
        if standby == "t":
            raise ServerError(
                f"the server at {where} is a standby, which cannot hand out locks: connect to the primary, as with "
                f"several hosts and target_session_attrs=read-write in the URL"
            )
        unit = _unit(lost_after)
        settings = _SETTINGS | {
            "tcp_keepalives_idle": str(2 * unit),
            "tcp_keepalives_interval": str(unit),
            "tcp_keepalives_count": "4",
            "tcp_user_timeout": str(6 * unit * 1000),
        }
        if major < 17:
            del settings["transaction_timeout"]
        ((timeline, most, *_),) = yield from self.ask(
            "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8,"
            " current_setting('max_connections'), "
            + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        )
        _most[where] = int(most)
        try:
            yield from self.ask(f"SET client_connection_check_interval = {_CLIENT_CHECK}")
        except Refused:
            pass  # a server on a system that cannot: it forgets a dead waiter when its turn comes
        return int(timeline)

    def ask(self, command: str, *parameters: object) -> Steps[list[Row]]:
        """Have the server carry out a command, or none, or several without parameters; all their rows, as strings.

        Raises:
            Refused: the server answers with an error.
            SessionEnded: the connection is gone.
        """
        pg = self._pg
        try:
            if not parameters:
                pg.send_query(command.encode())
                return (yield from self._answers())
            name = self._prepared.get(command)
            if name is None:
                name = f"mpbakery {next(moments)}".encode()
                pg.send_prepare(name, command.encode())
                yield from self._answers()
                self._prepared[command] = name
            pg.send_query_prepared(name, [str(parameter).encode() for parameter in parameters])
            return (yield from self._answers())
        except psycopg.Error as error:
            raise SessionEnded(_one_line(str(error))) from None

    def _answers(self, seconds: float | None = None) -> Steps[list[Row]]:
        """What the server answers to what it was sent, in so many seconds."""
        pg = self._pg
        end = None if seconds is None else time.monotonic() + seconds
        while pg.flush():
            yield Ready(self._descriptor, select.POLLIN | select.POLLOUT, seconds)
            pg.consume_input()
        results = []
        while True:
            while pg.is_busy():
                if end is not None and time.monotonic() >= end:
                    raise SessionEnded(f"no answer in {seconds} s")
                yield Ready(self._descriptor, select.POLLIN, seconds)
                pg.consume_input()
            result = pg.get_result()
            if result is None:
                break
            results.append(result)
        rows: list[Row] = []
        for result in results:
            if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY}:
                text = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode()
                if pg.status != ConnStatus.OK:
                    raise SessionEnded(text)
                raise Refused((result.error_field(DiagnosticField.SQLSTATE) or b"").decode(), text)
            for row in range(result.ntuples):
                values = (result.get_value(row, column) for column in range(result.nfields))
                rows.append(tuple(None if value is None else value.decode() for value in values))
        return rows

    def stop(self) -> Steps[None]:
        """End what goes on in the session; if that is a wait, and it holds no other locks, the session with it."""
        awaiting, self.awaiting = self.awaiting, False
        if self._pg.transaction_status == TransactionStatus.ACTIVE:
            if awaiting and not self.held:
                self.close()
                raise SessionEnded("it was interrupted")
            if awaiting:
                self._connection.cancel_safe(timeout=_CANCEL)
            try:
                yield from self._answers(_CANCEL)
            except Refused:
                pass  # it was cancelled
        if self._pg.transaction_status == TransactionStatus.INERROR:
            yield from self.ask("ROLLBACK")

    def is_inherited(self) -> bool:
        """Whether this process is a child, and the session its parent's."""
        return self._process != os.getpid()

    def is_lost(self) -> bool:
        """Whether the connection is gone, as far as this machine knows: the server is not asked."""
        if self.is_inherited() or self._pg.status != ConnStatus.OK:
            return True
        poll = select.poll()
        poll.register(self._descriptor, _ENDED)  # not what there is to read, which is for who uses the session
        return bool(poll.poll(0))

    def close(self) -> None:
        """End the session, which gives back what it held."""
        if not self.is_inherited():
            self._connection.close()

    def abandon(self, null: int) -> None:
        """In a forked child: the session is the parent's, and ends with that one, not with this one.

        Its socket is replaced, since PostgreSQL takes a session for alive as long as anybody has it open; and not just
        closed, since something of this process's that was interrupted may still read from the descriptor.
        """
        try:
            descriptor = self._pg.socket
        except psycopg.Error:
            return  # it is gone, and its number may be another file's
        os.dup2(null, descriptor, inheritable=False)


def run(steps: Steps[_T]) -> _T:
    """Do what goes on in sessions, and wait for it."""
    found: Session | None = None
    try:
        while True:
            need = steps.send(found)
            if isinstance(need, Connect):
                found = Session(*need)
            else:
                poll = select.poll()
                poll.register(need.descriptor, need.events)
                poll.poll(None if need.seconds is None else need.seconds * 1000)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        steps.close()  # else what has guarded a session would do so for as long as somebody keeps the traceback


def describe(url: str) -> str:
    """Where a URL leads, without its password."""
    parts = conninfo.conninfo_to_dict(url)
    host = parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST", "the local socket")
    port = parts.get("port") or os.environ.get("PGPORT", "5432")
    return f"{host}:{port}, database {parts.get('dbname') or os.environ.get('PGDATABASE', 'of the role')}"


#: How many connections a server takes, as far as this process has learnt it.
_most: dict[str, int] = {}


def _connect(url: str, lost_after: float) -> _Connection:
    unit = _unit(lost_after)
    parameters = conninfo.conninfo_to_dict(url)
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", _CONNECT)
    # the holder's side gives up after 3 units at most, the server's after 4 at least, and 6 at most
    parameters |= {
        "keepalives": 1,
        "keepalives_idle": unit,
        "keepalives_interval": unit,
        "keepalives_count": 2,
        "tcp_user_timeout": 3 * unit * 1000,
    }
    while True:
        before = _forks
        try:
            connection = _Connection.connect(**parameters, autocommit=True)  # type: ignore[arg-type]
        except psycopg.OperationalError as error:
            raise ServerError(_refusal(describe(url), str(error))) from None
        if before == _forks:
            return connection
        connection.close()


def _unit(lost_after: float) -> int:
    """The time between two signs of life (s)."""
    return int(lost_after // 6)


def _refusal(where: str, text: str) -> str:
    text = _one_line(text)
    words = text.lower()
    remedy = next((remedy for word, remedy in _REMEDIES if word in words), "look at the server's log")
    most = f"; it takes {_most[where]}" if "max_connections" in remedy and where in _most else ""
    return f"no connection to the server at {where}: {text}{most}; {remedy}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _before_fork() -> None:
    global _forks
    _forks += 1


def _after_fork_in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for session in list(_open):
            session.abandon(null)
    finally:
        os.close(null)
    _open.clear()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
# once more, for a handler that raises in the middle of the first one
os.register_at_fork(after_in_child=_after_fork_in_child)
