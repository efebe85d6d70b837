"""Who carries out the plan of a soak: makes locks, has processes started, stopped and killed, and checks it all."""

from __future__ import annotations

import faulthandler
import math
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import mpbakery
from evidence.soak.board import (
    COLLISIONS,
    DESCRIPTORS,
    ENTERED,
    FINISHED,
    HEART,
    LIVES,
    LONGEST,
    MARK,
    MEMORY,
    OWN_LOCKS,
    ROUND,
    TIMEOUTS,
    UNTOLD,
    USERS,
    WANTING,
    Board,
    Protected,
    Shape,
    ToldReader,
)
from evidence.soak.life import ALWAYS, World, recovered_from
from evidence.soak.locks import Maker
from evidence.soak.plan import GENERATIONS, KILL, LASTING, VETERANS, Plan, Round, Size, is_for_spawn
from evidence.soak.population import Death, Population, Stuck, report
from evidence.soak.verdict import Account, Figures
from support.processes import adopt_orphans, descriptors, resident_memory

#: How often the conductor looks around (s).
_TICK: Final = 0.01
#: How long a lock may take, when something is wrong already (s).
_LITTLE_PATIENCE: Final = 0.5
#: What is no leak: pages that a process touches late, and an arena of a mebibyte that its allocator keeps (bytes).
_SLACK: Final = 2 << 20


