"""Whose is which slot: claiming, reaping the dead, starting anew after a fork.

A slot belongs to one thread of one process; nobody else writes its number or its record while that process lives.
Changing whose it is needs exclusion between processes that have no slot yet, so it needs the kernel, once per thread
and lock: a record lock, which the kernel frees when its holder dies. Record locks are per process, hence a turnstile
in front of it for the threads of one process.

Everything that takes a slot, or clears the number of a dead one, happens under that claim lock, and checks again under
it. Otherwise: A sees that the owner of slot 7 is dead, and pauses; B clears slot 7, a newcomer claims it and takes a
ticket; A wakes up and clears the newcomer's ticket, and two are in. Only a slot's own process gives it back without
that lock: it says in the slot that the thread has ended, and does nothing to it any more.

Before a process has its first slot, it takes one more record lock, for as long as it lives. Who holds that is alive,
whatever can be read of it: from another namespace, in a sandbox, or without a descriptor left.
"""

from __future__ import annotations

import errno
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from mpbakery._errors import (
    ClaimFileLostError,
    ClaimsRefusedError,
    ForeignNamespaceError,
    SlotsExhausted,
    reraise_handlers,
)
from mpbakery._protocol.interfaces import Claims, Machine, Processes, SharedMemory, Words
from mpbakery._system import layout, names, native
from mpbakery._system.identity import Process
from mpbakery._system.layout import (
    ARRIVED,
    AWAKE,
    ENDED,
    ENTERED,
    HELD,
    HIGH,
    IDLE,
    INDEX,
    LEFT_BY_OTHERS,
    NUMBERS,
    OWNER,
    PARK,
    PID,
    PROCESS_NAME,
    PROCESS_NAME_BYTES,
    RECORD,
    START,
    THREAD,
)

_T = TypeVar("_T")
_Mine = dict["weakref.ref[object]", int]

#: While another process claims, naps of at most this many seconds: a claim takes some 30 µs.
_CLAIM_NAP: Final = 2e-4

#: How many other processes a claim looks at, at most, whether they are dead, rather than take a slot that nobody had.
_LOOKS: Final = 16

#: How often a process tries to get the record lock that says that it lives: who looks after it may have it meanwhile.
_TRIES: Final = 50

#: No slot; and none since this process is not what its pid says that it is.
_NONE: Final = -1
_STRANGER: Final = -2


class _Forked(Exception):
    """A signal handler has forked in the middle of a claim, and this is the child: the claim lock is its parent's."""


def is_free(words: Words, record: int) -> bool:
    """Whether the slot with that record is nobody's, or its thread has ended, and does not hold the lock through it."""
    return not words[record + PID] or (words[record + THREAD] >= ENDED and not words[record + HELD])


class _Turn:
    """One thread's turn at the claim lock."""

    __slots__ = ("leaving", "thread")

    def __init__(self) -> None:
        self.thread = native.get_ident()
        self.leaving = False


