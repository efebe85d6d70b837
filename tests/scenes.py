"""The scenes that victims are killed in: every thing that a process does with a lock, alone and among others."""

from __future__ import annotations

import os
import time

from crashes import Ledger, Scene, Stage
from workers import in_thread

import mpbakery

#: How long those victims want to wait whose time is to be up when they are woken (s).
SOON = 1e-4


def acquire(lock: mpbakery.Lock) -> None:
    """Acquire, and leave it at that."""
    lock.acquire()


# --- Slots ---------------------------------------------------------------------------------------------------------


class Register(Scene):
    """The first use that anybody makes of a lock, which has one slot."""

    slots = 1
    fresh = True
    alone = True
    operations = frozenset({"none", "lock the claims", "store HIGH", "store PID[0]", "unlock the claims"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register."""
        mpbakery.register(lock)

    def survive(self, stage: Stage) -> None:
        """The lead acquires in a thread that ends, and so gives its slot back."""
        in_thread(lambda: super(Register, self).survive(stage))


class FirstAcquire(Register):
    """The same, by acquiring."""

    held = (False, True)
    operations = Register.operations | {"store NUMBERS[0]", "store HELD[0]", "store OWNER"}

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()


class RegisterAfterDeath(Scene):
    """A newcomer needs the slot of a dead process."""

    operations = frozenset({"none", "lock the claims", "store NUMBERS[2]", "store PID[2]", "unlock the claims"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def set_up(self, stage: Stage) -> None:
        """Somebody has registered, and is dead."""
        stage.lose(mpbakery.register)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register."""
        mpbakery.register(lock)


class EndOfThread(Scene):
    """A thread gives its slot back."""

    operations = frozenset({"none", "lock the claims", "store PID[2]", "unlock the claims"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Not even a slot."""

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Register in a thread, which ends."""
        in_thread(lambda: mpbakery.register(lock))


# --- Acquire -------------------------------------------------------------------------------------------------------


class Acquire(Scene):
    """Nobody else wants the lock."""

    held = (False, True)
    operations = frozenset({"none", "store NUMBERS[2]", "store ENTERED[2]", "store HELD[2]", "store OWNER"})

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()


class AcquireAgain(Acquire):
    """OWNER points at the victim's word already."""

    operations = Acquire.operations - {"store OWNER"}

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Be the last one that had the lock."""
        lock.acquire()
        lock.release()


class AcquireBehindHolder(Scene):
    """The lead holds the lock until the victim sleeps in the line, or is dead, and the heir stands behind it."""

    held = (False, True)
    operations = frozenset(
        {"none", "store NUMBERS[2]", "store PARK[2]", "store ATTENTION", "park", "wake up", "store OWNER"}
    )

    def set_up(self, stage: Stage) -> None:
        """The lead holds the lock."""
        stage.lock.acquire()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        lock.acquire()

    def survive(self, stage: Stage) -> None:
        """Release, and see the heir served after the victim."""
        stage.victim.await_sleep_or_death()
        stage.queue_heir()
        released = time.monotonic()
        stage.lock.release()
        stage.inherit(max(released, stage.victim.await_death().moment))


class TakeOver(Scene):
    """The owner has died, and the victim finds out when it has slept; the heir stands behind it."""

    slots = 4
    held = (False, True)
    operations = frozenset({"none", "park", "load PID[3]", "store OWNER", "store NUMBERS[2]", "store RECOVERIES"})

    def set_up(self, stage: Stage) -> None:
        """Somebody has acquired, and is dead."""
        stage.dead_owner = stage.lose(acquire)

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Acquire."""
        assert lock.acquire(True, SOON)

    def survive(self, stage: Stage) -> None:
        """Wake the victim, and see the heir served after it."""
        stage.victim.await_sleep_or_death()
        stage.queue_heir()
        woken = time.monotonic()
        stage.wake_victim()
        stage.inherit(max(woken, stage.victim.await_death().moment))


class GiveUp(Scene):
    """The lead holds the lock for longer than the victim waits; the heir stands behind the victim."""

    operations = frozenset({"none", "store NUMBERS[2]", "store PARK[2]", "store ATTENTION", "park", "wake up"})

    def set_up(self, stage: Stage) -> None:
        """The lead holds the lock."""
        stage.lock.acquire()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Wait, and get nothing."""
        assert not lock.acquire(True, SOON)

    def survive(self, stage: Stage) -> None:
        """Wake the victim, and release when it is dead."""
        stage.victim.await_sleep_or_death()
        stage.queue_heir()
        stage.wake_victim()
        stage.victim.await_death()
        released = time.monotonic()
        stage.lock.release()
        stage.inherit(released)


class GiveUpBehindDeadWaiter(GiveUp):
    """Somebody ahead of the victim has died in the line; the victim takes the place out of it, and then gives up."""

    slots = 4
    operations = GiveUp.operations | {"lock the claims", "store NUMBERS[3]", "store PID[3]", "unlock the claims"}

    def set_up(self, stage: Stage) -> None:
        """The lead holds the lock, and somebody has died in the line."""
        super().set_up(stage)
        stage.lose_in_line()


# --- Hold and release ----------------------------------------------------------------------------------------------


class Hold(Scene):
    """The victim looks at the lock, and writes into the ledger; the heir waits."""

    held = (True,)
    tears = True
    operations = frozenset({"none", "load OWNER", "store ledger[0]", "store ledger[1]"})

    def prepare(self, lock: mpbakery.Lock) -> None:
        """Hold the lock."""
        lock.acquire()

    def set_up(self, stage: Stage) -> None:
        """The heir sleeps in the line."""
        stage.put_heir_to_sleep()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Look, and write."""
        assert lock.locked()
        assert lock.owner == lock.statistics().owner
        assert lock.recovered_from is None
        ledger[0] += 1
        ledger[1] += 1

    def survive(self, stage: Stage) -> None:
        """The heir has the lock."""
        stage.inherit(stage.victim.await_death().moment)


class Release(Scene):
    """Nobody waits."""

    held = (True, False)
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

    def set_up(self, stage: Stage) -> None:
        """The heir sleeps in the line, and does not move."""
        stage.freeze_heir()

    def survive(self, stage: Stage) -> None:
        """The heir has the lock."""
        stage.victim.await_death()
        went_on = time.monotonic()
        stage.heir.go_on()
        stage.inherit(went_on)


class ReleaseForAnother(Scene):
    """The victim releases what the lead holds, which nobody has done before; the heir waits."""

    fresh = True
    operations = frozenset({"none", "store LEFT_BY_OTHERS[0]", "store FOREIGN", "store HELD[0]", "unpark"})

    def set_up(self, stage: Stage) -> None:
        """The lead holds the lock, and the heir sleeps in the line, and does not move."""
        stage.lock.acquire()
        stage.freeze_heir()

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """Release."""
        lock.release()

    def survive(self, stage: Stage) -> None:
        """The lead releases, if the victim did not come to it."""
        stage.victim.await_death()
        went_on = time.monotonic()
        stage.heir.go_on()
        owner = stage.lock.owner
        if owner is not None and owner.pid == os.getpid():
            stage.lock.release()
        stage.inherit(went_on)


SCENES: tuple[type[Scene], ...] = (
    Register,
    FirstAcquire,
    RegisterAfterDeath,
    EndOfThread,
    Acquire,
    AcquireAgain,
    AcquireBehindHolder,
    TakeOver,
    GiveUp,
    GiveUpBehindDeadWaiter,
    Hold,
    Release,
    ReleaseToHeir,
    ReleaseForAnother,
)
