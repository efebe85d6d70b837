"""The shape of a scenario, and scripts of processes that fit all that is acquired and released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evidence.explorer.protocol import Protocol
from evidence.explorer.simulated.execution import Strategy
from evidence.explorer.simulated.operations import Interrupt
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.sharing import Sharing
from evidence.explorer.simulated.world import Budget, World
from mpbakery._protocol.naps import NAP
from mpbakery._system.layout import OWNER

Script = Callable[[Process], None]


def nothing(world: World) -> None:
    """Begin with a lock that nobody wants, and insist on nothing more at the end."""


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
    prepare: Callable[[Any], object] = nothing
    #: what must hold when all have come to an end, beside what the lock promises
    check: Callable[[Any], object] = nothing
    #: the only one who may be killed; None if all may
    mortal: int | None = None
    #: how often a waiter looks at its word before it yields, and how often it yields before it parks
    spins: int = 0
    #: whoever is asked about another process says that it is dead
    hearsay: bool = False
    #: for how long who has entered through the line may come again without it (s)
    tenure: float = 0.0
    #: what is explored
    make: Callable[..., World] = field(kw_only=True)

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
            hearsay=self.hearsay,
            tenure=self.tenure,
            sharing=sharing,
        )
        self.prepare(world)
        world.check = self.check
        return world


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
    """Acquire, work and release that many times; without work there is less to interleave.

    Where there is a tenure, once more than that.
    """

    def script(process: Process) -> None:
        for _ in range(times + (process.world.tenure > 0)):
            try:
                got = process.acquire(True, timeout)
            except Interrupt:
                got = False
            if got and work:
                process.work()
            leave(process)

    return script


def visits_in_spite(process: Process) -> None:
    """Acquire, work and release, and go on wherever that is interrupted."""
    try:
        visits(1)(process)
    except Interrupt:
        leave(process)


def newcomer(process: Process) -> None:
    """Acquire without a slot; there may be none."""
    try:
        visits(1)(process)
    except process.world.protocol.SlotsExhausted:
        pass


def keeps(process: Process) -> None:
    """Acquire, and leave it to others to release."""
    process.acquire()


def idle(_process: Process) -> None:
    """Nothing more."""
