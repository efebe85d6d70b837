"""A simulated process: a greenlet in which the lock's own code runs, from operation to operation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

from evidence.explorer.simulated.machine import SimulatedClaims, SimulatedMachine, SimulatedProcesses
from evidence.explorer.simulated.memory import SimulatedMemory
from evidence.explorer.simulated.operations import CALLS, LATE, Abort, Interrupt, Operation, Violation
from mpbakery._system.identity import Process as Identity

if TYPE_CHECKING:
    from evidence.explorer.simulated.world import World

#: A call in the lock's code is over. What comes next in that code is not an operation, but perhaps a look at what
#: handlers change: so they run here, and not before the next operation.
_RETURN = Operation("return")
#: Which functions of a waiter begin such a look, and by what they load.
_BEGINNINGS = {("numbers", "_ahead"), ("look", "await_turn")}


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
        self.acquiring = False  # and not in a handler yet, nor on the way out with an exception
        #: it is acquiring, has begun to store, and an exception will be its first: it makes good what that cuts off
        self.will_undo = False
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
            self.acquiring = True
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
            self.acquiring = self.acquiring and self.depth > 0
            self.will_undo = self.will_undo and self.depth > 0
        if got:
            self.perform("enter")
        else:
            self.told = min(self.told, told)
            self.world.check_nothing_left(self, before)
        return got

    def work(self) -> None:
        """Use what the lock protects."""
        self._begin_call()
        self.world.work(self)

    def release(self) -> None:
        """Release the lock, whoever holds it."""
        self._begin_call()
        self.keeps = self.keeps and self.depth > 0
        self.perform("leave")
        self.lock.release()

    def is_late(self) -> bool:
        """Whether the time of the innermost acquire with a timeout is up."""
        return bool(self.limits) and self.late > self.limits[-1]

    # --- How its steps come about ---------------------------------------------------------------------------------

    def perform(self, kind: str, word: int = -1, value: Any = None, seconds: float = 0.0) -> Any:
        """One operation, when it is this process's turn."""
        operation = Operation(kind, word, value, seconds)
        self._await_turn(operation)
        self.see(kind)  # or two places in the code, between which nothing is loaded, would be taken for one
        if kind == "store" and self.acquiring and not self.depth:
            self.will_undo = True
        result = self.world.execute(self, operation)
        self.after_call = kind in CALLS and not (kind == "park" and result)  # then the call goes on with a sleep
        if self.after_call:
            self._await_turn(_RETURN)
            self.after_call = False
        return result

    def _await_turn(self, operation: Operation) -> None:
        """Return when it is this process's turn to perform the operation."""
        world = self.world
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
            self.acquiring = self.acquiring and self.depth > 1
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
        fence = getattr(getattr(slot.free, "__self__", None), "taken", None)
        return (
            (slot.index, slot.attempt, slot.announced, slot.entered, slot.left, fence, slot.until),
            (getattr(slot, "high", None), getattr(slot, "others", None)),
            (line.recovered[0], line._looked, tuple(self.table._mine.values()), len(self.table._turnstile)),
        )

    def remember_less(self) -> None:
        """Where a waiter looks anew, what it goes on with is in its attributes, not in its history.

        It does so at the line, or, if it is at the head, at the lock.
        """
        looking, caller = sys._getframe(2), sys._getframe(3)
        if self.depth or (looking.f_code.co_name, caller.f_code.co_name) not in _BEGINNINGS:
            return
        waiter = caller.f_locals["self"]
        looked = round(waiter._looked - self.world.epoch - self.late * LATE, 3)
        same = waiter.generation is waiter._slot.generation
        state = (waiter._ticket, waiter._at_head, waiter.recovering, same, looked)
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
