"""What a simulated process can do to the world, under which memory models, and how an execution can end.

An operation is a load, a store, a fence, a park, a wake, a reading of the clock, one on a record lock, a look whether a
process is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mpbakery._system import layout

SEQUENTIAL: Final = "sc"  # every store is visible at once
TOTAL_STORE_ORDER: Final = "tso"  # a store buffer per process, drained by fences, and entry by entry at any time
PARTIAL_STORE_ORDER: Final = "pso"  # the same, but stores to different words leave it in any order
MODELS: Final = (SEQUENTIAL, TOTAL_STORE_ORDER, PARTIAL_STORE_ORDER)

#: The first word of the name, which the protocol does not touch: here it is the data that the lock protects.
DATA: Final = layout.NAME_AT

#: How far the clock of a process jumps when its time runs out (s): more than any timeout of a scenario.
LATE: Final = 1e6

#: Operations that are calls in the lock's code: an interpreter may run a handler right after them.
CALLS: Final = frozenset(
    [
        "clock",
        "fence",
        "take",
        "free",
        "order",
        "yield",
        "nap",
        "sleep",
        "park",
        "unpark",
        "list",
        "lock",
        "unlock",
        "live",
        "lives",
        "alive",
        "told",
    ]
)
#: Those of them that begin with the entry of a Python function, where a handler may run as well.
ENTRIES: Final = frozenset(["fence", "free", "nap", "park", "unpark", "list", "lock", "lives", "alive", "told"])
#: Operations that nobody else can notice, and the fences, which nobody notices where no store is waiting.
PRIVATE: Final = frozenset(["clock", "told", "list", "yield", "free", "take", "fence", "order", "offset"])
FENCES: Final = frozenset(["free", "take", "fence", "order", "offset"])
#: Operations before which all earlier stores become visible: the futex calls have barriers of their own in Linux, and
#: record locks are taken under a lock of the kernel.
DRAINING: Final = FENCES | {"park", "unpark", "lock", "unlock", "live", "lives"}


class Violation(Exception):
    """Something has happened that the lock promises not to let happen."""


class Interrupt(Exception):
    """What a raising signal handler raises."""


def insist(action: Callable[[], object]) -> None:
    """Do something, once more if a handler raises in the middle."""
    while True:
        try:
            action()
        except Interrupt:
            continue
        return


class Abort(BaseException):
    """The execution is over: nobody makes a step any more."""


class Operation(NamedTuple):
    """What a process is about to do."""

    kind: str
    word: int = -1
    value: Any = None
    seconds: float = 0.0
