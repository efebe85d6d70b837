"""What a process of a soak does: it leads the life that the plan has for its place."""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import mpbakery
from evidence.soak.board import (
    COLLISIONS,
    DESCRIPTORS,
    ENDED,
    ENTERED,
    FINISHED,
    HEART,
    INSIDE,
    LEAVING,
    MEMORY,
    OUT,
    OWN_LOCKS,
    ROUND,
    TIMEOUTS,
    UNTOLD,
    USERS,
    WANTING,
    Board,
    Protected,
    Seat,
    seats_of,
)
from evidence.soak.locks import Maker
from evidence.soak.plan import FORK, FORK_INSIDE, OWN_LOCK, PAUSE, VISIT, Life, Script, Step
from support.processes import descriptors, resident_memory
from support.workers import AnyLock, begin

#: The round of those that stay for all rounds.
ALWAYS: Final = 0
#: A conductor that was not seen for so long is dead, and its workers leave (s).
_FORSAKEN: Final = 30.0
#: How long a lock of one's own may take to be recovered (s).
_PATIENCE: Final = 60.0


class World(NamedTuple):
    """What all workers of a round have in common."""

    board: Board
    make: Maker
    #: None where a spawned process cannot have the lock
    locks: tuple[AnyLock | None, ...]
    round: int
    #: the process group
    group: int
    #: the longest that a process may live (s)
    seconds: float


def inhabit(world: World, place: int, lives: tuple[tuple[Life, ...], ...]) -> None:
    """Be the process in `place`, if it is free; `lives` are those for the place and for the children below it.

    Does not return.
    """
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it is the conductor's
        begin(world.seconds)
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR1, file=2)
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        os.setpgid(0, world.group)
        number = world.board.enter(place)
        if number is not None:
            _Worker(world, place, lives).live(lives[0][number % len(lives[0])])
            world.board.words[world.board.place(place) + ENDED] = 1
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class _Worker:
    """The process in one place."""

    def __init__(self, world: World, place: int, lives: tuple[tuple[Life, ...], ...]) -> None:
        self._world = world
        self._place = place
        self._lives = lives
        self._child = 0

    def live(self, life: Life) -> None:
        """Take all turns of a life."""
        main_seat, *seats = seats_of(self._place)
        main = _Visitor(self._world, main_seat)
        for _turn in itertools.count() if life.turns is None else range(life.turns):
            threads = [
                threading.Thread(target=self._run_in_thread, args=(script, seat))
                for script, seat in zip(life.scripts[1:], seats, strict=False)
            ]
            for thread in threads:
                thread.start()
            self._run(life.scripts[0], main)
            for thread in threads:
                thread.join()
            if not self._goes_on():
                return
            self._measure()
        if life.keeps is not None:
            main.visit(Step(VISIT, life.keeps, 1, 0), self._end)

    def _end(self) -> None:
        self._world.board.words[self._world.board.place(self._place) + ENDED] = 1
        os._exit(0)

    def _goes_on(self) -> bool:
        board = self._world.board
        if time.monotonic() - board.times[HEART] > _FORSAKEN:
            return False
        if self._world.round == ALWAYS:
            return not board.words[FINISHED]
        return board.words[ROUND] == self._world.round

    def _measure(self) -> None:
        words, cells = self._world.board.words, self._world.board.place(self._place)
        words[cells + DESCRIPTORS] = descriptors()
        words[cells + MEMORY] = resident_memory()

    def _run_in_thread(self, script: Script, seat: int) -> None:
        self._run(script, _Visitor(self._world, seat))

    def _run(self, script: Script, visitor: _Visitor) -> None:
        """One turn of one thread."""
        try:
            for step in script:
                if not self._goes_on():
                    return
                if step.what == FORK:
                    visitor.do_without_lock(self._fork)
                elif step.what == FORK_INSIDE:
                    visitor.visit(step, self._fork)
                elif step.what == OWN_LOCK:
                    visitor.do_without_lock(visitor.use_own_lock)
                elif step.what == PAUSE:
                    time.sleep(step.seconds)
                else:
                    visitor.visit(step, lambda step=step: _stay(step.seconds))  # type: ignore[misc]
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _fork(self) -> None:
        """Fork a child into the next place, if that is free, and wait until the child is there."""
        board, place = self._world.board, self._place + 1
        if len(self._lives) < 2 or board.pid(place):
            return
        # The conductor has looked into what a dead child left before its pid may be given to somebody else.
        if self._child and not os.waitpid(self._child, os.WNOHANG)[0]:
            return
        self._child = os.fork()
        if not self._child:
            inhabit(self._world, place, self._lives[1:])
        while board.pid(place) != self._child:
            if os.waitpid(self._child, os.WNOHANG)[0]:
                self._child = 0
                return
            time.sleep(0.0005)


def _stay(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)
    else:
        os.sched_yield()


class _Visitor:
    """A thread in its seat."""

    def __init__(self, world: World, seat: int) -> None:
        self._world = world
        self._seat = Seat(world.board, seat, threading.get_native_id())
        self._known: set[int] = set()

    def visit(self, step: Step, stay: Callable[[], object]) -> None:
        """Acquire a lock, stay for a while, and release it."""
        lock, seat = self._world.locks[step.lock], self._seat
        assert lock is not None
        seat.say(step.lock, WANTING)
        start = time.monotonic()
        if step.timeout is None:
            with lock:
                self._entered(step.lock, start, stay)
        elif lock.acquire(step.timeout > 0, step.timeout):
            self._entered(step.lock, start, stay)
            lock.release()
        else:
            seat.count(TIMEOUTS)
        seat.say(step.lock, OUT)

    def _entered(self, number: int, start: float, stay: Callable[[], object]) -> None:
        seat, protected = self._seat, Protected(self._world.board, number)
        waited = time.monotonic() - start
        recovered = recovered_from(self._world.locks[number])
        if recovered is not None:
            seat.told(number, recovered.thread)
        seat.say(number, INSIDE)
        if recovered is not None:
            protected.mend()
        seat.count(COLLISIONS, protected.visit(seat.number, stay))
        seat.count(ENTERED)
        seat.waited(waited)
        if number not in self._known:
            self._known.add(number)
            seat.count(USERS)
        seat.say(number, LEAVING)

    def do_without_lock(self, action: Callable[[], object]) -> None:
        """Do something without the locks that are shared, under the eyes of the watchdog all the same."""
        self._seat.say(len(self._world.locks), WANTING)
        action()
        self._seat.say(len(self._world.locks), OUT)

    def use_own_lock(self) -> None:
        """Make a lock, let a child die with it, recover it, and drop it."""
        seat = self._seat
        lock = self._world.make(4, "spawn" if seat.number % 2 else "fork")
        with lock:
            pass
        child = os.fork()
        if not child:
            lock.acquire()
            os._exit(0)
        os.waitpid(child, 0)
        recovered = recovered_from(lock) if lock.acquire(True, _PATIENCE) else None
        seat.count(OWN_LOCKS)
        seat.count(UNTOLD, int(recovered is None or recovered.pid != child))
        lock.release()


def recovered_from(lock: Any) -> Any:
    """Who died with the lock before we got it, None if nobody did."""
    return lock.recovered_from
