"""The command `cluster`: gets a PostgreSQL server ready for locks, and shows who holds and awaits them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from mpbakery._programs.console import Console, duration, plural, table
from mpbakery.cluster import Lock as ClusterLock
from mpbakery.cluster import ServerError, Statistics
from mpbakery.cluster import _protocol as protocol
from mpbakery.cluster._session import Refused, Session, SessionEnded, Steps, describe, run

#: How long the server would wait for a machine if these were the sessions of a lock (s).
_LOST_AFTER = 30


@dataclass(frozen=True)
class Check:
    """Something that a lock relies on, or that its users should know."""

    name: str
    found: str
    good: bool
    remedy: str = ""


@dataclass(frozen=True)
class Lock:
    """A lock of the server, and whether its holder died and nobody has come since."""

    name: str
    token: int
    died: bool
    statistics: Statistics

    @property
    def is_busy(self) -> bool:
        """Whether there is more to say of it than that it is free."""
        return self.died or self.statistics.owner is not None or bool(self.statistics.waiters)


@dataclass(frozen=True)
class Report:
    """What there is to say about a server."""

    where: str
    checks: tuple[Check, ...]
    locks: tuple[Lock, ...]

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to complain about."""
        return all(check.good for check in self.checks)


def inspect(url: str) -> Report:
    """Make the table if it is missing, and look at the server.

    Raises ServerError if it cannot be reached, or is not what a lock needs, and ValueError if that is no URL.
    """
    ClusterLock(url, "any")
    session = Session(url, _LOST_AFTER)
    try:
        return run(_inspecting(session, describe(url)))
    except (Refused, SessionEnded) as error:
        raise ServerError(f"the server at {describe(url)} refuses to tell: {error}") from None
    finally:
        session.close()


def _inspecting(session: Session, where: str) -> Steps[Report]:
    yield from protocol.create(session)
    rows = yield from session.ask(protocol.LOOK_AT_ALL)
    by_name: dict[str, list[Any]] = {}
    for row in rows:
        by_name.setdefault(row[0], []).append(row)
    locks = []
    for name, group in by_name.items():
        statistics = protocol.understand(group)
        locks.append(Lock(name, int(group[0][7]), group[0][3] is not None and statistics.owner is None, statistics))
    checks = yield from _checking(session)
    return Report(where, tuple(checks), tuple(locks))


def _checking(session: Session) -> Steps[list[Check]]:
    ((version, most, used, fsync, idle, interval, count, check, local),) = yield from session.ask(
        "SELECT current_setting('server_version'), current_setting('max_connections')::int, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('fsync'), "
        "current_setting('tcp_keepalives_idle')::int, current_setting('tcp_keepalives_interval')::int, "
        "current_setting('tcp_keepalives_count')::int, current_setting('client_connection_check_interval'), "
        "inet_client_addr() IS NULL"
    )
    others = yield from protocol.count_others(session)
    silence = int(idle) + int(interval) * int(count)
    return [
        Check("version", f"PostgreSQL {version}", True),
        Check(
            "a database of its own",
            f"{plural(others, 'table')} of others",
            others == 0,
            "as long as anybody waits for a lock, VACUUM cleans up nothing in this database: make one for the locks",
        ),
        Check(
            "connections",
            f"{used} of {most} in use",
            int(used) * 10 < int(most) * 9,
            "each thread that holds or awaits a lock has one: raise max_connections",
        ),
        Check(
            "keepalives",
            "a local socket needs none" if local == "t" else f"a vanished machine is noticed after {silence} s",
            local == "t" or 0 < silence <= _LOST_AFTER,
            "this server cannot be told to look after its clients: set tcp_keepalives_idle and its like",
        ),
        Check(
            "dead waiters",
            f"noticed after {check}" if check != "0" else "noticed when their turn comes",
            check != "0",
            "client_connection_check_interval does not work on the system of this server",
        ),
        Check(
            "fsync",
            fsync,
            fsync == "on",
            "after a crash, tokens may be told again, and old ones pass for new: turn it on",
        ),
    ]


def show(report: Report, console: Console, *, everything: bool) -> None:
    """Print it for people."""
    console.say(f"Server at {report.where}")
    for check in report.checks:
        console.tell(f"{check.name}: {check.found}{'' if check.good else f'; {check.remedy}'}", good=check.good)
    busy = [
        lock for lock in report.locks if everything or lock.died or lock.statistics.owner or lock.statistics.waiters
    ]
    console.gap()
    if busy:
        rows = [("lock", "", "process", "host", "for", "acquisitions")]
        for lock in busy:
            rows += _rows(lock)
        for line in table(rows, "<<<<>>"):
            console.say(line)
    free = len(report.locks) - len(busy)
    console.say(f"{plural(free, 'other lock') if busy else plural(free, 'lock')} that nobody holds or awaits")


def _rows(lock: Lock) -> list[tuple[str, str, str, str, str, str]]:

    statistics, name, count = lock.statistics, lock.name, f"{lock.statistics.acquisitions:,}"
    owner = statistics.owner
    rows = []
    if owner is not None:
        held = duration(max(0.0, time.monotonic() - owner.since))
        rows.append((name, "held by", f"{owner.process} ({owner.pid})", owner.host, held, count))
    else:
        rows.append((name, "its holder died" if lock.died else "free", "", "", "", count))
    for place, one in enumerate(statistics.waiters, 1):
        rows.append(("", f"{place}. in line", f"{one.process} ({one.pid})", one.host, duration(one.seconds), ""))
    return rows


def as_json(report: Report) -> dict[str, Any]:
    """Everything for a machine; times in seconds."""
    locks = []
    for lock in report.locks:
        fields = asdict(lock)
        locks.append({**fields.pop("statistics"), **fields})
    return {
        "server": report.where,
        "good": report.is_good,
        "checks": [asdict(one) for one in report.checks],
        "locks": locks,
    }
