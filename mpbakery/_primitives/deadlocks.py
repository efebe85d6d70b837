"""Whether a thread that has waited for long will wait for ever: rings of threads among the locks of this process.

Everybody waits for at most one lock, the one that it came to last: what it waited for before that is suspended beneath
a signal handler. So who waits for whom is a path, from the one who asks on, and a deadlock one that comes back to it.

Memory is read while others go on, so a look could see a ring that never was. But only the one that came last is told.
All other waits began before its own, and so before its look, and were still going on when they were seen. What the
looker holds, it holds all the time, so that whoever waits for that does not move, nor whoever waits for that one, and
so on back to the lock that the looker waits for. A second look finds the same places in line and the same acquisitions,
or else somebody has released one of them meanwhile who does not hold it. So all of it was so at one moment, and then it
stays so, since nobody in the ring can do anything, unless

- one gives up: those with a limit of time do not count, nor do the dead;
- another thread releases a lock. That is what signals are for, and an RLock cannot be one. A Lock counts that was
  acquired before, and released each time by who had acquired it;
- a signal handler does it. What one has acquired while its thread waits does not count.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Final, NamedTuple

from mpbakery._errors import DeadlockedThread, DeadlockWarning, is_from_handler
from mpbakery._primitives.shared import Shared, everything_known
from mpbakery._protocol.interfaces import SharedMemory
from mpbakery._protocol.seats import Slot
from mpbakery._system.layout import (
    ARRIVED,
    CHOOSING,
    DEADLINE,
    ENTERED,
    FOREIGN,
    HELD,
    HIGH,
    IDLE,
    INDEX,
    LOCK,
    NOBODY,
    NUMBERS,
    OWNER,
    PID,
    PROCESS_NAME,
    PROCESS_NAME_BYTES,
    RECORD,
    RECOVERIES,
    RECURSIVE_LOCK,
    START,
    THREAD,
    record_of,
    slot_of,
)

#: Whose holder is not idle meanwhile, as readers of a queue are, and who waits for it can do something with an error.
KINDS: Final = frozenset([LOCK, RECURSIVE_LOCK])

#: A thread of some process: the pid, the start of the process, the native id of the thread, as slots have them.
_Thread = tuple[int, int, int]


class _Wait(NamedTuple):
    """An attempt that stands in line; two that are equal are the same attempt in the same place."""

    thread: _Thread
    lock: Shared
    slot: int
    number: int
    arrived: float
    deadline: float


class _Hold(NamedTuple):
    """An acquisition; two that are equal are the same."""

    thread: _Thread
    since: float
    entered: int


class _Edge(NamedTuple):
    """A wait, and who has what is waited for."""

    wait: _Wait
    holder: _Hold


def tell(frames: int, slot: Slot) -> bool:
    """Warn if the attempt under way through `slot` waits in a ring, and was the last to come to it.

    `frames` is how many frames there are between the warning and who acquires. Returns whether there is nothing more to
    tell this attempt. Raises the warning if it is turned into an error.
    """
    generation = slot.generation
    try:
        ring = _find(slot)
    except (MemoryError, RecursionError) as error:
        if is_from_handler(error):
            raise
        return False  # whoever has too little of these for this can still wait
    # A handler that has forked, before or meanwhile, or come to the lock itself, has ended this wait as it was.
    if not ring or slot.lost or slot.generation is not generation or _is_telling():
        return False
    warning = DeadlockWarning(tuple(_told(before, edge) for before, edge in zip((ring[-1], *ring), ring, strict=False)))
    try:
        warnings.warn(warning, stacklevel=frames)
    except Exception as error:
        if error is not warning:
            if is_from_handler(error):
                raise
            return False  # it could not be shown, as on a closed stderr, and the wait goes on
        if not slot.must_enter:
            raise
        _show(warning, sys._getframe(frames - 1))
    return True


def _is_telling() -> bool:
    """Whether this thread is telling already: what shows warnings may come to the lock itself, and would be told."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code is tell.__code__:
            return True
        frame = frame.f_back
    return False


def _show(warning: DeadlockWarning, frame: FrameType) -> None:
    """Print a warning that was turned into an error of which nobody would hear."""
    try:
        warnings.showwarning(warning, DeadlockWarning, frame.f_code.co_filename, frame.f_lineno)
    except Exception as error:
        if is_from_handler(error):
            raise


