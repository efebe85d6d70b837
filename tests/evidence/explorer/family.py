"""The semaphore in the simulation: what it promises, and scenarios that between them use all of it."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from evidence.explorer.scenarios import (
    Scenario,
    idle,
    keeps,
    newcomer,
    nothing,
    visits,
)
from evidence.explorer.simulation import Budget, Interrupt, Process, SimulatedMachine, SimulatedMemory, Violation, World
from mpbakery._system.layout import BOUNDED_SEMAPHORE, GIVEN, KIND_AT, NUMBERS, RECORD, SEMAPHORE, TAKEN, VALUE_AT


class SemaphoreWorld(World):
    """One execution with a semaphore."""

    def __init__(self, *arguments: Any, permits: int = 1, bounded: bool = False, **options: Any) -> None:
        self.permits = permits
        self.bounded = bounded
        self.is_exclusive = permits == 1
        #: for each process, what it took and gave back as it sees that itself, and as its calls say
        self.taken: dict[int, int] = {}
        self.claimed: dict[int, int] = {}
        #: permits that are out, as the calls say; and those beyond the bound that were thrown away
        self.out = 0
        self.thrown_away = 0
        super().__init__(*arguments, **options)

    def lay_out(self) -> None:
        """What kind of semaphore it is."""
        self.memory[KIND_AT] = BOUNDED_SEMAPHORE if self.bounded else SEMAPHORE
        self.memory[VALUE_AT] = self.permits

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """A semaphore."""
        return self.protocol.PermitBakery(memory, table, machine, told)

    def may_interrupt(self, kind: str) -> bool:
        """Not where a call has ended and is not counted yet, or is counted and has not begun."""
        return kind not in {"enter", "leave"}

    def execute(self, process: Process, operation: Any) -> Any:
        """With a count of what it takes and gives back itself."""
        kind, word, value, _seconds = operation
        if kind in {"store", "store0"}:
            change = value - self.view(process, word)
            if word == TAKEN:
                self.taken[process.index] = self.taken.get(process.index, 0) + 1
                self.thrown_away += change - 1
            elif self._is_given(word):
                self.taken[process.index] = self.taken.get(process.index, 0) - change
        return super().execute(process, operation)

    def _is_given(self, word: int) -> bool:
        return word >= self.records and (word - self.records) % RECORD == GIVEN

    def _given(self) -> int:
        given: int = sum(self.memory[self.records + GIVEN :: RECORD])
        return given

    # --- What the semaphore promises ------------------------------------------------------------------------------

    def held_by(self, process: Process) -> int:
        """How many permits a process has taken and not given back."""
        return self.taken.get(process.index, 0)

    def holder(self) -> Process | None:
        """Nobody is known to have a permit."""
        return None

    def is_free(self) -> bool:
        """Whether there is a permit."""
        return bool(self.permits + self._given() > self.memory[TAKEN])

    def must_wait(self) -> bool:
        """Whether there is none."""
        return not self.is_free()

    def enter(self, process: Process) -> None:
        """A process has taken a permit."""
        self.claimed[process.index] = self.claimed.get(process.index, 0) + 1
        self.out += 1
        if self.out > self.permits:
            raise Violation(f"process {process.index} has got a permit, and there is none")

    def leave(self, process: Process) -> None:
        """A process is about to give a permit back."""
        self.claimed[process.index] = self.claimed.get(process.index, 0) - 1
        self.out = max(self.out - 1, 0) if self.bounded else self.out - 1

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """Only what is there is taken, each permit once, in the order of the line; and nothing given is forgotten."""
        if self._is_given(word) and value < self.memory[word]:
            raise Violation(f"{self.memory[word]} permits were given back through {self.name_of(word)}, now {value}")
        if word != TAKEN:
            return
        if value <= self.memory[TAKEN]:
            raise Violation(f"process {process.index} takes a permit that was taken")
        if value > self.permits + self._given():
            raise Violation(f"process {process.index} takes a permit, and there is none")
        self.check_order(process.lock._seats.slot.index)

    def check_nothing_taken(self, process: Process, held: bool) -> None:
        """An acquire that raised or gave up has taken nothing, and given back nothing that it had not taken."""
        if self.held_by(process) != self.claimed.get(process.index, 0):
            raise Violation(f"process {process.index} has {self.held_by(process)} permits after an acquire in vain")

    def check_settled(self) -> None:
        """All permits are there but those of the dead, who have taken no more than they were about to."""
        for process in self.processes:
            lost = self.held_by(process) - self.claimed.get(process.index, 0)
            if lost not in ({0, 1} if process.dead else {0}):
                raise Violation(f"{lost} permits were lost with process {process.index}")
        there = self.permits + self._given() - self.memory[TAKEN]
        if there != self.permits - sum(self.taken.values()) - self.thrown_away:
            raise Violation(f"{there} permits are there, and {self.taken} were taken")

    def concerns_order(self, word: int) -> bool:
        """The same for what is taken and given."""
        return super().concerns_order(word) or word == TAKEN or self._is_given(word)

    def counted(self) -> tuple[object, ...]:
        """How many permits are where."""
        ledgers = (tuple(sorted(ledger.items())) for ledger in (self.taken, self.claimed))
        return (*ledgers, self.out, self.thrown_away)


# --- Scenarios -----------------------------------------------------------------------------------------------------


def gives(times: int) -> Any:
    """Give permits that others wait for."""

    def script(process: Process) -> None:
        for _ in range(times):
            try:
                process.release()
            except Interrupt:
                pass

    return script


def takes(process: Process) -> None:
    """Take a permit without waiting, since there is one all the time."""
    if not process.acquire(False):
        raise Violation(f"process {process.index} was refused a permit, and there is one")


def given_before(world: World) -> None:
    """Processes 0 and 1 have taken and given back some."""
    for process in world.processes[:2] * 2:
        process.acquire()
        process.release()


def one_too_many(world: World) -> None:
    """Process 0 has given back one more than the bound allows."""
    given_before(world)
    try:
        world.processes[0].release()
    except ValueError:
        return
    raise AssertionError("a bounded semaphore takes more than its bound")


def one_dead_in_line(world: World) -> None:
    """Process 0 was killed when it had just taken a ticket, and had given something before."""
    given_before(world)
    process = world.processes[0]
    process.perform("store", NUMBERS + process.lock._seats.slot.index, 2)
    process.dead = True


def permits(count: int, *scripts: Any, bounded: bool = False, prepare: Any = nothing, **options: Any) -> Scenario:
    """A scenario with a semaphore of so many permits."""
    make = partial(SemaphoreWorld, permits=count, bounded=bounded)
    return Scenario(scripts, make=make, prepare=prepare, **options)


_PATIENT: Final = visits(1, timeout=1.0)

SEMAPHORES: Final = {
    "semaphore, 2x1": permits(1, *[visits(1)] * 2),
    "semaphore, 2x2": permits(1, *[visits(2, work=False)] * 2),
    "semaphore, 3x1": permits(1, *[visits(1)] * 3),
    "semaphore, two permits": permits(2, *[visits(1)] * 3),
    "semaphore, given by another": permits(0, gives(2), keeps, keeps),
    "semaphore, given by two": permits(0, gives(1), gives(1), keeps, keeps),
    "semaphore, given back by another": permits(1, keeps, gives(1), keeps),
    "semaphore, given meanwhile": permits(1, gives(1), takes, prepare=given_before),
    "semaphore, timeouts": permits(1, visits(2, timeout=1.0), _PATIENT, visits(1)),
    "semaphore, given and timeouts": permits(0, gives(2), _PATIENT, keeps),
    "semaphore, spinning": permits(1, visits(2), visits(2, timeout=1.0), spins=1),
    "semaphore, raising": permits(1, *[visits(1)] * 3, budget=Budget(handlers=1), handlers="r"),
    "semaphore, raising, two permits": permits(2, *[visits(1)] * 3, budget=Budget(handlers=2), handlers="r"),
    "semaphore, handlers": permits(1, visits(1), visits(2), budget=Budget(handlers=1), handlers="t"),
    "semaphore, handlers twice": permits(1, visits(1), visits(1), budget=Budget(handlers=2), handlers="t"),
    "semaphore, handlers, two permits": permits(2, *[visits(1)] * 3, budget=Budget(handlers=1), handlers="t"),
    "semaphore, handlers that raise": permits(1, visits(1), visits(1), budget=Budget(handlers=2), handlers="btx"),
    "semaphore, given to handlers": permits(0, gives(2), keeps, visits(1), budget=Budget(handlers=1), handlers="t"),
    "semaphore, deaths": permits(2, *[visits(1)] * 3, budget=Budget(kills=1, ticks=1)),
    "semaphore, two deaths": permits(1, *[visits(1, timeout=1.0)] * 3, budget=Budget(kills=2, ticks=1)),
    "semaphore, one dead in line": permits(
        1, idle, visits(1), newcomer, strangers=1, slots=2, prepare=one_dead_in_line
    ),
    "semaphore, a newcomer": permits(
        2, visits(1), visits(1), newcomer, strangers=1, slots=2, budget=Budget(kills=1, ticks=1)
    ),
    "semaphore, a newcomer gives": permits(0, keeps, keeps, gives(2), strangers=1),
    "semaphore, one too many": permits(1, idle, visits(1), visits(1), bounded=True, prepare=one_too_many),
    "semaphore, one too many, and raising": permits(
        1, idle, visits(1), visits(1), bounded=True, prepare=given_before, budget=Budget(handlers=1), handlers="r"
    ),
    "semaphore, bounded": permits(2, *[visits(1)] * 3, bounded=True),
}
