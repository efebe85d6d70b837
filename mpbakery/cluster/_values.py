"""What a lock tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from mpbakery._primitives import snapshot


@dataclass(frozen=True)
class Owner(snapshot.Owner):
    """Who holds a lock, or held it until it died: as in `mpbakery.Owner`, and on which machine, `host`.

    `since` is in seconds of this machine's `time.monotonic()`. Long names of hosts and processes are cut.
    """

    host: str


@dataclass(frozen=True)
class Waiting(snapshot.Waiting):
    """Who waits for a lock: as in `mpbakery.Waiting`, and on which machine, `host`."""

    host: str


@dataclass(frozen=True)
class Statistics:
    """A lock at one moment.

    `owner` is who holds it, `waiters` who waits, first the one that comes next; `acquisitions` and `recoveries` count
    since the lock was first used: how often it was acquired, and how often from an owner that had died.
    """

    owner: Owner | None
    waiters: tuple[Waiting, ...]
    acquisitions: int
    recoveries: int
