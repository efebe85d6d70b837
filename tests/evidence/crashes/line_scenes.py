"""What the scenes have in common in which an heir stands in a line: that of a lock, or of a semaphore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import mpbakery
from evidence.crashes.crashes import Scene, Stage
from mpbakery._system.layout import ATTENTION, PARK, PID, record_of
from support.workers import Puppet, wait_until

L = TypeVar("L", mpbakery.Lock, mpbakery.Semaphore)


class LineScene(Scene[L]):
    """A scene with one heir, which acquires."""

    def waiting(self, shared: L) -> Sequence[object]:
        """Who stands in the line."""
        return shared.statistics().waiters

    def lose_in_line(self, stage: Stage[L]) -> None:
        """One more process, which was killed while it slept in the line."""
        waiter = Puppet(stage.crew, stage.shared)
        waiter.begin("acquire")
        self._await_in_line(stage, waiter.pid)
        stage.kill(waiter)

    def queue_heir(self, stage: Stage[L]) -> None:
        """Have the heir stand in the line, if it has to wait at all."""
        stage.heir.begin("acquire", True, 2 * stage.limit)
        self._await_in_line(stage, stage.heir.pid)

    def _await_in_line(self, stage: Stage[L], pid: int) -> None:
        def is_in_line() -> bool:
            return pid in [waiter.pid for waiter in stage.shared.statistics().waiters]

        wait_until(lambda: is_in_line() or any(heir.has_answered() for heir in stage.heirs), "a place in the line")

    def put_heir_to_sleep(self, stage: Stage[L]) -> None:
        """Have the heir stand in the line, and sleep there."""
        self.queue_heir(stage)
        park = self._park_of_heir(stage)
        wait_until(lambda: stage.shared._memory.words[park], "a sleeping heir", 2 * stage.limit)

    def freeze_heir(self, stage: Stage[L]) -> None:
        """The same, and stop it there, so that it is not chance what the victim finds."""
        self.put_heir_to_sleep(stage)
        words = stage.shared._memory.words
        park = self._park_of_heir(stage)

        def stops_asleep() -> bool:
            # From time to time it wakes up and looks around: whom the victim meets awake it does not wake.
            stage.heir.stop()
            if words[park] and words[ATTENTION]:
                return True
            stage.heir.go_on()
            return False

        wait_until(stops_asleep, "the heir stopped in its sleep")

    def _park_of_heir(self, stage: Stage[L]) -> int:
        """The heir's PARK word."""
        memory = stage.shared._memory
        records = [record_of(memory.slots, slot) for slot in range(memory.slots)]
        (park,) = [record + PARK for record in records if memory.words[record + PID] == stage.heir.pid]
        return park
