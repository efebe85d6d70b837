"""Processes that are killed in the middle of what they do with a primitive, and survivors who look what became of it.

A scene is played once for each operation on shared memory that a victim carries out in it: the first victim is killed
before the first operation, the next one after it, and so on, until one has come to the end. Those who survive are the
lead, who sees to everything, and its heirs, who wait for what the victims have or do.

The primitives come from the test to a director, by some start method. All others are forked from the director, so that
a victim costs milliseconds whatever the start method.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import mpbakery
from evidence.crashes.meter import RETURNED, End, Journal, Meter, MeteredWords, parts_of, put_on_meter
from mpbakery._primitives.shared import Shared
from mpbakery._primitives.shared_room import SharedRoom
from mpbakery._primitives.snapshot import count_slots_in_use
from mpbakery._system.layout import HIGH, IDLE, NUMBERS
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, wait_for_state

S = TypeVar("S", bound=Shared)

#: Breaks a primitive in a known way, in one process.
Fault: TypeAlias = Callable[[Any], None]
#: Two cells that a lock protects: they are equal, but while somebody writes them.
Ledger: TypeAlias = MeteredWords


class Report(NamedTuple):
    """What has become of some victims, by their numbers, and what was wrong after one, "" if nothing.

    `ends` is how each one ended and `outcomes` what the survivors have seen of that; `torn` is how often the data under
    a lock was found half written, by somebody who was told of the death.
    """

    ends: dict[int, End]
    outcomes: dict[int, object]
    wrong: str
    torn: int


# --- The victim ----------------------------------------------------------------------------------------------------


def be_killed(connection: Connection, shared: S, scene: Scene[S], journal: Journal, fatal: int) -> None:
    """The main function of a victim."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    (lock,) = parts_of(shared) or [shared]  # what the victim may hold at its end
    meter = Meter(lock._memory, journal, fatal)
    put_on_meter(
        shared, meter, lambda: connection.send("asleep"), lambda: connection.poll(0) and bool(connection.recv())
    )
    if scene.fault:
        scene.fault(shared)
    try:
        scene.prepare(shared)
    except mpbakery.MpbakeryError as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("ready")
    expect(connection)
    ledger = Ledger(journal.ledger, meter, lambda cell: f"ledger[{cell}]")
    meter.start()
    scene.act(shared, ledger)
    meter.die(RETURNED)


