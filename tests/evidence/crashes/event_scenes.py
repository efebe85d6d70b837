"""The scenes with an event: every thing that a process does with it."""

from __future__ import annotations

import time
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from evidence.crashes.crashes import Ledger, Scene, Stage
from evidence.crashes.room_scenes import RoomScene
from evidence.crashes.scenes import SOON


class EventScene(RoomScene[mpbakery.Event]):
    """A victim does something with an event. Outcomes are whether the event is set when it is dead.

    Here the heirs wait from the beginning.
    """

    def make(self, ctx: BaseContext) -> mpbakery.Event:
        """An event."""
        return mpbakery.Event(slots=self.slots, ctx=ctx)

    def set_up(self, stage: Stage[mpbakery.Event]) -> None:
        """The heirs wait."""
        self.seat(stage, *stage.heirs)

    def survive(self, stage: Stage[mpbakery.Event]) -> None:
        """The heirs go on as soon as the event is set, by the lead if it is not; and wait once it is cleared."""
        stage.victim.await_death()
        stage.outcome = stage.shared.is_set()
        went_on = time.monotonic()
        for heir in stage.heirs:
            heir.go_on()
        if not stage.outcome:
            assert not any(heir.has_answered() for heir in stage.heirs), "the event is not set, and an heir went on"
            stage.shared.set()
        for heir in stage.heirs:
            assert stage.end_of(heir, went_on) is True, "the event is set, and an heir does not know it"
        stage.shared.clear()
        assert stage.heir("wait", 0) is False, "the event is cleared, and the heir does not wait"


class SetEvent(EventScene):
    """The event is not set."""

    outcomes: tuple[object, ...] = (False, True)
    operations = frozenset({"none", "store FLAG", "list a span", "store NUMBERS[1]", "store NUMBERS[2]", "unpark"})

    def act(self, event: mpbakery.Event, ledger: Ledger) -> None:
        """Set it."""
        event.set()


class ClearEvent(EventScene):
    """The event is set, and nobody waits."""

    outcomes: tuple[object, ...] = (True, False)
    operations = frozenset({"none", "store FLAG"})

    def set_up(self, stage: Stage[mpbakery.Event]) -> None:
        """Set the event."""
        stage.shared.set()

    def act(self, event: mpbakery.Event, ledger: Ledger) -> None:
        """Clear it."""
        event.clear()

    def survive(self, stage: Stage[mpbakery.Event]) -> None:
        """The heirs wait when the victim is dead."""
        stage.victim.await_death()
        for heir in stage.heirs:
            heir.begin("wait", 2 * stage.limit)
        super().survive(stage)


class WaitForEventThatIsSet(ClearEvent):
    """The event is set."""

    outcomes: tuple[object, ...] = (True,)
    operations = frozenset({"none", "load FLAG"})

    def act(self, event: mpbakery.Event, ledger: Ledger) -> None:
        """Wait for nothing."""
        assert event.wait()


class WaitForEvent(EventScene):
    """The lead sets the event when the victim sleeps in the room, or is dead."""

    outcomes: tuple[object, ...] = (True,)
    operations = frozenset({"none", "load FLAG", "store NUMBERS[3]", "park", "wake up"})

    def act(self, event: mpbakery.Event, ledger: Ledger) -> None:
        """Wait."""
        assert event.wait()

    def survive(self, stage: Stage[mpbakery.Event]) -> None:
        """Set the event."""
        stage.victim.sleeps()
        stage.shared.set()
        super().survive(stage)


class GiveUpEvent(WaitForEvent):
    """The event is not set for longer than the victim waits."""

    outcomes: tuple[object, ...] = (False,)

    def act(self, event: mpbakery.Event, ledger: Ledger) -> None:
        """Wait for long enough."""
        assert not event.wait(SOON)

    def survive(self, stage: Stage[mpbakery.Event]) -> None:
        """End the victim's sleep."""
        stage.victim.sleeps()
        stage.victim.end_sleep()
        EventScene.survive(self, stage)


SCENES: tuple[type[Scene[Any]], ...] = (
    SetEvent,
    ClearEvent,
    WaitForEventThatIsSet,
    WaitForEvent,
    GiveUpEvent,
)
