"""The scenes with a semaphore: every thing that a process does with it, alone and among others."""

from __future__ import annotations

import time
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from evidence.crashes.crashes import Ledger, Scene, Stage
from evidence.crashes.line_scenes import LineScene
from evidence.crashes.scenes import SOON


class SemaphoreScene(LineScene[mpbakery.Semaphore]):
    """A victim does something with a semaphore. Outcomes are how many permits there are when it is dead.

    Here nobody else uses the semaphore meanwhile.
    """

    #: How many permits there are in the beginning.
    permits = 2

    def make(self, ctx: BaseContext) -> mpbakery.Semaphore:
        """A semaphore."""
        return mpbakery.Semaphore(self.permits, slots=self.slots, ctx=ctx)

    def survive(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """See how many permits there are, and that they can be had."""
        stage.victim.await_death()
        stage.outcome = stage.shared.get_value()
        self.audit(stage)

    def serve_heir(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """When the victim is dead, insist that the heir, who stands in the line, is served with the next permit."""
        stage.victim.await_death()
        stage.outcome = stage.shared.get_value()
        went_on = time.monotonic()
        stage.heir.go_on()
        if not stage.outcome:
            stage.shared.release()
        assert stage.end_of(stage.heir, went_on) is True, "the heir got no permit"
        stage.heir("release")
        self.audit(stage)

    def audit(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """Insist that as many permits can be had as there are, and have as many again as in the beginning."""
        semaphore = stage.shared
        value = semaphore.get_value()
        for permit in range(value):
            assert semaphore.acquire(True, stage.limit), f"of {value} permits, {permit} could be had"
        assert not semaphore.acquire(False), f"there were {value} permits, and one more could be had"
        for _ in range(self.permits):
            semaphore.release()


class TakePermit(SemaphoreScene):
    """There are two permits."""

    outcomes: tuple[object, ...] = (2, 1)
    operations = frozenset({"none", "store NUMBERS[2]", "load TAKEN", "store TAKEN"})

    def act(self, semaphore: mpbakery.Semaphore, ledger: Ledger) -> None:
        """Acquire."""
        semaphore.acquire()


class TakePermitInLine(TakePermit):
    """The lead has the only permit until the victim sleeps in the line, or is dead, and the heir stands behind it."""

    permits = 1
    outcomes: tuple[object, ...] = (1, 0)
    operations = TakePermit.operations | {"store ATTENTION", "store PARK[2]", "park", "wake up"}

    def set_up(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """The lead has the permit."""
        stage.shared.acquire()

    def survive(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """Give the permit back, and see the heir served after the victim."""
        stage.victim.sleeps()
        self.freeze_heir(stage)
        stage.shared.release()
        self.serve_heir(stage)


class GiveUpPermit(TakePermitInLine):
    """The lead has the only permit for longer than the victim waits; the heir stands behind the victim."""

    outcomes: tuple[object, ...] = (0,)
    operations = TakePermitInLine.operations - {"store TAKEN"}

    def act(self, semaphore: mpbakery.Semaphore, ledger: Ledger) -> None:
        """Wait, and get nothing."""
        assert not semaphore.acquire(True, SOON)

    def survive(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """End the victim's sleep, and see the heir served when it is dead."""
        stage.victim.sleeps()
        self.freeze_heir(stage)
        stage.victim.end_sleep()
        self.serve_heir(stage)


class GivePermit(SemaphoreScene):
    """The victim has one of two permits, and nobody waits."""

    outcomes: tuple[object, ...] = (1, 2)
    # the word that is called ENTERED in a lock
    operations = frozenset({"none", "store ENTERED[2]", "clear HELD", "load ATTENTION"})

    def prepare(self, semaphore: mpbakery.Semaphore) -> None:
        """Have a permit, and have given one back, or it would not show if that was forgotten."""
        semaphore.acquire()
        semaphore.release()
        semaphore.acquire()

    def act(self, semaphore: mpbakery.Semaphore, ledger: Ledger) -> None:
        """Release."""
        semaphore.release()


class GiveOneMorePermit(GivePermit):
    """The victim has neither a permit nor a slot."""

    outcomes: tuple[object, ...] = (2, 3)
    operations = GivePermit.operations | {"lock the claims", "store PID[2]", "unlock the claims"}

    def prepare(self, semaphore: mpbakery.Semaphore) -> None:
        """Not even a slot."""


class GivePermitToHeir(GivePermit):
    """The victim has the only permit, and the heir waits for it."""

    permits = 1
    outcomes: tuple[object, ...] = (0, 1)
    operations = GivePermit.operations | {"store ATTENTION", "store PARK[1]", "unpark"}

    def set_up(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """The heir sleeps in the line, and does not move."""
        self.freeze_heir(stage)

    def survive(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """The heir has the permit, or the next one."""
        self.serve_heir(stage)


class Bounded(SemaphoreScene):
    """The same with a bounded semaphore."""

    def make(self, ctx: BaseContext) -> mpbakery.Semaphore:
        """A bounded semaphore."""
        return mpbakery.BoundedSemaphore(self.permits, slots=self.slots, ctx=ctx)


class TakeBoundedPermit(Bounded, TakePermit):
    """There are two permits, and no more can be given."""


class GiveBoundedPermit(Bounded, GivePermit):
    """The victim has one of two permits, and nobody waits."""

    operations = GivePermit.operations | {"load TAKEN"}


SCENES: tuple[type[Scene[Any]], ...] = (
    TakePermit,
    TakePermitInLine,
    GiveUpPermit,
    GivePermit,
    GiveOneMorePermit,
    GivePermitToHeir,
    TakeBoundedPermit,
    GiveBoundedPermit,
)
