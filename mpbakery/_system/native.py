"""What the interpreter itself has for waiting and for threads: programs of greenlets put other things in its place.

gevent and eventlet change the standard library so that whoever waits lets another greenlet of its thread run. In the
middle of an attempt that must not happen: the other one would wait, with the whole thread, for the place in line of one
that cannot go on. Nor is what they have for a lock a fence; and with a slot for each greenlet the slots would not last.
So the greenlets of a thread are one thread here, as for the locks of multiprocessing.
"""

from __future__ import annotations

import importlib
import platform
import select
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final


def _original(module: str, name: str) -> Any:
    """What a module of the interpreter had for `name` before anybody changed it."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None:
        return gevent.get_original(module, name)
    return getattr(importlib.import_module(module) if eventlet is None else eventlet.original(module), name)


if TYPE_CHECKING:
    new_lock = threading.Lock
    new_rlock = threading.RLock
    local = threading.local
else:
    new_lock: Final = _original("_thread", "allocate_lock")
    new_rlock: Final = _original("_thread", "RLock")
    local: Final = _original("_thread", "_local")

#: Whether threads run at the same time in this interpreter, or can: CPython's free-threaded build.
FREE_THREADED: Final = "t" in getattr(sys, "abiflags", "")

#: The number of the futex system call, None where there is none.
FUTEX_CALL: Final[int | None] = (
    {
        "x86_64": 202,
        "aarch64": 98,
        "riscv64": 98,
        "loongarch64": 98,
        "ppc64le": 221,
        "ppc64": 221,
        "s390x": 238,
    }.get(platform.machine())
    if sys.platform == "linux"
    else None
)

get_ident: Final[Callable[[], int]] = _original("_thread", "get_ident")
sleep: Final[Callable[[float], None]] = _original("time", "sleep")
poll: Final[Callable[[], Any]] = _original("select", "poll")
start_new_thread: Final[Callable[..., int]] = _original("_thread", "start_new_thread")


def is_readable(end: Any) -> bool:
    """Whether a descriptor, or what has one, can be read from at this moment, or has come to its end."""
    waiting = poll()
    waiting.register(end, select.POLLIN)
    return bool(waiting.poll(0))
