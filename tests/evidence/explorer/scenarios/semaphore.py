"""Scenarios that between them use all of the semaphore."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from evidence.explorer.promises.semaphore import SemaphoreWorld
from evidence.explorer.scenarios.scenario import (
    Scenario,
    Script,
    idle,
    keeps,
    newcomer,
    nothing,
    visits,
    visits_in_spite,
)
from evidence.explorer.simulated.operations import Interrupt, Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import Budget
from mpbakery._system.layout import NUMBERS


def gives(times: int) -> Script:
    """Give permits that others wait for."""

    def script(process: Process) -> None:
        for _ in range(times):
            try:
                process.release()
            except Interrupt:
                pass

    return script


def takes(process: Process) -> None:
    """Take a permit without waiting, since there is one all the time."""
    if not process.acquire(False):
        raise Violation(f"process {process.index} was refused a permit, and there is one")


def given_before(world: SemaphoreWorld) -> None:
    """Processes 0 and 1 have taken and given back some."""
    for process in world.processes[:2] * 2:
        process.acquire()
        process.release()


def one_too_many(world: SemaphoreWorld) -> None:
    """Process 0 has given back one more than the bound allows."""
    given_before(world)
    try:
        world.processes[0].release()
    except ValueError:
        return
    raise AssertionError("a bounded semaphore takes more than its bound")


def one_dead_in_line(world: SemaphoreWorld) -> None:
    """Process 0 was killed when it had just taken a ticket, and had given something before."""
    given_before(world)
    process = world.processes[0]
    process.perform("store", NUMBERS + process.lock._seats.slot.index, 2)
    process.dead = True


def permits(count: int, *scripts: Script, bounded: bool = False, prepare: Any = nothing, **options: Any) -> Scenario:
    """A scenario with a semaphore of so many permits."""
    make = partial(SemaphoreWorld, permits=count, bounded=bounded)
    return Scenario(scripts, make=make, prepare=prepare, **options)


_PATIENT: Final = visits(1, timeout=1.0)

SEMAPHORES: Final = {
    "semaphore, 2x1": permits(1, *[visits(1)] * 2),
    "semaphore, 2x2": permits(1, *[visits(2, work=False)] * 2),
    "semaphore, 3x1": permits(1, *[visits(1)] * 3),
    "semaphore, two permits": permits(2, *[visits(1)] * 3),
    "semaphore, given by another": permits(0, gives(2), keeps, keeps),
    "semaphore, given by two": permits(0, gives(1), gives(1), keeps, keeps),
    "semaphore, given back by another": permits(1, keeps, gives(1), keeps),
    "semaphore, given meanwhile": permits(1, gives(1), takes, prepare=given_before),
    "semaphore, timeouts": permits(1, visits(2, timeout=1.0), _PATIENT, visits(1)),
    "semaphore, given and timeouts": permits(0, gives(2), _PATIENT, keeps),
    "semaphore, spinning": permits(1, visits(2), visits(2, timeout=1.0), spins=1),
    "semaphore, raising": permits(1, *[visits(1)] * 3, budget=Budget(handlers=1), handlers="r"),
    "semaphore, raising anywhere": permits(
        1, *[visits_in_spite] * 3, budget=Budget(handlers=1), handlers="r", anywhere=True
    ),
    "semaphore, raising, two permits": permits(2, *[visits(1)] * 3, budget=Budget(handlers=2), handlers="r"),
    "semaphore, handlers": permits(1, visits(1), visits(2), budget=Budget(handlers=1), handlers="t"),
    "semaphore, handlers twice": permits(1, visits(1), visits(1), budget=Budget(handlers=2), handlers="t"),
    "semaphore, handlers, two permits": permits(2, *[visits(1)] * 3, budget=Budget(handlers=1), handlers="t"),
    "semaphore, handlers that raise": permits(1, visits(1), visits(1), budget=Budget(handlers=2), handlers="btx"),
    "semaphore, given to handlers": permits(0, gives(2), keeps, visits(1), budget=Budget(handlers=1), handlers="t"),
    "semaphore, deaths": permits(2, *[visits(1)] * 3, budget=Budget(kills=1, ticks=1)),
    "semaphore, two deaths": permits(1, *[visits(1, timeout=1.0)] * 3, budget=Budget(kills=2, ticks=1)),
    "semaphore, one dead in line": permits(
        1, idle, visits(1), newcomer, strangers=1, slots=2, prepare=one_dead_in_line
    ),
    "semaphore, a newcomer": permits(
        2, visits(1), visits(1), newcomer, strangers=1, slots=2, budget=Budget(kills=1, ticks=1)
    ),
    "semaphore, a newcomer gives": permits(0, keeps, keeps, gives(2), strangers=1),
    "semaphore, one too many": permits(1, idle, visits(1), visits(1), bounded=True, prepare=one_too_many),
    "semaphore, one too many, and raising": permits(
        1, idle, visits(1), visits(1), bounded=True, prepare=given_before, budget=Budget(handlers=1), handlers="r"
    ),
    "semaphore, bounded": permits(2, *[visits(1)] * 3, bounded=True),
}
