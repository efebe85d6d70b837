"""The scenes with a barrier: every thing that a process does with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from threading import BrokenBarrierError
from typing import Any

import mpbakery
from evidence.crashes.crashes import Ledger, Scene, Stage, occupy
from evidence.crashes.meter import End
from evidence.crashes.room_scenes import RoomScene, taking_and_leaving
from evidence.crashes.scenes import SOON
from mpbakery._system.layout import LET_GO, TURNED_AWAY
from support.workers import Puppet, wait_until

#: What becomes of the heirs at a barrier to which the victim did not come.
THEY_WAIT = "they wait"


class BarrierScene(RoomScene[mpbakery.Barrier]):
    """A victim does something with a barrier for three.

    Outcomes are how many heirs are let through when it is dead, or THEY_WAIT.
    Here the heirs wait from the beginning.
    """

    #: One more than are needed, for a newcomer.
    slots = 5

    def make(self, ctx: BaseContext) -> mpbakery.Barrier:
        """A barrier."""
        return mpbakery.Barrier(3, slots=self.slots, ctx=ctx)

    def set_up(self, stage: Stage[mpbakery.Barrier]) -> None:
        """The heirs wait."""
        self.seat(stage, *stage.heirs)

    def survive(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Those go through who were let go, and the others are turned away, or wait for the lead."""
        stage.victim.await_death()
        numbers = [self.number_of(stage, heir.pid) for heir in stage.heirs]
        broken = TURNED_AWAY in numbers or self.has_come(stage)
        stage.outcome = numbers.count(LET_GO) if broken or LET_GO in numbers else THEY_WAIT
        occupy(stage.shared, 1)  # a newcomer must not take the slot of a dead party, as long as there is another
        went_on = time.monotonic()
        for heir in stage.heirs:
            heir.go_on()
        self.judge(stage, went_on, [number == LET_GO for number in numbers])

    def judge(self, stage: Stage[mpbakery.Barrier], since: float, let_go: Sequence[bool]) -> None:
        """Insist that those heirs are through, and the others not; and that three can meet again afterwards."""
        if stage.outcome == THEY_WAIT:
            self.meet(stage)
        else:
            through = [self.is_through(stage, heir, since) for heir in stage.heirs]
            assert through == [*let_go], f"which heirs were let through: {through} instead of {let_go}"
        if stage.shared.broken:
            stage.shared.reset()
        for heir in stage.heirs:
            heir.begin("wait", 2 * stage.limit)
        self.meet(stage)

    def has_come(self, stage: Stage[mpbakery.Barrier]) -> bool:
        """Whether the dead victim has left the barrier broken, or its state in the middle of a change, or waits."""
        barrier = stage.shared
        return barrier.broken or barrier._guard.locked() or self.number_of(stage, stage.victim.pid) != 0

    def is_through(self, stage: Stage[mpbakery.Barrier], heir: Puppet, since: float) -> bool:
        """Whether an heir is let through, or turned away."""
        with contextlib.suppress(BrokenBarrierError):
            return stage.end_of(heir, since) in range(3)
        return False

    def meet(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Come as the third party, and see all go through."""
        since = time.monotonic()
        places = [stage.shared.wait(2 * stage.limit), *(stage.end_of(heir, since) for heir in stage.heirs)]
        assert sorted(places) == [0, 1, 2], f"three parties were let through as {places}"

    def deaths(self, stage: Stage[Any], end: End) -> list[int]:
        """None: what a death means, the barrier says."""
        return []


class ComeLast(BarrierScene):
    """Two wait, and the victim is the third."""

    outcomes: tuple[object, ...] = (THEY_WAIT, 0, 1, 2)
    operations = taking_and_leaving("_Guard") | {"store NUMBERS[1]", "store NUMBERS[2]", "unpark"}

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Come."""
        barrier.wait()


class ComeFirst(BarrierScene):
    """The heirs come when the victim sleeps in the room, or is dead."""

    outcomes: tuple[object, ...] = (THEY_WAIT, 0, 2)
    operations = taking_and_leaving("_Guard") | {"store NUMBERS[3]", "park", "wake up"}

    def set_up(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Not yet: the heirs come later."""

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Come."""
        barrier.wait()

    def survive(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Both heirs are let through, if the victim waits."""
        if not stage.victim.sleeps():
            self.come_too_late(stage)
            return
        first, last = stage.heirs
        self.seat(stage, first)
        stage.victim.stop()  # or it would be chance whether it finds the barrier's state free
        since = time.monotonic()
        last.begin("wait", 2 * stage.limit)
        wait_until(last.has_answered, "the last party let through")
        stage.victim.go_on()
        stage.victim.await_death()
        stage.outcome = 2
        first.go_on()
        self.judge(stage, since, [True, True])

    def come_too_late(self, stage: Stage[mpbakery.Barrier]) -> None:
        """The heirs come when the victim is dead: they are turned away, if it had come, or wait for the lead."""
        stage.victim.await_death()
        stage.outcome = 0 if self.has_come(stage) else THEY_WAIT
        occupy(stage.shared, 1)  # as above
        since = time.monotonic()
        for heir in stage.heirs:
            heir.begin("wait", 2 * stage.limit)
        self.judge(stage, since, [False, False])


class GiveUpBarrier(ComeFirst):
    """Nobody else comes for longer than the victim waits."""

    outcomes: tuple[object, ...] = (THEY_WAIT, 0)
    operations = ComeFirst.operations | {"store FLAG"}

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Wait for long enough."""
        with contextlib.suppress(BrokenBarrierError):
            barrier.wait(SOON)

    def survive(self, stage: Stage[mpbakery.Barrier]) -> None:
        """End the victim's sleep."""
        stage.victim.sleeps()
        stage.victim.end_sleep()
        self.come_too_late(stage)


class FindTheDead(GiveUpBarrier):
    """Somebody who waits dies while the victim sleeps, which looks after it when it has slept for a while."""

    slots = 6
    outcomes: tuple[object, ...] = (0,)
    operations = GiveUpBarrier.operations | {"load PID[4]", "store NUMBERS[4]"}

    def set_up(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Somebody waits."""
        self._waiter = Puppet(stage.crew, stage.shared)
        self._waiter("register")
        self.seat(stage, self._waiter)

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Wait until somebody dies."""
        with contextlib.suppress(BrokenBarrierError):
            barrier.wait()

    def survive(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Kill the one that waits, and end the victim's sleep."""
        stage.victim.sleeps()
        stage.kill(self._waiter)
        stage.victim.end_sleep()
        self.come_too_late(stage)

    def has_come(self, stage: Stage[mpbakery.Barrier]) -> bool:
        """Whether it has or not: there is the other one."""
        return True


class Abort(BarrierScene):
    """Two wait."""

    outcomes: tuple[object, ...] = (THEY_WAIT, 0)
    operations = ComeLast.operations | {"store FLAG"}

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Abort."""
        barrier.abort()


class Reset(Abort):
    """Two wait."""

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Reset."""
        barrier.reset()


SCENES: tuple[type[Scene[Any]], ...] = (
    ComeLast,
    ComeFirst,
    GiveUpBarrier,
    FindTheDead,
    Abort,
    Reset,
)
