"""What the lock promises: one is in, and the death of a holder is told to whoever has the lock next."""

from __future__ import annotations

from typing import Any

from evidence.explorer.promises.line import LineWorld
from evidence.explorer.simulated.machine import SimulatedMachine
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import Violation
from evidence.explorer.simulated.process import Process
from mpbakery._protocol.seats import RETURNING
from mpbakery._system.layout import CLOSED, HELD, INDEX, OWNER, PID, record_of, slot_of


class LockWorld(LineWorld):
    """One execution with a lock."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: owners that died, and takeovers from them
        self.deaths = 0
        self.recoveries = 0
        #: owners that died when they came again, before they knew whether they were in
        self.doubtful = 0
        super().__init__(*arguments, **options)

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """A lock."""
        return self.protocol.Bakery(memory, table, machine, told)

    # --- Who has it -----------------------------------------------------------------------------------------------

    def holder(self) -> Process | None:
        """Who holds the lock, as memory says."""
        held = self.memory[OWNER] & INDEX
        slot = slot_of(self.slots, held)
        return self.process_of(slot) if slot >= 0 and self.memory[held] else None

    def is_free(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.memory[self.memory[OWNER] & INDEX]

    def must_wait(self) -> bool:
        """Whether only others can end the waiting."""
        # not for one who fills HELD only to find out that it is not in
        holder = self.holder()
        return holder is not None and not holder.dead and holder in self.inside

    def held_by(self, process: Process) -> int:
        """The HELD word through which a process holds the lock, as it sees that itself; 0 if it does not."""
        held: int = self.view(process, OWNER) & INDEX
        slot = slot_of(self.slots, held)
        mine = slot >= 0 and self.memory[record_of(self.slots, slot) + PID] == process.identity.pid
        return held if mine and self.view(process, held) else 0

    def _kill(self, process: Process) -> None:
        super()._kill(process)
        if self.holder() is process:
            self.deaths += 1
            self.doubtful += self._comes_again(process)

    # --- What it promises -----------------------------------------------------------------------------------------

    def enter(self, process: Process) -> None:
        """A process has acquired the lock."""
        others = [other.index for other in self.inside if not other.dead]
        if others:
            raise Violation(f"two are in: {process.index} and {others[0]}")
        self.inside = [process]

    def leave(self, process: Process) -> None:
        """A process is about to release it."""
        self.inside = []

    def is_served(self, slot: int) -> bool:
        """Whether whose slot it is has entered through the line with a store that only it sees so far."""
        process, held = self.process_of(slot), record_of(self.slots, slot) + HELD
        return process is not None and any(
            (word, value) == (OWNER, held) or (word == held and self._is_through_the_line(process, value))
            for word, value in process.buffer
        )

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """What a store must not do that is about to become visible."""
        if word == OWNER and value & CLOSED:
            if value & INDEX != self.memory[OWNER] & INDEX:
                raise Violation(f"process {process.index} closes OWNER for one who has not entered last")
        elif word == OWNER:
            self._new_owner(value)
        elif word == self.memory[OWNER] & INDEX and value and value != self.memory[word]:
            if self._is_through_the_line(process, value):
                self.check_order(slot_of(self.slots, word))
            elif value >= process.lock._seats.slot.until:
                raise Violation(f"process {process.index} comes again when its tenure is over")

    def _is_through_the_line(self, process: Process, time: float) -> bool:
        """Whether what a process stores to its HELD says that it has stood in the line, and not that it comes again."""
        return bool(time) and time + self.tenure == process.lock._seats.slot.until

    def _new_owner(self, held: int) -> None:
        last = self.memory[OWNER] & INDEX
        before = self.holder()
        if before is not None and (self._comes_again(before) or not self.view(before, last)):
            before = None  # it was not in, or is in no more as it sees that itself: whether so, it says in `enter`
        slot = slot_of(self.slots, held)
        owner = self.process_of(slot)
        if held != last and before is not None:
            if not before.dead:
                raise Violation(f"two are in: the lock of process {before.index} goes to slot {slot}")
            self.recoveries += 1
            if owner is not None and owner.told != 1:
                raise Violation(f"process {owner.index} takes over from a dead owner, told of it {owner.told} times")
        if owner is not None:
            owner.told = 0
        self.check_order(slot)

    @staticmethod
    def _comes_again(process: Process) -> bool:
        """Whether it has filled HELD, and may find out that it is not in."""
        slot = process.lock._seats.slot
        return slot.attempt == RETURNING or slot.attempt is slot.generation

    def check_settled(self) -> None:
        """When all have come to an end, nobody holds what it has released, and deaths were told."""
        super().check_settled()
        holder = self.holder()
        if holder is not None and not holder.dead:
            raise Violation(f"the lock is held by process {holder.index}, which has released it")
        told = self.recoveries + (holder is not None)
        if self.robust and not self.deaths - self.doubtful <= told <= self.deaths:
            raise Violation(f"{self.deaths} owners died, and {self.recoveries} takeovers were told")

    def concerns_order(self, word: int) -> bool:
        """The same for the owner."""
        return super().concerns_order(word) or word == OWNER

    def counted(self) -> tuple[object, ...]:
        """With the deaths."""
        return *super().counted(), self.recoveries, self.deaths, self.doubtful
