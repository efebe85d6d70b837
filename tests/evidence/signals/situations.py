"""Situations in which the lock's code runs, to be brought about again and again, and what must hold afterwards.

Where something strikes is up to `points.py`; here stands what is struck. All of it runs in a child of its own, whose
main thread is the one that is struck.
"""

from __future__ import annotations

import dis
import fcntl
import functools
import gc
import itertools
import math
import multiprocessing
import os
import signal
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import mpbakery
from evidence.signals.points import Operation, Outcome, Struck, Tracer, strike_everywhere
from evidence.storms import storms
from mpbakery._primitives import shared
from mpbakery._protocol import naps, waiter
from mpbakery._system.layout import AWAKE, CHOOSING, IDLE, NUMBERS, PARK, record_of
from mpbakery._system.machine import ThisMachine
from support.workers import PATIENCE, AnyLock, Crew, begin, expect, in_thread, wait_until

#: How long a handler waits, and an attempt that is not to come to sleep (s).
_BRIEF: Final = 0.002
#: How long an attempt waits that is to go to sleep, though it be traced, and then give up (s).
_WHILE: Final = 0.015
#: How long something may take that nobody is in the way of (s): where it is lost, this is waited for in vain.
_SOON: Final = 0.02
#: After how long a child is taken for hung that a handler has forked (s).
_LIFE: Final = 10.0
#: A time that is up by the first look at the clock, while `acquire(False)` may give up before it (s).
_AT_ONCE: Final = 1e-9


def enter_and_leave(lock: AnyLock) -> None:
    """Some `with`."""
    with lock:
        pass


def enter_stay_and_leave(lock: AnyLock) -> None:
    """The same, with a moment inside at which handlers run."""
    with lock:
        storms.stay()


class Situation:
    """A lock that is made anew each time; the main thread has used it, and does so again."""

    #: how many visits of a bytecode are points of their own, None for all: where others have a say, no two runs are
    #: the same, and what waits goes round and round
    visits: int | None = None
    #: the functions whose points are not those of another situation, None for all
    functions: frozenset[str] | None = None
    #: how many threads use the lock: the one that is struck, the one that looks afterwards, and what others there are
    users = 2
    #: the slots that may be in use before the latter comes, None for one less
    used: int | None = None
    #: whether there is a slot for a handler
    spare = True
    #: what a handler does that does not raise
    handling = "acquires"
    #: for how long who has entered may come again without standing in line (s): for as long as the test takes, or never
    tenure = math.inf
    #: whether two handlers may raise at once: CPython 3.10 runs the second where the undoing of an attempt is entered
    bears_two = sys.version_info >= (3, 11)

    def __init__(self, crew: Crew, kind: type[mpbakery.Lock] = mpbakery.Lock) -> None:
        self.crew = crew
        self.kind = kind
        #: whether handlers acquire, or fork, and may need a slot of their own for it
        self.handlers_acquire = False
        self.lock: mpbakery.Lock

    def prepare(self) -> Operation:
        """Bring the situation about; what is to be struck."""
        slots = self.users + (self.spare and self.handlers_acquire)
        self.lock = self.kind(ctx=self.crew.context, slots=slots, tenure=self.tenure)
        self.arrange()
        return self.operation()

    def arrange(self) -> None:
        """What has happened to the lock before."""
        enter_and_leave(self.lock)

    def operation(self) -> Operation:
        """What is to be struck, with all the Python code that it calls."""
        raise NotImplementedError

    def examine(self, outcome: Outcome) -> list[str]:
        """What is wrong afterwards."""
        return self.wrong_unless_free()

    def handle(self) -> None:
        """What a handler does that does not raise: it acquires the lock."""
        if self.lock.acquire(True, _BRIEF):
            self.lock.release()

    def is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        owner = self.lock.owner
        return owner is not None and (owner.pid, owner.thread) == (os.getpid(), threading.get_native_id())

    def wrong_after_acquire(self, outcome: Outcome) -> list[str]:
        """This thread holds the lock if it was told so, and leaves nothing behind."""
        wrong = []
        if outcome.value:
            if not self.is_mine():
                wrong.append("not held by who thinks so")
            self.lock.release()
        return wrong + self.wrong_unless_free()

    def wrong_unless_free(self) -> list[str]:
        """Nobody holds the lock or waits for it, nothing is lost, and it can be used, by one at a time."""
        lock, wrong = self.lock, []
        now = lock.statistics()
        if lock.locked():
            wrong.append("left held")
            lock.release()
        if any(lock._line.numbers()):
            wrong.append("ticket left")
        if now.slots_in_use > (self.used or self.users - 1) + self.handlers_acquire:
            wrong.append("slot lost")
        if _has_record_lock(lock):
            wrong.append("claim lock left")
        if not lock.acquire(True, _SOON):
            return [*wrong, "not to be had again"]
        if in_thread(lambda: lock.acquire(False)):
            wrong.append("two in at once")
        lock.release()
        if not in_thread(self.look):
            wrong.append("not to be had by another thread")
        return wrong

    def look(self) -> bool:
        """Whether a thread that did not use the lock so far gets it."""
        got = self.lock.acquire(True, _SOON)
        if got:
            self.lock.release()
        return got


