"""Scenarios that between them use all of the lock."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from evidence.explorer.promises.lock import LockWorld
from evidence.explorer.scenarios.scenario import (
    Scenario,
    Script,
    idle,
    keeps,
    leave,
    newcomer,
    visits,
    visits_in_spite,
    wait_until,
)
from evidence.explorer.simulated.operations import Interrupt, Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import Budget
from mpbakery._system.layout import ENDED, HIGH, NUMBERS, PID, THREAD, record_of


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


def heir(process: Process) -> None:
    """Acquire without a slot, once a dead owner's lock has been taken over: then its slot can be had."""
    world = process.world
    assert isinstance(world, LockWorld)
    try:
        wait_until(process, lambda: world.recoveries > 0)
        visits(1)(process)
    except process.world.protocol.SlotsExhausted:
        pass


def end_thread(process: Process) -> None:
    """The thread ends, and another one of the same process goes on."""
    lock = process.lock
    lock._seats = lock._new_seats()
    lock._releaser = lock._releaser_of(lock._seats)


def visits_and_ends(process: Process) -> None:
    """Acquire, work and release in a thread that ends."""
    visits(1)(process)
    end_thread(process)


def ends_with_it(process: Process) -> None:
    """Acquire in a thread that ends with the lock held; then another one releases it."""
    process.acquire()
    end_thread(process)
    process.release()


def comes_again(process: Process) -> None:
    """Release what it holds, and acquire once more."""
    leave(process)
    visits(0)(process)


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


def no_thread_is_left(world: LockWorld) -> None:
    """Insist that process 0 has no slot that others cannot have."""
    words = world.memory
    for slot in range(words[HIGH]):
        record = record_of(world.slots, slot)
        if words[record + PID] == world.processes[0].identity.pid and not words[record + THREAD] & ENDED:
            raise Violation(f"slot {slot} belongs to a thread that has ended")


def held(world: LockWorld) -> None:
    """Process 0 holds the lock."""
    world.processes[0].acquire()


def the_last_holds(world: LockWorld) -> None:
    """The last process holds the lock."""
    world.processes[-1].acquire()


def has_been_in(world: LockWorld) -> None:
    """Process 0 has entered, and left, a moment ago."""
    held(world)
    world.processes[0].release()


def dead_holder(world: LockWorld) -> None:
    """Process 0 was killed when it had acquired the lock."""
    held(world)
    world.processes[0].dead = True
    world.deaths += 1


def passed_on(world: LockWorld) -> None:
    """Process 1 has released what process 0 had acquired, and process 2 holds the lock, for the second time."""
    world.processes[0].acquire()
    world.processes[1].release()
    world.processes[2].acquire()
    world.processes[2].release()
    world.processes[2].acquire()


def dead_in_line(world: LockWorld) -> None:
    """Process 0 was killed when it had just taken a ticket."""
    process = world.processes[0]
    process.perform("store", NUMBERS + process.lock._seats.slot.index, 2)
    process.dead = True


def lock(*scripts: Script, **options: Any) -> Scenario:
    """A scenario with a lock."""
    return Scenario(scripts, make=LockWorld, **options)


