"""What the condition promises: who waits longest is notified first, and no notification is lost.

The condition's lock is one of the simulation, taken in a single step: the real one is explored by itself.
"""

from __future__ import annotations

from typing import Any

from evidence.explorer.promises.room import RoomWorld
from evidence.explorer.simulated.machine import SimulatedMachine
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import Abort, Interrupt, Operation, Violation, insist
from evidence.explorer.simulated.process import Process
from mpbakery._system.layout import FIRST_TICKET, LET_GO, NUMBERS


class SimulatedLock:
    """The condition's lock, as a process sees it (`mpbakery.Lock`)."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world: Any = process.world
        self.name = "simulated"

    def acquire(self) -> None:
        """Take it, as soon as it is free."""
        self._process.perform("lock", value=self)

    def release(self) -> None:
        """Let others have it."""
        self._process.perform("unlock", value=self)

    def _is_mine(self) -> bool:
        inside: list[Process] = self._world.inside
        return inside == [self._process]

    def _depth(self) -> int:
        return 1

    def _release_wholly(self) -> None:
        self.release()

    def _acquire_again(self, _depth: int) -> None:
        if not self._is_mine():
            self.acquire()

    def _insist(self, depth: int) -> None:
        insist(lambda: self._acquire_again(depth))


class ConditionOfProcess:
    """The condition as a process sees it, where the simulation expects a lock."""

    def __init__(self, condition: Any) -> None:
        self.condition = condition

    def _make_usable(self, _deadline: float | None) -> None:
        self.condition._room.leave(self.condition._room.enter())


class ConditionWorld(RoomWorld):
    """One execution with a condition."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: who is in a call of wait(), and who has noticed there that it was notified
        self.in_wait: set[int] = set()
        self.noticed: set[int] = set()
        #: notifications that somebody has still to notice
        self.owed = 0
        super().__init__(*arguments, **options)

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """A condition."""
        table._keeping = True
        condition = self.protocol.Condition.__new__(self.protocol.Condition)
        condition._memory, condition._table = memory, table
        condition._assemble(SimulatedLock(memory._process))
        condition._set_up(machine)
        room = type(condition._room)

        class Room(room):  # type: ignore[misc, valid-type]
            """Where handlers can come at the entry of `leave`, which makes no step that others can see."""

            __slots__ = ()

            def leave(self, place: Any) -> None:
                memory._process.perform("list")
                super().leave(place)

        condition._room = Room(memory, table, machine)
        return ConditionOfProcess(condition)

    def wait(self, process: Process, timeout: float | None) -> None:
        """Wait for a notification with the lock held, and insist on what that promises."""
        process.lock.condition.acquire()
        self.begin(process, timeout)
        self.in_wait.add(process.index)
        try:
            got = process.lock.condition.wait(timeout)
            if got != (process.index in self.noticed):
                raise Violation(f"the wait of process {process.index} says {got}, and that was not so")
            if not got and not process.is_late():
                raise Violation(f"process {process.index} waits no longer, and has time left")
        except Interrupt:
            if process.index in self.noticed and len(self.in_wait) > 1:
                self.owed += 1  # it goes to the next one
        finally:
            self.in_wait.discard(process.index)
            self.noticed.discard(process.index)
            if timeout is not None:
                process.limits.pop()
        self.check_no_number(process)
        if self.inside != [process]:
            raise Violation(f"process {process.index} does not hold the lock after its wait")
        process.lock.condition.release()

    def notify(self, process: Process, count: int) -> None:
        """Notify so many who wait, all for 0, and insist that the first of them were let go."""
        condition = process.lock.condition
        condition.acquire()
        before, dead = self._living(), self._dead()
        if count:
            condition.notify(count)
        else:
            condition.notify_all()
        due = min(count or len(before), len(before))
        let_go = sum(self.view(process, NUMBERS + slot) < FIRST_TICKET for slot in before)
        if self._dead() == dead and let_go != due:
            raise Violation(f"process {process.index} has let {let_go} go, and should {due}")
        self.owed += due
        condition.release()

    def _dead(self) -> int:
        return sum(process.dead for process in self.processes)

    def _living(self) -> list[int]:
        """The slots of living processes that wait."""
        slots = [slot for process in self.processes if not process.dead for slot in self.slots_of(process)]
        return [slot for slot in slots if self.memory[NUMBERS + slot] >= FIRST_TICKET]

    def execute(self, process: Process, operation: Operation) -> Any:
        """With the condition's lock, and a look at who is let go and who has noticed it."""
        kind, word, value, _seconds = operation
        if isinstance(value, SimulatedLock):
            while process.buffer:
                self._flush(process)
            self.inside = [process] if kind == "lock" else []
            self.changes += 1
            return None
        if kind == "store" and NUMBERS <= word < NUMBERS + self.slots:
            self._check_number(process, word, value)
        return super().execute(process, operation)

    def _check_number(self, process: Process, word: int, value: int) -> None:
        before = self.view(process, word)
        if value == LET_GO:
            if any(self.view(process, NUMBERS + slot) < before for slot in self._living() if NUMBERS + slot != word):
                raise Violation(f"slot {word - NUMBERS} is let go before one that has waited longer")
        elif before == LET_GO and word - NUMBERS in self.slots_of(process):
            if not self.owed and not self._dead():
                raise Violation(f"process {process.index} was let go, and nobody notified it")
            self.noticed.add(process.index)
            self.owed = max(self.owed - 1, 0)

    def _can_step(self, process: Process) -> bool:
        if isinstance(process.pending.value, SimulatedLock) and process.pending.kind == "lock":
            return not process.dead and not self.inside
        return super()._can_step(process)

    def _can_handle(self, process: Process) -> bool:
        return process.index in self.in_wait and super()._can_handle(process)

    def _when_stuck(self) -> list[str]:
        asleep, alive = self.asleep(), list(self._alive())
        if asleep and asleep == alive and not (self.owed or self.is_free() or any(map(self._can_be_late, alive))):
            raise Abort  # nobody notifies those who wait: it ends here
        return super()._when_stuck()

    def counted(self) -> tuple[object, ...]:
        """Who waits for what."""
        return tuple(sorted(self.in_wait)), tuple(sorted(self.noticed)), self.owed
