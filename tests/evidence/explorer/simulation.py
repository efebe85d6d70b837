"""A simulated machine, on which the lock's own code runs and every step is decided by somebody else.

The processes of a `World` are greenlets that run the protocol and the slot table as shipped (or a mutant of them) over
simulated memory. Whatever they do to the world is an operation: a load, a store, a fence, a park, a wake, a reading of
the clock, a claim lock, a look whether a process is alive. Before each of them the world asks its strategy which of the
possible actions comes next; so an execution is a sequence of actions, and the same sequence gives the same execution.

An action is a short word: `0` lets process 0 perform its next operation, `f0` makes the oldest store in its buffer
visible (`f0.8` the oldest to word 8), `t0` lets its time run out, `k0` kills it, `h0t` runs the handler `t` in it, and
`z` lets so much time pass that sleepers look around.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import greenlet

from evidence.explorer.protocol import Protocol
from mpbakery._system import layout
from mpbakery._system.fence import Fence
from mpbakery._system.identity import Process as Identity
from mpbakery._system.layout import (
    ARRIVED,
    ATTENTION,
    CHOOSING,
    DEADLINE,
    ENTERED,
    FOREIGN,
    HELD,
    HIGH,
    HUNGRY,
    IDLE,
    NOBODY,
    NUMBERS,
    OWNER,
    PARK,
    PID,
    RECORD,
    RECOVERIES,
    SCRATCH,
    START,
    TAKEN,
    WORD,
    record_of,
    slot_of,
)
from mpbakery._system.memory import LateWord

SEQUENTIAL: Final = "sc"  # every store is visible at once
TOTAL_STORE_ORDER: Final = "tso"  # a store buffer per process, drained by fences, and entry by entry at any time
PARTIAL_STORE_ORDER: Final = "pso"  # the same, but stores to different words leave it in any order
MODELS: Final = (SEQUENTIAL, TOTAL_STORE_ORDER, PARTIAL_STORE_ORDER)

#: The first word of the name, which the protocol does not touch: here it is the data that the lock protects.
DATA: Final = layout.NAME_AT

#: What stands for the critical section and for the order of the line among the words of an action's footprint.
_GATE: Final = -2
_LINE: Final = -3

#: An execution of more steps than this is taken for one that never ends.
_LONGEST: Final = 5_000
#: When nobody can do anything, somebody's nap ends; this often in a row without a store, waiting counts as endless.
_MOST_NAPS: Final = 60
#: How far the clock of a process jumps when its time runs out (s): more than any timeout of a scenario.
_LATE: Final = 1e6
#: How much time passes in the action `z` (s): more than the protocol's NAP.
_TICK: Final = 0.06

#: Operations that are calls in the lock's code: an interpreter may run a handler right after them.
_CALLS: Final = frozenset(
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
        "alive",
        "told",
    ]
)
#: Those of them that begin with the entry of a Python function, where a handler may run as well.
_ENTRIES: Final = frozenset(["fence", "free", "nap", "park", "unpark", "list", "lock", "alive", "told"])
#: Operations that nobody else can notice, and the fences, which nobody notices where no store is waiting.
_PRIVATE: Final = frozenset(["clock", "told", "list", "yield", "free", "take", "fence", "order", "offset"])
_FENCES: Final = frozenset(["free", "take", "fence", "order", "offset"])
#: Operations before which all earlier stores become visible: the futex calls have barriers of their own in Linux, and
#: record locks are taken under a lock of the kernel.
_DRAINING: Final = _FENCES | {"park", "unpark", "lock", "unlock"}


class Violation(Exception):
    """Something has happened that the lock promises not to let happen."""


class Interrupt(Exception):
    """What a raising signal handler raises."""


class Abort(BaseException):
    """The execution is over: nobody makes a step any more."""


class Operation(NamedTuple):
    """What a process is about to do."""

    kind: str
    word: int = -1
    value: Any = None
    seconds: float = 0.0


class Budget:
    """How often the scheduler may do in one execution what is not a step of a process."""

    __slots__ = ("handlers", "kills", "ticks")

    def __init__(self, *, kills: int = 0, handlers: int = 0, ticks: int = 0) -> None:
        self.kills = kills
        self.handlers = handlers
        self.ticks = ticks

    def copy(self) -> Budget:
        """The same budget, not spent."""
        return Budget(kills=self.kills, handlers=self.handlers, ticks=self.ticks)

    def left(self) -> tuple[int, int, int]:
        """What is left of it."""
        return self.kills, self.handlers, self.ticks


class Span:
    """Some consecutive words, as a process sees them: loaded one by one."""

    __slots__ = ("_process", "_range")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, process: Process, span: slice) -> None:
        self._process = process
        self._range = range(span.start, span.stop, span.step or 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, memoryview):
            return NotImplemented
        expected = other.tolist()
        # like a memoryview, in their order, up to the first that differs
        return len(expected) == len(self._range) and all(
            self._process.perform("load", word) == value for word, value in zip(self._range, expected, strict=True)
        )

    def tolist(self) -> list[Any]:
        """All of them."""
        values = [self._process.perform("load", word) for word in self._range]
        self._process.perform("list")
        return values


class Words:
    """The shared words as a process sees them; a time is stored as the number that it is."""

    __slots__ = ("_process",)

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getitem__(self, word: int | slice) -> Any:
        if isinstance(word, slice):
            self._process.remember_less()
            return Span(self._process, word)
        return self._process.perform("load", word)

    def __setitem__(self, word: int, value: Any) -> None:
        self._process.perform("store", word, value)


class Bytes:
    """The same memory as bytes: names are written there, and read by nobody here."""

    def __setitem__(self, span: slice, value: bytes) -> None:
        pass


class SimulatedMemory:
    """One lock's memory as a process sees it (`mpbakery._protocol.interfaces.SharedMemory`)."""

    mapping = Bytes()
    name = "simulated"
    kind = "Lock"
    place = 0
    namespace = 1

    def __init__(self, process: Process) -> None:
        self._process = process
        self.words = Words(process)
        self.times = self.words
        self.slots = process.world.slots
        self.robust = process.world.robust

    def clearing(self, word: int | LateWord, after: object) -> tuple[Callable[[], None], Callable[..., None]]:
        """As the real one: a range zeroed, then its first word stored once more, then the truth of `after`."""
        perform = self._process.perform

        def clear(*_exit_arguments: object) -> None:
            at = operator.index(word) // WORD if isinstance(word, LateWord) else word
            self._fence_of_offset()
            perform("store0", at, 0)
            perform("store0", at, 0)
            bool(after)

        return clear, clear

    def counting(
        self, word: int, scratch: int, count: Iterator[int], after: object
    ) -> tuple[Callable[[], None], Callable[..., None]]:
        """As the real one: the next value of `count` is stored, and then a word cleared that nobody reads."""

        def store(*_exit_arguments: object) -> None:
            self._fence_of_offset()
            self._process.perform("store0", word, next(count))
            self._process.perform("store0", scratch, 0)
            bool(after)

        return store, store

    def counting_in_place(self, word: int, count: Iterator[int], after: object) -> object:
        """What the real one was once: a mutant. The word is zeroed before it gets the next value."""

        def store(*_exit_arguments: object) -> None:
            self._fence_of_offset()
            self._process.perform("store0", word, 0)
            self._process.perform("store0", word, next(count))
            bool(after)

        return store, store

    def _fence_of_offset(self) -> None:
        if self._process.world.model == PARTIAL_STORE_ORDER:
            self._process.perform("offset")

    @staticmethod
    def divert(call: object, after: object = None) -> None:
        """Forks are not simulated."""

    @staticmethod
    def late_word() -> LateWord:
        """A word for `clearing` that is not known yet."""
        return LateWord()


