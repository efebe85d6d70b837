"""Whose is which slot: claiming, reaping the dead, starting anew after a fork.

A slot belongs to one thread of one process; nobody else writes its number or its record while that process lives.
Changing whose it is needs exclusion between processes that have no slot yet, so it needs the kernel, once per thread
and lock: a record lock, which the kernel frees when its holder dies. Record locks are per process, hence a turnstile
in front of it for the threads of one process.

Everything that changes whose a slot is, or clears the number of a dead one, happens under that claim lock, and checks
again under it. Otherwise: A sees that the owner of slot 7 is dead, and pauses; B clears slot 7, a newcomer claims it
and takes a ticket; A wakes up and clears the newcomer's ticket, and two are in.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from mpbakery._errors import ClaimFileLostError, ForeignNamespaceError, SlotsExhausted, reraise_handlers
from mpbakery._protocol.interfaces import Claims, Machine, Processes, SharedMemory
from mpbakery._system import layout, names, native
from mpbakery._system.identity import Process
from mpbakery._system.layout import (
    ARRIVED,
    AWAKE,
    ENTERED,
    HELD,
    HIGH,
    IDLE,
    LEFT_BY_OTHERS,
    NUMBERS,
    OWNER,
    PARK,
    PID,
    PROCESS_NAME,
    PROCESS_NAME_BYTES,
    START,
    THREAD,
)

_T = TypeVar("_T")
_Mine = dict[int, "weakref.ref[object]"]

#: While another process claims, naps of at most this many seconds: a claim takes some 30 µs.
_CLAIM_NAP: Final = 2e-4

#: No slot.
_NONE: Final = -1


class _Forked(Exception):
    """A signal handler has forked in the middle of a claim, and this is the child: the claim lock is its parent's."""


class _Turn:
    """One thread's turn at the claim lock."""

    __slots__ = ("leaving", "thread")

    def __init__(self) -> None:
        self.thread = native.get_ident()
        self.leaving = False