class Conductor:
    """One soak."""

    def __init__(
        self,
        plan: Plan,
        size: Size,
        figures: Figures,
        make: Maker,
        patience: float,
        show: Callable[[Callable[[], Figures]], object],
    ) -> None:
        self._plan = plan
        self._size = size
        self._figures = figures
        self._make = make
        self._patience = patience
        self._show = show
        self._board = Board(Shape(size.places, size.locks))
        self._told = ToldReader(self._board)
        self._population = Population(self._board, size, patience, figures.wrong.append)
        self._accounts: list[Account] = []
        self._deaths: list[Death] = []
        self._first_measure: dict[str, tuple[int, int]] = {}
        #: set by a signal handler: end now
        self.interrupted = False

    # --- The course of it

    def run(self) -> None:
        """All rounds, or fewer if something is wrong, or if it is interrupted."""
        start = time.monotonic()
        adopt_orphans()
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        faulthandler.register(signal.SIGALRM, file=2, chain=True)
        self._figures.rounds_planned = sum(1 for _ in self._plan.rounds())
        self._beat()
        try:
            self._run()
        except Stuck as stuck:
            self._tell(stuck)
        except OSError as error:
            self._figures.wrong.append(f"the soak cannot go on: {error}")
        finally:
            self._end()
            signal.alarm(0)
        self._figures.seconds = time.monotonic() - start
        self._count()
        self._compare()

    def _run(self) -> None:
        veterans = range(self._size.mortals, self._size.mortals + VETERANS)
        self._open(range(LASTING))
        for place in veterans:
            self._start(place, ALWAYS)
        for number, plan in enumerate(self._plan.rounds(), 1):
            if self.interrupted or self._figures.wrong:
                return
            self._play(number, plan)
        self._board.words[FINISHED] = 1
        self._await_end(veterans)

    def _play(self, number: int, plan: Round) -> None:
        """One round: its locks are made, used, checked and dropped."""
        mortals = range(self._size.mortals)
        self._open(range(LASTING, self._size.locks))
        self._board.words[ROUND] = number
        events = deque(plan.events)
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < plan.seconds and not self.interrupted:
            self._look_around()
            for place in mortals[::GENERATIONS]:
                if self._population.is_free(place):
                    self._start(place, number)
            while events and events[0].moment <= elapsed:
                event = events.popleft()
                if event.what == KILL:
                    self._population.kill(event.place)
                else:
                    self._figures.stops += self._population.stop(event.place, event.seconds)
            time.sleep(_TICK)
        self._board.words[ROUND] = ALWAYS
        if plan.killed:
            for place in mortals:
                self._population.kill(place)
        self._await_end(mortals)
        if not self.interrupted:
            self._check()
            self._close(LASTING)
            self._figures.rounds += 1
            self._measure()

    def _await_end(self, places: range) -> None:
        """Wait until the processes in these places are no more; they have been told to leave, or killed."""
        self._population.continue_all()
        while not all(map(self._population.is_free, places)) and not self.interrupted:
            self._look_around()
            time.sleep(_TICK)

    def _end(self) -> None:
        """Leave no process behind, and see what there is to see."""
        self._write_down(self._population.end())
        self._check()
        self._close(0)

    # --- Processes

    def _start(self, place: int, number: int) -> None:
        locks = tuple(
            account.lock if is_for_spawn(account.number) or not self._size.is_spawned(place) else None
            for account in self._accounts
        )
        world = World(self._board, self._make, locks, number, 0, self._size.seconds + 10 * self._patience)
        generations = GENERATIONS - place % GENERATIONS if place < self._size.mortals else 1
        self._population.start(place, world, self._plan.lives[place : place + generations])

    def _beat(self) -> None:
        """Show the workers that the conductor lives; if it hangs, it says where, and dies, and they leave."""
        self._board.times[HEART] = time.monotonic()
        signal.alarm(math.ceil(4 * self._patience))

    def _look_around(self) -> None:
        self._beat()
        self._write_down(self._population.tend())
        self._read_told()
        self._show(self._count)

    def _write_down(self, deaths: Iterable[Death]) -> None:
        for death in deaths:
            self._read_told()  # before the seats are given to others
            self._deaths.append(death)
            self._figures.kills += death.killed
            for trace in death.traces:
                if trace.lock < len(self._accounts):
                    self._accounts[trace.lock].dead[trace.thread] = trace.phase

    def _read_told(self) -> None:
        for lock, thread in self._told.news():
            self._accounts[lock].told[thread] += 1

    def _tell(self, stuck: Stuck) -> None:
        """Print what the stuck process and the holder of its lock are at, as long as they live."""
        what = f"process {stuck.pid} does not get on for {stuck.seconds:.0f} s"
        pids = [stuck.pid]
        if stuck.trace is not None:
            what += f": {stuck.trace}"
            if stuck.trace.lock < len(self._accounts):
                lock = self._accounts[stuck.trace.lock].lock
                if isinstance(lock, mpbakery.Lock):
                    what += f", {lock.statistics()}"
                    if (owner := lock.owner) and owner.pid != stuck.pid:
                        pids.append(owner.pid)
        self._figures.wrong.append(what)
        report(pids)

    # --- Locks

    def _open(self, numbers: range) -> None:
        for number in numbers:
            protected = Protected(self._board, number)
            protected.clear()
            # more slots than there can be threads, and fewer than will have used the lock
            lock = self._make(2 * self._board.shape.seats, "spawn" if is_for_spawn(number) else "fork")
            self._accounts.append(Account(number, lock, protected))
            self._figures.locks += 1

    def _check(self) -> None:
        """Acquire every lock, which takes it over from the last one that died with it, and see whether all fits."""
        patience = _LITTLE_PATIENCE if self._figures.wrong else self._patience
        for account in self._accounts:
            self._beat()
            if not account.lock.acquire(True, patience):
                self._figures.wrong.append(f"lock {account.number} is not to be had: {account.lock.statistics()}")
                continue
            recovered = recovered_from(account.lock)
            if recovered is not None:
                account.told[recovered.thread] += 1
                account.protected.mend()
            elif account.protected[MARK]:
                self._figures.wrong.append(f"lock {account.number}: a mark is left behind, and nobody was told")
            self._read_told()
            account.check(self._figures)
            account.lock.release()
        for death in self._deaths:
            self._classify(death)
        self._deaths.clear()

    def _classify(self, death: Death) -> None:
        """Count a death by what the dead process was at, as the last check has found out."""
        figures = self._figures
        traces = [trace for trace in death.traces if trace.lock < len(self._accounts)]
        held = any(trace.thread in self._accounts[trace.lock].holders for trace in traces)
        if not death.killed:
            figures.exits_with_the_lock += held
        elif held:
            figures.killed_holders += 1
        elif any(trace.phase == WANTING for trace in traces):
            figures.killed_waiters += 1
        else:
            figures.killed_idle += 1

    def _close(self, first: int) -> None:
        """Drop the locks from that one on."""
        for account in self._accounts[first:]:
            account.close(self._figures)
        del self._accounts[first:]

    # --- Figures

    def _measure(self) -> None:
        """The descriptors and the memory of those that live as long as the soak."""
        board, words = self._board, self._board.words
        seen = {"conductor": (descriptors(), resident_memory())}
        for number in range(VETERANS):
            cells = board.place(self._size.mortals + number)
            seen[f"veteran {number + 1}"] = (words[cells + DESCRIPTORS], words[cells + MEMORY])
        if self._figures.rounds <= self._figures.rounds_planned // 10:
            return  # still warming up
        for name, (count, size) in seen.items():
            if name in self._first_measure:
                first_count, first_size = self._first_measure[name]
                self._figures.descriptors[name] = (first_count, count)
                self._figures.memory[name] = (first_size, size)
            elif count:
                self._first_measure[name] = (count, size)

    def _count(self) -> Figures:
        """The figures so far, with what the processes have counted."""
        figures, board = self._figures, self._board
        figures.processes = sum(board.words[board.place(place) + LIVES] for place in range(board.shape.places))
        figures.acquisitions = board.total(ENTERED)
        figures.timeouts = board.total(TIMEOUTS)
        figures.collisions = board.total(COLLISIONS)
        figures.own_locks = board.total(OWN_LOCKS)
        figures.own_recoveries = board.total(OWN_LOCKS) - board.total(UNTOLD)
        figures.slot_claims = board.total(USERS)
        figures.longest_wait = max(board.times[board.seat(seat) + LONGEST] for seat in range(board.shape.seats))
        return figures

    def _compare(self) -> None:
        """What only the totals can tell."""
        figures = self._figures
        if figures.collisions:
            figures.wrong.append(f"{figures.collisions} times two were in at once")
        if figures.own_locks != figures.own_recoveries:
            untold = figures.own_locks - figures.own_recoveries
            figures.wrong.append(f"{untold} locks of processes' own were not recovered from a child that died")
        for name, (first, last) in figures.descriptors.items():
            if last > first:
                figures.wrong.append(f"{name} had {first} descriptors, and has {last}")
        for name, (first, last) in figures.memory.items():
            if last > first + _SLACK:
                figures.wrong.append(f"{name} had {first >> 10:,} KiB, and has {last >> 10:,} KiB")
