"""The event and the condition in the simulation, and with them the room in which threads wait.

The condition's lock is one of the simulation, taken in a single step: the real one is explored by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from evidence.explorer.mutants import one_change
from evidence.explorer.scenarios import Scenario, Script, wait_until
from evidence.explorer.simulation import (
    SEQUENTIAL,
    TOTAL_STORE_ORDER,
    Abort,
    Budget,
    Interrupt,
    Operation,
    Process,
    SimulatedMachine,
    SimulatedMemory,
    Violation,
    World,
)
from mpbakery._system.layout import FIRST_TICKET, FLAG, IDLE, LET_GO, NUMBERS, PID, record_of


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


class RoomWorld(World):
    """One execution with a room in which threads wait."""

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

    def held_by(self, process: Process) -> int:
        """Nothing that the lock's promises are about."""
        return 0

    def check_nothing_left(self, process: Process, before: int) -> None:
        """What is left is looked at where a wait ends."""

    def check_settled(self) -> None:
        """Nobody holds anything."""


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

    def name_of(self, word: int) -> str:
        """With the flag."""
        return "FLAG" if word == FLAG else super().name_of(word)


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

    def check_store(self, process: Process, word: int, value: Any) -> None:
        """All that matters here is in the numbers."""

    def counted(self) -> tuple[object, ...]:
        """Who waits for what."""
        return tuple(sorted(self.in_wait)), tuple(sorted(self.noticed)), self.owed


# --- Scenarios -----------------------------------------------------------------------------------------------------


def waits(times: int = 1, timeout: float | None = None) -> Script:
    """Wait that many times."""

    def script(process: Process) -> None:
        for _ in range(times):
            try:
                process.world.wait(process, timeout)  # type: ignore[attr-defined]
            except Interrupt:
                process.world.check_no_number(process)  # type: ignore[attr-defined]

    return script


def insist(action: Callable[[], object]) -> None:
    """Do something, once more if a handler raises in the middle."""
    while True:
        try:
            action()
        except Interrupt:
            continue
        return


def sets(process: Process) -> None:
    """Set the event."""
    insist(process.lock.set)


def sets_in_vain(process: Process) -> None:
    """Set the event, clear it, and set it again."""
    sets(process)
    insist(process.lock.event.clear)
    sets(process)


def wait_until_others_wait(process: Process) -> None:
    """Until all others wait, or have come to their end."""
    world = process.world
    assert isinstance(world, RoomWorld)
    others = [other for other in world.processes if other is not process]

    def all_wait() -> bool:
        return all(other.dead or other.finished or world.is_waiting(other) for other in others)

    insist(lambda: wait_until(process, all_wait))


def pulses(process: Process) -> None:
    """When all others wait, set the event and clear it at once."""
    wait_until_others_wait(process)
    sets(process)
    insist(process.lock.event.clear)


def sets_if_nobody_has(process: Process) -> None:
    """Set the event if process 0 has died before it did."""
    world = process.world
    other = world.processes[0]
    wait_until(process, lambda: other.dead or other.finished)
    if not world.memory[FLAG]:
        sets(process)


def event(*scripts: Script, **options: Any) -> Scenario:
    """A scenario with an event."""
    return Scenario(scripts, make=EventWorld, **options)


_PATIENT: Final = waits(timeout=1.0)

