"""What the simulated processes do: small programs that between them use all of the lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from evidence.explorer.protocol import Protocol
from evidence.explorer.simulation import Budget, Interrupt, Process, Sharing, Strategy, World
from mpbakery._protocol.line import NAP
from mpbakery._system.layout import NUMBERS, OWNER

Script = Callable[[Process], None]


def leave(process: Process) -> None:
    """Release what the process holds, whatever handlers raise and acquire in the meantime."""
    while process.world.held_by(process):
        try:
            process.release()
        except Interrupt:
            pass


def wait_until(process: Process, has_happened: Callable[[], bool]) -> None:
    """Nap, and look once more whenever something has changed."""
    process.perform("load", OWNER)
    while not has_happened():
        process.perform("nap", seconds=NAP)
        process.perform("load", OWNER)


def visits(times: int, timeout: float | None = None, *, work: bool = True) -> Script:
    """Acquire, work and release that many times; without work there is less to interleave."""

    def script(process: Process) -> None:
        for _ in range(times):
            try:
                got = process.acquire(True, timeout)
            except Interrupt:
                got = False
            if got and work:
                process.work()
            leave(process)

    return script


def stubborn(process: Process) -> None:
    """Hold the lock, and ask for it once more meanwhile, which times out or is interrupted."""
    try:
        process.acquire()
        if process.acquire(True, 1.0):
            raise AssertionError("the lock was acquired twice")
    except Interrupt:
        pass
    leave(process)


def tries(process: Process) -> None:
    """Acquire without waiting."""
    try:
        got = process.acquire(False)
    except Interrupt:
        got = False
    if got:
        process.work()
    leave(process)


def newcomer(process: Process) -> None:
    """Acquire without a slot; there may be none."""
    try:
        visits(1)(process)
    except process.world.protocol.SlotsExhausted:
        pass


def heir(process: Process) -> None:
    """Acquire without a slot, once a dead owner's lock has been taken over: then its slot can be had."""
    try:
        wait_until(process, lambda: process.world.recoveries > 0)
        visits(1)(process)
    except process.world.protocol.SlotsExhausted:
        pass


def releases_for_another(process: Process) -> None:
    """Release what another process holds."""
    process.release()


def releases_in_spite(process: Process) -> None:
    """Release although acquire has raised: that must not pass for a release of what it has undone."""
    try:
        process.acquire()
    except Interrupt:
        try:
            process.release()
        except ValueError:
            return
        raise AssertionError("a lock that nobody holds was released") from None
    leave(process)


def keeps(process: Process) -> None:
    """Acquire, and leave it to others to release."""
    process.acquire()


def releases_the_next(process: Process) -> None:
    """Release what process 2 has acquired."""
    world = process.world
    wait_until(process, lambda: world.holder() is world.processes[2])
    process.release()


def releases_what_others_did_not(process: Process) -> None:
    """When process 1 has released the lock for this one, or is dead, release it if it has not been."""
    other = process.world.processes[1]
    wait_until(process, lambda: other.finished or other.dead)
    leave(process)


def nothing(world: World) -> None:
    """Begin with a lock that nobody wants, and insist on nothing more at the end."""


def held(world: World) -> None:
    """Process 0 holds the lock."""
    world.processes[0].acquire()


def dead_holder(world: World) -> None:
    """Process 0 was killed when it had acquired the lock."""
    held(world)
    world.processes[0].dead = True
    world.deaths += 1


def passed_on(world: World) -> None:
    """Process 1 has released what process 0 had acquired, and process 2 holds the lock, for the second time."""
    world.processes[0].acquire()
    world.processes[1].release()
    world.processes[2].acquire()
    world.processes[2].release()
    world.processes[2].acquire()


def idle(_process: Process) -> None:
    """Nothing more."""


def dead_in_line(world: World) -> None:
    """Process 0 was killed when it had just taken a ticket."""
    process = world.processes[0]
    process.perform("store", NUMBERS + process.lock._seats.slot.index, 2)
    process.dead = True


