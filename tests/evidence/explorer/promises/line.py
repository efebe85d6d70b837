"""What holds for all that is acquired and given back in turn: first come, first served, and nothing left behind."""

from __future__ import annotations

from typing import Any

from evidence.explorer.simulated.operations import DATA, Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import World
from mpbakery._protocol.seats import NONE
from mpbakery._system.layout import CHOOSING, IDLE, NUMBERS, PID, record_of


class LineWorld(World):
    """One execution with a line, and with something at its head that is acquired, used and released."""

    #: whether one at a time is in
    is_exclusive = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: the slots in line, and for each that came after the doorway who was there before it
        self.in_line: set[int] = set()
        self.ahead: dict[int, frozenset[int]] = {}
        self.work_done = 0
        super().__init__(*arguments, **options)

    def work(self, process: Process) -> None:
        """Add one to what the lock protects."""
        if not self.is_exclusive:
            return
        value = process.perform("load", DATA)
        process.perform("store", DATA, value + 1)
        self.work_done += 1

    # --- The order ------------------------------------------------------------------------------------------------

    def check_number(self, slot: int, number: int) -> None:
        """First come, first served, from the end of the doorway: who was in line before this one came?"""
        self.in_line.discard(slot)
        if number == CHOOSING:
            # One that has been served, and comes anew, can be seen in the doorway before it is seen to be in.
            self.ahead[slot] = frozenset() if self.is_served(slot) else frozenset(self.in_line)
        elif number == IDLE:
            self.ahead.pop(slot, None)
        else:
            self.in_line.add(slot)
        if number <= CHOOSING:
            for other, ahead in self.ahead.items():
                if other != slot and slot in ahead:
                    self.ahead[other] = ahead - {slot}

    def check_order(self, slot: int) -> None:
        """Nobody is served before one who has come first."""
        for other in self.ahead.get(slot, ()):
            process = self.process_of(other)
            if process is not None and not process.dead and other != slot:
                raise Violation(f"slot {slot} was served before slot {other}, which had come first")

    def is_served(self, slot: int) -> bool:
        """Whether whose slot it is has entered through the line with a store that only it sees so far."""
        return False

    def process_of(self, slot: int) -> Process | None:
        """Whose slot it is."""
        pid = self.memory[record_of(self.slots, slot) + PID]
        return self.processes[pid - 1] if pid else None

    # --- Nothing left ---------------------------------------------------------------------------------------------

    def check_nothing_left(self, process: Process, before: int) -> None:
        """An acquire that raised or gave up leaves nothing behind."""
        slot = process.lock._seats.slot
        if process.depth or slot.index < 0:
            return
        kept, process.keeps = process.keeps, False
        if self.view(process, NUMBERS + slot.index) != IDLE:
            raise Violation(f"process {process.index} has left a place in the line behind")
        self.check_nothing_taken(process, kept or before != 0)
        if slot.attempt != NONE:
            raise Violation(f"process {process.index} counts itself as acquiring still")

    def check_nothing_taken(self, process: Process, held: bool) -> None:
        """An acquire that raised or gave up leaves the lock as it was."""
        if bool(self.held_by(process)) != held:
            raise Violation(f"process {process.index} has left the lock {'free' if held else 'held'}")

    def check_settled(self) -> None:
        """No update was lost."""
        if self.memory[DATA] != self.work_done:
            raise Violation(f"an update was lost: {self.memory[DATA]} instead of {self.work_done}")

    def counted(self) -> tuple[object, ...]:
        """Who was before whom, and what has to be there in the end."""
        return self.work_done, tuple(sorted(self.ahead.items()))
