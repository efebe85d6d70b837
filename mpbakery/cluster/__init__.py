"""The same lock beyond one machine: `Lock`, and `AsyncLock` for asyncio, on a PostgreSQL server.

The server queues, the end of a session is the death of its holder, and a stopped holder is waited for. It needs psycopg
3: `pip install mpbakery[postgresql]`. After a failover or a restart of the server two processes can be inside; the
token protects the data. See docs/cluster.md.
"""

from __future__ import annotations

try:
    import psycopg
except ImportError as _error:
    raise ImportError(
        f"mpbakery.cluster needs psycopg 3, and libpq behind it ({_error}): pip install 'mpbakery[postgresql]'"
    ) from _error

from mpbakery.cluster._async_lock import AsyncLock
from mpbakery.cluster._errors import DeadlockError, LockLost, OwnerDiedWarning, ServerError
from mpbakery.cluster._lock import Lock
from mpbakery.cluster._values import Owner, Statistics, Waiting

del psycopg

__all__ = [
    "AsyncLock",
    "DeadlockError",
    "Lock",
    "LockLost",
    "Owner",
    "OwnerDiedWarning",
    "ServerError",
    "Statistics",
    "Waiting",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
