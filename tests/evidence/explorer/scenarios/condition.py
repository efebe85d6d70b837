"""Scenarios that between them use all of the condition."""

from __future__ import annotations

from typing import Any, Final

from evidence.explorer.promises.condition import ConditionWorld
from evidence.explorer.scenarios.room import wait_until_others_wait, waits
from evidence.explorer.scenarios.scenario import Scenario, Script
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import Budget
from mpbakery._system.layout import LET_GO, NUMBERS


def notifies(*counts: int, at_once: bool = False) -> Script:
    """Notify so many, and then so many, once all others wait or at once; 0 stands for all."""

    def script(process: Process) -> None:
        world = process.world
        assert isinstance(world, ConditionWorld)
        if not at_once:
            wait_until_others_wait(process)
        for count in counts:
            world.notify(process, count)

    return script


def dies_notified(process: Process) -> None:
    """When all others wait, die like one that was notified and does not know it yet."""
    world = process.world
    assert isinstance(world, ConditionWorld)
    wait_until_others_wait(process)
    process.perform("store", NUMBERS + world.slots_of(process)[0], LET_GO)
    world.owed += 1
    world.budget.kills += 1
    world._kill(process)
    process.perform("nap")


def condition(*scripts: Script, **options: Any) -> Scenario:
    """A scenario with a condition."""
    return Scenario(scripts, make=ConditionWorld, **options)


CONDITIONS: Final = {
    "condition": condition(notifies(1), waits()),
    "condition, two wait": condition(notifies(2), waits(), waits()),
    "condition, one of two": condition(notifies(1), waits(), waits()),
    "condition, one by one": condition(notifies(1, 1), waits(), waits()),
    "condition, all": condition(notifies(0), waits(), waits()),
    "condition, at any time": condition(notifies(1, 1, at_once=True), waits(2), waits()),
    "condition, timeouts": condition(notifies(1), waits(timeout=1.0), waits()),
    "condition, timeouts at any time": condition(notifies(1, 1, at_once=True), waits(2, 1.0), waits()),
    "condition, spinning": condition(notifies(1, 1, at_once=True), waits(timeout=1.0), waits(), spins=1),
    "condition, newcomers": condition(notifies(1, 1), waits(), waits(), strangers=2),
    "condition, raising": condition(notifies(1), waits(), waits(), budget=Budget(handlers=1), handlers="r"),
    "condition, raising, alone": condition(waits(2, 1.0), budget=Budget(handlers=2), handlers="r"),
    "condition, raising, timeouts": condition(
        notifies(1, 1), waits(timeout=1.0), waits(), waits(), budget=Budget(handlers=1), handlers="r"
    ),
    "condition, deaths": condition(notifies(1), waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1),
    "condition, two deaths": condition(notifies(1), waits(), waits(), waits(), budget=Budget(kills=2, ticks=1)),
    "condition, death of one who hands on": condition(
        dies_notified, waits(), waits(), budget=Budget(kills=1, ticks=1), mortal=1
    ),
    "condition, deaths and timeouts": condition(
        notifies(1, 1), waits(timeout=1.0), waits(), waits(), budget=Budget(kills=1, ticks=1)
    ),
}