EVENTS: Final = {
    "event": event(sets, waits()),
    "event, two wait": event(sets, waits(), waits()),
    "event, set by two": event(sets, sets, waits()),
    "event, set, cleared and set": event(sets_in_vain, waits(2), waits()),
    "event, set and cleared": event(pulses, waits(), waits()),
    "event, timeouts": event(sets_in_vain, waits(2, 1.0), waits()),
    "event, set and cleared, timeouts": event(pulses, _PATIENT, waits()),
    "event, spinning": event(sets_in_vain, waits(), _PATIENT, spins=1),
    "event, newcomers": event(sets, waits(), waits(), strangers=2),
    "event, newcomers and handlers": event(
        sets_in_vain, waits(2), waits(), strangers=2, budget=Budget(handlers=2), handlers="rt"
    ),
    "event, raising": event(sets, waits(), waits(2, 1.0), budget=Budget(handlers=2), handlers="r"),
    "event, set and cleared, raising": event(pulses, waits(), waits(), budget=Budget(handlers=1), handlers="r"),
    "event, set by handlers": event(sets_in_vain, waits(2), waits(), budget=Budget(handlers=2), handlers="t"),
    "event, death of one who waits": event(sets, waits(), waits(), budget=Budget(kills=1), mortal=1),
    "event, set and cleared, deaths": event(pulses, waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1),
    "event, death of one who sets": event(sets, sets_if_nobody_has, waits(), budget=Budget(kills=1, ticks=1), mortal=0),
}


def notifies(*counts: int, at_once: bool = False) -> Script:
    """Notify so many, and then so many, once all others wait or at once; 0 stands for all."""

    def script(process: Process) -> None:
        if not at_once:
            wait_until_others_wait(process)
        for count in counts:
            process.world.notify(process, count)  # type: ignore[attr-defined]

    return script


def dies_notified(process: Process) -> None:
    """When all others wait, die like one that was notified and does not know it yet."""
    world = process.world
    assert isinstance(world, ConditionWorld)
    wait_until_others_wait(process)
    process.perform("store", NUMBERS + world.slots_of(process)[0], LET_GO)
    world.owed += 1
    world.budget.kills += 1
    world._kill(process)
    process.perform("nap")


def condition(*scripts: Script, **options: Any) -> Scenario:
    """A scenario with a condition."""
    return Scenario(scripts, make=ConditionWorld, **options)


CONDITIONS: Final = {
    "condition": condition(notifies(1), waits()),
    "condition, two wait": condition(notifies(2), waits(), waits()),
    "condition, one of two": condition(notifies(1), waits(), waits()),
    "condition, one by one": condition(notifies(1, 1), waits(), waits()),
    "condition, all": condition(notifies(0), waits(), waits()),
    "condition, at any time": condition(notifies(1, 1, at_once=True), waits(2), waits()),
    "condition, timeouts": condition(notifies(1), waits(timeout=1.0), waits()),
    "condition, timeouts at any time": condition(notifies(1, 1, at_once=True), waits(2, 1.0), waits()),
    "condition, spinning": condition(notifies(1, 1, at_once=True), waits(timeout=1.0), waits(), spins=1),
    "condition, newcomers": condition(notifies(1, 1), waits(), waits(), strangers=2),
    "condition, raising": condition(notifies(1), waits(), waits(), budget=Budget(handlers=1), handlers="r"),
    "condition, raising, alone": condition(waits(2, 1.0), budget=Budget(handlers=2), handlers="r"),
    "condition, raising, timeouts": condition(
        notifies(1, 1), waits(timeout=1.0), waits(), waits(), budget=Budget(handlers=1), handlers="r"
    ),
    "condition, deaths": condition(notifies(1), waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1),
    "condition, two deaths": condition(notifies(1), waits(), waits(), waits(), budget=Budget(kills=2, ticks=1)),
    "condition, death of one who hands on": condition(
        dies_notified, waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1
    ),
    "condition, deaths and timeouts": condition(
        notifies(1, 1), waits(timeout=1.0), waits(), waits(), budget=Budget(kills=1, ticks=1)
    ),
}

# --- Mutants -------------------------------------------------------------------------------------------------------

_SETTING: Final = """\
        room.words[FLAG] = 1
        # Store, fence, look: whoever comes to wait has either seen the flag, or is seen here.
        room.machine.new_fence()()
        for slot, number in enumerate(room.numbers()):
            if number:
                room.let_go(slot, IDLE)
"""