class Victim:
    """A victim as its lead sees it."""

    def __init__(self, crew: Crew, shared: S, scene: Scene[S], journal: Journal, fatal: int) -> None:
        self._connection, theirs = crew.context.Pipe()
        self._crew = crew
        self._journal = journal
        self._process = crew.start(be_killed, theirs, shared, scene, journal, fatal)
        theirs.close()
        self.pid: int = self._process.pid or 0
        answer = expect(self._connection)
        assert answer == "ready", f"the victim cannot even begin: {answer}"

    def go(self) -> None:
        """Let it do what it is to be killed in."""
        self._connection.send("go")

    def sleeps(self) -> bool:
        """Wait until it is about to sleep, or dead; whether it sleeps."""
        assert wait([self._connection, self._process.sentinel], PATIENCE), "the victim neither sleeps nor dies"
        return not wait([self._process.sentinel], 0)

    def end_sleep(self) -> None:
        """Tell it that it has slept for long enough, if it sleeps."""
        with contextlib.suppress(ConnectionError):  # it may be dead
            self._connection.send("time is up")

    def stop(self) -> None:
        """Stop it, if it lives."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for_state(self.pid, "TZ")

    def go_on(self) -> None:
        """Let it run on."""
        os.kill(self.pid, signal.SIGCONT)

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


class Stage(Generic[S]):
    """One victim, and those who survive it: the lead, who runs this, and its heirs."""

    def __init__(self, crew: Crew, shared: S, heirs: Sequence[Puppet], limit: float) -> None:
        """A survivor may wait for `limit` seconds."""
        self.crew = crew
        self.shared = shared
        self.heirs = heirs
        self.limit = limit
        self.journal = Journal()
        #: the deaths of whom survivors were told
        self.told: list[int] = []
        #: what the survivors have seen of the victim's end; whether it held the lock, unless the scene says otherwise
        self.outcome: object = None
        self.torn = 0

    def play(self, scene: Scene[S], fatal: int) -> End:
        """Play the scene with a victim that is killed after `fatal` operations; raises what is wrong afterwards."""
        self.victim = Victim(self.crew, self.shared, scene, self.journal, fatal)
        scene.set_up(self)
        self.victim.go()
        scene.survive(self)
        end = self.victim.await_death()
        if self.outcome is None:
            self.outcome = end.held
        # in turn, so that newcomers meet the dead as zombies and as processes that are gone
        if fatal % 2:
            self.victim.bury()
            self._look_around(scene)
        else:
            self._look_around(scene)
            self.victim.bury()
        deaths = scene.deaths(self, end)
        assert self.told == deaths, f"told of the deaths of {self.told} instead of {deaths}"
        return end

    @property
    def operation(self) -> str:
        """The last one that the victim carried out, "" if it lives."""
        return self.journal.read().operation

    @property
    def heir(self) -> Puppet:
        """The first heir."""
        return self.heirs[0]

    def kill(self, puppet: Puppet) -> None:
        """Kill one more process, and reap it."""
        puppet.kill()
        self.crew.processes.remove(puppet.process)

    def hear(self, told: Iterable[Warning | str]) -> list[int]:
        """Keep in mind whose deaths a survivor was told of."""
        dead = [warning.pid for warning in told if isinstance(warning, mpbakery.OwnerDiedWarning)]
        self.told += dead
        return dead

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep in mind whose deaths this process is told of meanwhile."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        self.hear(item.message for item in caught)

    def end_of(self, heir: Puppet, since: float) -> Any:
        """The result of what an heir was told to do, which must not have taken long after that moment."""
        try:
            return heir.end()
        finally:
            self.hear(heir.warnings)
            seconds = heir.moment - since
            assert seconds < self.limit, f"an heir was through only after {seconds} s"

    def _look_around(self, scene: Scene[S]) -> None:
        """Insist that nothing is held, no place in a line is left, and all slots but those of the living can be had."""
        waiting = scene.waiting(self.shared)
        assert not waiting, f"still in line: {waiting}"
        living = len(self.heirs) + 1 if self.heirs else 0
        parts: list[Shared] = [self.shared, *parts_of(self.shared)]
        for part in parts:
            memory = part._memory
            if isinstance(part, mpbakery.Lock):
                assert part.owner is None, f"the lock is held by {part.owner}"
            # one slot more than there are may have been used by one who took over from the dead
            newcomers = max(memory.slots, memory.words[HIGH]) - living
            if isinstance(part, SharedRoom):
                occupy(part, newcomers)
            else:
                register_newcomers(part, newcomers)
            in_use = count_slots_in_use(memory)
            assert in_use == living, f"{in_use} slots are in use, and {living} who use them live"
            numbers = memory.words[NUMBERS : NUMBERS + memory.words[HIGH]].tolist()
            assert not any(number != IDLE for number in numbers), f"places are left: {numbers}"


def register_newcomers(part: Shared, count: int) -> None:
    """Have as many threads register, all before the first of them ends."""

    def register() -> None:
        mpbakery.register(part)
        register_newcomers(part, count - 1)

    if count:
        in_thread(register)


def occupy(part: SharedRoom, count: int) -> None:
    """Have this thread occupy as many places in a room beside its own, all at the same time."""
    own = part._room.enter()
    newcomers = [part._room.enter() for _ in range(count)]
    part._room.leave(own)
    newcomers.clear()


class Scene(Generic[S]):
    """What a victim does when it is killed, and what the survivors do before and afterwards."""

    #: How many slots there are: for the lead, the heirs, the victim, and who else dies.
    slots = 3
    #: How many heirs there are. Without any, the victim has the primitive for itself: the lead has not used it either.
    heirs = 1
    #: Whether each victim has a primitive of its own, or its operations would depend on what those before it have done.
    fresh = False
    #: What survivors have seen, from the first victim to the last, without what repeats.
    outcomes: tuple[object, ...]
    #: Whether some of the victims leave data half written.
    tears = False
    #: Some of the operations that victims must have been killed after.
    operations: frozenset[str]

    def __init__(self, fault: Fault | None = None) -> None:
        """`fault` breaks the primitive, in each of the processes that use it."""
        self.fault = fault

    def make(self, ctx: BaseContext) -> S:
        """What the victim uses."""
        raise NotImplementedError

    def prepare(self, shared: S) -> None:
        """What the victim does before its operations count."""
        mpbakery.register(shared)

    def set_up(self, stage: Stage[S]) -> None:
        """What the lead does meanwhile."""

    def act(self, shared: S, ledger: Ledger) -> None:
        """What the victim is killed in."""
        raise NotImplementedError

    def survive(self, stage: Stage[S]) -> None:
        """What the lead does from then on."""
        raise NotImplementedError

    def deaths(self, stage: Stage[S], end: End) -> list[int]:
        """Of whose deaths survivors have to be told."""
        return [stage.victim.pid] if end.held else []

    def waiting(self, shared: S) -> Sequence[object]:
        """Who waits."""
        raise NotImplementedError


# --- The director --------------------------------------------------------------------------------------------------


def direct(connections: Sequence[Connection], primitives: Sequence[S], scene: Scene[S], limit: float) -> None:
    """The main function of a director: have the scene played by several casts at once, since they sleep a lot.

    The victims go to the casts in turn, and each lead reports through a connection of its own. A survivor may wait for
    `limit` seconds.
    """
    casts = Crew(multiprocessing.get_context("fork"))
    try:
        for cast, connection in enumerate(connections):
            casts.start(play, connection, primitives, scene, limit, range(cast, sys.maxsize, len(connections)))
        casts.finish()
    finally:
        casts.close()


def play(
    connection: Connection, primitives: Sequence[S], scene: Scene[S], limit: float, victims: Iterable[int]
) -> None:
    """The main function of a lead: play the scene with these victims, until one comes to the end.

    There is a primitive for each victim, or for each cast.
    """
    crew = Crew(multiprocessing.get_context("fork"))
    report = Report({}, {}, "", 0)
    heirs: list[Puppet] = []
    shared: S | None = None
    try:
        for fatal in victims:
            if shared is not primitives[fatal % len(primitives)]:
                shared = primitives[fatal % len(primitives)]
                crew.close()
                if scene.fault:
                    scene.fault(shared)
                heirs = engage(crew, shared, scene.heirs)
            stage = Stage(crew, shared, heirs, limit)
            try:
                report.ends[fatal] = stage.play(scene, fatal)
            except Exception as error:  # whatever it is: the test says what was wrong
                where = f"{type(scene).__name__}, killed after operation {fatal} ({stage.operation})"
                report = report._replace(wrong=f"{where}: {type(error).__name__}: {error}")
                break
            report.outcomes[fatal] = stage.outcome
            report = report._replace(torn=report.torn + stage.torn)
            if stage.operation == RETURNED:
                break
    finally:
        crew.close()
    connection.send(report)


def engage(crew: Crew, shared: Shared, count: int) -> list[Puppet]:
    """So many heirs; the lead and they have the first slots."""
    if count:
        mpbakery.register(shared)
    heirs = [Puppet(crew, shared) for _ in range(count)]
    for heir in heirs:
        heir("register")
    return heirs
