"""The protocol: a bakery as the waiting room, and an owner register behind it.

Lamport's bakery (A New Solution of Dijkstra's Concurrent Programming Problem, CACM 17(8), 1974) puts the contenders in
a line. Only the head of that line may write OWNER, the register that says who got the lock last; the lock is free
while the word that OWNER points at, the HELD word of that slot, is 0. An acquisition through slot i:

    again     only for a while after i has entered:
              HELD[i] = now                              full fence C
              OWNER points at HELD[i], and is not CLOSED -> i is in
              HELD[i] = 0, and to the doorway
    doorway   number[i] = CHOOSING                       full fence A
              is nobody else in the room?                -> i is at the head, without a ticket
              number[i] = 1 + max(number)                full fence B
    wait      until no j in the room has (number[j], j) < (number[i], i)   -> i is at the head
              until *OWNER == 0, or the owner is dead and i takes over
    close     if OWNER points at another's word:
              OWNER = OWNER | CLOSED                     full fence D
              *OWNER != 0: it has come again             -> wait on
    enter     HELD[i] = now; OWNER = HELD[i]; number[i] = IDLE
    release   *OWNER = 0                                 full fence, then wake the new head
    give up   number[i] = IDLE                           full fence, then wake the new head if the lock is free

Why two cannot both be in: two cannot both be at the head (of two, the one whose fence came later has seen the other's
word, and either waits for it or has the higher ticket), only the head turns a free lock into a held one, and it
stays the head until that store is visible. But for the last owner, which may come again: that fills HELD, fences, and
looks whether OWNER is open, while the head closes OWNER, fences, and looks whether HELD is 0, so that the one whose
fence came later sees what the other has stored, and stays out.

CHOOSING is less than any ticket, so a process in the doorway counts as ahead of everybody: one that finds itself
alone is the head already, since whoever comes later sees its CHOOSING and waits. That saves the ticket and fence B.

Why the register points at a word of the holder's, instead of being the word that a release clears: a release must be
one call into C (see `Memory.clearing`), and that call stores zero more than once. The repeated zero could come after
the next owner's store and wipe it out. A word that only the holder's own thread fills again can be cleared any number
of times.

The words of a slot, and what they mean (park is independent of them):

    number     HELD of the slot   OWNER points here
    IDLE       0                  either             not contending
    CHOOSING   0                  either             in the doorway, or entering from it
    ticket     0                  either             in line
    any        t                  no                 entering: about to point OWNER here; or came again in vain
    any        t                  yes                holds the lock since t; or comes again, and may have to undo it

Rejected: a plain owner word cleared by the release (above); waking the new head when the lock is entered rather than
when it is left (a wake and a park more per acquisition); parking everyone but the next in line at once (likewise).
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from mpbakery._protocol.interfaces import Machine, SharedMemory, Table
from mpbakery._protocol.line import Line
from mpbakery._protocol.naps import NAP
from mpbakery._protocol.seats import NONE, RETURNING, UNDER_WAY, Claimer, InItsThread, Seats
from mpbakery._protocol.waiter import HEAD, Waiter
from mpbakery._system.layout import ATTENTION, AWAKE, CHOOSING, IDLE, OWNER, RECOVERIES, SCRATCH, THREAD, record_of
from mpbakery._system.native import FREE_THREADED

#: How many seconds an attempt whose time is up may take to claim its thread's slot.
CLAIM_GRACE: Final = 0.02

_F = TypeVar("_F", bound=Callable[..., Any])


def deadline_of(block: bool, timeout: float | None, blocking: bool | None, clock: Callable[[], float]) -> float | None:
    """When an attempt with these arguments ends: monotonic seconds, 0 for at once, None for never.

    Raises TypeError and ValueError for what is no time.
    """
    if blocking is not None:
        block = blocking
    seconds = math.inf
    if timeout is not None:
        try:
            seconds = float(timeout) if not isinstance(timeout, (str, bytes, bytearray)) else math.nan
        except OverflowError:
            seconds = math.inf if timeout > 0 else 0.0
        except (TypeError, ValueError):
            seconds = math.nan
        if math.isnan(seconds):
            kind = ValueError if isinstance(timeout, float) else TypeError
            raise kind(f"timeout is {timeout!r}: give seconds as a number, or None to wait without limit")
    if not block or seconds <= 0:
        return 0
    # a wait of centuries is one without limit, and no system call has to take its end
    return None if seconds > 1e9 else clock() + seconds


class OfThread(property):
    """A method that is another function in each thread.

    As an attribute of the class, which is where contextlib.ExitStack looks, it takes the lock first, like any method.
    """

    def __init__(self, path: str, doc: str | None) -> None:
        super().__init__(operator.attrgetter(path))
        self.__doc__ = doc  # handed to property, it would lose against that of this class, before CPython 3.12

    def __call__(self, lock: object, /, *arguments: object) -> object:
        """Call the function of the calling thread."""
        return self.__get__(lock)(*arguments)


class Replaceable(OfThread):
    """The same, unless a program has put something else in its place in one object, as it can with any method.

    It comes before what an object has of its own, as properties do. So that other thing is put where the path begins.
    """

    def __init__(self, path: str, doc: str | None) -> None:
        super().__init__(path, doc)
        self._where, self._name = path.split(".")

    def __set__(self, instance: Any, value: object) -> None:
        """Put something in its place in this object."""
        there = getattr(instance, self._where)
        before = there.before if isinstance(there, _InItsPlace) else there
        setattr(instance, self._where, _InItsPlace(before, self._name, value))
        vars(instance)[self._name] = value  # where one looks for what an object has of its own

    def __delete__(self, instance: Any) -> None:
        """Undo that."""
        there = getattr(instance, self._where)
        if isinstance(there, _InItsPlace):
            setattr(instance, self._where, there.before)
        try:
            del vars(instance)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None


class _InItsPlace:
    """What stands where the path to a method begins that was replaced."""

    __slots__ = ("__dict__", "before")

    def __init__(self, before: object, name: str, value: object) -> None:
        self.before = before
        setattr(self, name, value)


def of_thread(path: str) -> Callable[[_F], _F]:
    """Have a method be whatever stands at a path of attributes of its lock: there is no Python code in between.

    A signal handler could interrupt that. What is decorated gives the method its type and its documentation.
    """

    def decorate(method: _F) -> _F:
        return cast("_F", OfThread(path, method.__doc__))

    return decorate


def replaceable(path: str) -> Callable[[_F], _F]:
    """The same, where the first attribute on the path is for this method alone, and the second has its name."""

    def decorate(method: _F) -> _F:
        return cast("_F", Replaceable(path, method.__doc__))

    return decorate


class _Successor:
    """What a `release` does in a forked child that was looked up before the fork."""

    __slots__ = ("_lock",)

    def __init__(self, lock: Bakery) -> None:
        self._lock = lock

    def __bool__(self) -> bool:
        self._lock.release()
        return False


class Bakery:
    """A lock over shared memory: acquire, release, `with`. Memory, processes, parking and time are as given to it."""

    __slots__ = ("__weakref__", "_clock", "_line", "_releaser", "_seats")

    def __init__(
        self, memory: SharedMemory, table: Table, machine: Machine, told: Callable[[int, bool], object]
    ) -> None:
        self._line = self._new_line(memory, table, machine, told)
        self._clock = machine.clock
        self._seats = self._new_seats()
        #: what `release` is an attribute of
        self._releaser: Any = self._releaser_of(self._seats)

    @staticmethod
    def _new_line(memory: SharedMemory, table: Table, machine: Machine, told: Callable[[int, bool], object]) -> Line:
        return Line(memory, table, machine, told)

    def _new_seats(self) -> Seats:
        return Seats(self._line)

    def _releaser_of(self, seats: Seats) -> object:
        # Not with the GIL: `operator.methodcaller` takes memory on CPython 3.13, and where there is none the lock would
        # stay held; and one call more would be one too deep in front of the recursion limit of 3.10 and 3.11.
        return InItsThread(seats) if FREE_THREADED else seats

    def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Acquire the lock; the order of arrival decides who gets it, but for the last owner within its tenure.

        Args:
            block: whether to wait for the lock; False tries once (and waits at most about a millisecond for processes
                that are just entering the queue).
            timeout: the seconds to wait at most, None for no limit; below zero counts as zero. Not looked at if
                `block` is false.
            blocking: another name for `block`, as in `threading.Lock`.

        Returns:
            Whether the lock was acquired.

        Raises:
            TypeError, ValueError: `timeout` is no number, or not a number (NaN).
            SlotsExhausted: every slot of the lock belongs to a living thread.
            ClaimFileLostError: this thread has no slot yet, and the descriptor that it needs to claim one was closed.
            ClaimsRefusedError: likewise, and the system refuses the record locks that it takes.
            ForeignNamespaceError: the lock was made in another PID namespace.

        Warns:
            OwnerDiedWarning: the process that held the lock died, and this call took the lock over. If the warning is
                turned into an error, the lock is not acquired, and the next one to acquire it is told again.
            DeadlockWarning: this call, which has no time limit, waits for one that waits for this thread. If the
                warning is turned into an error, the lock is not acquired; else this waits on.

        A call that raises, whatever and wherever a signal handler raised, does not hold the lock and leaves no place
        in the queue behind.
        """
        deadline: float | None = None
        nested: object
        if timeout is not None or not block or blocking is not None:
            deadline = deadline_of(block, timeout, blocking, self._clock)
            if deadline == 0 and self._line.is_held() and not self._line.owner_died():
                return False
        slot = self._seats.slot
        if slot.tenure:
            now = self._clock()
            # From here to the store of HELD there is no call, nor a jump that is taken (where CPython 3.10 runs
            # handlers, too): what a handler had acquired in between would seem to be ours, and a child that it had
            # forked would store into its parent's slot.
            if now < slot.until and not slot.attempt and not slot.words[slot.held]:
                words = slot.words
                held = slot.held
                generation = slot.generation
                slot.attempt = RETURNING
                try:
                    slot.times[held] = now
                    # fence C: without it the head of the line could close OWNER and see us outside, and we see it open
                    if not slot.take():
                        slot.refence()
                    # Whoever sees HELD filled, the fence and OWNER open, in this order, is in, whatever comes after.
                    # HELD as it was filled: a handler that releases what nobody holds is told so behind the store.
                    if words[OWNER] == held and slot.times[held] == now:
                        slot.attempt = generation  # see Slot.attempt
                        if slot.generation is generation:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            slot.attempt = NONE
                            return True
                    if not slot.lost:
                        slot.until = 0.0
                        if slot.times[held] == now:
                            words[held] = 0
                        # whoever saw HELD filled, and sleeps, is woken when we stand in line
                        slot.attempt = NONE
                    else:
                        slot.heir = self._seats
                except BaseException:
                    # As below: no call, nor a jump that is taken where there is something to undo.
                    if not slot.lost:
                        if slot.times[held] == now:
                            words[held] = 0
                        slot.attempt = NONE
                        slot.line.wake_if_free()
                    raise
        while True:
            slot = self._seats.slot
            if not slot.attempt:
                nested = NONE
            else:
                if not self._make_usable(deadline):
                    return False
                slot = self._seats.slot
                if slot.index >= 0:
                    nested = slot.attempt
                else:
                    continue
            # From the last look for the slot to the store of CHOOSING there is no call, nor a jump that is taken (where
            # CPython 3.10 runs handlers, too): a handler could fork there, and the child would store into its parent's
            # slot. The same holds below from the look at the generation to the stores behind it.
            words = slot.words
            number = slot.number
            token = 0.0
            announced = 0
            waiter: Waiter | None = None
            try:
                slot.attempt = UNDER_WAY
                generation = slot.generation
                words[number] = CHOOSING
                # fence A: without it two processes could both find the room empty
                if not slot.take():
                    slot.refence()
                at_head = (
                    slot.room == slot.alone
                    # or OWNER could be read before the room, as it was before the last owner entered
                    and (slot.order is None or slot.order() is None)
                    and ((words[OWNER] == slot.held and not words[slot.held]) or slot.look(generation, 0) is None)
                )
                while True:
                    if at_head:
                        order = slot.order
                        token = self._clock()
                        # A handler that comes now and sees this knows that its own thread is about to enter. On CPython
                        # 3.10 one that waits without limit would hang, so no jump is taken where nobody is in the way.
                        slot.attempt = generation
                        if slot.generation is generation:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            held = slot.held
                            slot.until = token + slot.tenure
                            slot.times[held] = token
                            words[OWNER] = held
                            if order is None:
                                words[number] = IDLE
                            else:
                                order()  # or the next head could be one before it sees that there is an owner
                                if not slot.lost:
                                    words[number] = IDLE
                                else:
                                    break
                            slot.attempt = nested
                            if waiter is not None:
                                if order is not None:
                                    order()  # ATTENTION must not be seen, and cleared, before the line as it is now
                                words[ATTENTION] = 1  # the head may sleep now, and must hear of the next release
                                if waiter.recovering:
                                    slot.line.recovered = (token, waiter.death)
                                    words[RECOVERIES] = words[RECOVERIES] + 1
                            return True
                        slot.attempt = UNDER_WAY
                    if waiter is None:
                        waiter = Waiter(slot, deadline)
                        announced = slot.announced
                    outcome = waiter.await_turn()
                    if outcome != HEAD:
                        break
                    at_head = True
                    generation = waiter.generation
                if not slot.lost:
                    words[number] = IDLE
                else:
                    slot.heir = self._seats
                    continue
                slot.announced = announced  # or one that we have interrupted, as a handler, would be told again
                slot.attempt = nested
                slot.line.wake_if_free()
            except BaseException:
                # No call before all is undone, nor a jump that is taken (where CPython 3.10 runs handlers, too), so
                # that no further exception can come in between: it is taken only where no HELD is to be cleared.
                if not slot.lost:
                    # not IDLE: the next head could be one before it sees that we have got as far as to write OWNER
                    words[number] = slot.idle
                    slot.announced = announced
                    slot.attempt = nested
                    if token and slot.times[slot.held] == token:
                        words[slot.held] = 0
                        slot.left = slot.left + 1
                    slot.line.wake_if_free()
                raise
            return False

    __enter__ = acquire

    # No Python code before the store that releases: see Memory.clearing.
    @replaceable("_releaser.release")
    def release(self) -> None:
        """Release the lock, whoever acquired it, in this or another process.

        Raises:
            ValueError: nobody holds the lock.

        The lock is free whatever a signal handler raises in the meantime.
        """

    @of_thread("_seats.leave")
    def __exit__(self, *_exception: object) -> None:
        """Release the lock."""

    def locked(self) -> bool:
        """Whether somebody holds the lock at this moment."""
        return self._line.is_held()

    def _occupy(self) -> None:
        """Claim a slot for the calling thread, if it has none."""
        if not self._has_slots():
            self._make_usable(None)

    def _reserve(self) -> Callable[[], None]:
        """Claim a slot for a thread that is about to be started, and has it once it has called what this returns."""
        line, seats, claimer = self._line, self._seats, Claimer()
        index = line.table.claim(claimer, None)
        line.wake_if_free()  # claiming may have cleared away a dead process that stood ahead of somebody

        def sit_down() -> None:
            # not if a handler has forked in the meantime, and this is the child, whose parent has the slot
            if index is not None and seats is self._seats:
                line.words[record_of(line.slots, index) + THREAD] = threading.get_native_id()
                seats.settle(index, claimer)

        return sit_down

    def _has_slots(self) -> bool:
        """Whether the calling thread has a slot, as far as it knows."""
        return self._seats.slot.index >= 0

    def _abandon_slots(self) -> None:
        """In a forked child: no thread has a slot, and what attempts are under way must not touch their parent's."""
        seats = self._seats
        slot = seats.slot
        slot.lost = True
        slot.until = 0.0
        slot.generation = object()
        # `with` has looked up what releases before it asked for the lock, and others may have kept it: in the child
        # that must not clear the parent's HELD. The end of the `with` gives nothing back, a `release` is the child's.
        seats.late.offset = seats.late.offset_to(SCRATCH)
        for call, after in (("leave", None), ("release", _Successor(self))):
            if call in seats.__dict__:
                slot.line.memory.divert(seats.__dict__[call], after)
        self._line.recovered = (0.0, None)
        seats = self._new_seats()
        if isinstance(self._releaser, _InItsPlace):
            self._releaser.before = self._releaser_of(seats)
        else:
            self._releaser = self._releaser_of(seats)
        self._seats = seats  # last: if a handler raises before, all of this is done once more

    def _make_usable(self, deadline: float | None) -> bool:
        """Give the calling thread a slot, or that of a suspended attempt of its own; False if time ran out."""
        line = self._line
        seats = self._seats
        slot = seats.slot
        if slot.index >= 0 and not slot.lost:
            # We are a signal handler or a finalizer, in the middle of an attempt of our own thread. It cannot go on
            # before we return, so we take its place: it will see that, and start anew at the doorway, behind us.
            turn = 0
            while slot.attempt is slot.generation and not slot.is_in():
                # It was about to enter, and may already have looked whether we came: the lock counts as held by it.
                now = self._clock()
                if deadline is not None and now >= deadline:
                    return False
                line.machine.nap(NAP if deadline is None else deadline - now, turn)
                turn += 1
            slot.generation = object()
            # No call from here on, so that what is cleared is what the interrupted attempt has stored.
            if slot.attempt == RETURNING and not slot.lost:
                slot.words[slot.held] = 0  # it comes again, and leaves it to us to clear that
            if not slot.lost:
                # it may have been about to park, in a line in which it does not stand any more
                slot.words[slot.park] = AWAKE
            slot.attempt = UNDER_WAY
            return True
        claimer = Claimer()
        patience = None if deadline is None else max(deadline, self._clock() + CLAIM_GRACE)
        index = line.table.claim(claimer, patience)
        if index is None:
            return False
        if seats is self._seats:
            # else a handler has forked in the meantime, and this is the child
            seats.settle(index, claimer)
        line.wake_if_free()  # claiming may have cleared away a dead process that stood ahead of somebody
        return True