_STRICT: Final = {
    "2x1": lock(*[visits(1)] * 2),
    "2x2": lock(*[visits(2, work=False)] * 2),
    "3x1": lock(*[visits(1)] * 3),
    "two behind a holder": lock(visits(1), visits(1), leave, prepare=the_last_holds),
    "3x1 with time": lock(*[visits(1)] * 3, budget=Budget(ticks=2)),
    "timeouts": lock(visits(2, timeout=1.0), visits(1, timeout=1.0), visits(1)),
    "spinning": lock(visits(2), visits(2, timeout=1.0), spins=1),
    "spinning, three": lock(visits(1), visits(1), visits(1), spins=1),
    "tries": lock(visits(1), tries, tries),
    "raising": lock(visits(2), visits(2), budget=Budget(handlers=1), handlers="r"),
    "raising anywhere": lock(*[visits_in_spite] * 3, budget=Budget(handlers=1), handlers="r", anywhere=True),
    "raising, three": lock(visits(1), visits(1), visits(1), budget=Budget(handlers=2), handlers="r"),
    "handlers": lock(visits(1), visits(2), budget=Budget(handlers=1), handlers="t"),
    "handlers anywhere": lock(visits(1), visits(1), budget=Budget(handlers=1), handlers="t", anywhere=True),
    "handlers twice": lock(visits(1), visits(1), budget=Budget(handlers=2), handlers="t"),
    "handlers, three": lock(visits(1), visits(1), visits(1), budget=Budget(handlers=1), handlers="t"),
    "handlers that raise": lock(visits(1), visits(1), budget=Budget(handlers=2), handlers="btx"),
    "again while held": lock(stubborn, visits(1), budget=Budget(handlers=1), handlers="rx"),
    "deaths": lock(visits(1), visits(1), visits(1), budget=Budget(kills=1, ticks=1)),
    "death of a holder": lock(leave, visits(1), visits(1), budget=Budget(kills=1, ticks=1), prepare=held),
    "death of a holder, two": lock(leave, visits(1), budget=Budget(kills=1, ticks=1), prepare=held),
    "a newcomer, and one dead in line": lock(
        visits(1), visits(1), newcomer, budget=Budget(ticks=1), strangers=1, slots=2, prepare=dead_in_line
    ),
    "two deaths": lock(visits(2), visits(1), visits(1), budget=Budget(kills=2, ticks=1)),
    "deaths and timeouts": lock(visits(1), visits(2, timeout=1.0), visits(1), budget=Budget(kills=1, ticks=1)),
    "deaths and handlers": lock(visits(1), visits(2), budget=Budget(kills=1, handlers=1, ticks=1), handlers="tr"),
    "a newcomer": lock(visits(1), visits(1), newcomer, budget=Budget(kills=1, ticks=1), strangers=1, slots=2),
    "two newcomers": lock(visits(1), newcomer, newcomer, budget=Budget(kills=1, ticks=1), strangers=2, slots=2),
    "newcomers and two deaths": lock(
        visits(1), visits(1), newcomer, newcomer, budget=Budget(kills=2, ticks=1), strangers=2, slots=3
    ),
    "hearsay": lock(visits(1), visits(1), newcomer, budget=Budget(ticks=2), strangers=1, slots=2, hearsay=True),
    "hearsay, newcomers": lock(newcomer, newcomer, strangers=2, slots=1, hearsay=True),
    "hearsay, deaths": lock(
        visits(1), visits(1), newcomer, budget=Budget(kills=1, ticks=1), strangers=1, slots=2, hearsay=True
    ),
    "closed descriptors": lock(
        visits(1), visits(1), newcomer, budget=Budget(ticks=2, closings=1), strangers=1, slots=2
    ),
    "closed descriptors, and deaths": lock(
        visits(2), visits(1), newcomer, budget=Budget(kills=1, ticks=1, closings=1), strangers=1, slots=2
    ),
    "a thread that ends": lock(visits_and_ends, newcomer, newcomer, strangers=2, slots=2, check=no_thread_is_left),
    "a thread that ends with the lock": lock(
        ends_with_it, newcomer, newcomer, strangers=2, slots=2, check=no_thread_is_left
    ),
    "claims that are interrupted": lock(visits(3), budget=Budget(handlers=2), handlers="r", strangers=1, slots=1),
    "a dead owner, and handlers": lock(
        idle,
        visits(1),
        newcomer,
        budget=Budget(handlers=1, ticks=1),
        handlers="t",
        strangers=1,
        slots=2,
        prepare=dead_holder,
    ),
    "a dead owner's slot, and handlers": lock(
        idle, visits(1), heir, budget=Budget(handlers=1), handlers="t", strangers=1, slots=2, prepare=dead_holder
    ),
    "released after an exception": lock(releases_in_spite, budget=Budget(handlers=1), handlers="r"),
    "released by another": lock(visits(1), releases_for_another, visits(1), prepare=held),
    "released by another, who may die": lock(
        releases_what_others_did_not, releases_for_another, visits(1), budget=Budget(kills=1), mortal=1, prepare=held
    ),
    "released by one whom another is releasing": lock(releases_the_next, releases_for_another, keeps, prepare=held),
    "released by one whom another released": lock(releases_for_another, visits(1), idle, prepare=passed_on),
}

#: How long the tenure is where there is one (s): for the second acquisition of a process, and mostly the third.
TENURE: Final = 0.0005

LOCKS: Final = (
    _STRICT
    | {f"{name}, tenure": dataclasses.replace(scenario, tenure=TENURE) for name, scenario in _STRICT.items()}
    | {
        "one comes again": lock(*[visits(0)] * 2, prepare=has_been_in, tenure=TENURE),
        "one comes again, three": lock(*[visits(0)] * 3, prepare=has_been_in, tenure=TENURE),
        "one leaves and comes again": lock(comes_again, visits(0), visits(0), prepare=held, tenure=TENURE),
        "one comes again, one gives up": lock(
            comes_again, visits(0, timeout=1.0), visits(0), prepare=held, tenure=TENURE
        ),
        "one comes again, and dies": lock(
            visits(0),
            visits(0),
            newcomer,
            budget=Budget(kills=1, ticks=1),
            mortal=0,
            strangers=1,
            slots=2,
            prepare=has_been_in,
            tenure=TENURE,
        ),
        "one comes again and again": lock(visits(4), visits(0), tenure=TENURE),
    }
)
