"""The lock's own code, as shipped or with one small change, for the simulation to run."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import mpbakery

#: The modules that run in the simulation, each after those that it imports.
MODULES: Final = (
    "_protocol.line",
    "_protocol.seats",
    "_protocol.waiter",
    "_protocol.bakery",
    "_protocol.slots",
    "_protocol.permits",
    "_protocol.waiting_room",
    "_primitives.shared_room",
    "_primitives.event",
    "_primitives.condition",
)
_FOLDER: Final = Path(mpbakery.__file__).parent


@dataclass(frozen=True)
class Change:
    """One piece of a module's text, and what takes its place."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Protocol:
    """What the simulation needs of the lock's code."""

    Bakery: Any
    PermitBakery: Any
    Event: Any
    Condition: Any
    SlotTable: Any
    SlotsExhausted: type[Exception]


def load(*changes: Change) -> Protocol:
    """The protocol with some changes, or as it is shipped.

    Raises ValueError if what is to be changed does not stand in the module exactly once.
    """
    texts = {
        name.rpartition(".")[2]: _FOLDER.joinpath(*name.split(".")).with_suffix(".py").read_text() for name in MODULES
    }
    for change in changes:
        times = texts[change.module].count(change.old)
        if times != 1:
            raise ValueError(
                f"{change.old!r} stands in {change.module} {times} times: the list of mutants is out of date"
            )
        texts[change.module] = texts[change.module].replace(change.old, change.new)
    names = [f"mpbakery.{name}" for name in MODULES]
    shipped = {name: importlib.import_module(name) for name in names}
    if not changes:
        modules: dict[str, ModuleType] = shipped
    else:
        modules = {}
        try:
            for name in names:
                module = ModuleType(name)
                module.__file__ = f"<changed {name}>"
                modules[name] = sys.modules[name] = module
                exec(compile(texts[name.rpartition(".")[2]], module.__file__, "exec"), module.__dict__)
        finally:
            sys.modules.update(shipped)
    found = {name.rpartition(".")[2]: module for name, module in modules.items()}
    bakery, permits, event, condition, slots = (
        found[name] for name in ("bakery", "permits", "event", "condition", "slots")
    )
    return Protocol(
        bakery.Bakery,
        permits.PermitBakery,
        event.Event,
        condition.Condition,
        slots.SlotTable,
        mpbakery.SlotsExhausted,
    )