def _on_record_lock(lock: mpbakery.Lock, file: int, command: int, kind: int) -> int:
    """Do something with the lock that guards claims, for an open file: such locks belong to no process."""
    layout = "hhqqi4x"
    query = struct.pack(layout, kind, os.SEEK_SET, lock._table._place, 1, 0)
    return int(struct.unpack(layout, fcntl.fcntl(file, command, query))[0])


def _has_record_lock(lock: mpbakery.Lock) -> bool:
    return _on_record_lock(lock, lock.fileno(), fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK


def _in_dying_child(action: Callable[[], object]) -> None:
    """Do something in a child that is then killed."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


# --- Nobody is in the way ------------------------------------------------------------------------------------------


class With(Situation):
    def operation(self) -> Operation:
        return functools.partial(enter_and_leave, self.lock)


class Acquire(Situation):
    def operation(self) -> Operation:
        return self.lock.acquire

    def examine(self, outcome: Outcome) -> list[str]:
        return self.wrong_after_acquire(outcome)


class AcquireInTime(Acquire):
    def operation(self) -> Operation:
        return functools.partial(self.lock.acquire, timeout=PATIENCE)


class TryToAcquire(Acquire):
    def operation(self) -> Operation:
        return functools.partial(self.lock.acquire, False)


class Release(Situation):
    def operation(self) -> Operation:
        self.lock.acquire()
        return self.lock.release


class WithAfterReleaseByAnother(With):
    """Another thread has released what the main thread had acquired."""

    users = 3

    def arrange(self) -> None:
        self.lock.acquire()
        in_thread(lambda: self.lock.release())  # not `self.lock.release`, which is the main thread's


class ReleaseForAnother(Situation):
    """Another thread has acquired the lock."""

    users = 3

    def operation(self) -> Operation:
        in_thread(self.lock.acquire)
        self._holder = self.lock.owner
        return self.lock.release

    def examine(self, outcome: Outcome) -> list[str]:
        if outcome.raised is not None and self.lock.owner == self._holder:
            self.lock.release()  # it was not: see "What remains" in docs/signals.md
        return super().examine(outcome)


class ForkInWith(Situation):
    """Handlers fork. The parent goes on, and when it is through and has the lock again, the child goes on as well."""

    handling = "forks"

    def prepare(self) -> Operation:
        self._child: int | None = None
        return super().prepare()

    def operation(self) -> Operation:
        return functools.partial(enter_stay_and_leave, self.lock)

    def handle(self) -> None:
        ours, theirs = self.crew.context.Pipe()
        self._child = os.fork()
        if self._child:
            self._connection = ours
        else:
            begin(_LIFE)
            self._connection = theirs
            expect(theirs)

    def examine(self, outcome: Outcome) -> list[str]:
        if self._child is None:
            return super().examine(outcome)
        if not self._child:
            try:
                self._connection.send("through")
                expect(self._connection)
                wrong = [] if outcome.raised in {None, Struck} else [f"{outcome.raised}"]
                self._connection.send(wrong + super().examine(outcome))
            finally:
                os._exit(0)
        wrong = self.wrong_in_child()
        os.waitpid(self._child, 0)
        return wrong + super().examine(outcome)

    def wrong_in_child(self) -> list[str]:
        """The child waits for the lock, or is through, and gives back nothing of its parent's; then it looks, too."""
        lock, child = self.lock, self._connection
        if not lock.acquire(True, _SOON):
            return ["not to be had in the parent"]
        child.send("go on")
        wait_until(lambda: child.poll() or lock.statistics().waiters, "the child through or in the line")
        wrong = [] if self.is_mine() else ["taken away by the child"]
        if not wrong:
            lock.release()
        try:
            expect(child)
            child.send("look")
            return wrong + [f"{one} in the child" for one in expect(child)]
        except EOFError:
            return [*wrong, "the child does not come through"]


# --- In line, where who has been in last would not have to stand there ---------------------------------------------


class WithInLine(With):
    tenure = 0


class AcquireInLine(Acquire):
    tenure = 0


class AcquireInLineInTime(AcquireInTime):
    tenure = 0


class TryToAcquireInLine(TryToAcquire):
    tenure = 0


class ForkInWithInLine(ForkInWith):
    tenure = 0


class AfterAnother(Situation):
    """Another thread has been in since: who comes again finds that out when HELD is filled."""

    users = 3

    def arrange(self) -> None:
        super().arrange()
        in_thread(lambda: enter_and_leave(self.lock))


class WithAfterAnother(AfterAnother, With):
    """The same."""


class AcquireAfterAnother(AfterAnother, Acquire):
    """The same."""


class ForkInWithAfterAnother(AfterAnother, ForkInWith):
    """The same."""


# --- The first use, which claims a slot ----------------------------------------------------------------------------


class FirstWith(With):
    def arrange(self) -> None:
        """Nothing has."""


class FirstAcquire(Acquire):
    def arrange(self) -> None:
        """Nothing has."""


class FirstReleaseForAnother(ReleaseForAnother):
    def arrange(self) -> None:
        """Nothing has."""


class Register(Situation):
    bears_two = True

    def arrange(self) -> None:
        """Nothing has."""

    def operation(self) -> Operation:
        return functools.partial(mpbakery.register, self.lock)

    def examine(self, outcome: Outcome) -> list[str]:
        shared._registered.clear()
        return super().examine(outcome)


class ForkInFirstWith(ForkInWith):
    def arrange(self) -> None:
        """Nothing has."""


class ClaimOfADeadSlot(Acquire):
    """The slot that comes first belongs to a dead process."""

    functions = frozenset({"_claim", "_clear_away", "_take_one", "_is_gone", "lives", "_reap", "_take", "is_dead"})
    bears_two = True

    def arrange(self) -> None:
        _in_dying_child(functools.partial(enter_and_leave, self.lock))


class ClaimInVain(Acquire):
    """Somebody else is claiming, and does not come to an end."""

    functions = frozenset({"acquire", "_make_usable", "claim", "_exclusively", "_nap", "nap", "try_lock"})
    visits = 1

    def __init__(self, crew: Crew, kind: type[mpbakery.Lock] = mpbakery.Lock) -> None:
        super().__init__(crew, kind)
        self._file: int | None = None

    def arrange(self) -> None:
        if self._file is None:
            self._file = os.open(f"/proc/self/fd/{self.lock.fileno()}", os.O_RDWR)
        self.set_record_lock(fcntl.F_WRLCK)

    def set_record_lock(self, kind: int) -> None:
        """Lock what guards claims, for somebody else; or unlock it."""
        assert self._file is not None
        _on_record_lock(self.lock, self._file, fcntl.F_OFD_SETLK, kind)

    def operation(self) -> Operation:
        return functools.partial(self.lock.acquire, True, _BRIEF)

    def examine(self, outcome: Outcome) -> list[str]:
        self.set_record_lock(fcntl.F_UNLCK)
        return super().examine(outcome)


class ClaimBehindAThread(ClaimInVain):
    """Another thread of this process is claiming, and does not come to an end."""

    functions = frozenset({"_exclusively", "_nap"})
    users = 3

    def arrange(self) -> None:
        super().arrange()
        self._thread = threading.Thread(target=enter_and_leave, args=(self.lock,), daemon=True)
        self._thread.start()
        wait_until(lambda: self.lock._table._turnstile, "the other thread at the turnstile")

    def examine(self, outcome: Outcome) -> list[str]:
        self.set_record_lock(fcntl.F_UNLCK)
        self._thread.join(_SOON * 100)
        return (["a thread waits for ever"] if self._thread.is_alive() else []) + super().examine(outcome)


class Exhausted(Situation):
    """The only slot is that of a thread that has ended with the lock held."""

    users = 1
    spare = False

    def arrange(self) -> None:
        in_thread(self.lock.acquire)

    def operation(self) -> Operation:
        return self.lock.acquire

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = []
        if outcome.raised not in {mpbakery.SlotsExhausted, Struck}:
            wrong.append("a slot from nowhere")
        self.lock.release()
        if _has_record_lock(self.lock):
            wrong.append("claim lock left")
        return wrong if self.look() else [*wrong, "not to be had again"]


# --- Others are in the way -----------------------------------------------------------------------------------------


class GiveUp(Situation):
    """Another thread holds the lock."""

    users = 3
    visits = 1

    def operation(self) -> Operation:
        in_thread(self.lock.acquire)
        self._holder = self.lock.owner
        return functools.partial(self.lock.acquire, True, _WHILE)

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = []
        if outcome.value or self.lock.owner != self._holder:
            wrong.append("the holder was changed")
        self.lock.release()
        return wrong + super().examine(outcome)


class FirstGiveUp(GiveUp):
    """The other thread has ended, so that its slot could be that of this one if it did not hold the lock."""

    functions = frozenset({"_claim", "_take", "_make_usable"})

    def arrange(self) -> None:
        """Nothing has."""


class GiveUpAtTheDoorway(Acquire):
    """Another thread is in the doorway, and does not come out of it."""

    users = 3
    visits = 1

    def operation(self) -> Operation:
        in_thread(functools.partial(enter_and_leave, self.lock))
        self.lock._memory.words[NUMBERS + 1] = CHOOSING
        return functools.partial(self.lock.acquire, True, _WHILE)

    def examine(self, outcome: Outcome) -> list[str]:
        self.lock._memory.words[NUMBERS + 1] = IDLE
        return super().examine(outcome)


class Deadlock(Situation):
    """Another thread waits for what this one holds, and this one is told of it, as an error."""

    functions = frozenset(
        {"_pause", "_wonder", "tell", "_find", "_wait", "_holder", "_innermost_waits", "_told", "_thread"}
    )
    users = 3
    visits = 1

    def __init__(self, crew: Crew, kind: type[mpbakery.Lock] = mpbakery.Lock) -> None:
        super().__init__(crew, kind)
        vars(waiter).update(DOUBT=0.0)

    def operation(self) -> Operation:
        self._other = mpbakery.RLock(ctx=self.crew.context)
        self._other.acquire()
        self._thread = threading.Thread(target=self._want_other, daemon=True)
        self._thread.start()
        wait_until(lambda: self._other.statistics().waiters, "the other thread to wait")
        warnings.simplefilter("error", mpbakery.DeadlockWarning)
        return self.lock.acquire

    def _want_other(self) -> None:
        with self.lock, self._other:
            pass

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = ["not told"] if outcome.value or outcome.raised is None else []
        if self.lock.statistics().waiters:
            wrong.append("in line")
        self._other.release()
        self._thread.join(PATIENCE)
        return wrong + super().examine(outcome)


class Shared(Situation):
    """Another process does its part, with the same lock from time to time; a new one if something was wrong."""

    users = 3
    visits = 2

    def __init__(self, crew: Crew, kind: type[mpbakery.Lock] = mpbakery.Lock) -> None:
        super().__init__(crew, kind)
        self._wrong = ["there is none yet"]
        self.connection: Connection

    def prepare(self) -> Operation:
        if self._wrong:
            self.lock = self.kind(ctx=self.crew.context, slots=self.users)
            self.arrange()
            self.connection, theirs = self.crew.context.Pipe()
            self.crew.start(self.take_part, theirs, self.lock)
        return self.operation()

    @staticmethod
    def take_part(connection: Connection, lock: mpbakery.Lock) -> None:
        """What the other process does."""
        raise NotImplementedError

    def wrong_unless_free(self) -> list[str]:
        self._wrong = super().wrong_unless_free()
        return self._wrong


class WaitForAProcess(Shared):
    """Another process holds the lock, and releases it once it is waited for, or this is over."""

    @staticmethod
    def take_part(connection: Connection, lock: mpbakery.Lock) -> None:
        while True:
            expect(connection)
            with lock:
                connection.send("held")
                wait_until(lambda: lock.statistics().waiters or connection.poll(), "a waiter")
                connection.poll(_BRIEF)
            expect(connection)
            connection.send("released")

    def operation(self) -> Operation:
        self.connection.send("hold")
        expect(self.connection)
        return functools.partial(self.lock.acquire, True, PATIENCE)

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = []
        if outcome.value and not self.is_mine():
            wrong.append("not held by who thinks so")
        if not outcome.value and self.is_mine():
            wrong.append("left held")
        if self.is_mine():
            self.lock.release()
        self.connection.send("release")
        expect(self.connection)
        return wrong + self.wrong_unless_free()


class ReleaseToAProcess(Shared):
    """Another process waits for the lock, and sleeps."""

    @staticmethod
    def take_part(connection: Connection, lock: mpbakery.Lock) -> None:
        # what a wake costs that is cut off, which is what half of the strikes do
        vars(naps)["NAP"] = vars(waiter)["NAP"] = 0.005
        while True:
            expect(connection)
            with lock:
                pass
            connection.send("got it")

    def operation(self) -> Operation:
        self.lock.acquire()
        self.connection.send("wait")
        words = self.lock._memory.words
        parks = [record_of(self.lock._memory.slots, slot) + PARK for slot in range(self.lock._memory.slots)]
        wait_until(lambda: any(words[park] != AWAKE for park in parks), "the other process asleep")
        return self.lock.release

    def examine(self, outcome: Outcome) -> list[str]:
        expect(self.connection)
        return self.wrong_unless_free()


# --- The dead ------------------------------------------------------------------------------------------------------


class TakeOver(Acquire):
    """The holder is dead."""

    functions = frozenset({"acquire", "await_turn", "_pause", "_look", "owner_died", "is_dead", "announce", "warn"})
    users = 3
    visits = 2
    #: what becomes of the warning
    warning: str = "always"

    def __init__(self, crew: Crew, kind: type[mpbakery.Lock] = mpbakery.Lock) -> None:
        super().__init__(crew, kind)
        self._told = 0
        warnings.showwarning = self._tell

    def _tell(self, *_arguments: object, **_keywords: object) -> None:
        self._told += 1

    def handle(self) -> None:
        if self.lock.acquire(True, _BRIEF):
            self._told += self.lock.recovered_from is not None
            self.lock.release()

    def operation(self) -> Operation:
        # since 3.12 a fork warns if a thread that was joined still is on its way out, and it is not that to be counted
        warnings.simplefilter("ignore")
        _in_dying_child(self.lock.acquire)
        self._told = 0
        warnings.resetwarnings()
        warnings.simplefilter(self.warning)  # type: ignore[arg-type]
        return functools.partial(self.lock.acquire, True, _AT_ONCE)

    def examine(self, outcome: Outcome) -> list[str]:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        if not outcome.value and self.lock.locked():
            if not self.lock.acquire(True, _AT_ONCE):
                return ["not taken over"]
            self.lock.release()
        wrong = [] if self._told or outcome.raised is mpbakery.OwnerDiedWarning else ["death not told"]
        return wrong + super().examine(outcome)


class TakeOverRefused(TakeOver):
    """The warning is turned into an error: what undoes an acquire is struck, too."""

    warning = "error"


class TakeOverInTheMiddle(TakeOver):
    """Who shows the warning acquires the lock itself, in the middle of the attempt that is to take it over."""

    functions = frozenset({"acquire", "_make_usable", "_doorway", "await_turn", "_look", "__bool__"})

    def _tell(self, *_arguments: object, **_keywords: object) -> None:
        super()._tell()
        if self.lock.acquire(True, _AT_ONCE):
            self.lock.release()


class TakeOverThroughASpareSlot(TakeOver):
    """The only slot is that of the dead holder."""

    functions = frozenset({"_claim", "_take", "settle"})
    users = 1
    used = 2
    spare = False

    def arrange(self) -> None:
        """Nothing has."""


class DeadAhead(Acquire):
    """A process has died in the line, ahead of us."""

    functions = frozenset({"await_turn", "_pause", "_look", "reap", "_exclusively", "_reap"})
    users = 3
    visits = 2

    def operation(self) -> Operation:
        _in_dying_child(functools.partial(enter_and_leave, self.lock))
        self.lock._memory.words[NUMBERS + 1] = CHOOSING + 1
        return functools.partial(self.lock.acquire, True, _AT_ONCE)

    def examine(self, outcome: Outcome) -> list[str]:
        if not outcome.value:
            if not self.lock.acquire(True, _AT_ONCE):
                return ["the dead one was not cleared away"]
            self.lock.release()
        return super().examine(outcome)


SITUATIONS: Final[dict[str, type[Situation]]] = {
    kind.__name__: kind
    for kind in (
        With,
        Acquire,
        AcquireInTime,
        TryToAcquire,
        Release,
        WithAfterReleaseByAnother,
        ReleaseForAnother,
        ForkInWith,
        WithInLine,
        AcquireInLine,
        AcquireInLineInTime,
        TryToAcquireInLine,
        ForkInWithInLine,
        WithAfterAnother,
        AcquireAfterAnother,
        ForkInWithAfterAnother,
        FirstWith,
        ForkInFirstWith,
        FirstAcquire,
        FirstReleaseForAnother,
        Register,
        ClaimOfADeadSlot,
        ClaimInVain,
        ClaimBehindAThread,
        Exhausted,
        GiveUp,
        FirstGiveUp,
        GiveUpAtTheDoorway,
        Deadlock,
        WaitForAProcess,
        ReleaseToAProcess,
        TakeOver,
        TakeOverRefused,
        TakeOverInTheMiddle,
        TakeOverThroughASpareSlot,
        DeadAhead,
    )
}


# --- What a child does ---------------------------------------------------------------------------------------------


def strike_situation(connection: Connection, name: str, break_lock: Callable[[], object] | None = None) -> None:
    """Strike a situation at all of its points, and send the report. `break_lock` is called first."""
    if break_lock is not None:
        break_lock()
    gc.disable()  # or finalizers would run in between
    # with as many looks as usual, an attempt that is traced is late before it has come to sleep
    ThisMachine.spins = ThisMachine.yields = 2
    with_others = Crew(multiprocessing.get_context("fork"))
    try:
        connection.send(strike_everywhere(Tracer(), SITUATIONS[name](with_others)))
    finally:
        with_others.close()


def many_kinds() -> None:
    """Bytecodes of many kinds, also of those that the lock avoids."""
    total = 0
    for number in range(3):
        if number == 1:
            continue
        total += number
    while total > 0:
        total -= 1
        storms.stay()
    try:
        int("x")
    except ValueError:
        total = max(*(1, 2))
    texts = [f"{total}"]
    texts.append(texts[0].ljust(width := 3))
    with threading.Lock():
        assert len(texts[1]) == width


class Comparison(NamedTuple):
    """Where handlers run, as a function and an offset in it: by the tracer, and in a storm."""

    expected: set[tuple[str, int]]
    seen: set[tuple[str, int]]
    #: the bytecodes of the former
    kinds: set[str]


def compare_with_storm(connection: Connection, what: str, signals: int) -> None:
    """Send a comparison, for `many_kinds` or for a situation."""
    operation: Operation = many_kinds
    if what in SITUATIONS:
        operation = SITUATIONS[what](Crew(multiprocessing.get_context("fork"))).prepare()
    _outcome, points = Tracer().explore(operation)
    places = [point.handled for point in points if point.handled is not None]
    storm = storms.Storm(12, "")

    def again() -> None:
        for _ in range(200):
            operation()

    for _ in range(signals):
        storm.run(again, 100e-6)
        for _ in range(2):
            operation()  # a release that was interrupted has left the fence for another path
    traced = {point.before.place.code for point in points}
    following = {
        (code.co_name, one.offset): (code.co_name, other.offset)
        for code in traced
        for one, other in itertools.pairwise(dis.get_instructions(code))
    }
    expected = {(place.code.co_name, place.offset) for place in places}
    names = {code.co_name for code in traced}
    seen = {(name, offset) for name, _line, offset in storm.places if name in names}
    # CPython 3.11 executes some bytecodes together with the next, and the handler then sees the former
    seen = {place if place in expected else following.get(place, place) for place in seen}
    connection.send(Comparison(expected, seen, {place.kind for place in places}))
