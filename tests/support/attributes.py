"""One of each kind of thing that takes attributes, and a child that tells which have arrived."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

#: Each kind, and what a context makes one of.
KINDS: dict[str, tuple[Any, ...]] = {
    "Lock": (),
    "RLock": (),
    "Semaphore": (),
    "BoundedSemaphore": (),
    "Condition": (),
    "Event": (),
    "Barrier": (1,),
    "Queue": (),
    "JoinableQueue": (),
    "SimpleQueue": (),
    "Value": ("i",),
    "Array": ("i", 2),
}


def make(kind: str, context: Any) -> Any:
    """One of a kind."""
    return getattr(context, kind)(*KINDS[kind])


def tell_attributes(connection: Connection, one: Any) -> None:
    """Say whether an attribute has arrived, in something that works."""
    if hasattr(one, "acquire"):
        one.acquire()
        one.release()
    connection.send(getattr(one, "label", None) == "ledger")
