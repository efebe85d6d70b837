"""multiprocessing's locks, and what is made of them, that outlive killed processes: Lamport's bakery in Python."""

from __future__ import annotations

import importlib
import os
import sys
import typing

if sys.version_info < (3, 10):  # noqa: UP036
    # whoever runs a checkout, or has copied the folder, was not asked by an installer
    raise ImportError(f"mpbakery needs Python 3.10 or later, and this is {sys.version.split()[0]}")
if sys.platform == "win32":
    raise ImportError(
        "mpbakery needs a POSIX system: it stands on fork, mmap and record locks; on Windows, use multiprocessing.Lock"
    )
if sys.platform == "darwin" and os.uname().machine == "arm64":
    raise ImportError(
        "mpbakery has no memory fence for Apple silicon, and without one two processes could have a lock at once: use "
        "multiprocessing.Lock, or a Python for Intel processors, which Rosetta runs in their memory order"
    )

from mpbakery._errors import (
    ClaimFileLostError,
    ClaimsRefusedError,
    DeadlockedThread,
    DeadlockWarning,
    ForeignNamespaceError,
    InspectionError,
    MpbakeryError,
    NotOwnedError,
    OwnerDiedWarning,
    PoolTerminatedError,
    SharingError,
    SlotsExhausted,
    TasksLostWarning,
    UnknownLockError,
    WorkerDiedError,
)
from mpbakery._primitives.barrier import Barrier
from mpbakery._primitives.condition import Condition
from mpbakery._primitives.event import Event
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.semaphore import BoundedSemaphore, Semaphore
from mpbakery._primitives.shared import register
from mpbakery._primitives.snapshot import Owner, SemaphoreStatistics, Statistics, Waiting

if typing.TYPE_CHECKING:
    from mpbakery._context import get_context
    from mpbakery._inspect.dump import dump_on_signal
    from mpbakery._inspect.look import inspect
    from mpbakery._inspect.model import Deadlock, DeadlockStep, InspectedPrimitive, InspectedThread, Inspection
    from mpbakery._install import install, installed, uninstall
    from mpbakery._work.pools.outcome import TransferError
    from mpbakery._work.pools.pool import Pool
    from mpbakery._work.values import Array, RawArray, RawValue, Value

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "ClaimFileLostError",
    "ClaimsRefusedError",
    "Condition",
    "Deadlock",
    "DeadlockStep",
    "DeadlockWarning",
    "DeadlockedThread",
    "Event",
    "ForeignNamespaceError",
    "InspectedPrimitive",
    "InspectedThread",
    "Inspection",
    "InspectionError",
    "Lock",
    "MpbakeryError",
    "NotOwnedError",
    "Owner",
    "OwnerDiedWarning",
    "Pool",
    "PoolTerminatedError",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SemaphoreStatistics",
    "SharingError",
    "SlotsExhausted",
    "Statistics",
    "TasksLostWarning",
    "TransferError",
    "UnknownLockError",
    "Value",
    "Waiting",
    "WorkerDiedError",
    "dump_on_signal",
    "get_context",
    "inspect",
    "install",
    "installed",
    "register",
    "uninstall",
]

__version__ = "1.0.0"

#: What is loaded when it is first used, and from where: it needs what a lock does not, such as ctypes.
_LATER = {
    "Array": "_work.values",
    "Deadlock": "_inspect.model",
    "DeadlockStep": "_inspect.model",
    "InspectedPrimitive": "_inspect.model",
    "InspectedThread": "_inspect.model",
    "Inspection": "_inspect.model",
    "Pool": "_work.pools.pool",
    "RawArray": "_work.values",
    "RawValue": "_work.values",
    "TransferError": "_work.pools.outcome",
    "Value": "_work.values",
    "dump_on_signal": "_inspect.dump",
    "get_context": "_context",
    "inspect": "_inspect.look",
    "install": "_install",
    "installed": "_install",
    "uninstall": "_install",
}


def _published(found: object) -> object:
    """`found`, which says of itself, and in a pickle, that it comes from here: in which room it lives may change."""
    found.__module__ = __name__
    return found


for _name in __all__:
    if _name not in _LATER:
        _published(globals()[_name])


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = _published(getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name))
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
