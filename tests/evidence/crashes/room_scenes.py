"""What the scenes have in common in which heirs wait in a room: those of events, conditions and barriers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import mpbakery
from evidence.crashes.crashes import Scene, Stage
from evidence.crashes.meter import parts_of
from mpbakery._system.layout import NUMBERS, PID, record_of
from support.workers import Puppet, wait_until

R = TypeVar("R", mpbakery.Event, mpbakery.Condition, mpbakery.Barrier)


def taking_and_leaving(lock: str) -> frozenset[str]:
    """What everybody does with the lock inside, by what that is called."""
    return frozenset({"none", f"store OWNER of the {lock}", f"clear HELD of the {lock}"})


class RoomScene(Scene[R]):
    """A scene with two heirs that wait in a room."""

    slots = 4
    heirs = 2

    def waiting(self, shared: R) -> Sequence[object]:
        """The slots of those who wait."""
        return shared._room.waiting()

    def seat(self, stage: Stage[R], *waiters: Puppet, order: str = "wait") -> None:
        """Have these wait in turn, and stop each one there, so that it is not chance what the victim finds."""
        locks = [part for part in parts_of(stage.shared) if isinstance(part, mpbakery.Lock)]
        for waiter in waiters:
            waiter.begin(order, 2 * stage.limit)
            stops = functools.partial(self._stops_in_its_place, stage, waiter, locks)
            wait_until(stops, "one who waits, stopped there")
        for lock in locks:
            # whoever was stopped right after it had released the lock may have left a hint that somebody is parked
            with stage.listening(), lock:
                pass

    def _stops_in_its_place(self, stage: Stage[R], waiter: Puppet, locks: Sequence[mpbakery.Lock]) -> bool:
        """Stop one, unless it is not there yet, or has not released the lock; whether it stands still."""
        waiter.stop()
        if self.number_of(stage, waiter.pid) and not any(lock.locked() for lock in locks):
            return True
        waiter.go_on()
        return False

    def number_of(self, stage: Stage[R], pid: int) -> int:
        """A process's number in the room: 0, its ticket, or how it was let go."""
        memory = stage.shared._memory
        (slot,) = [slot for slot in range(memory.slots) if memory.words[record_of(memory.slots, slot) + PID] == pid]
        return memory.words[NUMBERS + slot]
