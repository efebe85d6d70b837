"""The scenes with a recursive lock: what is done with a lock, and what differs."""

from __future__ import annotations

from typing import Any

import mpbakery
from evidence.crashes import scenes
from evidence.crashes.crashes import Ledger, Scene


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
    # a release that is not the last one clears a word that means nothing, in the same call
    operations = frozenset({"none", "load HELD[2]", "store ledger[0]", "store ledger[1]", "clear HELD"})

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


SCENES: tuple[type[Scene[Any]], ...] = (
    AcquireRLock,
    AcquireRLockBehindHolder,
    TakeOverRLock,
    GiveUpRLock,
    HoldRLockTwice,
    ReleaseRLock,
    ReleaseRLockToHeir,
)
