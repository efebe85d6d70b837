"""What is known about each lock of a soak, and whether it fits together; the figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import mpbakery
from evidence.soak.board import BEGUN, COUNTER, DONE, INSIDE, MENDED, WANTING, Protected
from mpbakery._system.layout import HIGH


@dataclass
class Figures:
    """What a soak has come to."""

    seed: int
    plan: str
    seconds: float = 0.0
    rounds: int = 0
    rounds_planned: int = 0
    processes: int = 0
    locks: int = 0
    #: locks that processes made for themselves, and let a child die with; and those that were recovered
    own_locks: int = 0
    own_recoveries: int = 0
    acquisitions: int = 0
    timeouts: int = 0
    stops: int = 0
    kills: int = 0
    killed_holders: int = 0
    killed_waiters: int = 0
    killed_idle: int = 0
    exits_with_the_lock: int = 0
    recoveries: int = 0
    #: deaths of holders that nobody was told of, and those that were told more than once, or wrongly
    untold: int = 0
    told_wrongly: int = 0
    #: deaths told to one that was killed before it could write it down, and so died as a holder in its turn
    heirs_that_died: int = 0
    unfinished: int = 0
    mended: int = 0
    slot_claims: int = 0
    slots_used: int = 0
    lost_updates: int = 0
    collisions: int = 0
    longest_wait: float = 0.0
    #: of each process that lives as long as the soak: at the start, after a while to warm up, and at the end
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: what must not be
    wrong: list[str] = field(default_factory=list)

    @property
    def slots_reclaimed(self) -> int:
        """How many threads, at least, got a slot in a lock that another thread had before."""
        return max(0, self.slot_claims - self.slots_used)


class Account:
    """One lock, and what its users had to say about it."""

    def __init__(self, number: int, lock: Any, protected: Protected) -> None:
        self.number = number
        self.lock = lock
        self.protected = protected
        #: since the last check: who died with something to do with the lock, and whose death was told how often
        self.dead: dict[int, int] = {}
        self.told: Counter[int] = Counter()
        #: who died holding it, as found by the last check
        self.holders: set[int] = set()
        self._checks = 0
        self._all_dead = 0
        self._all_doubtful = 0
        self._all_told = 0

    def check(self, figures: Figures) -> None:
        """While the conductor holds the lock: whether everything fits together."""
        self._checks += 1
        self._check_deaths(figures)
        self._check_updates(figures)
        if isinstance(self.lock, mpbakery.Lock):
            self._check_statistics(figures, self.lock.statistics())

    def _check_deaths(self, figures: Figures) -> None:
        """Every death of a holder was told exactly once, and no other one.

        Whoever takes the lock over and is killed before it could write that down dies as a holder, too, and is told
        of in its turn: so for each death inside that nobody has written down there is one of a thread that said it
        wanted the lock, and was told.
        """
        inside = {thread for thread, phase in self.dead.items() if phase == INSIDE}
        heirs = {thread for thread, phase in self.dead.items() if phase == WANTING and thread in self.told}
        untold = inside - set(self.told)
        if len(untold) > len(heirs):
            figures.untold += len(untold) - len(heirs)
            self._blame(figures, f"deaths that nobody was told of: {sorted(untold)}, and {len(heirs)} heirs that died")
        figures.heirs_that_died += min(len(untold), len(heirs))
        wrongly = {thread: times for thread, times in self.told.items() if times > 1 or thread not in self.dead}
        if wrongly:
            figures.told_wrongly += len(wrongly)
            self._blame(figures, f"deaths told more than once, or of threads that did not die with it: {wrongly}")
        figures.recoveries += self.told.total()
        self._all_told += self.told.total()
        self._all_dead += len(self.dead)
        self._all_doubtful += sum(phase == WANTING for phase in self.dead.values())
        self.holders = inside | set(self.told)
        self.dead.clear()
        self.told.clear()

    def _check_updates(self, figures: Figures) -> None:
        counter, mended = self.protected[COUNTER], self.protected[MENDED]
        begun, done = self.protected.sum(BEGUN), self.protected.sum(DONE)
        if done != counter:
            self._blame(figures, f"{done} updates done, and {counter} counted")
        if begun != done + mended:
            self._blame(figures, f"{begun} updates begun, {done} done, and {mended} cut off by a death")

    def _check_statistics(self, figures: Figures, statistics: mpbakery.Statistics) -> None:
        """What the lock itself has counted; each death may have come just before or after it did."""
        acquisitions = statistics.acquisitions - self.protected.sum(BEGUN) - self._checks
        if not 0 <= acquisitions <= self._all_dead:
            self._blame(figures, f"{acquisitions} acquisitions too many in its statistics, {self._all_dead} deaths")
        recoveries = statistics.recoveries - self._all_told
        if not 0 <= recoveries <= self._all_doubtful:
            self._blame(figures, f"{recoveries} recoveries too many in its statistics, {self._all_doubtful} doubtful")

    def close(self, figures: Figures) -> None:
        """When nobody uses the lock any more: what remains to be said."""
        figures.lost_updates += abs(self.protected.sum(DONE) - self.protected[COUNTER])
        figures.mended += self.protected[MENDED]
        figures.unfinished += self.protected.sum(BEGUN) - self.protected.sum(DONE)
        if not isinstance(self.lock, mpbakery.Lock):
            return
        statistics = self.lock.statistics()
        if self._checks and (statistics.owner or statistics.waiters):
            self._blame(figures, f"nobody is there, and yet {statistics}")
        figures.slots_used += self.lock._line.words[HIGH] - 1  # without the conductor's own

    def _blame(self, figures: Figures, what: str) -> None:
        what = f"lock {self.number}: {what}"
        if what not in figures.wrong:  # the locks that last are checked more than once
            figures.wrong.append(what)
