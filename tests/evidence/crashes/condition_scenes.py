"""The scenes with a condition: every thing that a process does with it."""

from __future__ import annotations

import time
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from evidence.crashes.crashes import Ledger, Scene, Stage, occupy
from evidence.crashes.room_scenes import RoomScene, taking_and_leaving
from evidence.crashes.scenes import SOON
from mpbakery._system.layout import LET_GO
from support.workers import Puppet


class ConditionScene(RoomScene[mpbakery.Condition]):
    """A victim does something with a condition. Outcomes are how many notifications are on their way when it is dead.

    Here the heirs wait from the beginning.
    """

    #: One more than are needed, for a newcomer.
    slots = 5

    def make(self, ctx: BaseContext) -> mpbakery.Condition:
        """A condition over a recursive lock."""
        return mpbakery.Condition(mpbakery.RLock(slots=self.slots, ctx=ctx), slots=self.slots)

    def seat_heirs(self, stage: Stage[mpbakery.Condition]) -> None:
        """Have the heirs wait, and not move."""
        self.seat(stage, *stage.heirs, order="wait_under")

    def set_up(self, stage: Stage[mpbakery.Condition]) -> None:
        """The heirs wait."""
        self.seat_heirs(stage)

    def survive(self, stage: Stage[mpbakery.Condition]) -> None:
        """As many heirs as there are notifications go on, those who wait longest; the others by one more each."""
        stage.victim.await_death()
        numbers = stage.shared._room.numbers()
        stage.outcome = notified = numbers.count(LET_GO)
        occupy(
            stage.shared, 1
        )  # a newcomer must not take the slot of one who was notified, as long as there is another
        went_on = time.monotonic()
        for heir in stage.heirs:
            heir.go_on()
        for place, heir in enumerate(stage.heirs):
            if place >= notified:
                assert not heir.has_answered(), f"there were {notified} notifications, and one more went on"
                went_on = time.monotonic()
                with stage.listening(), stage.shared:
                    stage.shared.notify()
            assert stage.end_of(heir, went_on) is True, f"heir {place} does not know of its notification: {numbers}"
        with stage.listening(), stage.shared:
            stage.shared.notify()  # nobody: the dead, who may still stand in the line, are passed over


class Notify(ConditionScene):
    """Two wait."""

    outcomes: tuple[object, ...] = (0, 1)
    operations = taking_and_leaving("RLock") | {"store NUMBERS[1]", "unpark"}

    def act(self, condition: mpbakery.Condition, ledger: Ledger) -> None:
        """Notify one."""
        with condition:
            condition.notify()


class NotifyAll(Notify):
    """Two wait."""

    outcomes: tuple[object, ...] = (0, 1, 2)
    operations = Notify.operations | {"store NUMBERS[2]"}

    def act(self, condition: mpbakery.Condition, ledger: Ledger) -> None:
        """Notify both."""
        with condition:
            condition.notify_all()


class WaitForNotification(ConditionScene):
    """The lead notifies when the victim sleeps in the room, or is dead, and the heirs wait behind it."""

    outcomes: tuple[object, ...] = (1, 0)
    operations = taking_and_leaving("RLock") | {"store NUMBERS[3]", "park", "wake up"}

    def set_up(self, stage: Stage[mpbakery.Condition]) -> None:
        """Not yet: the heirs come later."""

    def act(self, condition: mpbakery.Condition, ledger: Ledger) -> None:
        """Wait."""
        with condition:
            assert condition.wait()

    def survive(self, stage: Stage[mpbakery.Condition]) -> None:
        """Notify one."""
        stage.victim.sleeps()
        self.seat_heirs(stage)
        stage.victim.stop()  # or it would be chance whether it finds the lock free
        with stage.shared:
            stage.shared.notify()
        stage.victim.go_on()
        super().survive(stage)


class GiveUpNotification(WaitForNotification):
    """Nobody notifies for longer than the victim waits; the heirs wait behind it."""

    outcomes: tuple[object, ...] = (0,)

    def act(self, condition: mpbakery.Condition, ledger: Ledger) -> None:
        """Wait for long enough."""
        with condition:
            assert not condition.wait(SOON)

    def survive(self, stage: Stage[mpbakery.Condition]) -> None:
        """End the victim's sleep."""
        stage.victim.sleeps()
        self.seat_heirs(stage)
        stage.victim.end_sleep()
        ConditionScene.survive(self, stage)


class PassNotificationOn(GiveUpNotification):
    """Somebody was notified and died before it knew; the victim passes that on to the first heir, and gives up."""

    slots = 6
    # the dead one's; the heir's as well, until the dead one is cleared away; the heir's
    outcomes: tuple[object, ...] = (1, 2, 1)
    operations = frozenset({"none", "store NUMBERS[1]", "unpark", "store NUMBERS[4]", "park", "wake up"})

    def set_up(self, stage: Stage[mpbakery.Condition]) -> None:
        """Notify the one that waits longest, and kill it; the heirs wait."""
        waiter = Puppet(stage.crew, stage.shared)
        waiter("register")
        self.seat(stage, waiter, order="wait_under")
        self.seat_heirs(stage)
        with stage.shared:
            stage.shared.notify()
        stage.kill(waiter)

    def survive(self, stage: Stage[mpbakery.Condition]) -> None:
        """End the victim's sleep."""
        stage.victim.sleeps()
        stage.victim.end_sleep()
        ConditionScene.survive(self, stage)


SCENES: tuple[type[Scene[Any]], ...] = (
    Notify,
    NotifyAll,
    WaitForNotification,
    GiveUpNotification,
    PassNotificationOn,
)
