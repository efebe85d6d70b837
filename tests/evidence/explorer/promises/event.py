"""What the event promises: nobody waits while it is set, and each wait says truly whether it was."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evidence.explorer.promises.room import RoomWorld
from evidence.explorer.simulated.machine import SimulatedMachine
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import Operation, Violation
from evidence.explorer.simulated.process import Process
from mpbakery._system.layout import FLAG


class EventOfProcess:
    """The event as a process sees it, where the simulation expects a lock."""

    def __init__(self, world: EventWorld, index: int, event: Any) -> None:
        self._world = world
        self._index = index
        self.event = event

    def _make_usable(self, _deadline: float | None) -> None:
        self.event._occupy()

    def acquire(self, _block: bool, _timeout: float | None) -> bool:
        """What the handler `t` calls: it sets the event, whatever it interrupts, and has nothing to release."""
        self.set()
        return False

    def set(self) -> None:
        """Set the event, and insist on nothing before that is over."""
        world = self._world
        world.setting[self._index] += 1
        try:
            self.event.set()
        finally:
            world.setting[self._index] -= 1
            if not world.setting[self._index]:
                world.past_flag.discard(self._index)


class EventWorld(RoomWorld):
    """One execution with an event."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: for each process that waits, the results that would be true
        self.answers: dict[int, set[bool]] = {}
        #: how many calls of set() are under way, and who has stored the flag in one
        self.setting: Counter[int] = Counter()
        self.past_flag: set[int] = set()
        super().__init__(*arguments, **options)

    def new_lock(self, memory: SimulatedMemory, table: Any, machine: SimulatedMachine, told: object) -> Any:
        """An event."""
        event = self.protocol.Event.__new__(self.protocol.Event)
        event._memory, event._table = memory, table
        event._set_up(machine)
        return EventOfProcess(self, memory._process.index, event)

    def wait(self, process: Process, timeout: float | None) -> None:
        """Wait for the event, and insist on what that promises."""
        self.begin(process, timeout)
        answers = self.answers[process.index] = {bool(self.view(process, FLAG))}
        if any(not self.processes[index].dead for index in self.past_flag):
            answers.add(True)  # it may let this process go that has come too late: see docs/limits.md
        try:
            got = process.lock.event.wait(timeout)
            if got not in answers:
                raise Violation(f"the wait of process {process.index} says {got}, and that was not so")
            if not got and not process.is_late():
                raise Violation(f"process {process.index} waits no longer, and has time left")
        finally:
            del self.answers[process.index]
            if timeout is not None:
                process.limits.pop()
        self.check_no_number(process)

    # --- What the event promises ----------------------------------------------------------------------------------

    def is_free(self) -> bool:
        """Whether somebody sleeps who has nothing to wait for."""
        return super().is_free() or bool(self.memory[FLAG] and self.asleep())

    def execute(self, process: Process, operation: Operation) -> Any:
        """Whoever sets the event in its own wait sees that before others do."""
        if operation.kind == "store" and operation.word == FLAG and process.index in self.answers:
            self.answers[process.index].add(bool(operation.value))
        return super().execute(process, operation)

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """Whoever waits meanwhile may say that the event was so."""
        if word == FLAG:
            for answers in self.answers.values():
                answers.add(bool(value))
            if value and self.setting[process.index]:
                self.past_flag.add(process.index)

    def concerns_order(self, word: int) -> bool:
        """The same for the flag."""
        return super().concerns_order(word) or word == FLAG

    def counted(self) -> tuple[object, ...]:
        """What would be true, and who is setting the event."""
        answers = tuple((index, tuple(sorted(found))) for index, found in sorted(self.answers.items()))
        return answers, tuple(sorted(self.setting.items())), tuple(sorted(self.past_flag))
