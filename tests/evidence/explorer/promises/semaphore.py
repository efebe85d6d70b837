"""What the semaphore promises: each permit is taken once, in the order of the line, and none is lost."""

from __future__ import annotations

from typing import Any

from evidence.explorer.promises.line import LineWorld
from evidence.explorer.simulated.machine import SimulatedMachine
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.telling import name_of
from mpbakery._system.layout import BOUNDED_SEMAPHORE, GIVEN, KIND_AT, RECORD, SEMAPHORE, TAKEN, VALUE_AT


class SemaphoreWorld(LineWorld):
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
        return kind not in {"enter", "leave", "offset"}

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
            raise Violation(f"{self.memory[word]} permits were given back through {name_of(self, word)}, now {value}")
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
        super().check_settled()
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
        return (*super().counted(), *ledgers, self.out, self.thrown_away)
