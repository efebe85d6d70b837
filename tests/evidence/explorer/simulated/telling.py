"""Actions and words of memory as people call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evidence.explorer.simulated.operations import DATA
from mpbakery._system.layout import (
    ATTENTION,
    ENTERED,
    FLAG,
    FOREIGN,
    HELD,
    HIGH,
    NOBODY,
    NUMBERS,
    OWNER,
    PARK,
    PID,
    RECORD,
    RECOVERIES,
    SCRATCH,
    START,
    TAKEN,
)

if TYPE_CHECKING:
    from evidence.explorer.simulated.world import World

_HEADER: Final = {
    OWNER: "OWNER",
    HIGH: "HIGH",
    SCRATCH: "SCRATCH",
    DATA: "DATA",
    ATTENTION: "ATTENTION",
    FOREIGN: "FOREIGN",
    RECOVERIES: "RECOVERIES",
    NOBODY: "NOBODY",
    TAKEN: "TAKEN",
    FLAG: "FLAG",
}
_RECORD: Final = {HELD: "held", PARK: "park", PID: "pid", START: "start", ENTERED: "entered"}
_WITHOUT_A_WORD: Final = {
    "t": "its time is up",
    "k": "is killed",
    "c": "closes its descriptors",
    "h": "a handler runs",
    "z": "time passes",
    "s": "all sleep: naps end",
}


def describe(world: World, action: str) -> str:
    """An action, with what it is about to do."""
    who = next((world.processes[int(char)] for char in action if char.isdigit()), None)
    if action[0].isdigit() and who is not None:
        kind, word, value, _seconds = who.pending
        where = f" {name_of(world, word)}" if word >= 0 else ""
        seen = f" -> {world.view(who, word)}" if kind == "load" else ""
        return f"{action:<6} {kind}{where}{f' := {value}' if kind.startswith('store') else ''}{seen}"
    if action[0] == "f" and who is not None and who.buffer:
        word, value = who.buffer[0] if "." not in action else (int(action.partition(".")[2]), "…")
        return f"{action:<6} {name_of(world, word)} = {value} becomes visible"
    return f"{action:<6} {_WITHOUT_A_WORD[action[0]]}"


def name_of(world: World, word: int) -> str:
    """A word of memory."""
    if word in _HEADER:
        return _HEADER[word]
    if word < world.records:
        return f"number[{word - NUMBERS}]"
    slot, offset = divmod(word - world.records, RECORD)
    return f"{_RECORD.get(offset, f'record+{offset}')}[{slot}]"