EVENT_MUTANTS: Final = {
    "event: no fence between the flag and the look at who waits": one_change(
        "event",
        TOTAL_STORE_ORDER,
        "event",
        """\
        room.machine.new_fence()()
        for slot""",
        "        for slot",
    ),
    "event: no fence between the number and the look at the flag": one_change(
        "event",
        TOTAL_STORE_ORDER,
        "event",
        """\
                room.machine.new_fence()()
                # The flag""",
        "                # The flag",
    ),
    "event: who waits does not look at the flag after its number": one_change(
        "event", SEQUENTIAL, "event", "if self.is_set() or room.sleep(", "if room.sleep("
    ),
    "event: whom it lets go sleeps on": one_change(
        "event",
        SEQUENTIAL,
        "waiting_room",
        "        self.machine.unpark(number)\n        return True",
        "        return True",
    ),
    "event: who waits is let go before the flag is stored": one_change(
        "event",
        SEQUENTIAL,
        "event",
        _SETTING,
        """\
        for slot, number in enumerate(room.numbers()):
            if number:
                room.let_go(slot, IDLE)
        room.machine.new_fence()()
        room.words[FLAG] = 1
""",
    ),
    "event: who was let go looks at the flag once more": one_change(
        "event, set and cleared",
        SEQUENTIAL,
        "event",
        "                    return True\n",
        "                    return self.is_set()\n",
    ),
    "event: the flag is not looked at after a nap": one_change(
        "event, death of one who sets", SEQUENTIAL, "event", "deadline, self.is_set)", "deadline)"
    ),
    "event: a number is kept after giving up": one_change(
        "event, timeouts",
        SEQUENTIAL,
        "event",
        """\
                if not place.lost:
                    room.words[place.number] = IDLE
""",
        "",
    ),
}

CONDITION_MUTANTS: Final = {
    "condition: whom it lets go sleeps on": one_change(
        "condition, one of two",
        SEQUENTIAL,
        "waiting_room",
        "        self.machine.unpark(number)\n        return True",
        "        return True",
    ),
    "condition: a dead one counts as notified": one_change(
        "condition, deaths", SEQUENTIAL, "condition", "if not room.is_lost(slot) and room.let_go", "if room.let_go"
    ),
    "condition: what a dead one was notified of is not handed on": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        "            self.notify()\n            # only",
        "            # only",
    ),
    "condition: what a dead one was notified of is cleared away before it is handed on": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        """\
            self.notify()
            # only now: if this process dies in between, or a handler raises, others must still find it
            self._room.is_lost(slot)
""",
        """\
            self._room.is_lost(slot)
            self.notify()
""",
    ),
    "condition: who sleeps does not look for the dead": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        "lambda: bool(room.orphans())",
        "lambda: False",
    ),
    "condition: what a wait was notified of that raises is not handed on": one_change(
        "condition, raising",
        SEQUENTIAL,
        "condition",
        """\
            if self._lock._is_mine() and not place.lost and room.words[place.number] == LET_GO:
                self.notify()
""",
        "",
    ),
    "condition: a wait that raises does not insist on the lock": one_change(
        "condition, raising, alone", SEQUENTIAL, "condition", "            lock._insist(depth)\n", ""
    ),
    "condition: a ticket is kept after giving up": one_change(
        "condition, timeouts",
        SEQUENTIAL,
        "condition",
        """\
            if not place.lost:
                room.words[place.number] = IDLE
""",
        "",
    ),
    "condition: who is late does not look whether it was notified": one_change(
        "condition, timeouts",
        SEQUENTIAL,
        "condition",
        "notified = self._was_notified(place, ticket)",
        "notified = timely and self._was_notified(place, ticket)",
    ),
    "condition: who waits is let go in the order of the slots": one_change(
        "condition, one of two",
        SEQUENTIAL,
        "waiting_room",
        "for _ticket, slot in tickets]",
        "for slot in sorted(slot for _ticket, slot in tickets)]",
    ),
}
