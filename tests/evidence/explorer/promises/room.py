"""What is promised of all in which threads wait to be let go."""

from __future__ import annotations

from evidence.explorer.simulated.operations import Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import World
from mpbakery._system.layout import FIRST_TICKET, IDLE, NUMBERS, PID, record_of


class RoomWorld(World):
    """One execution with a room in which threads wait."""

    def wait(self, process: Process, timeout: float | None) -> None:
        """Wait, and insist on what that promises."""
        raise NotImplementedError

    def begin(self, process: Process, timeout: float | None) -> None:
        """A process is about to wait."""
        process.calls += 1
        process.readings = 0
        process.see("wait")
        if timeout is not None:
            process.limits.append(process.late)

    def check_no_number(self, process: Process) -> None:
        """A wait that is over has left nothing behind."""
        for slot in self.slots_of(process):
            if self.view(process, NUMBERS + slot) != IDLE:
                raise Violation(f"process {process.index} has left a number behind")

    def slots_of(self, process: Process) -> list[int]:
        """The slots that belong to a process."""
        pid = process.identity.pid
        return [slot for slot in range(self.slots) if self.memory[record_of(self.slots, slot) + PID] == pid]

    def is_waiting(self, process: Process) -> bool:
        """Whether others can see that a process waits."""
        return any(self.memory[NUMBERS + slot] >= FIRST_TICKET for slot in self.slots_of(process))

    def asleep(self) -> list[Process]:
        """Who sleeps in the room."""
        return [p for p in self.processes if p.pending.kind == "sleep" and not p.dead and not p.finished]

    def is_free(self) -> bool:
        """Whether somebody sleeps who was let go."""
        return any(self.memory[process.parked_on] < FIRST_TICKET for process in self.asleep())

    def must_wait(self) -> bool:
        """Whether only others can end the waiting."""
        return not self.is_free()
