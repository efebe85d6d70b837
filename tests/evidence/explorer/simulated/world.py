"""A world of a few processes: what its actions and their operations do, and what time and death do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from evidence.explorer.protocol import Protocol
from evidence.explorer.simulated.execution import Execution, Strategy
from evidence.explorer.simulated.machine import SimulatedMachine
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import (
    DRAINING,
    ENTRIES,
    FENCES,
    LATE,
    PARTIAL_STORE_ORDER,
    PRIVATE,
    SEQUENTIAL,
    TOTAL_STORE_ORDER,
    Operation,
    Violation,
)
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.sharing import Sharing
from evidence.explorer.simulated.telling import describe
from mpbakery._system.layout import (
    ARRIVED,
    DEADLINE,
    HIGH,
    IDLE,
    NOBODY,
    NUMBERS,
    OWNER,
    PID,
    RECORD,
    TENURE_AT,
    record_of,
)

#: When nobody can do anything, somebody's nap ends; this often in a row without a store, waiting counts as endless.
_MOST_NAPS: Final = 60
#: How much time passes in the action `z` (s): more than the protocol's NAP.
_TICK: Final = 0.06


class Budget:
    """How often the scheduler may do in one execution what is not a step of a process."""

    __slots__ = ("closings", "handlers", "kills", "ticks")

    def __init__(self, *, kills: int = 0, handlers: int = 0, ticks: int = 0, closings: int = 0) -> None:
        self.kills = kills
        self.handlers = handlers
        self.ticks = ticks
        self.closings = closings

    def copy(self) -> Budget:
        """The same budget, not spent."""
        return Budget(kills=self.kills, handlers=self.handlers, ticks=self.ticks, closings=self.closings)

    def left(self) -> tuple[int, int, int, int]:
        """What is left of it."""
        return self.kills, self.handlers, self.ticks, self.closings


class World(Execution):
    """One execution. What is explored in it, and what that promises, is for its subclasses to say."""

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
        hearsay: bool = False,
        tenure: float = 0.0,
        sharing: Sharing | None = None,
    ) -> None:
        super().__init__(strategy)
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
        self.memory: list[Any] = [0] * record_of(self.slots, self.slots + 1)
        self.memory[OWNER] = NOBODY
        #: for how long who has entered through the line may come again without it (s)
        self.tenure = self.memory[TENURE_AT] = tenure
        self.lay_out()
        self.records = record_of(self.slots, 0)
        self.epoch = 0.0
        self.changes = 0
        #: a last look at an execution that has come to its end
        self.check: Callable[[Any], object] = lambda _world: None
        self.naps = 0
        self.claimed_by = -1
        #: who holds the record lock that says that it lives; and whether all are said to be dead
        self.living: set[int] = set()
        self.hearsay = hearsay
        #: who is in, as the processes themselves say
        self.inside: list[Process] = []
        self.disturbed = False  # a wake-up may have been lost with a process or to an exception
        self.processes = [Process(self, index, script) for index, script in enumerate(scripts)]
        for process in self.processes[: len(scripts) - strangers]:
            process.register()

    # --- What is explored, and what it promises -------------------------------------------------------------------

    def lay_out(self) -> None:
        """Fill in what memory has in the beginning."""

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """What a process sees of that which is explored."""
        raise NotImplementedError

    def may_interrupt(self, kind: str) -> bool:
        """Whether a handler can come before such an operation."""
        return True

    def is_free(self) -> bool:
        """Whether there is nothing to wait for."""
        raise NotImplementedError

    def must_wait(self) -> bool:
        """Whether only others can end the waiting."""
        raise NotImplementedError

    def holder(self) -> Process | None:
        """Who holds it, as memory says; None if nobody is known to."""
        return None

    def held_by(self, process: Process) -> int:
        """What a process holds, as it sees that itself; 0 if nothing."""
        return 0

    def enter(self, process: Process) -> None:
        """A process has acquired it."""

    def leave(self, process: Process) -> None:
        """A process is about to release it."""

    def work(self, process: Process) -> None:
        """Use what it protects."""

    def check_nothing_left(self, process: Process, before: int) -> None:
        """A call that raised or gave up, of a process that held `before`, leaves nothing behind."""

    def check_number(self, slot: int, number: int) -> None:
        """What a store to the number of a slot must not do that is about to become visible."""

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """The same for all other stores."""

    def check_settled(self) -> None:
        """When all have come to an end, all is as it was."""

    def concerns_order(self, word: int) -> bool:
        """Whether a store there is one to the line, or looked at together with it."""
        return self.is_number(word)

    def counted(self) -> tuple[object, ...]:
        """What else the promises are checked with."""
        return ()

    def is_number(self, word: int) -> bool:
        """Whether it is the number of a slot."""
        return NUMBERS <= word < NUMBERS + self.slots + 1

    # --- Actions --------------------------------------------------------------------------------------------------

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
        elif kind == "c":
            self._close_descriptors(self.processes[int(action[1:])])
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
        if self.budget.closings:
            actions += [f"c{p.index}" for p in self._alive() if p.index in self.living]
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

    def _can_be_late(self, process: Process) -> bool:
        kind = process.pending.kind
        return (
            kind in {"clock", "sleep", "nap"}
            and bool(process.limits)
            and (not process.is_late() or (kind == "nap" and not self._can_step(process)))
            and not process.dead
            and (process.readings > 0 or kind != "clock")  # the first reading is what the timeout is added to
        )

    def _can_handle(self, process: Process) -> bool:
        kind = process.pending.kind
        return (
            not process.dead
            and not process.finished
            and kind != "start"
            and (process.after_call or kind in ENTRIES or (self.anywhere and kind != "store0"))
            and self._can_step(process)
            and self.may_interrupt(kind)
        )

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
        # What an exception has cut off costs a nap of the one that should have been woken, which may be the longest;
        # what a death has, as many as it takes to find it out.
        first: Callable[..., float] = max if self.disturbed and not self.can_kill else min
        self.disturbed = self.can_kill and self.disturbed
        sleepers = [p for p in self._alive() if p.pending.kind in {"sleep", "nap"}]
        napping = [p for p in sleepers if p.pending.kind == "nap"]
        self._pass_time(first(p.pending.seconds if p in napping else p.wakes_at - self.epoch for p in sleepers))
        for process in napping:
            process.seen = -1

    def _pass_time(self, seconds: float) -> None:
        self.epoch += max(0.0, seconds)
        for process in self._alive():
            if process.pending.kind == "sleep" and process.wakes_at <= self.epoch:
                process.woken = True

    def _close_descriptors(self, process: Process) -> None:
        """Its record locks are lost; but for the one that guards claims: without descriptors it would claim nothing."""
        self.budget.closings -= 1
        self.living.discard(process.index)

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

    # --- Operations -----------------------------------------------------------------------------------------------

    def must_decide(self, process: Process, sharing: Sharing) -> bool:
        """Whether what a process is about to do can make a difference to anybody, or be interrupted."""
        kind, word, _value, _seconds = process.pending
        can_handle = self.budget.handlers > 0 and self._can_handle(process)
        if kind == "return" or can_handle or self.can_kill or self.budget.closings:
            return can_handle or kind != "return"
        if kind == "load":
            return sharing.is_read_by_chance(process.index, word) and all(word != w for w, _v in process.buffer)
        if kind in {"store", "store0"}:
            return self.model == SEQUENTIAL and sharing.is_written_to_others(process.index, word)
        if kind == "clock":
            return self._can_be_late(process) or self.budget.ticks > 0
        return kind not in PRIVATE or (bool(process.buffer) and kind in FENCES)

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
        if kind in DRAINING:
            while process.buffer:
                self._flush(process)
        if kind in FENCES:
            return None
        if kind == "clock":
            # every reading is another one, and the same in executions that differ only in the order of steps
            process.readings += 1
            time = self.epoch + process.calls * 2**-14 + process.readings * 2**-24 + process.index * 2**-28
            process.see(self.epoch)
            return time + LATE * process.late
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
        if kind == "live":
            self.living.add(process.index)
            return None
        if kind == "lives":
            alive = any(p.index in self.living and not p.dead and p.identity.pid == value for p in self.processes)
            process.see(alive)
            return alive
        if kind == "alive":
            dead = self.hearsay or any(p.dead and p.identity.pid == value for p in self.processes)
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
            if self.is_number(word):
                self.check_number(word - NUMBERS, value)
            else:
                self.check_store(process, word, value)
        self.memory[word] = value
        self.changes += 1

    # --- The end --------------------------------------------------------------------------------------------------

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
        self.check_settled()

    def _describe(self, action: str) -> str:
        return describe(self, action)