def _told(before: _Edge, edge: _Edge) -> DeadlockedThread:
    lock, slot = edge.wait.lock, edge.wait.slot
    memory = lock._memory
    pid, _, thread = edge.wait.thread
    process = memory.text(record_of(memory.slots, slot) + PROCESS_NAME, PROCESS_NAME_BYTES)
    return DeadlockedThread(pid, thread, process, before.wait.lock._memory.name, memory.name)


def _find(slot: Slot) -> list[_Edge]:
    """The ring, first the wait of this attempt; nothing if there is none, or somebody else is to be told."""
    waits = _innermost_waits(slot.line.memory.namespace)
    ring: list[_Edge] = []
    wait = mine = waits.get(_thread(slot.line.memory, slot.index))
    if mine is None or mine.lock._memory is not slot.line.memory:
        return []
    while wait is not mine or not ring:
        holder = None if wait is None or wait.deadline or len(ring) == len(waits) else _holder(wait.lock)
        if wait is None or holder is None:
            return []
        ring.append(_Edge(wait, holder))
        wait = waits.get(holder.thread)
        # what it has got since it came to wait, it has in a signal handler, which gives it back before it ends
        if wait is None or holder.since >= wait.arrived:
            return []
    # One that waits for itself may wait for the release of another thread.
    if len(ring) < 2 or max(ring, key=_order).wait is not mine or any(map(_is_dead, ring)):
        return []
    # Between the looks: no load of the second one may be made before those of the first one.
    slot.line.machine.new_fence()()
    return ring if all(map(_is_unchanged, ring)) else []


def _order(edge: _Edge) -> tuple[float, _Thread]:
    return edge.wait.arrived, edge.wait.thread


def _is_dead(edge: _Edge) -> bool:
    return edge.wait.lock._table.is_dead(edge.wait.slot)


def _is_unchanged(edge: _Edge) -> bool:
    lock = edge.wait.lock
    return _wait(lock, edge.wait.slot) == edge.wait and _holder(lock) == edge.holder


def _innermost_waits(namespace: int) -> dict[_Thread, _Wait]:
    """What each thread waits for, among what is used in that PID namespace: elsewhere a pid is another process."""
    waits: dict[_Thread, _Wait] = {}
    for lock in everything_known():
        memory = lock._memory
        if lock._kind not in KINDS or memory.namespace != namespace:
            continue
        numbers = memory.spans[NUMBERS : NUMBERS + memory.words[HIGH]].tolist()
        if max(numbers, default=IDLE) <= CHOOSING:
            continue
        for slot, number in enumerate(numbers):
            if number > CHOOSING:
                wait = _wait(lock, slot)
                before = waits.get(wait.thread)
                if before is None or wait.arrived > before.arrived:
                    waits[wait.thread] = wait
    return waits


def _thread(memory: SharedMemory, slot: int) -> _Thread:
    record = record_of(memory.slots, slot)
    words = memory.words
    return words[record + PID], words[record + START], words[record + THREAD]


def _wait(lock: Shared, slot: int) -> _Wait:
    memory = lock._memory
    record = record_of(memory.slots, slot)
    # The number first: who stands in line has stored the others before it.
    number = memory.words[NUMBERS + slot]
    times = memory.times
    return _Wait(_thread(memory, slot), lock, slot, number, times[record + ARRIVED], times[record + DEADLINE])


def _holder(lock: Shared) -> _Hold | None:
    """Who alone can release the lock, as far as one can know; None if nobody holds it, or others might release it."""
    memory = lock._memory
    words = memory.words
    held = words[OWNER] & INDEX
    since = memory.times[held] if held != NOBODY else 0.0
    if not since:
        return None
    record = held - HELD
    hold = _Hold(_thread(memory, slot_of(memory.slots, held)), since, words[record + ENTERED])
    if lock._kind == LOCK:
        # Which locks are signals shows when they are given. One whose first owner has it still could be one.
        first = record_of(memory.slots, 0) + ENTERED
        acquisitions = sum(memory.spans[first : first + words[HIGH] * RECORD : RECORD].tolist())
        if words[FOREIGN] or acquisitions - words[RECOVERIES] < 2:
            return None
    return hold