class SlotTable:
    """The slots of one lock, as this process sees them."""

    __slots__ = (
        "_claims",
        "_keeping",
        "_machine",
        "_memory",
        "_mine",
        "_pid",
        "_place",
        "_processes",
        "_records",
        "_turnstile",
    )

    #: kept here, because the last slots may be given back when this module has no variables any more
    _is_finalizing = staticmethod(sys.is_finalizing)

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
        self._records = layout.record_of(memory.slots, 0)
        self.renew()

    def renew(self) -> None:
        """Start with no slots: in a new process, or in a forked child, whose parent keeps its own."""
        # Which of this process's slots stands for what: by a weak reference to what stands for the slot in its thread.
        # When that is collected, the thread has ended, or was interrupted before it could use what it had claimed. So
        # no slot is lost between a claim and its assignment.
        self._mine: _Mine = {}
        self._turnstile: dict[str, _Turn] = {}
        self._pid = 0  # of the process that has claimed; last, since a child is through with this when it is 0

    @property
    def descriptor(self) -> int:
        """The number of the claim file's descriptor."""
        return self._claims.descriptor

    def is_touched(self) -> bool:
        """Whether this process has had slots, or is claiming one."""
        return bool(self._pid or self._turnstile)

    def claim(self, user: object, deadline: float | None) -> int | None:
        """A slot for `user`, which stands for the calling thread: the slot is its until `user` is collected.

        None if the claim lock was not to be had before `deadline` (monotonic seconds).
        Raises SlotsExhausted, ClaimFileLostError, ClaimsRefusedError, ForeignNamespaceError.
        """
        if self._processes.is_foreign(self._memory.namespace):
            raise self._foreign()
        reference = weakref.ref(user, self._give_back)
        hash(reference)  # which it remembers: it has none any more if `user` goes before the claim is made
        may_collect = sys.implementation.name != "cpython"
        while True:
            mine = self._mine
            try:
                slot = self._exclusively(functools.partial(self._claim, reference, mine), deadline)
            except _Forked:
                continue
            if slot == _NONE and may_collect:
                may_collect = False
                gc.collect()  # what stands for threads that have ended is found only then, without counts of references
                continue
            if slot == _NONE:
                # Not raised before the claim lock is left: CPython 3.10 runs handlers where an exception is caught, and
                # one that raises there would have it stay locked.
                raise SlotsExhausted(self._memory.name, self._memory.slots, layout.MAX_SLOTS, self._memory.kind)
            if slot == _STRANGER:
                raise self._foreign()
            return slot

    def is_dead(self, slot: int) -> bool:
        """Whether `slot` belongs to a process that is proved to be gone."""
        process = self._process_of(slot)
        # the second: what was read of it may have been of two, one that gave it back and one that claimed it
        return self._is_gone(process) and self._process_of(slot) == process

    def is_mine(self, slot: int) -> bool:
        """Whether `slot` belongs to this process."""
        return self._process_of(slot) == self._processes.this_process()

    def reap(self, slot: int, deadline: float | None) -> bool:
        """Take `slot` out of the queue if it belongs to a dead process; whether that was so.

        Whether it stood in the queue or not, it stays whose it was if the lock is still held through it, so that
        the death of the holder is told to whoever takes the lock over.
        """
        mine = self._mine
        try:
            return bool(self._exclusively(lambda: self._reap(slot, mine), deadline))
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
        except (OSError, ClaimFileLostError, ClaimsRefusedError) as error:
            if begun:
                raise  # it is a signal handler's, and the action may be done already
            if isinstance(error, OSError):
                reraise_handlers(error)
            result = None
        return action() if result is None else result

    def _process_of(self, slot: int) -> Process:
        record = layout.record_of(self._memory.slots, slot)
        words = self._memory.words
        return Process(words[record + PID], words[record + START])

    def _is_gone(self, process: Process) -> bool:
        """Whether `process`, which is read from a slot, is another one than this, and proved to be gone."""
        return (
            bool(process.pid)
            and process != self._processes.this_process()
            and not self._claims.lives(process)
            and self._processes.is_dead(process)
        )

    def _foreign(self) -> ForeignNamespaceError:
        memory = self._memory
        return ForeignNamespaceError(memory.name, memory.namespace, self._processes.this_namespace())

    def _give_back(self, user: weakref.ref[object]) -> None:
        """The thread of a slot has ended, or was interrupted before it could use it: let others have the slot."""
        if self._is_finalizing():
            return
        mine, words, order = self._mine, self._memory.words, self._machine.order
        slot = mine.get(user, _NONE)
        # the second: a forked child drops what its parent's other threads had before it runs any hook
        if slot == _NONE or self._pid != self._processes.this_process().pid:
            return
        thread = layout.record_of(self._memory.slots, slot) + THREAD
        is_mine = self.is_mine(slot)
        if order is not None:
            order()  # or a late store of the thread could come after one of whoever claims the slot next
        try:
            ended = words[thread] | ENDED
            # No call from here on, so that no handler comes in between: one that raises would leave the slot lost, and
            # the child of one that forks would say it of its parent's slot, when that is somebody else's. The first
            # store decides who says it, if the other one is just claiming (see `_claim`).
            if is_mine and self._mine is mine:
                del mine[user]
                words[thread] = ended
            else:
                mine.pop(user, None)  # it was not yet ours
        except KeyError:
            pass

    def _claim(self, user: weakref.ref[object], mine: _Mine) -> int:
        """Under the claim lock: the slot that is `user`'s now, _NONE if all belong to living threads."""
        memory = self._memory
        if not self._live(mine):
            return _STRANGER
        for other in list(mine):
            if other() is None:
                self._give_back(other)  # a handler has cut that off
        # What is free needs no look at others.
        slot = self._take_one(0, user, mine)
        if slot != _NONE:
            return slot
        # Before a slot is taken that nobody had yet, which makes the line longer for everyone, a few others are looked
        # at; before giving up, all. What a dead process has left in the line goes last, where it means something to
        # those who keep it.
        everyone = memory.slots
        attempts = [(_LOOKS, self._keeping), (everyone, self._keeping), *([(everyone, False)] if self._keeping else [])]
        while True:
            for looks, keeping in attempts:
                last_dead = self._clear_away(looks, mine, keeping=keeping)
                slot = self._take_one(everyone, user, mine)
                if slot != _NONE:
                    return slot
            # The slot of a dead owner cannot be claimed before somebody with another slot takes over from it.
            owner = layout.slot_of(memory.slots, memory.words[OWNER])
            if owner >= 0 and self.is_dead(owner) and self._take(memory.slots, user, mine):
                return memory.slots
            if last_dead in {owner, _NONE}:
                return _NONE
            # somebody has taken over from it since we looked, and it is to be had now

    def _live(self, mine: _Mine) -> bool:
        """Under the claim lock: hold the record lock that says that this process lives.

        False if another process has it, which must then be of another PID namespace.
        """
        live = self._claims.life_of(self._processes.this_process())
        for turn in range(_TRIES):
            self._check_claims()
            try:
                # no call in between: the child of a handler that forks there would live as its parent, and have that
                # live on when it is dead
                if self._mine is mine:
                    live()
                else:
                    self._forked(mine)
            except OSError as error:
                self._look_into(error)
            else:
                return True
            self._machine.nap(_CLAIM_NAP, turn)
        return False

    def _column(self, field: int, below: int) -> list[int]:
        """One word of each slot's record, up to a slot."""
        if not below:
            return []
        first = self._records + field
        return self._memory.spans[first : first + below * RECORD : RECORD].tolist()

    def _take_one(self, below: int, user: weakref.ref[object], mine: _Mine) -> int:
        """Under the claim lock: a free slot, which is `user`'s now, _NONE if there is none.

        If it has to be one that nobody had yet, then it is one below `below`.
        """
        high = self._memory.words[HIGH]
        pids, threads = self._column(PID, high), self._column(THREAD, high)
        for slot, pid in enumerate(pids):
            if (not pid or threads[slot] >= ENDED) and self._take(slot, user, mine):
                return slot
        for slot in range(high, below):
            if self._take(slot, user, mine):
                return slot
        return _NONE

    def _clear_away(self, looks: int, mine: _Mine, *, keeping: bool) -> int:
        """Under the claim lock: clear away what the dead have left, looking at so many processes at most.

        Unless it is `keeping`, and that stands in the line. Returns the last slot that a dead process had, or _NONE.
        """
        words, process = self._memory.words, self._processes.this_process()
        everyone = looks >= self._memory.slots
        pids = self._column(PID, words[HIGH])
        others = sorted(set(pids) - ({0} if everyone else {0, process.pid}))
        # not always the same ones
        first = (process.pid + len(mine)) % len(others) if others else 0
        last_dead = _NONE
        for pid in (others[first:] + others[:first])[:looks]:
            # A pid can be that of two, one of them dead: at a second look at everyone.
            if not everyone and not self._is_gone(self._process_of(pids.index(pid))):
                continue
            for slot in [slot for slot, other in enumerate(pids) if other == pid]:
                if not (keeping and words[NUMBERS + slot] != IDLE) and self._reap(slot, mine):
                    last_dead = slot
        return last_dead

    def _reap(self, slot: int, mine: _Mine) -> bool:
        """Under the claim lock: take a dead process's slot out of the queue, and free it unless it holds the lock.

        Whether its process was dead.
        """
        words = self._memory.words
        record = layout.record_of(self._memory.slots, slot)
        process = self._process_of(slot)
        if not self._is_gone(process):
            return False
        holds = words[OWNER] & INDEX == record + HELD and words[record + HELD] != 0
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
        """Under the claim lock: make `slot` that of `user`, if it is free."""
        process = self._processes.this_process()
        words = self._memory.words
        record = layout.record_of(self._memory.slots, slot)
        pid, last = words[record + PID], words[record + THREAD]
        if self._machine.order is not None:
            self._machine.order()  # or HELD could be read as it was before the thread that has ended took the lock
        if not is_free(words, record):
            return False
        thread = threading.get_native_id()
        name = layout.padded(names.of_this_process(), PROCESS_NAME_BYTES)
        name_at = layout.span_of(record + PROCESS_NAME, PROCESS_NAME_BYTES)
        taken = mine.values()  # to be copied in one piece before it is looked through: a thread may end
        # No call from here on, nor a jump that is taken (where CPython 3.10 runs handlers, too), so that nothing of
        # this thread comes in between: a handler that forks, or one that claims in the middle of this claim, which
        # stands before this line with the same slot, or below, with nothing of it to be seen in memory.
        if (
            self._mine is mine
            and words[record + PID] == pid
            and words[record + THREAD] == last
            and slot not in [*taken]
        ):
            words[record + PID] = 0  # whoever is killed from now on leaves it free
            self._pid = process.pid
            mine[user] = slot
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
        top = max([*mine.values()]) + 1
        while self._mine is mine and words[HIGH] < top:
            words[HIGH] = top
            top = max([*mine.values()]) + 1
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
            while not self._lock(place):
                if not self._nap(naps, deadline):
                    return None
                naps += 1
            return action()
        finally:
            # No call before the one that unlocks, nor a jump that is taken, and first of all a `try`: else a second
            # exception from a handler could skip it. CPython 3.10 runs handlers at jumps, and where a `finally` is
            # entered, but not in front of a `try`.
            try:
                ours = False
                ours = turnstile["turn"] is turn
                if ours:
                    turn.leaving = True
                    unlock(place)
                elif inside is not None and inside.leaving:
                    unlock(place)
            except KeyError:
                pass  # another thread's turn is over
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

    def _lock(self, place: int) -> bool:
        """Get the claim lock; whether it is this process's now."""
        self._check_claims()
        try:
            return self._claims.try_lock(place)
        except OSError as error:
            self._look_into(error)
            return False

    def _check_claims(self) -> None:
        if not self._claims.is_intact():
            raise ClaimFileLostError(self._memory.name, self._claims.descriptor)

    def _look_into(self, error: OSError) -> None:
        """Raise what there is to say of a record lock that was not to be had, unless another process has it."""
        reraise_handlers(error)
        if error.errno == errno.EBADF:
            raise ClaimFileLostError(self._memory.name, self._claims.descriptor) from None
        if not self._claims.is_taken(error):
            raise ClaimsRefusedError(self._memory.name, error.errno or 0) from error
