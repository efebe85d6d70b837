"""What is seen, as values: of these is made all that is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FINE: Final = "fine"
CONVOY: Final = "CONVOY"
STUCK: Final = "STUCK"
LOST: Final = "LOST"
DEADLOCK: Final = "DEADLOCK"
#: From good to bad.
VERDICTS: Final = (FINE, CONVOY, STUCK, LOST, DEADLOCK)


@dataclass(frozen=True)
class InspectedThread:
    """A thread that holds a primitive, or waits for it.

    `pid` is the number of its process and `thread` the native id of the thread, both as whoever looks knows them, which
    is not how they know themselves in a PID namespace of their own; `process` is the name of the process. `alive` is
    false if the process is proved to be dead. `doing` says what the thread does at this moment. `seconds` is for how
    long it has held, or waited, and `gives_up_in` how many seconds are left until it gives up waiting, None if it never
    does, and for a holder. `stack` is where it is in its program, the innermost call first, where that could be seen;
    each call looks like `work (pool.py:5)`.
    """

    pid: int
    thread: int
    process: str
    alive: bool
    doing: str
    seconds: float
    gives_up_in: float | None
    stack: tuple[str, ...]


@dataclass(frozen=True)
class InspectedPrimitive:
    """A lock, or anything else that processes share, at one moment.

    `kind` is the name of its class, `name` what messages call it, which says where it was made if the program gave it
    no name; `identity` tells it from all others. `verdict` is one of fine, CONVOY, STUCK, LOST and DEADLOCK, and `why`
    a sentence about it. `holder` is who holds it, and `waiters` are those who wait, first the one that comes next.
    `acquisitions` and `recoveries` count since it was made: how often it was acquired, and taken over from the dead.
    `value` is how many permits of a semaphore can be had, how many parties a barrier has, and whether an event is set,
    as 1 or 0; None for others. `lock` is the identity of a condition's lock, "" for others.
    """

    kind: str
    name: str
    identity: str
    verdict: str
    why: str
    holder: InspectedThread | None
    waiters: tuple[InspectedThread, ...]
    robust: bool
    acquisitions: int
    recoveries: int
    slots: int
    slots_in_use: int
    value: int | None
    lock: str

    @property
    def is_busy(self) -> bool:
        """Whether anybody holds it or waits, or something is wrong with it."""
        return self.holder is not None or bool(self.waiters) or self.verdict != FINE


@dataclass(frozen=True)
class DeadlockStep:
    """A thread of a ring: the name of what it holds, and of what it waits for, which the next one holds."""

    thread: InspectedThread
    holds: str
    wants: str


@dataclass(frozen=True)
class Deadlock:
    """Threads each of which waits for the next one, and the last one for the first."""

    steps: tuple[DeadlockStep, ...]


@dataclass(frozen=True)
class Inspection:
    """A program at one moment; parts of it may be a moment apart.

    `pid` is the process that was asked for, `processes` are the pids of all that share something with it. `verdict` is
    the worst of fine, CONVOY, STUCK, LOST and DEADLOCK that something in it deserves. `notes` say what could not be
    seen, and why.
    """

    pid: int
    verdict: str
    processes: tuple[int, ...]
    primitives: tuple[InspectedPrimitive, ...]
    deadlocks: tuple[Deadlock, ...]
    notes: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether everything goes on: the verdict is fine or CONVOY."""
        return self.verdict in {FINE, CONVOY}


def title(kind: str, name: str) -> str:
    """What people read: a name that was made up begins with the kind already."""
    return name if name.startswith(f"{kind} ") else f"{kind} '{name}'"
