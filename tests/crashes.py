"""Processes that are killed in the middle of what they do with a lock, and survivors who look what became of it.

A scene is played once for each operation on shared memory that a victim carries out in it: the first victim is killed
before the first operation, the next one after it, and so on, until one has come to the end. Those who survive are the
lead, who sees to everything, and its heir, who stands in line behind the victims.

The locks come from the test to a director, by some start method. All others are forked from the director, so that a
victim costs milliseconds whatever the start method.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, TypeAlias

from meter import RETURNED, End, Journal, Meter, MeteredWords, put_on_meter
from workers import PATIENCE, Crew, Puppet, expect, in_thread, wait_until

import mpbakery
from mpbakery._memory import ATTENTION, AWAKE, HIGH, PARK, PID, record_of

#: Breaks a lock in a known way, in one process.
Fault: TypeAlias = Callable[[mpbakery.Lock], None]
#: Two cells that the lock protects: they are equal, but while somebody writes them.
Ledger: TypeAlias = MeteredWords


class Report(NamedTuple):
    """What has become of some victims: how each one ended, by its number, and what was wrong after one, "" if nothing.

    `torn` is how often the data under the lock was found half written, by somebody who was told of the death.
    """

    ends: dict[int, End]
    wrong: str
    torn: int


# --- The victim ----------------------------------------------------------------------------------------------------


def be_killed(connection: Connection, lock: mpbakery.Lock, scene: Scene, journal: Journal, fatal: int) -> None:
    """The main function of a victim."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    meter = Meter(lock._memory, journal, fatal)
    put_on_meter(lock, meter, lambda: connection.send("asleep"))
    if scene.fault:
        scene.fault(lock)
    try:
        scene.prepare(lock)
    except mpbakery.MpbakeryError as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("ready")
    expect(connection)
    ledger = Ledger(journal.ledger, meter, lambda cell: f"ledger[{cell}]")
    meter.start()
    scene.act(lock, ledger)
    meter.die(RETURNED)


