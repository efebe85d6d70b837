"""The scenes that victims are killed in with the rest of the family: every thing that a process does with these."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from threading import BrokenBarrierError
from typing import Any, TypeVar

import scenes
from crashes import Ledger, Scene, Stage
from line_scenes import LineScene
from meter import End, parts_of
from scenes import SOON
from workers import Puppet, wait_until

import mpbakery
from mpbakery._memory import LET_GO, NUMBERS, PID, TURNED_AWAY, record_of

R = TypeVar("R", mpbakery.Event, mpbakery.Condition, mpbakery.Barrier)

#: What everybody does with the lock of a condition, or a barrier.
TAKING_AND_LEAVING = frozenset({"none", "store OWNER of the rlock", "clear HELD of the rlock"})
#: What becomes of the heirs at a barrier to which the victim did not come.
THEY_WAIT = "they wait"

# --- Recursive locks: what is done with a lock, and what differs ----------------------------------------------------


class AcquireRLock(scenes.Acquire):
    """Nobody else wants it."""

    kind = mpbakery.RLock


class AcquireRLockBehindHolder(scenes.AcquireBehindHolder):
    """The lead holds it."""

    kind = mpbakery.RLock


class TakeOverRLock(scenes.TakeOver):
    """Its owner has died."""

    kind = mpbakery.RLock


class GiveUpRLock(scenes.GiveUp):
    """The lead holds it for longer than the victim waits."""

    kind = mpbakery.RLock


class HoldRLockTwice(scenes.Hold):
    """The victim holds it, acquires it once more, writes into the ledger, and releases once; the heir waits."""

    kind = mpbakery.RLock
    operations = frozenset({"none", "load OWNER", "store ledger[0]", "store ledger[1]", "clear HELD"})

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire, write, and release."""
        with lock:
            ledger[0] += 1
            ledger[1] += 1


class ReleaseRLock(scenes.Release):
    """Nobody waits."""

    kind = mpbakery.RLock

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Hold it, and have held it twice."""
        lock.acquire()
        lock.acquire()
        lock.release()


class ReleaseRLockToHeir(scenes.ReleaseToHeir):
    """The heir waits."""

    kind = mpbakery.RLock


# --- Semaphores ----------------------------------------------------------------------------------------------------


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
        assert stage.end_of(stage.heir, went_on) is True, f"the heir got no permit within {2 * stage.limit} s"
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
    operations = TakePermit.operations | {"store HUNGRY", "store PARK[2]", "park", "wake up"}

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
    operations = frozenset({"none", "store ENTERED[2]", "clear HELD", "load HUNGRY"})

    def prepare(self, semaphore: mpbakery.Semaphore) -> None:
        """Have a permit."""
        semaphore.acquire()

    def act(self, semaphore: mpbakery.Semaphore, ledger: Ledger) -> None:
        """Release."""
        semaphore.release()


class GivePermitToHeir(GivePermit):
    """The victim has the only permit, and the heir waits for it."""

    permits = 1
    outcomes: tuple[object, ...] = (0, 1)
    operations = GivePermit.operations | {"store HUNGRY", "store PARK[1]", "unpark"}

    def set_up(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """The heir sleeps in the line, and does not move."""
        self.freeze_heir(stage)

    def survive(self, stage: Stage[mpbakery.Semaphore]) -> None:
        """The heir has the permit, or the next one."""
        self.serve_heir(stage)


# --- Rooms to wait in ----------------------------------------------------------------------------------------------


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
            wait_until(lambda: self._stops_in_its_place(stage, waiter, locks), "one who waits, stopped there")  # noqa: B023
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


class ConditionScene(RoomScene[mpbakery.Condition]):
    """A victim does something with a condition. Outcomes are how many notifications are on their way when it is dead.

    Here the heirs wait from the beginning.
    """

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
    operations = frozenset(
        {"none", "store OWNER of the rlock", "store NUMBERS[1]", "unpark", "clear HELD of the rlock"}
    )

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
    operations = TAKING_AND_LEAVING | {"store NUMBERS[3]", "park", "wake up"}

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

    slots = 5
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
        waiter.kill()
        stage.crew.processes.remove(waiter.process)

    def survive(self, stage: Stage[mpbakery.Condition]) -> None:
        """End the victim's sleep."""
        stage.victim.sleeps()
        stage.victim.end_sleep()
        ConditionScene.survive(self, stage)


class BarrierScene(RoomScene[mpbakery.Barrier]):
    """A victim does something with a barrier for three.

    Outcomes are how many heirs are let through when it is dead, or THEY_WAIT.
    Here the heirs wait from the beginning.
    """

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
        went_on = time.monotonic()
        for heir in stage.heirs:
            heir.go_on()
        self.judge(stage, went_on, [number == LET_GO for number in numbers])

    def judge(self, stage: Stage[mpbakery.Barrier], since: float, let_go: Sequence[bool]) -> None:
        """Insist that those heirs are through, and the others not; and that three can meet again afterwards."""
        if stage.outcome == THEY_WAIT:
            self.meet(stage)
        else:
            assert [self.is_through(stage, heir, since) for heir in stage.heirs] == [*let_go]
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
    operations = frozenset(
        {
            "none",
            "store OWNER of the rlock",
            "store NUMBERS[1]",
            "store NUMBERS[2]",
            "unpark",
            "clear HELD of the rlock",
        }
    )

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Come."""
        barrier.wait()


class ComeFirst(BarrierScene):
    """The heirs come when the victim sleeps in the room, or is dead."""

    outcomes: tuple[object, ...] = (THEY_WAIT, 0, 2)
    operations = TAKING_AND_LEAVING | {"store NUMBERS[3]", "park", "wake up"}

    def set_up(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Not yet: the heirs come later."""

    def act(self, barrier: mpbakery.Barrier, ledger: Ledger) -> None:
        """Come."""
        barrier.wait()

    def survive(self, stage: Stage[mpbakery.Barrier]) -> None:
        """Both heirs are let through, if the victim waits; else turned away, or they wait for the lead."""
        if stage.victim.sleeps():
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
        else:
            stage.victim.await_death()
            stage.outcome = 0 if self.has_come(stage) else THEY_WAIT
            since = time.monotonic()
            for heir in stage.heirs:
                heir.begin("wait", 2 * stage.limit)
        self.judge(stage, since, [stage.outcome == 2] * 2)


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


FAMILY_SCENES: tuple[type[Scene[Any]], ...] = (
    AcquireRLock,
    AcquireRLockBehindHolder,
    TakeOverRLock,
    GiveUpRLock,
    HoldRLockTwice,
    ReleaseRLock,
    ReleaseRLockToHeir,
    TakePermit,
    TakePermitInLine,
    GiveUpPermit,
    GivePermit,
    GivePermitToHeir,
    SetEvent,
    ClearEvent,
    WaitForEventThatIsSet,
    WaitForEvent,
    GiveUpEvent,
    Notify,
    NotifyAll,
    WaitForNotification,
    GiveUpNotification,
    PassNotificationOn,
    ComeLast,
    ComeFirst,
    Abort,
    Reset,
)
