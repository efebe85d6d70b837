"""Scenarios that between them use all of the event."""

from __future__ import annotations

from typing import Any, Final

from evidence.explorer.promises.event import EventWorld
from evidence.explorer.scenarios.room import wait_until_others_wait, waits
from evidence.explorer.scenarios.scenario import Scenario, Script, wait_until
from evidence.explorer.simulated.operations import Violation, insist
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import Budget
from mpbakery._system.layout import FLAG, OWNER

#: A word that an event has no use for.
DATA: Final = OWNER


def sets(process: Process) -> None:
    """Set the event."""
    insist(process.lock.set)


def sets_in_vain(process: Process) -> None:
    """Set the event, clear it, and set it again."""
    sets(process)
    insist(process.lock.event.clear)
    sets(process)


def pulses(process: Process) -> None:
    """When all others wait, set the event and clear it at once."""
    wait_until_others_wait(process)
    sets(process)
    insist(process.lock.event.clear)


def publishes(process: Process) -> None:
    """Write something, and set the event."""
    process.lock.event._memory.words[DATA] = 1
    sets(process)


def reads(process: Process) -> None:
    """Wait for the event, and read what was written before it was set."""
    waits()(process)
    if process.lock.event._memory.words[DATA] != 1:
        raise Violation(f"process {process.index} sees the event set, but not what was written before")


def sets_if_nobody_has(process: Process) -> None:
    """Set the event if process 0 has died before it did."""
    world = process.world
    other = world.processes[0]
    wait_until(process, lambda: other.dead or other.finished)
    if not world.memory[FLAG]:
        sets(process)


def event(*scripts: Script, **options: Any) -> Scenario:
    """A scenario with an event."""
    return Scenario(scripts, make=EventWorld, **options)


_PATIENT: Final = waits(timeout=1.0)

EVENTS: Final = {
    "event": event(sets, waits()),
    "event, with something to read": event(publishes, reads),
    "event, two wait": event(sets, waits(), waits()),
    "event, set by two": event(sets, sets, waits()),
    "event, set, cleared and set": event(sets_in_vain, waits(2), waits()),
    "event, set and cleared": event(pulses, waits(), waits()),
    "event, timeouts": event(sets_in_vain, waits(2, 1.0), waits()),
    "event, set and cleared, timeouts": event(pulses, _PATIENT, waits()),
    "event, spinning": event(sets_in_vain, waits(), _PATIENT, spins=1),
    "event, newcomers": event(sets, waits(), waits(), strangers=2),
    "event, newcomers and handlers": event(
        sets_in_vain, waits(2), waits(), strangers=2, budget=Budget(handlers=2), handlers="rt"
    ),
    "event, raising": event(sets, waits(), waits(2, 1.0), budget=Budget(handlers=2), handlers="r"),
    "event, set and cleared, raising": event(pulses, waits(), waits(), budget=Budget(handlers=1), handlers="r"),
    "event, set by handlers": event(sets_in_vain, waits(2), waits(), budget=Budget(handlers=2), handlers="t"),
    "event, death of one who waits": event(sets, waits(), waits(), budget=Budget(kills=1), mortal=1),
    "event, set and cleared, deaths": event(pulses, waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1),
    "event, death of one who sets": event(sets, sets_if_nobody_has, waits(), budget=Budget(kills=1, ticks=1), mortal=0),
}
