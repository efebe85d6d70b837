"""What can go wrong between a lock and its server; all of it survives pickling."""

from __future__ import annotations

import mpbakery._errors
from mpbakery._errors import MpbakeryError


class ServerError(MpbakeryError):
    """The server cannot be reached, or is not what a lock needs; the message says what to do."""


class DeadlockError(MpbakeryError):
    """Two or more wait for each other's locks, or a thread for its own. This attempt has given up; the others go on.

    `lock` is the name of the lock that was not acquired.
    """

    def __init__(self, lock: str) -> None:
        self.lock = lock
        super().__init__(
            f"waiting for lock {lock!r} would never end: who holds it waits for a lock that this thread or task holds, "
            f"or it is this thread or task itself; acquire locks in one order everywhere, or with a timeout"
        )

    def __reduce__(self) -> tuple[type[DeadlockError], tuple[str]]:
        return type(self), (self.lock,)


class LockLost(MpbakeryError):
    """The session that held a lock ended before the lock was released: others may have been inside meanwhile.

    `lock` is the lock's name, `token` the number of the acquisition that was lost.
    """

    def __init__(self, lock: str, token: int) -> None:
        self.lock = lock
        self.token = token
        super().__init__(
            f"lock {lock!r} was lost while it was held with token {token}: the session with the server ended (a "
            f"restart, a failover, an administrator, a cut network), and others may have been inside since; what was "
            f"written meanwhile is safe only in a store that refuses tokens older than the last one it has seen"
        )

    def __reduce__(self) -> tuple[type[LockLost], tuple[str, int]]:
        return type(self), (self.lock, self.token)


class OwnerDiedWarning(mpbakery._errors.OwnerDiedWarning):
    """The session of the process that held the lock ended without a release, and the lock was handed over to this one.

    `host` is the machine that the process ran on, the other fields are as in `mpbakery.OwnerDiedWarning`. The process
    may live on where only its connection was cut.
    """

    def __init__(self, lock: str, pid: int, thread: int, process: str, held: float, host: str) -> None:
        super().__init__(lock, pid, thread, process, held)
        self.host = host
        self.args: tuple[str, ...] = (
            f"process {pid} ({process}) on {host} died, or lost its connection, while it held lock {lock!r}, which it "
            f"took {held:.3f} s ago: what the lock protects may be half written",
        )

    def __reduce__(self) -> tuple[type[OwnerDiedWarning], tuple[str, int, int, str, float, str]]:  # type: ignore[override]
        return type(self), (self.lock, self.pid, self.thread, self.process, self.held, self.host)