class SlotTable:
    """The slots of one lock, as this process sees them."""

    __slots__ = ("_claims", "_keeping", "_machine", "_memory", "_mine", "_pid", "_place", "_processes", "_turnstile")

    def __init__(
        self, memory: SharedMemory, claims: Claims, processes: Processes, machine: Machine, *, keeping: bool = False
    ) -> None:
        """`keeping`: the number of a dead slot means something to others, and is cleared only on `reap`, or at need."""
        self._memory = memory
        self._keeping = keeping
        self._claims = claims
        self._processes = processes
        self._machine = machine
        # which byte of the claim file stands for this lock; that the byte exists is not needed
        self._place = memory.place
        self.renew()

    def renew(self) -> None:
        """Start with no slots: in a new process, or in a forked child, whose parent keeps its own."""
        # Which thread has which of this process's slots, by a weak reference to what stands for the slot in that
        # thread. A dead reference is a slot that may be given back or taken over: its thread has ended, or was
        # interrupted before it could use what it had claimed. So no slot is lost between a claim and its assignment.
        self._pid = os.getpid()
        self._mine: _Mine = {}
        self._turnstile: dict[str, _Turn] = {}

    @property
    def descriptor(self) -> int:
        """The number of the claim file's descriptor."""
        return self._claims.descriptor

    def is_touched(self) -> bool:
        """Whether this process has slots, or is claiming one."""
        return bool(self._mine or self._turnstile)

    def has_intact_claims(self) -> bool:
        """Whether the claim file's descriptor still is the claim file."""
        return self._claims.is_intact()

    def claim(self, user: object, deadline: float | None) -> int | None:
        """A slot for `user`, which stands for the calling thread: the slot is its until `user` is collected.

        None if the claim lock was not to be had before `deadline` (monotonic seconds).
        Raises SlotsExhausted, ClaimFileLostError, ForeignNamespaceError.
        """
        namespace = self._processes.this_namespace()
        if namespace != self._memory.namespace:
            raise ForeignNamespaceError(self._memory.name, self._memory.namespace, namespace)
        reference = weakref.ref(user, self._give_back)
        while True:
            mine = self._mine
            try:
                slot = self._exclusively(functools.partial(self._claim, reference, mine), deadline)
            except _Forked:
                continue
            if slot == _NONE:
                # Not raised before the claim lock is left: CPython 3.10 runs handlers where an exception is caught, and
                # one that raises there would have it stay locked.
                raise SlotsExhausted(self._memory.name, self._memory.slots, layout.MAX_SLOTS, self._memory.kind)
            return slot

    def is_dead(self, slot: int) -> bool:
        """Whether `slot` belongs to a process that is proved to be gone."""
        record = layout.record_of(self._memory.slots, slot)
        words = self._memory.words
        process = Process(words[record + PID], words[record + START])
        return bool(process.pid) and process != self._processes.this_process() and self._processes.is_dead(process)

    def is_mine(self, slot: int) -> bool:
        """Whether `slot` belongs to this process."""
        record = layout.record_of(self._memory.slots, slot)
        words = self._memory.words
        return Process(words[record + PID], words[record + START]) == self._processes.this_process()

    def reap(self, slot: int, deadline: float | None) -> bool:
        """Take `slot` out of the queue if it belongs to a dead process; whether that was so.

        Whether it stood in the queue or not, it stays whose it was if the lock is still held through it, so that
        the death of the holder is told to whoever takes the lock over.
        """
        mine = self._mine
        try:
            return bool(self._exclusively(lambda: self._reap(slot, mine, thorough=True), deadline))
        except _Forked:
            return False

    def exclusively(self, action: Callable[[], _T], seconds: float) -> _T:
        """The result of action(), which is not None, run under the claim lock.

        Without it after that many seconds, or where this process cannot have it.
        """
        begun = False

        def once() -> _T:
            nonlocal begun
            begun = True
            return action()

        try:
            result = self._exclusively(once, self._machine.clock() + seconds)
        except (OSError, ClaimFileLostError) as error:
            if begun:
                raise  # it is a signal handler's, and the action may be done already
            if isinstance(error, OSError):
                reraise_handlers(error)
            result = None
        return action() if result is None else result

    def exclusively_close(self, descriptor: int) -> None:
        """Close a second descriptor of the claim file, when no record lock can be lost by it."""
        self._exclusively(lambda: os.close(descriptor), None)

    def _give_back(self, user: weakref.ref[object]) -> None:
        """A thread has ended, or the lock is no longer used: let others have the slot.

        While another process is claiming it stays this process's, for another of its threads, or until one more ends.
        """
        if sys.is_finalizing() or self._pid != os.getpid():
            return  # the second: a forked child drops what its parent's other threads had before it runs any hook
        mine, words = self._mine, self._memory.words

        def is_left(slot: int, standing: weakref.ref[object]) -> bool:
            """Whether its thread has ended, and does not hold the lock through it."""
            return standing() is None and not words[layout.record_of(self._memory.slots, slot) + HELD]

        def give_back() -> bool:
            for slot, standing in list(mine.items()):
                record = layout.record_of(self._memory.slots, slot)
                # no call after this one: a handler may claim the slot anew in it, or fork
                if is_left(slot, standing) and slot in mine and mine[slot] is standing and self._mine is mine:
                    del mine[slot]
                    words[record + PID] = 0
            return True

        try:
            # Threads that end at the same moment find the claim lock taken, and leave their slots to this one.
            while self._mine is mine and any(is_left(*item) for item in list(mine.items())):
                if not self._exclusively(give_back, 0.0):
                    break
        except (OSError, ClaimFileLostError):
            pass

    def _claim(self, user: weakref.ref[object], mine: _Mine) -> int:
        """Under the claim lock: the slot that is `user`'s now, _NONE if all belong to living threads."""
        memory = self._memory
        for slot in list(mine):
            if self._take(slot, user, mine):
                return slot
        # First what is cheap to see: whose pid is missing. Then the zombies, and pids that were given out again. What a
        # dead process has left in the line goes last, where it means something to those who keep it.
        passes = ((False, self._keeping), (True, self._keeping), *([(True, False)] if self._keeping else []))
        while True:
            dead_owner = _NONE
            for thorough, keeping in passes:
                high = memory.words[HIGH]
                for slot in range(high):
                    kept = keeping and memory.words[NUMBERS + slot] != IDLE
                    dead = not kept and self._reap(slot, mine, thorough=thorough)
                    if self._take(slot, user, mine):
                        return slot
                    if dead:
                        dead_owner = slot
                for slot in range(high, memory.slots):
                    if self._take(slot, user, mine):
                        return slot
            # The slot of a dead owner cannot be claimed before somebody with another slot takes over from it.
            owner = layout.slot_of(memory.slots, memory.words[OWNER])
            if owner >= 0 and self.is_dead(owner) and self._take(memory.slots, user, mine):
                return memory.slots
            if dead_owner in {owner, _NONE}:
                return _NONE
            # somebody has taken over from it since we looked, and it is to be had now

    def _reap(self, slot: int, mine: _Mine, *, thorough: bool) -> bool:
        """Under the claim lock: take a dead process's slot out of the queue, and free it unless it holds the lock.

        Whether its process was dead. Unless `thorough`, only a missing pid counts as a proof: that is cheap to see.
        """
        words = self._memory.words
        record = layout.record_of(self._memory.slots, slot)
        process = Process(words[record + PID], words[record + START])
        if not process.pid or process == self._processes.this_process():
            return False
        if self._processes.exists(process.pid) and not (thorough and self._processes.is_dead(process)):
            return False
        holds = words[OWNER] == record + HELD and words[record + HELD] != 0
        since, pid = (words[record + HELD], process.pid) if holds else (0, 0)
        dead, start = process
        # No call from here on, nor a jump that is taken (where CPython 3.10 runs handlers, too). Looked at once more
        # whose the slot is: a handler that acquires may have reaped and claimed it, and must not lose it again.
        if self._mine is mine and words[record + PID] == dead and words[record + START] == start:
            words[NUMBERS + slot] = IDLE
            words[record + HELD] = since
            words[record + PID] = pid
        else:
            self._forked(mine)
        return True

    def _take(self, slot: int, user: weakref.ref[object], mine: _Mine) -> bool:
        """Under the claim lock: make `slot` that of `user`, if it is free or was left by a thread of this process."""
        process = self._processes.this_process()
        words = self._memory.words
        record = layout.record_of(self._memory.slots, slot)
        if words[record + PID]:
            if Process(words[record + PID], words[record + START]) != process or slot not in mine:
                return False
            if words[record + HELD]:
                return False  # its thread ended with the lock held, and is still who holds it
        thread = threading.get_native_id()
        name = layout.padded(names.of_this_process(), PROCESS_NAME_BYTES)
        name_at = layout.span_of(record + PROCESS_NAME, PROCESS_NAME_BYTES)
        standing = mine.setdefault(slot, user)
        if standing is not user and standing() is not None:
            return False
        # No call from here on, nor a jump that is taken (where CPython 3.10 runs handlers, too), so that nothing of
        # this thread comes in between: a handler that forks, or one that claims in the middle of this claim, which
        # stands before this line with the same slot.
        if self._mine is mine and slot in mine and mine[slot] is standing:
            mine[slot] = user
            self._pid = process.pid  # the table of a lock that was forked before its first use is not renewed
            words[NUMBERS + slot] = IDLE
            words[record + HELD] = 0
            words[record + PARK] = AWAKE
            words[record + ARRIVED] = 0
            words[record + LEFT_BY_OTHERS] = 2 * words[record + ENTERED] + 1
            words[record + THREAD] = thread
            self._memory.mapping[name_at] = name
            words[record + START] = process.start
        else:
            return self._forked(mine)
        # HIGH before PID, or whoever is killed in between leaves a slot that nobody looks at; and before the first
        # CHOOSING of this slot, or a scan could pass it by. Looked at once more after each store, since a handler that
        # claims between our load and our store would see its HIGH lowered.
        top = max(mine) + 1
        while self._mine is mine and words[HIGH] < top:
            words[HIGH] = top
            top = max(mine) + 1
        if self._mine is mine:
            words[record + PID] = process.pid
        else:
            return self._forked(mine)
        return True

    def _forked(self, mine: _Mine) -> bool:
        """False; raises _Forked if a handler has forked since `mine` was looked up, and this is the child."""
        if self._mine is not mine:
            raise _Forked
        return False

    def _exclusively(self, action: Callable[[], _T], deadline: float | None) -> _T | None:
        """The result of action(), run while nobody else changes whose a slot is; None if `deadline` came first.

        An action may be interrupted by a signal handler that comes here itself: it then runs inside the turn of its
        own thread, and leaves the record lock to that, unless that is leaving already.
        """
        unlock, place = self._claims.unlock, self._place
        turn = _Turn()
        inside: _Turn | None = None
        naps = 0
        turnstile = self._turnstile
        try:
            while (holder := turnstile.setdefault("turn", turn)) is not turn:
                if holder.thread == turn.thread:
                    inside = holder
                    break
                if not self._nap(naps, deadline):
                    return None
                naps += 1
                turnstile = self._turnstile
            while not self._lock_record():
                if not self._nap(naps, deadline):
                    return None
                naps += 1
            return action()
        finally:
            # No call before the one that unlocks, nor a jump that is taken, and first of all a `try`: else a second
            # exception from a handler could skip it. CPython 3.10 runs handlers at jumps, and where a `finally` is
            # entered, but not in front of a `try`.
            try:
                ours = "turn" in turnstile and turnstile["turn"] is turn
                if ours:
                    turn.leaving = True
                    unlock(place)
                elif inside is not None and inside.leaving:
                    unlock(place)
            except OSError as error:
                reraise_handlers(error)
                # else the descriptor was closed, and that has freed the record lock as well
            finally:
                if ours:
                    del turnstile["turn"]

    def _nap(self, turn: int, deadline: float | None) -> bool:
        if deadline is not None and self._machine.clock() >= deadline:
            return False
        self._machine.nap(_CLAIM_NAP, turn)
        return True

    def _lock_record(self) -> bool:
        if not self._claims.is_intact():
            raise ClaimFileLostError(self._memory.name, self._claims.descriptor)
        return self._claims.try_lock(self._place)
