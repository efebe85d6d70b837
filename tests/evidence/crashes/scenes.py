"""The scenes that victims are killed in: every thing that a process does with a lock, alone and among others."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, ClassVar

import mpbakery
from evidence.crashes.crashes import Ledger, Scene, Stage
from evidence.crashes.line_scenes import LineScene
from evidence.crashes.meter import End
from support.workers import PATIENCE, in_thread

#: How long those victims want to wait whose time is to be up when they are woken (s).
SOON = 1e-4


def acquire(lock: mpbakery.Lock) -> None:
    """Acquire, and leave it at that."""
    lock.acquire()


class LockScene(LineScene[mpbakery.Lock]):
    """A victim does something with a lock. Outcomes are whether it held the lock in the end.

    Here nobody disturbs the victim, and the lead acquires when it is dead.
    """

    kind: ClassVar[type[mpbakery.Lock]] = mpbakery.Lock
    #: for how long who has entered may come again without standing in line (s): for as long as the test takes, or never
    tenure: float = math.inf
    outcomes: tuple[object, ...] = (False,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: the owner that dies before the victim does anything
        self._dead_owner = 0

    def make(self, ctx: BaseContext) -> mpbakery.Lock:
        """A lock."""
        return self.kind(slots=self.slots, tenure=self.tenure, ctx=ctx)

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead acquires."""
        self.acquire(stage, stage.victim.await_death().moment)

    def lose(self, stage: Stage[mpbakery.Lock], target: Callable[[mpbakery.Lock], object]) -> int:
        """The pid of one more process, which has run `target(lock)` and ended."""
        process = stage.crew.start(target, stage.shared)
        process.join(PATIENCE)
        assert process.exitcode == 0
        stage.crew.processes.remove(process)
        return process.pid or 0

    def inherit(self, stage: Stage[mpbakery.Lock], since: float) -> None:
        """Insist that the heir has the lock soon after that moment, and nobody else has."""
        heir, lock = stage.heir, stage.shared
        assert heir.end() is True, f"the heir did not get the lock within {2 * stage.limit} s"
        self._got_it(stage, stage.hear(heir.warnings), heir.moment - since)
        assert lock.acquire(False) is False, "the heir has the lock, and so has another"
        owner = lock.owner
        assert owner is not None, "the heir has the lock, and nobody holds it"
        assert owner.pid == heir.pid, f"the heir has the lock, and {owner} holds it"
        heir("release")

    def acquire(self, stage: Stage[mpbakery.Lock], since: float) -> None:
        """Insist that this process gets the lock soon after that moment."""
        told_before = len(stage.told)
        with stage.listening():
            got_it = stage.shared.acquire(True, 2 * stage.limit)
        assert got_it is True, f"a newcomer did not get the lock within {2 * stage.limit} s"
        self._got_it(stage, stage.told[told_before:], time.monotonic() - since)
        stage.shared.release()

    def _got_it(self, stage: Stage[mpbakery.Lock], dead: list[int], seconds: float) -> None:
        assert seconds < stage.limit, f"a survivor got the lock after {seconds} s"
        ledger = stage.journal.ledger
        if ledger[0] != ledger[1]:
            assert stage.victim.pid in dead, "data is half written, and whoever got the lock was not told"
            stage.torn += 1

    def deaths(self, stage: Stage[mpbakery.Lock], end: End) -> list[int]:
        """That of the last owner."""
        return super().deaths(stage, end) or ([self._dead_owner] if self._dead_owner else [])


# --- Slots ---------------------------------------------------------------------------------------------------------