class Victim:
    """A victim as its lead sees it."""

    def __init__(self, crew: Crew, lock: mpbakery.Lock, scene: Scene, journal: Journal, fatal: int) -> None:
        self._connection, theirs = crew.context.Pipe()
        self._crew = crew
        self._journal = journal
        self._process = crew.start(be_killed, theirs, lock, scene, journal, fatal)
        theirs.close()
        self.pid: int = self._process.pid or 0
        answer = expect(self._connection)
        assert answer == "ready", f"the victim cannot even begin: {answer}"

    def go(self) -> None:
        """Let it do what it is to be killed in."""
        self._connection.send("go")

    def await_sleep_or_death(self) -> None:
        """Wait until it is about to sleep, or dead."""
        assert wait([self._connection, self._process.sentinel], PATIENCE), "the victim neither sleeps nor dies"

    def await_death(self) -> End:
        """Wait until it is dead, though nobody has reaped it; how it ended."""
        assert wait([self._process.sentinel], PATIENCE), "the victim does not die"
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # its files are closed a moment before it counts as dead
        end = self._journal.read()
        assert end.operation, "the victim was not killed"
        return end

    def bury(self) -> None:
        """Reap it."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == -signal.SIGKILL, f"the victim ended with {self._process.exitcode}"
        self._crew.processes.remove(self._process)
        self._connection.close()


# --- The survivors -------------------------------------------------------------------------------------------------


class Stage:
    """One victim, and those who survive it: the lead, who runs this, and its heir."""

    def __init__(self, crew: Crew, lock: mpbakery.Lock, heir: Puppet | None, limit: float) -> None:
        self.lock = lock
        self._crew = crew
        self._heir = heir
        self._limit = limit
        self._journal = Journal()
        self._told: list[int] = []
        self.dead_owner = 0
        self.torn = 0

    def play(self, scene: Scene, fatal: int) -> End:
        """Play the scene with a victim that is killed after `fatal` operations; raises what is wrong afterwards."""
        self.victim = Victim(self._crew, self.lock, scene, self._journal, fatal)
        scene.set_up(self)
        self.victim.go()
        scene.survive(self)
        end = self.victim.await_death()
        # in turn, so that newcomers meet the dead as zombies and as processes that are gone
        if fatal % 2:
            self.victim.bury()
            self._look_around()
        else:
            self._look_around()
            self.victim.bury()
        deaths = [self.victim.pid] if end.held else [self.dead_owner] if self.dead_owner else []
        assert self._told == deaths, f"told of the deaths of {self._told} instead of {deaths}"
        return end

    @property
    def operation(self) -> str:
        """The last one that the victim carried out, "" if it lives."""
        return self._journal.read().operation

    @property
    def heir(self) -> Puppet:
        """The survivor that stands in line."""
        assert self._heir is not None
        return self._heir

    def lose(self, target: Callable[[mpbakery.Lock], object]) -> int:
        """The pid of one more process, which has run `target(lock)` and ended."""
        process = self._crew.start(target, self.lock)
        process.join(PATIENCE)
        assert process.exitcode == 0
        self._crew.processes.remove(process)
        return process.pid or 0

    def lose_in_line(self) -> None:
        """One more process, which was killed while it slept in the line."""
        waiter = Puppet(self._crew, self.lock)
        waiter.begin("acquire")
        self._await_in_line(waiter.pid)
        waiter.kill()
        self._crew.processes.remove(waiter.process)

    def _await_in_line(self, pid: int) -> None:
        def is_in_line() -> bool:
            return pid in [waiter.pid for waiter in self.lock.statistics().waiters]

        wait_until(lambda: is_in_line() or (self._heir and self._heir.has_answered()), "a place in the line")

    def queue_heir(self) -> None:
        """Have the heir stand in the line, if it has to wait at all."""
        self.heir.begin("acquire", True, 2 * self._limit)
        self._await_in_line(self.heir.pid)

    def wake_victim(self) -> None:
        """End the victim's sleep, if it sleeps, as the lock does."""
        line = self.lock._line
        for park in self._parks_of(self.victim.pid):
            line.words[park] = AWAKE
            line.machine.unpark(park)

    def put_heir_to_sleep(self) -> None:
        """Have the heir stand in the line, and sleep there."""
        self.queue_heir()
        (park,) = self._parks_of(self.heir.pid)
        wait_until(lambda: self.lock._line.words[park], "a sleeping heir")

    def freeze_heir(self) -> None:
        """The same, and stop it there, so that it is not chance what the victim finds."""
        self.put_heir_to_sleep()
        words = self.lock._line.words
        (park,) = self._parks_of(self.heir.pid)

        def stops_asleep() -> bool:
            # From time to time it wakes up and looks around: whom the victim meets awake it does not wake.
            self.heir.stop()
            if words[park] and words[ATTENTION]:
                return True
            self.heir.go_on()
            return False

        wait_until(stops_asleep, "the heir stopped in its sleep")

    def _parks_of(self, pid: int) -> list[int]:
        """The PARK words of a process, one for each of its slots."""
        records = [record_of(self.lock._line.slots, slot) for slot in range(self.lock._line.slots)]
        return [record + PARK for record in records if self.lock._line.words[record + PID] == pid]

    def inherit(self, since: float) -> None:
        """Insist that the heir has the lock soon after that moment, and nobody else has."""
        assert self.heir.end() is True, f"the heir did not get the lock within {2 * self._limit} s"
        self._got_it(self.heir.warnings, self.heir.moment - since)
        assert self.lock.acquire(False) is False, "the heir has the lock, and so has another"
        owner = self.lock.owner
        assert owner is not None, "the heir has the lock, and nobody holds it"
        assert owner.pid == self.heir.pid, f"the heir has the lock, and {owner} holds it"
        self.heir("release")

    def acquire(self, since: float) -> None:
        """Insist that this process gets the lock soon after that moment."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got_it = self.lock.acquire(True, 2 * self._limit)
        assert got_it is True, f"a newcomer did not get the lock within {2 * self._limit} s"
        self._got_it([item.message for item in caught if isinstance(item.message, Warning)], time.monotonic() - since)
        self.lock.release()

    def _got_it(self, told: Sequence[Warning], seconds: float) -> None:
        assert seconds < self._limit, f"a survivor got the lock after {seconds} s"
        dead = [warning.pid for warning in told if isinstance(warning, mpbakery.OwnerDiedWarning)]
        self._told += dead
        ledger = self._journal.ledger
        if ledger[0] != ledger[1]:
            assert self.victim.pid in dead, "data is half written, and whoever got the lock was not told"
            self.torn += 1

    def _look_around(self) -> None:
        """Insist that no place in the line is left behind, and that all slots but those of the living can be had."""
        now = self.lock.statistics()
        assert now.owner is None, f"the lock is held by {now.owner}"
        assert now.waiters == (), f"still in line: {now.waiters}"
        living = 2 if self._heir else 0
        # one slot more than the lock has may have been used by one who took over from the dead
        self._register_newcomers(max(now.slots, self.lock._memory.words[HIGH]) - living)
        in_use = self.lock.statistics().slots_in_use
        assert in_use == living, f"{in_use} slots are in use, and {living} who use the lock live"

    def _register_newcomers(self, count: int) -> None:
        """Have as many threads register, all before the first of them ends."""

        def register() -> None:
            mpbakery.register(self.lock)
            self._register_newcomers(count - 1)

        if count:
            in_thread(register)


class Scene:
    """What a victim does when it is killed, and what the survivors do before and afterwards.

    Here nobody disturbs the victim, and the lead acquires when it is dead.
    """

    #: How many there are: for the lead, the heir, the victim, and who else dies.
    slots = 3
    #: Whether each victim has a lock of its own, or its operations would depend on what those before it have done.
    fresh = False
    #: Whether it has that lock for itself: neither lead nor heir has used it.
    alone = False
    #: Whether the victims hold the lock, from the first one to the last.
    held: tuple[bool, ...] = (False,)
    #: Whether some of them leave data half written.
    tears = False
    #: Some of the operations that victims must have been killed after.
    operations: frozenset[str]

    def __init__(self, fault: Fault | None = None) -> None:
        """`fault` breaks the lock, in each of the processes that use it."""
        self.fault = fault

    def prepare(self, lock: mpbakery.Lock) -> None:
        """What the victim does before its operations count."""
        mpbakery.register(lock)

    def set_up(self, stage: Stage) -> None:
        """What the lead does meanwhile."""

    def act(self, lock: mpbakery.Lock, ledger: Ledger) -> None:
        """What the victim is killed in."""
        raise NotImplementedError

    def survive(self, stage: Stage) -> None:
        """What the lead does from then on."""
        stage.acquire(stage.victim.await_death().moment)


# --- The director --------------------------------------------------------------------------------------------------


def direct(connections: Sequence[Connection], locks: Sequence[mpbakery.Lock], scene: Scene, limit: float) -> None:
    """The main function of a director: have the scene played by several casts at once, since they sleep a lot.

    The victims go to the casts in turn, and each lead reports through a connection of its own. A survivor may wait for
    `limit` seconds.
    """
    casts = Crew(multiprocessing.get_context("fork"))
    try:
        for cast, connection in enumerate(connections):
            casts.start(play, connection, locks, scene, limit, range(cast, sys.maxsize, len(connections)))
        casts.finish()
    finally:
        casts.close()


def play(
    connection: Connection, locks: Sequence[mpbakery.Lock], scene: Scene, limit: float, victims: Iterable[int]
) -> None:
    """The main function of a lead: play the scene with these victims, until one comes to the end.

    There is a lock for each victim, or for each cast.
    """
    crew = Crew(multiprocessing.get_context("fork"))
    ends: dict[int, End] = {}
    wrong, torn = "", 0
    heir: Puppet | None = None
    lock: mpbakery.Lock | None = None
    try:
        for fatal in victims:
            if lock is not locks[fatal % len(locks)]:
                lock = locks[fatal % len(locks)]
                crew.close()
                if scene.fault:
                    scene.fault(lock)
                heir = None if scene.alone else engage(crew, lock)
            stage = Stage(crew, lock, heir, limit)
            try:
                ends[fatal] = stage.play(scene, fatal)
            except (AssertionError, mpbakery.MpbakeryError, ValueError) as error:
                where = f"{type(scene).__name__}, killed after operation {fatal} ({stage.operation})"
                wrong = f"{where}: {type(error).__name__}: {error}"
                break
            torn += stage.torn
            if stage.operation == RETURNED:
                break
    finally:
        crew.close()
    connection.send(Report(ends, wrong, torn))


def engage(crew: Crew, lock: mpbakery.Lock) -> Puppet:
    """An heir; the lead and it have the first two slots of the lock."""
    mpbakery.register(lock)
    heir = Puppet(crew, lock)
    heir("acquire")
    heir("release")
    return heir