class PrivateLock:
    """The lock inside a fence: a fence wherever it changes hands, and only there."""

    __slots__ = ("_process", "taken")

    def __init__(self, process: Process) -> None:
        self._process = process
        self.taken = False

    def acquire(self, blocking: bool = True) -> bool:
        """Take it, if it is free."""
        if self.taken:
            if blocking:
                raise Violation("a thread waits for its own private lock for ever")
            return False
        self.taken = True
        self._process.perform("take")
        return True

    def release(self) -> None:
        """Free it."""
        if self.taken:
            self._process.perform("free")
        if not self.taken:
            raise RuntimeError("release unlocked lock")
        self.taken = False


class LockFence(Fence):
    """The fence of x86-64, with a lock of the simulation inside."""

    __slots__ = ()

    def __init__(self, process: Process) -> None:
        lock = PrivateLock(process)
        self.take = lock.acquire
        self.free = lock.release


class SchedulerFence(Fence):
    """The fence of other machines."""

    __slots__ = ("_process",)

    def __init__(self, process: Process) -> None:
        self._process = process
        self.take = self._take
        self.free = self

    def _take(self, _blocking: bool = True) -> bool:
        self._process.perform("take")
        return True

    def __call__(self) -> None:
        """A full fence."""
        self._process.perform("fence")


class SimulatedMachine:
    """Time, fences and parking (`mpbakery._protocol.interfaces.Machine`)."""

    def __init__(self, process: Process) -> None:
        world = process.world
        self._process = process
        self.spins = world.spins
        self.yields = world.yields
        weak = world.model == PARTIAL_STORE_ORDER
        self.order: Callable[[], object] | None = self._order if weak else None
        self._fence: type[LockFence | SchedulerFence] = SchedulerFence if weak else LockFence

    def _order(self) -> None:
        self._process.perform("order")

    def new_fence(self) -> Fence:
        """A fence."""
        return self._fence(self._process)

    def clock(self) -> float:
        """The time."""
        time: float = self._process.perform("clock")
        return time

    def yield_(self) -> None:
        """Let others go first."""
        self._process.perform("yield")

    def nap(self, seconds: float, turn: int) -> None:
        """Sleep until something changes, or nobody can do anything else."""
        self._process.perform("nap", seconds=seconds)

    def park(self, word: int, expected: int, seconds: float, turn: int) -> None:
        """Sleep while the word is as expected, until woken or so long."""
        if self._process.perform("park", word, expected, seconds):
            self._process.perform("sleep", seconds=seconds)

    def unpark(self, word: int) -> None:
        """Wake who sleeps on the word."""
        self._process.perform("unpark", word)