class Register(LockScene):
    """The first use that anybody makes of a lock, which has one slot."""

    slots = 1
    fresh = True
    heirs = 0
    operations = frozenset({"none", "lock the claims", "live", "store HIGH", "store PID[0]", "unlock the claims"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register."""
        mpbakery.register(lock)

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead acquires in a thread that ends, and so gives its slot back."""
        in_thread(lambda: super(Register, self).survive(stage))


class FirstAcquire(Register):
    """The same, by acquiring."""

    outcomes: tuple[object, ...] = (False, True)
    operations = Register.operations | {"store NUMBERS[0]", "store HELD[0]", "store OWNER"}

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()


class RegisterAfterDeath(LockScene):
    """A newcomer needs the slot of a dead process."""

    operations = frozenset(
        {"none", "lock the claims", "ask who lives", "store NUMBERS[2]", "store PID[2]", "unlock the claims"}
    )

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """Somebody has registered, and is dead."""
        self.lose(stage, mpbakery.register)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register."""
        mpbakery.register(lock)


class EndOfThread(LockScene):
    """A thread gives its slot back."""

    operations = frozenset({"none", "store PID[2]", "store THREAD[2]"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register in a thread, which ends."""
        in_thread(lambda: mpbakery.register(lock))


# --- Acquire -------------------------------------------------------------------------------------------------------


class Acquire(LockScene):
    """Nobody else wants the lock."""

    outcomes: tuple[object, ...] = (False, True)
    operations = frozenset({"none", "store NUMBERS[2]", "store ENTERED[2]", "store HELD[2]", "store OWNER"})

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()


class AcquireAgain(LockScene):
    """The victim was the last one that had the lock, and need not stand in line."""

    outcomes: tuple[object, ...] = (False, True)
    operations = frozenset({"none", "store HELD[2]", "load OWNER", "store ENTERED[2]"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Be the last one that had the lock."""
        lock.acquire()
        lock.release()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()


class AcquireAgainInLine(AcquireAgain):
    """OWNER points at the victim's word already."""

    tenure = 0
    operations = Acquire.operations - {"store OWNER"}


class AcquireAgainInVain(AcquireAgain):
    """The lead has had the lock since; who comes again finds that out when HELD is filled, and stands in line."""

    operations = Acquire.operations | {"load OWNER"}

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead has been in."""
        with stage.shared:
            pass


class AcquireAgainBeforeHeir(AcquireAgain):
    """The heir waits for what the victim holds, and sleeps; the victim leaves, and comes again before it."""

    operations = frozenset({"none", "clear HELD", "load ATTENTION", "unpark", "store HELD[2]", "load OWNER"})
    outcomes: tuple[object, ...] = (True, False, True)

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Hold the lock."""
        lock.acquire()

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir sleeps in the line, and does not move."""
        self.freeze_heir(stage)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Release, and acquire."""
        lock.release()
        lock.acquire()

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir has the lock."""
        stage.victim.await_death()
        went_on = time.monotonic()
        stage.heir.go_on()
        self.inherit(stage, went_on)


class AcquireBehindHolder(LockScene):
    """The lead holds the lock until the victim sleeps in the line, or is dead, and the heir stands behind it."""

    outcomes: tuple[object, ...] = (False, True)
    operations = frozenset(
        {"none", "store NUMBERS[2]", "store PARK[2]", "store ATTENTION", "park", "wake up", "store OWNER"}
    )

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead holds the lock."""
        stage.shared.acquire()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """Release, and see the heir served after the victim."""
        stage.victim.sleeps()
        self.queue_heir(stage)
        released = time.monotonic()
        stage.shared.release()
        self.inherit(stage, max(released, stage.victim.await_death().moment))


class TakeOver(LockScene):
    """The owner has died, and the victim finds out when it has slept; the heir stands behind it."""

    slots = 4
    outcomes: tuple[object, ...] = (False, True)
    operations = frozenset({"none", "park", "load PID[3]", "store OWNER", "store NUMBERS[2]", "store RECOVERIES"})

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """Somebody has acquired, and is dead."""
        self._dead_owner = self.lose(stage, acquire)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        assert lock.acquire(True, SOON)

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """Wake the victim, and see the heir served after it."""
        stage.victim.sleeps()
        self.queue_heir(stage)
        woken = time.monotonic()
        stage.victim.end_sleep()
        self.inherit(stage, max(woken, stage.victim.await_death().moment))


class GiveUp(LockScene):
    """The lead holds the lock for longer than the victim waits; the heir stands behind the victim."""

    operations = frozenset({"none", "store NUMBERS[2]", "store PARK[2]", "store ATTENTION", "park", "wake up"})

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead holds the lock."""
        stage.shared.acquire()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Wait, and get nothing."""
        assert not lock.acquire(True, SOON)

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """Wake the victim, and release when it is dead."""
        stage.victim.sleeps()
        self.queue_heir(stage)
        stage.victim.end_sleep()
        stage.victim.await_death()
        released = time.monotonic()
        stage.shared.release()
        self.inherit(stage, released)


class GiveUpBehindDeadWaiter(GiveUp):
    """Somebody ahead of the victim has died in the line; the victim takes the place out of it, and then gives up."""

    slots = 4
    operations = GiveUp.operations | {"lock the claims", "store NUMBERS[3]", "store PID[3]", "unlock the claims"}

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead holds the lock, and somebody has died in the line."""
        super().set_up(stage)
        self.lose_in_line(stage)


# --- Hold and release ----------------------------------------------------------------------------------------------


class Hold(LockScene):
    """The victim looks at the lock, and writes into the ledger; the heir waits."""

    outcomes: tuple[object, ...] = (True,)
    tears = True
    operations = frozenset({"none", "load OWNER", "store ledger[0]", "store ledger[1]"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Hold the lock."""
        lock.acquire()

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir sleeps in the line."""
        self.put_heir_to_sleep(stage)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Look, and write."""
        assert lock.locked()
        assert lock.owner == lock.statistics().owner
        assert lock.recovered_from is None
        ledger[0] += 1
        ledger[1] += 1

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir has the lock."""
        self.inherit(stage, stage.victim.await_death().moment)


class Release(LockScene):
    """Nobody waits."""

    outcomes: tuple[object, ...] = (True, False)
    operations = frozenset({"none", "clear HELD", "load ATTENTION"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Hold the lock."""
        lock.acquire()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Release."""
        lock.release()


class ReleaseToHeir(Release):
    """The heir waits."""

    operations = Release.operations | {"store PARK[1]", "unpark"}

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir sleeps in the line, and does not move."""
        self.freeze_heir(stage)

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The heir has the lock."""
        stage.victim.await_death()
        went_on = time.monotonic()
        stage.heir.go_on()
        self.inherit(stage, went_on)


class ReleaseForAnother(LockScene):
    """The victim releases what the lead holds, which nobody has done before; the heir waits."""

    fresh = True
    operations = frozenset({"none", "store LEFT_BY_OTHERS[0]", "store FOREIGN", "store HELD[0]", "unpark"})

    def set_up(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead holds the lock, and the heir sleeps in the line, and does not move."""
        stage.shared.acquire()
        self.freeze_heir(stage)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Release."""
        lock.release()

    def survive(self, stage: Stage[mpbakery.Lock]) -> None:
        """The lead releases, if the victim did not come to it."""
        stage.victim.await_death()
        went_on = time.monotonic()
        stage.heir.go_on()
        owner = stage.shared.owner
        if owner is not None and owner.pid == os.getpid():
            stage.shared.release()
        self.inherit(stage, went_on)


SCENES: tuple[type[Scene[Any]], ...] = (
    Register,
    FirstAcquire,
    RegisterAfterDeath,
    EndOfThread,
    Acquire,
    AcquireAgain,
    AcquireAgainInLine,
    AcquireAgainInVain,
    AcquireAgainBeforeHeir,
    AcquireBehindHolder,
    TakeOver,
    GiveUp,
    GiveUpBehindDeadWaiter,
    Hold,
    Release,
    ReleaseToHeir,
    ReleaseForAnother,
)
