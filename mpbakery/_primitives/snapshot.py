"""What a lock's memory says at this moment, as values: the owner, the queue, the totals."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mpbakery._protocol.slots import is_free
from mpbakery._system.layout import (
    ARRIVED,
    CHOOSING,
    ENDED,
    ENTERED,
    HELD,
    HIGH,
    INDEX,
    NUMBERS,
    OWNER,
    PID,
    PROCESS_NAME,
    PROCESS_NAME_BYTES,
    RECOVERIES,
    THREAD,
    record_of,
    slot_of,
)
from mpbakery._system.memory import Memory


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, or held it until it died.

    `pid` and `process` are the number and the name of the process, `thread` the native id of the thread, `since` the
    moment when it got the lock, in seconds of `time.monotonic()`, a clock that all processes of a machine share.
    """

    pid: int
    thread: int
    process: str
    since: float


@dataclass(frozen=True)
class Waiting:
    """Who waits for a lock: process number, native thread id, name of the process, and for how many seconds so far."""

    pid: int
    thread: int
    process: str
    seconds: float


@dataclass(frozen=True)
class Statistics:
    """A lock at one moment.

    `owner` is who holds it, `waiters` who waits, first the one that comes next; `slots` is how many slots the lock was
    made with and `slots_in_use` how many belong to a thread (dead ones that nobody has cleared away yet included);
    `acquisitions` and `recoveries` count since the lock was made: how often it was acquired, and how often it was
    taken over from an owner that had died.
    """

    owner: Owner | None
    waiters: tuple[Waiting, ...]
    slots: int
    slots_in_use: int
    acquisitions: int
    recoveries: int


@dataclass(frozen=True)
class SemaphoreStatistics:
    """A semaphore at one moment.

    `value` is how many permits can be had, `waiters` who waits for one, first the one that comes next; `slots` is how
    many slots the semaphore was made with and `slots_in_use` how many belong to a thread (dead ones that nobody has
    cleared away yet included).
    """

    value: int
    waiters: tuple[Waiting, ...]
    slots: int
    slots_in_use: int


def read_slot_owner(memory: Memory, slot: int) -> Owner:
    """Who holds, or last held, the lock through `slot`."""
    record = record_of(memory.slots, slot)
    words = memory.words
    return Owner(
        pid=words[record + PID],
        thread=words[record + THREAD] & ~ENDED,
        process=memory.text(record + PROCESS_NAME, PROCESS_NAME_BYTES),
        since=memory.times[record + HELD],
    )


def read_owner(memory: Memory) -> Owner | None:
    """Who holds the lock, None if nobody does."""
    words = memory.words
    while held := words[OWNER] & INDEX:
        since = words[held]
        if not since:
            return None
        owner = read_slot_owner(memory, slot_of(memory.slots, held))
        if words[OWNER] & INDEX == held and words[held] == since:
            return owner
    return None


def read_waiters(memory: Memory) -> tuple[Waiting, ...]:
    """Who waits, first the one that comes next."""
    words = memory.words
    now = time.monotonic()
    numbers = [(words[NUMBERS + slot], slot) for slot in range(words[HIGH])]
    # whoever is in the doorway has no place in line yet
    queue = sorted((number, slot) for number, slot in numbers if number > CHOOSING)
    waiters = []
    for _number, slot in queue:
        record = record_of(memory.slots, slot)
        arrived = memory.times[record + ARRIVED]
        waiters.append(
            Waiting(
                pid=words[record + PID],
                thread=words[record + THREAD],
                process=memory.text(record + PROCESS_NAME, PROCESS_NAME_BYTES),
                seconds=max(0.0, now - arrived) if arrived else 0.0,
            )
        )
    return tuple(waiters)


def count_slots_in_use(memory: Memory) -> int:
    """How many slots belong to a thread, or did so until it died."""
    words = memory.words
    return sum(not is_free(words, record_of(memory.slots, slot)) for slot in range(words[HIGH]))


def read_statistics(memory: Memory) -> Statistics:
    """The lock at this moment; parts of it may be a moment apart."""
    words = memory.words
    waiters = read_waiters(memory)
    records = [record_of(memory.slots, slot) for slot in range(words[HIGH])]
    return Statistics(
        owner=read_owner(memory),
        waiters=waiters,
        slots=memory.slots,
        slots_in_use=count_slots_in_use(memory),
        acquisitions=sum(words[record + ENTERED] for record in records),
        recoveries=words[RECOVERIES],
    )