class SimulatedClaims:
    """The lock that guards the claiming of slots (`mpbakery._protocol.interfaces.Claims`)."""

    descriptor = -1

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_intact(self) -> bool:
        """Whether it can be used."""
        return True

    def try_lock(self, place: int) -> bool:
        """Get it, if nobody else has it."""
        got: bool = self._process.perform("lock")
        return got

    def unlock(self, place: int) -> None:
        """Give it back."""
        self._process.perform("unlock")


class SimulatedProcesses:
    """Who is alive (`mpbakery._protocol.interfaces.Processes`)."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def this_process(self) -> Identity:
        """This one."""
        return self._process.identity

    def this_namespace(self) -> int:
        """Where its number means something."""
        return SimulatedMemory.namespace

    def exists(self, pid: int) -> bool:
        """The dead stay zombies."""
        return True

    def is_dead(self, process: Identity) -> bool:
        """Whether it was killed."""
        dead: bool = self._process.perform("alive", value=process.pid)
        return dead


class Process:
    """A simulated process, its view of the lock, and how far it has come."""

    def __init__(self, world: World, index: int, script: Callable[[Process], None]) -> None:
        self.world = world
        self.index = index
        self.identity = Identity(index + 1, 1)
        self.machine = SimulatedMachine(self)
        memory = SimulatedMemory(self)
        self.table = world.protocol.SlotTable(memory, SimulatedClaims(self), SimulatedProcesses(self), self.machine)
        self.greenlet = greenlet.greenlet(lambda: self._live(script))
        self.pending = Operation("start")
        self.turn = ""  # the handler to run before the pending operation; "" for none
        self.after_call = True
        self.dead = False
        self.finished = False
        #: everything that it has seen since the last time that its own state was looked up
        self.history = 0
        self.buffer: list[tuple[int, Any]] = []
        self.parked_on = -1
        self.woken = False
        self.wakes_at = 0.0
        self.seen = 0  # how many changes of memory there had been at its last load
        self.late = 0  # how often its time ran out
        self.limits: list[int] = []  # for each acquire with a timeout that is under way, how often that was before it
        self.depth = 0  # of handlers inside one another
        self.calls = 0
        self.readings = 0
        self.keeps = False  # a handler has acquired the lock, and raised
        self.told = 0  # deaths announced in this acquire, and in those of handlers that succeeded
        self.will_undo = False  # it is acquiring, and an exception will be its first: it makes good what that cuts off
        self.lock = world.new_lock(memory, self.table, self.machine, self.tell)

    # --- What a script does ---------------------------------------------------------------------------------------

    def register(self) -> None:
        """Claim a slot."""
        self.lock._make_usable(None)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock, and insist on what that promises."""
        before = self._begin_call()
        if timeout is not None:
            self.limits.append(self.late)
        if not self.depth:
            self.told = 0
            self.will_undo = True
        told = self.told
        try:
            got: bool = self.lock.acquire(block, timeout)
        except (Interrupt, self.world.protocol.SlotsExhausted):
            self.told = min(self.told, told)
            self.world.check_nothing_left(self, before)
            raise
        finally:
            if timeout is not None:
                self.limits.pop()
            self.will_undo = self.will_undo and self.depth > 0
        if got:
            self.perform("enter")
        else:
            self.told = min(self.told, told)
            self.world.check_nothing_left(self, before)
        return got

    def work(self) -> None:
        """Add one to what the lock protects."""
        self._begin_call()
        if not self.world.is_exclusive:
            return
        value = self.perform("load", DATA)
        self.perform("store", DATA, value + 1)
        self.world.work_done += 1

    def release(self) -> None:
        """Release the lock, whoever holds it."""
        self._begin_call()
        self.perform("leave")
        self.lock.release()

    def is_late(self) -> bool:
        """Whether the time of the innermost acquire with a timeout is up."""
        return bool(self.limits) and self.late > self.limits[-1]

    # --- How its steps come about ---------------------------------------------------------------------------------

    def perform(self, kind: str, word: int = -1, value: Any = None, seconds: float = 0.0) -> Any:
        """One operation, when it is this process's turn."""
        world = self.world
        operation = Operation(kind, word, value, seconds)
        if world.scheduling:
            self.pending = operation
            while world.must_decide(self, world.sharing):
                world.go_on(self)
                if not self.turn:
                    break
                self._handle(self.turn)
                self.pending = operation
        elif world.closing:
            raise Abort
        result = world.execute(self, operation)
        self.after_call = kind in _CALLS
        return result

    def _live(self, script: Callable[[Process], None]) -> None:
        try:
            try:
                script(self)
            except (Abort, Violation):
                raise
            except BaseException as error:
                raise Violation(f"process {self.index} ended with {error!r}") from error
            self.finished = True
            self.world.go_on(self)
        except Violation as violation:
            try:
                self.world.stop(violation)
            except Abort:
                pass
        except Abort:
            pass

    def _handle(self, what: str) -> None:
        """A signal handler: `r` raises; `t` acquires and releases, `b` raises afterwards; `x` acquires and raises."""
        self.turn = ""
        self.after_call = False
        self.depth += 1
        self.see(what)
        try:
            if what == "r":
                raise Interrupt
            if self.acquire(True, 1.0):
                if what == "x":
                    self.keeps = True
                    raise Interrupt
                self.work()
                self.release()
            if what == "b":
                raise Interrupt
        except BaseException:
            self.will_undo = self.will_undo and self.depth > 1
            self.after_call = False  # from here to the `except` of the lock no interpreter runs another handler
            raise
        finally:
            self.depth -= 1
        self.after_call = True

    def _begin_call(self) -> int:
        """Before a call into the lock; returns what the process holds then."""
        self.calls += 1
        self.readings = 0
        if self.depth == 0:
            self.history = hash((self.calls, self._state()))
        return self.world.held_by(self)

    def _state(self) -> tuple[object, ...]:
        """What the process knows between two calls."""
        slot = self.lock._seats.slot
        line = self.lock._line
        fence = getattr(getattr(slot.take, "__self__", None), "taken", None)
        return (
            (slot.index, slot.busy, slot.announced, slot.entered, slot.left, fence, bool(slot.may_be_taken)),
            (slot.deciding is None, slot.deciding is slot.generation, getattr(slot, "high", None)),
            getattr(slot, "others", None),
            (line.recovered[0], line._looked, tuple(self.table._mine), len(self.table._turnstile)),
        )

    def remember_less(self) -> None:
        """Where a waiter looks at the line anew, what it goes on with is in its attributes, not in its history."""
        looking = sys._getframe(3)
        if looking.f_code.co_name != "_ahead" or self.depth:
            return
        waiter = looking.f_locals["self"]
        looked = round(waiter._looked - self.world.epoch - self.late * _LATE, 3)
        state = (waiter._ticket, waiter.recovering, waiter.generation is waiter._slot.generation, looked)
        self.history = hash((self.calls, self._state(), state))

    def see(self, what: object) -> None:
        """Remember something that the process goes on with."""
        self.history = hash((self.history, what))

    def tell(self, slot: int, announce: bool) -> object:
        """The lock tells of the death of an owner."""
        self.told += announce
        holder = self.world.holder()
        if announce and (holder is None or not holder.dead):
            raise Violation(f"process {self.index} is told of the death of an owner that did not die")
        self.perform("told")
        return ("death", slot)


