"""What is struck by signals and exceptions at every bytecode of the lock beyond one machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

from evidence.signals.points import Operation, Outcome, Tracer, strike_everywhere
from mpbakery import cluster
from support.workers import PATIENCE, in_thread

#: How long a handler waits for the lock, and an attempt that is to fail (s).
_BRIEF = 0.004


class Situation:
    """The lock is used by the main thread, which is struck, and not by anybody else."""

    handlers_acquire = False
    handling = "acquires"
    bears_two = False
    #: the answers of the server come in as many pieces as they come
    visits: int | None = 1
    functions: frozenset[str] | None = None

    def __init__(self, url: str) -> None:
        self.lock = cluster.Lock(url, type(self).__name__)
        self.other = cluster.Lock(url, f"{type(self).__name__}, other")

    def prepare(self) -> Operation:
        with self.lock:
            pass
        return self.operation

    def operation(self) -> object:
        with self.lock:
            pass
        return None

    def handle(self) -> None:
        if self.lock.acquire(True, _BRIEF):
            self.lock.release()

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = []
        if outcome.value:
            if self.lock._find() is None:
                wrong.append("not held by who thinks so")
            else:
                self.lock.release()
        if self.lock._find() is not None:
            wrong.append("left held")
            self.lock.release()
        if not in_thread(lambda: self.lock.acquire(True, PATIENCE)):
            wrong.append("not to be had again")
            return wrong
        if self.lock.acquire(False):
            wrong.append("two in at once")
            self.lock.release()
        self.lock.release()
        if self.lock.statistics().waiters:
            wrong.append("left in line")
        sessions = self.lock._sessions()
        if sessions.busy or len(sessions.idle) > 4:
            wrong.append("session left")
            sessions.busy.clear()
        return wrong


class Acquire(Situation):
    """By itself, and held afterwards. What strikes its caller, after it has returned, is the caller's."""

    def prepare(self) -> Operation:
        super().prepare()
        return self.lock.acquire


class InVain(Situation):
    """Another thread holds the lock for longer than this one waits."""

    def prepare(self) -> Operation:
        in_thread(self.lock.acquire)
        return self.operation

    def operation(self) -> object:
        return self.lock.acquire(True, _BRIEF)

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = ["two in at once"] if outcome.value else []
        self.lock.release()
        return wrong + super().examine(Outcome(None, outcome.raised, outcome.hit))


class Nested(Situation):
    """In the same session, which holds another lock meanwhile."""

    def prepare(self) -> Operation:
        if self.other._find() is None:
            self.other.acquire()
        return super().prepare()

    def examine(self, outcome: Outcome) -> list[str]:
        wrong = []
        if self.other._find() is None or self.other.lost or not self.other.locked():
            wrong.append("the other lock was lost")
        else:
            self.other.release()
        return wrong + super().examine(outcome)


SITUATIONS = {kind.__name__: kind for kind in (Situation, Acquire, InVain, Nested)}


def strike(connection: Connection, name: str, url: str) -> None:
    """Strike a situation everywhere, and tell what came of it."""
    warnings.simplefilter("ignore", cluster.OwnerDiedWarning)
    # how long to wait for another thread where there is none: exceptions out of the blue leave it to look so
    cluster.Lock._patience = 0.02
    make: Callable[[str], Situation] = SITUATIONS[name]
    connection.send(strike_everywhere(Tracer(), make(url)))
