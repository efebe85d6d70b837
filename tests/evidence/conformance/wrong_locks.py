"""CPython's tests of locks, over locks and others that are broken in a known way."""

from __future__ import annotations

import importlib
from typing import Any

import mpbakery
from support.broken import NoLock

_lock_tests: Any = importlib.import_module("test.lock_tests")


class NoLocks(_lock_tests.LockTests):  # type: ignore[misc]
    """They let everybody in."""

    locktype = NoLock


class UnboundedSemaphores(_lock_tests.BoundedSemaphoreTests):  # type: ignore[misc]
    """They take more permits back than they gave."""

    semtype = mpbakery.Semaphore
    test_multirelease = None  # see exclusions.py


class ForgetfulEvents(_lock_tests.EventTests):  # type: ignore[misc]
    """Whoever waited for an event is told that it was not set."""

    class eventtype(mpbakery.Event):
        """As the class says."""

        def wait(self, timeout: float | None = None) -> bool:
            """Wait, and say how it was before."""
            before = self.is_set()
            super().wait(timeout)
            return before


class BarriersWithoutAction(_lock_tests.BarrierTests):  # type: ignore[misc]
    """They do not call what they are to call."""

    @staticmethod
    def barriertype(parties: int, action: object = None, timeout: float | None = None) -> mpbakery.Barrier:
        """Drop the action."""
        return mpbakery.Barrier(parties, None, timeout)