Strategy = Callable[["World", list[str]], str]


class Sharing:
    """Which process was ever seen to load and to store which word, in all executions of a search.

    A load of a word that nobody else stores, and a store to one that nobody else touches, make no difference to
    others, so the order of them need not be tried. That is taken for granted until the contrary is seen; then `stale`
    is set, and the search has to begin once more, with what is known now.
    """

    def __init__(self, *, everything: bool = False) -> None:
        #: whether to take every word for shared
        self.everything = everything
        self._loaded: dict[int, int] = {}
        self._stored: dict[int, int] = {}
        self.stale = False

    def is_read_by_chance(self, process: int, word: int) -> bool:
        """Whether what a process loads there depends on when it does."""
        return self.everything or bool(self._stored.get(word, 0) & ~(1 << process))

    def is_written_to_others(self, process: int, word: int) -> bool:
        """Whether others notice when a process stores there."""
        seen = self._stored.get(word, 0) | self._loaded.get(word, 0)
        return self.everything or bool(seen & ~(1 << process))

    def note_load(self, process: int, word: int) -> None:
        """A process loads the word."""
        if self._note(self._loaded, process, word) and self._stored.get(word, 0) & ~(1 << process):
            self.stale = True

    def note_store(self, process: int, word: int) -> None:
        """A process stores to the word."""
        if self._note(self._stored, process, word) and self.is_written_to_others(process, word):
            self.stale = True

    @staticmethod
    def _note(seen: dict[int, int], process: int, word: int) -> bool:
        """Whether that is new."""
        before = seen.get(word, 0)
        seen[word] = before | 1 << process
        return before != seen[word]