@dataclass(frozen=True)
class Scenario:
    """Some processes, and what may happen to them."""

    scripts: tuple[Script, ...]
    budget: Budget = field(default_factory=Budget)
    handlers: str = ""
    #: handlers come before any step, not only where an interpreter runs them
    anywhere: bool = False
    #: the last ones start without a slot
    strangers: int = 0
    slots: int | None = None
    #: what has happened before
    prepare: Callable[[World], object] = nothing
    #: what must hold when all have come to an end, beside what the lock promises
    check: Callable[[World], object] = nothing
    #: the only one who may be killed; None if all may
    mortal: int | None = None
    #: how often a waiter looks at its word before it yields, and how often it yields before it parks
    spins: int = 0
    #: what is explored
    make: Callable[..., World] = World

    def world(self, protocol: Protocol, strategy: Strategy, model: str, sharing: Sharing | None = None) -> World:
        """A new execution."""
        world = self.make(
            protocol,
            list(self.scripts),
            strategy,
            model=model,
            slots=self.slots,
            strangers=self.strangers,
            budget=self.budget,
            handlers=self.handlers,
            anywhere=self.anywhere,
            mortal=self.mortal,
            spins=self.spins,
            yields=self.spins,
            sharing=sharing,
        )
        self.prepare(world)
        world.check = self.check
        return world


SCENARIOS: Final = {
    "2x1": Scenario((visits(1),) * 2),
    "2x2": Scenario((visits(2, work=False),) * 2),
    "3x1": Scenario((visits(1),) * 3),
    "3x1 with time": Scenario((visits(1),) * 3, Budget(ticks=2)),
    "timeouts": Scenario((visits(2, timeout=1.0), visits(1, timeout=1.0), visits(1))),
    "spinning": Scenario((visits(2), visits(2, timeout=1.0)), spins=1),
    "spinning, three": Scenario((visits(1), visits(1), visits(1)), spins=1),
    "tries": Scenario((visits(1), tries, tries)),
    "raising": Scenario((visits(2), visits(2)), Budget(handlers=1), "r"),
    "raising, three": Scenario((visits(1), visits(1), visits(1)), Budget(handlers=2), "r"),
    "handlers": Scenario((visits(1), visits(2)), Budget(handlers=1), "t"),
    "handlers anywhere": Scenario((visits(1), visits(1)), Budget(handlers=1), "t", anywhere=True),
    "handlers twice": Scenario((visits(1), visits(1)), Budget(handlers=2), "t"),
    "handlers, three": Scenario((visits(1), visits(1), visits(1)), Budget(handlers=1), "t"),
    "handlers that raise": Scenario((visits(1), visits(1)), Budget(handlers=2), "btx"),
    "again while held": Scenario((stubborn, visits(1)), Budget(handlers=1), "rx"),
    "deaths": Scenario((visits(1), visits(1), visits(1)), Budget(kills=1, ticks=1)),
    "death of a holder": Scenario((leave, visits(1), visits(1)), Budget(kills=1, ticks=1), prepare=held),
    "death of a holder, two": Scenario((leave, visits(1)), Budget(kills=1, ticks=1), prepare=held),
    "a newcomer, and one dead in line": Scenario(
        (visits(1), visits(1), newcomer), Budget(ticks=1), strangers=1, slots=2, prepare=dead_in_line
    ),
    "two deaths": Scenario((visits(2), visits(1), visits(1)), Budget(kills=2, ticks=1)),
    "deaths and timeouts": Scenario((visits(1), visits(2, timeout=1.0), visits(1)), Budget(kills=1, ticks=1)),
    "deaths and handlers": Scenario((visits(1), visits(2)), Budget(kills=1, handlers=1, ticks=1), "tr"),
    "a newcomer": Scenario((visits(1), visits(1), newcomer), Budget(kills=1, ticks=1), strangers=1, slots=2),
    "two newcomers": Scenario((visits(1), newcomer, newcomer), Budget(kills=1, ticks=1), strangers=2, slots=2),
    "newcomers and two deaths": Scenario(
        (visits(1), visits(1), newcomer, newcomer), Budget(kills=2, ticks=1), strangers=2, slots=3
    ),
    "a dead owner, and handlers": Scenario(
        (idle, visits(1), newcomer), Budget(handlers=1, ticks=1), "t", strangers=1, slots=2, prepare=dead_holder
    ),
    "a dead owner's slot, and handlers": Scenario(
        (idle, visits(1), heir), Budget(handlers=1), "t", strangers=1, slots=2, prepare=dead_holder
    ),
    "released after an exception": Scenario((releases_in_spite,), Budget(handlers=1), "r"),
    "released by another": Scenario((visits(1), releases_for_another, visits(1)), prepare=held),
    "released by another, who may die": Scenario(
        (releases_what_others_did_not, releases_for_another, visits(1)), Budget(kills=1), mortal=1, prepare=held
    ),
    "released by one whom another is releasing": Scenario(
        (releases_the_next, releases_for_another, keeps), prepare=held
    ),
    "released by one whom another released": Scenario((releases_for_another, visits(1), idle), prepare=passed_on),
}