class World:
    """One execution."""

    #: whether one at a time is in
    is_exclusive = True

    def __init__(
        self,
        protocol: Protocol,
        scripts: list[Callable[[Process], None]],
        strategy: Strategy,
        *,
        model: str = TOTAL_STORE_ORDER,
        slots: int | None = None,
        strangers: int = 0,
        robust: bool = True,
        budget: Budget | None = None,
        handlers: str = "",
        anywhere: bool = False,
        mortal: int | None = None,
        spins: int = 0,
        yields: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        self.protocol = protocol
        self.sharing = sharing or Sharing(everything=True)
        self.model = model
        self.slots = len(scripts) if slots is None else slots
        self.robust = robust
        self.spins = spins
        self.yields = yields
        self.budget = (budget or Budget()).copy()
        self.can_kill = self.budget.kills > 0
        self.handlers = handlers
        self.anywhere = anywhere
        self.mortal = mortal
        self.strategy = strategy
        self.memory: list[Any] = [0] * record_of(self.slots, self.slots + 1)
        self.memory[OWNER] = NOBODY
        self.lay_out()
        self.records = record_of(self.slots, 0)
        self.epoch = 0.0
        self.changes = 0
        #: the actions so far, and those that it begins with, for which the strategy is not asked
        self.trace: list[str] = []
        self.prefix: list[str] = []
        #: a last look at an execution that has come to its end
        self.check: Callable[[World], object] = lambda _world: None
        self.naps = 0
        self.claimed_by = -1
        self.current: Process | None = None
        self.scheduling = False
        self.closing = False
        self.violation: Violation | None = None
        self.log: list[str] | None = None
        # what the properties are checked with
        self.inside: list[Process] = []
        self.in_line: set[int] = set()
        self.ahead: dict[int, frozenset[int]] = {}
        self.work_done = 0
        self.deaths = 0
        self.recoveries = 0
        self.disturbed = False  # a wake-up may have been lost with a process or to an exception
        self.processes = [Process(self, index, script) for index, script in enumerate(scripts)]
        self.main = greenlet.getcurrent()
        for process in self.processes[: len(scripts) - strangers]:
            process.register()

    def lay_out(self) -> None:
        """Fill in what memory has in the beginning."""

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """What a process sees of that which is explored."""
        return self.protocol.Bakery(memory, table, machine, told)

    # --- The execution as a whole ---------------------------------------------------------------------------------

    def run(self) -> Violation | None:
        """Run until all have come to an end, or the strategy stops it, or a promise is broken: then say which."""
        self.scheduling = True
        try:
            try:
                self.go_on(None)
            except Violation as violation:
                self.violation = violation
            except Abort:
                pass
            self.scheduling = False
            return self.violation
        finally:
            self.scheduling = False
            self.closing = True
            for process in self.processes:
                process.table._mine = {}
                if process.greenlet and not process.greenlet.dead:
                    process.greenlet.throw(Abort)

    def stop(self, violation: Violation | None) -> None:
        """End the execution from within."""
        self.violation = self.violation or violation
        if greenlet.getcurrent() is self.main:
            raise Abort
        self.main.switch()
        raise Abort

    def go_on(self, current: Process | None) -> None:
        """Return when it is `current`'s turn; until then let others make their steps."""
        try:
            chosen = self._next_turn()
        except (Violation, Abort) as end:
            self.stop(end if isinstance(end, Violation) else None)
            raise
        if chosen is current:
            return
        if chosen is None:
            if current is not None:
                self.main.switch()
                raise Abort
            return
        self.current = chosen
        if current is None:
            chosen.greenlet.switch()
            return
        chosen.greenlet.switch()
        if self.closing:
            raise Abort

    def _next_turn(self) -> Process | None:
        """Carry out actions until one is the turn of a process; None when nobody has anything left to do."""
        while True:
            if len(self.trace) < len(self.prefix):
                action = self.prefix[len(self.trace)]
            else:
                if len(self.trace) > _LONGEST:
                    raise Violation(f"no end after {_LONGEST} steps")
                actions = self._possible()
                if not actions:
                    self._check_end()
                    return None
                action = self.strategy(self, actions)
            self.trace.append(action)
            if self.log is not None:
                self.log.append(self.describe(action))
            process = self._act(action)
            if process is not None:
                self.current = process
                return process

    def _act(self, action: str) -> Process | None:
        """Carry out an action; whose turn it is then, None if nobody's."""
        kind = action[0]
        if kind.isdigit():
            return self.processes[int(action)]
        if kind == "h":
            process = self.processes[int(action[1])]
            process.turn = action[2:]
            self.budget.handlers -= 1
            self.disturbed = self.disturbed or (process.turn != "t" and not process.will_undo)
            return process
        if kind == "f":
            who, _dot, word = action[1:].partition(".")
            self._flush(self.processes[int(who)], int(word) if word else -1)
        elif kind == "t":
            process = self.processes[int(action[1:])]
            process.late += 1
            process.see("late")
            process.woken = process.woken or process.pending.kind == "sleep"
            process.seen = -1 if process.pending.kind == "nap" else process.seen
        elif kind == "k":
            self._kill(self.processes[int(action[1:])])
        elif kind == "z":
            self.budget.ticks -= 1
            self._pass_time(_TICK)
        elif kind == "s":
            self._end_naps()
        else:
            raise ValueError(f"there is no action {action}")
        return None

    def _possible(self) -> list[str]:
        """The actions that are possible now, first the one that lets the process go on that is at it."""
        actions = []
        current = self.current
        if current is not None and self._can_step(current):
            actions.append(str(current.index))
        actions += [str(p.index) for p in self.processes if p is not current and self._can_step(p)]
        if self.model == TOTAL_STORE_ORDER:
            actions += [f"f{p.index}" for p in self.processes if p.buffer]
        elif self.model == PARTIAL_STORE_ORDER:
            actions += [f"f{p.index}.{word}" for p in self.processes for word in dict(p.buffer)]
        actions += [f"t{p.index}" for p in self.processes if self._can_be_late(p)]
        if self.budget.handlers:
            actions += [
                f"h{p.index}{handler}" for p in self.processes if self._can_handle(p) for handler in self.handlers
            ]
        if self.can_kill and self.budget.kills:
            actions += [f"k{p.index}" for p in self._alive() if self.mortal in {None, p.index}]
        if self.budget.ticks and any(p.pending.kind in {"sleep", "clock"} for p in self._alive()):
            actions.append("z")
        if not any(action[0].isdigit() or action[0] == "f" for action in actions):
            actions = self._when_stuck() + actions
        return actions

    def _alive(self) -> Iterator[Process]:
        return (p for p in self.processes if not p.dead and not p.finished)

    def _can_step(self, process: Process) -> bool:
        if process.dead or process.finished:
            return False
        kind = process.pending.kind
        if kind == "sleep":
            return process.woken
        if kind == "nap":
            return self.changes != process.seen
        return True

    @staticmethod
    def _can_be_late(process: Process) -> bool:
        kind = process.pending.kind
        return (
            kind in {"clock", "sleep", "nap"}
            and bool(process.limits)
            and (not process.is_late() or kind == "nap")
            and not process.dead
            and (process.readings > 0 or kind != "clock")  # the first reading is what the timeout is added to
        )

    def _can_handle(self, process: Process) -> bool:
        kind = process.pending.kind
        return (
            not process.dead
            and not process.finished
            and kind != "start"
            and (process.after_call or kind in _ENTRIES or (self.anywhere and kind != "store0"))
            and self._can_step(process)
            and self.may_interrupt(kind)
        )

    def may_interrupt(self, kind: str) -> bool:
        """Whether a handler can come before such an operation."""
        return True

    def _when_stuck(self) -> list[str]:
        """What can happen when nobody can go on: somebody's time is up, or naps end, as they do in real life."""
        sleepers = [p for p in self._alive() if p.pending.kind in {"sleep", "nap"}]
        if not sleepers:
            return []
        napping = any(p.pending.kind == "nap" for p in sleepers)
        if not napping and not self.disturbed and self.is_free():
            raise Violation("a wake-up was lost: the lock is free, and all who wait for it sleep")
        if self.naps > _MOST_NAPS:
            raise Violation(f"processes {[p.index for p in sleepers]} wait for ever")
        hurried = [p for p in sleepers if self._can_be_late(p)]
        if hurried and not napping and self.must_wait():
            return [f"t{hurried[0].index}"]
        return ["s"]

    def _end_naps(self) -> None:
        """Let time pass until the first of the sleepers has slept long enough."""
        self.naps += 1
        # what an exception has cut off costs one nap; what a death has, as many as it takes to find it out
        self.disturbed = self.can_kill and self.disturbed
        sleepers = [p for p in self._alive() if p.pending.kind in {"sleep", "nap"}]
        napping = [p for p in sleepers if p.pending.kind == "nap"]
        self._pass_time(min(p.pending.seconds if p in napping else p.wakes_at - self.epoch for p in sleepers))
        for process in napping:
            process.seen = -1

    def _pass_time(self, seconds: float) -> None:
        self.epoch += max(0.0, seconds)
        for process in self._alive():
            if process.pending.kind == "sleep" and process.wakes_at <= self.epoch:
                process.woken = True

    def _kill(self, process: Process) -> None:
        """The stores that it has made become visible; what it has not begun never does."""
        self.budget.kills -= 1
        while process.buffer:
            self._flush(process)
        process.dead = True
        self.disturbed = True
        self.changes += 1
        if self.claimed_by == process.index:
            self.claimed_by = -1
        self.inside = [other for other in self.inside if other is not process]
        if self.holder() is process:
            self.deaths += 1

    # --- Operations -----------------------------------------------------------------------------------------------

    def must_decide(self, process: Process, sharing: Sharing) -> bool:
        """Whether what a process is about to do can make a difference to anybody, or be interrupted."""
        if self.can_kill or (self.budget.handlers and self._can_handle(process)):
            return True
        kind, word, _value, _seconds = process.pending
        if kind == "load":
            return sharing.is_read_by_chance(process.index, word) and all(word != w for w, _v in process.buffer)
        if kind in {"store", "store0"}:
            return self.model == SEQUENTIAL and sharing.is_written_to_others(process.index, word)
        if kind == "clock":
            return self._can_be_late(process) or self.budget.ticks > 0
        return kind not in _PRIVATE or (bool(process.buffer) and kind in _FENCES)

    def execute(self, process: Process, operation: Operation) -> Any:
        """Do it."""
        kind, word, value, seconds = operation
        if kind == "load":
            self.sharing.note_load(process.index, word)
            loaded = self.view(process, word)
            process.seen = self.changes
            process.see(loaded)
            return loaded
        if kind in {"store", "store0"}:
            if self.model == SEQUENTIAL or not self.scheduling:
                self._make_visible(process, word, value)
            else:
                process.buffer.append((word, value))
                self._flush_private(process)
            return None
        if kind in _DRAINING:
            while process.buffer:
                self._flush(process)
        if kind in _FENCES:
            return None
        if kind == "clock":
            # every reading is another one, and the same in executions that differ only in the order of steps
            process.readings += 1
            time = self.epoch + process.calls * 2**-14 + process.readings * 2**-24 + process.index * 2**-28
            process.see(self.epoch)
            return time + _LATE * process.late
        if kind == "park":
            asleep = self.view(process, word) == value
            process.see(asleep)
            if asleep:
                process.parked_on = word
                process.woken = False
                process.wakes_at = self.epoch + seconds
            return asleep
        if kind == "sleep":
            process.parked_on = -1
            process.see(self.epoch)
            return None
        if kind == "enter":
            self.enter(process)
            return None
        if kind == "leave":
            self.leave(process)
            return None
        if kind == "unpark":
            for other in self.processes:
                if other.parked_on == word and not other.dead:
                    other.woken = True
            return None
        if kind == "lock":
            got = self.claimed_by in {-1, process.index}
            if got:
                self.claimed_by = process.index
            process.seen = self.changes
            process.see(got)
            return got
        if kind == "unlock":
            self.claimed_by = -1
            self.changes += 1
            return None
        if kind == "alive":
            dead = any(p.dead and p.identity.pid == value for p in self.processes)
            process.see(dead)
            return dead
        return None

    def view(self, process: Process, word: int) -> Any:
        """What a process sees in a word: its own last store, even if nobody else sees that yet."""
        for stored, value in reversed(process.buffer):
            if stored == word:
                return value
        return self.memory[word]

    def _flush(self, process: Process, word: int = -1) -> None:
        at = 0 if word < 0 else next(n for n, (stored, _value) in enumerate(process.buffer) if stored == word)
        self._make_visible(process, *process.buffer.pop(at))
        self._flush_private(process)

    def _flush_private(self, process: Process) -> None:
        """Nobody notices when stores that no one else looks at become visible."""
        while process.buffer and not self.sharing.is_written_to_others(process.index, process.buffer[0][0]):
            self._make_visible(process, *process.buffer.pop(0))

    def _make_visible(self, process: Process, word: int, value: Any) -> None:
        if self.scheduling:
            self.sharing.note_store(process.index, word)
        if word >= self.records and (word - self.records) % RECORD in {ARRIVED, DEADLINE}:
            return  # read by statistics() alone; left out, so that states that differ in nothing else are the same
        if self.memory[word] != value:
            self.naps = 0
        if self.scheduling:
            if NUMBERS <= word < NUMBERS + self.slots + 1:
                self._in_line(word - NUMBERS, value)
            else:
                self.check_store(process, word, value)
        self.memory[word] = value
        self.changes += 1

    # --- What the lock promises -----------------------------------------------------------------------------------

    def _in_line(self, slot: int, number: int) -> None:
        """First come, first served, from the end of the doorway: who was in line before this one came?"""
        self.in_line.discard(slot)
        if number == CHOOSING:
            self.ahead[slot] = frozenset(self.in_line)
        elif number == IDLE:
            self.ahead.pop(slot, None)
        else:
            self.in_line.add(slot)
        if number <= CHOOSING:
            for other, ahead in self.ahead.items():
                if other != slot and slot in ahead:
                    self.ahead[other] = ahead - {slot}

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """What a store must not do that is about to become visible."""
        if word == OWNER:
            self._new_owner(value)
        elif word == self.memory[OWNER] and value:
            self.check_order(slot_of(self.slots, word))

    def _new_owner(self, held: int) -> None:
        before = self.holder()
        slot = slot_of(self.slots, held)
        owner = self._process_of(slot)
        if held != self.memory[OWNER] and before is not None:
            if not before.dead:
                raise Violation(f"two are in: the lock of process {before.index} goes to slot {slot}")
            self.recoveries += 1
            if owner is not None and owner.told != 1:
                raise Violation(f"process {owner.index} takes over from a dead owner, told of it {owner.told} times")
            if owner is not None:
                owner.told = 0
        self.check_order(slot)

    def check_order(self, slot: int) -> None:
        """Nobody is served before one who has come first."""
        for other in self.ahead.get(slot, ()):
            process = self._process_of(other)
            if process is not None and not process.dead and other != slot:
                raise Violation(f"slot {slot} was served before slot {other}, which had come first")

    def _process_of(self, slot: int) -> Process | None:
        pid = self.memory[record_of(self.slots, slot) + PID]
        return self.processes[pid - 1] if pid else None

    def holder(self) -> Process | None:
        """Who holds the lock, as memory says."""
        held = self.memory[OWNER]
        slot = slot_of(self.slots, held)
        return self._process_of(slot) if slot >= 0 and self.memory[held] else None

    def is_free(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.memory[self.memory[OWNER]]

    def must_wait(self) -> bool:
        """Whether only others can end the waiting."""
        holder = self.holder()
        return holder is not None and not holder.dead

    def enter(self, process: Process) -> None:
        """A process has acquired the lock."""
        others = [other.index for other in self.inside if not other.dead]
        if others:
            raise Violation(f"two are in: {process.index} and {others[0]}")
        self.inside = [process]

    def leave(self, process: Process) -> None:
        """A process is about to release it."""
        self.inside = []

    def held_by(self, process: Process) -> int:
        """The HELD word through which a process holds the lock, as it sees that itself; 0 if it does not."""
        held: int = self.view(process, OWNER)
        slot = slot_of(self.slots, held)
        mine = slot >= 0 and self.memory[record_of(self.slots, slot) + PID] == process.identity.pid
        return held if mine and self.view(process, held) else 0

    def check_nothing_left(self, process: Process, before: int) -> None:
        """An acquire that raised or gave up leaves nothing behind."""
        slot = process.lock._seats.slot
        if process.depth or slot.index < 0:
            return
        kept, process.keeps = process.keeps, False
        if self.view(process, NUMBERS + slot.index) != IDLE:
            raise Violation(f"process {process.index} has left a place in the line behind")
        self.check_nothing_taken(process, kept or before != 0)
        if slot.busy or slot.deciding is not None:
            raise Violation(f"process {process.index} counts itself as acquiring still")

    def check_nothing_taken(self, process: Process, held: bool) -> None:
        """An acquire that raised or gave up leaves the lock as it was."""
        if bool(self.held_by(process)) != held:
            raise Violation(f"process {process.index} has left the lock {'free' if held else 'held'}")

    def _check_end(self) -> None:
        self.check(self)
        for process in self.processes:
            if not process.dead and not process.finished:
                raise Violation(f"process {process.index} can never go on")
        alive = {p.identity.pid for p in self.processes if not p.dead}
        for slot in range(self.memory[HIGH]):
            number, pid = self.memory[NUMBERS + slot], self.memory[record_of(self.slots, slot) + PID]
            if number != IDLE and pid in alive:
                raise Violation(f"slot {slot} has a place in the line though its process wants nothing")
        for slot in range(self.memory[HIGH], self.slots + 1):
            if self.memory[record_of(self.slots, slot) + PID]:
                raise Violation(f"slot {slot} is lost: it belongs to a process, and nobody looks at it")
        if self.memory[DATA] != self.work_done:
            raise Violation(f"an update was lost: {self.memory[DATA]} instead of {self.work_done}")
        self.check_settled()

    def check_settled(self) -> None:
        """When all have come to an end, nobody holds what it has released, and deaths were told."""
        holder = self.holder()
        if holder is not None and not holder.dead:
            raise Violation(f"the lock is held by process {holder.index}, which has released it")
        told = self.recoveries + (holder is not None)
        if self.robust and told != self.deaths:
            raise Violation(f"{self.deaths} owners died, and {self.recoveries} takeovers were told")

    # --- For searches ---------------------------------------------------------------------------------------------

    def footprint(self, action: str) -> tuple[frozenset[int], frozenset[int]] | None:
        """The words that an action looks at and those that it changes; None if it may concern everything."""
        if action[0] == "f":
            process = self.processes[int(action[1])]
            stored = [int(action[3:])] if "." in action else [process.buffer[0][0]]
            return frozenset(), self._changed_by(stored)
        if not action[0].isdigit():
            return None
        process = self.processes[int(action)]
        kind, word, _value, _seconds = process.pending
        stored = [stored for stored, _value in process.buffer] if kind in _DRAINING else []
        if kind in {"store", "store0"}:
            stored.append(word)
        if kind in {"enter", "leave"}:
            return frozenset(), frozenset((_GATE,))
        if kind in {"load", "park"}:
            return frozenset((word,)), self._changed_by(stored)
        return (frozenset(), self._changed_by(stored)) if kind in _FENCES | {"store", "store0"} else None

    def _changed_by(self, stored: list[int]) -> frozenset[int]:
        """With the words, what the properties make of them."""
        line = any(self.concerns_order(word) for word in stored)
        return frozenset([*stored, _LINE] if line else stored)

    def concerns_order(self, word: int) -> bool:
        """Whether a store there is one to the line, or looked at together with it."""
        return NUMBERS <= word < NUMBERS + self.slots + 1 or word == OWNER

    def counted(self) -> tuple[object, ...]:
        """What else the properties are checked with."""
        return ()

    def state(self) -> int:
        """A number for everything that the rest of the execution depends on, but for who made the last step."""
        return hash(
            (
                tuple(self.memory),
                tuple(self._state_of(p) for p in self.processes),
                self.budget.left(),
                (self.claimed_by, self.epoch, self.naps, self.disturbed, self.recoveries, self.deaths, self.work_done),
                tuple(p.index for p in self.inside),
                tuple(sorted(self.ahead.items())),
                self.counted(),
            )
        )

    def _state_of(self, process: Process) -> tuple[object, ...]:
        if process.finished or process.dead:
            return (process.finished, process.dead, tuple(process.buffer))
        pending = process.pending
        return (
            process.history,
            pending.kind,
            pending.word,
            tuple(process.buffer),
            process.parked_on,
            process.woken,
            process.wakes_at,
            process.late,
            self.changes != process.seen,
            process.told,
            (process.after_call, process.depth, process.keeps, process.will_undo) if self.handlers else None,
        )

    def describe(self, action: str) -> str:
        """An action for people to read."""
        who = next((self.processes[int(char)] for char in action if char.isdigit()), None)
        if action[0].isdigit() and who is not None:
            kind, word, value, _seconds = who.pending
            where = f" {self.name_of(word)}" if word >= 0 else ""
            seen = f" -> {self.view(who, word)}" if kind == "load" else ""
            return f"{action:<6} {kind}{where}{f' := {value}' if kind.startswith('store') else ''}{seen}"
        if action[0] == "f" and who is not None and who.buffer:
            word, value = who.buffer[0] if "." not in action else (int(action.partition(".")[2]), "…")
            return f"{action:<6} {self.name_of(word)} = {value} becomes visible"
        meanings = {
            "t": "its time is up",
            "k": "is killed",
            "h": "a handler runs",
            "z": "time passes",
            "s": "all sleep: naps end",
        }
        return f"{action:<6} {meanings[action[0]]}"

    def name_of(self, word: int) -> str:
        """A word of memory as people call it."""
        names = {OWNER: "OWNER", HIGH: "HIGH", SCRATCH: "SCRATCH", DATA: "DATA", ATTENTION: "ATTENTION"}
        names |= {FOREIGN: "FOREIGN", RECOVERIES: "RECOVERIES", NOBODY: "NOBODY"}
        names |= {TAKEN: "TAKEN", HUNGRY: "HUNGRY"}
        if word in names:
            return names[word]
        if word < self.records:
            return f"number[{word - NUMBERS}]"
        slot, offset = divmod(word - self.records, RECORD)
        fields = {HELD: "held", PARK: "park", PID: "pid", START: "start", ENTERED: "entered"}
        return f"{fields.get(offset, f'record+{offset}')}[{slot}]"
