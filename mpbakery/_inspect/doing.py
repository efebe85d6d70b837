"""What a thread does at this moment, in words."""

from __future__ import annotations

from typing import Final

from mpbakery._system import procfs
from mpbakery._system.procfs import Sleep

DEAD: Final = "dead"
ENDED: Final = "its thread has ended"
STOPPED: Final = "stopped"
#: What waits for one process, or for any child.
WAITING_FOR_CHILD: Final = "wait4"

_STATES: Final = {
    "R": "running",
    "T": STOPPED,
    "t": f"{STOPPED} by a debugger",
    "Z": "ending",
    "X": "ending",
    "I": "idle",
}


def describe(pid: int, sleep: Sleep | None) -> str:
    """What that thread of process `pid` does."""
    if sleep is None:
        return ENDED
    if sleep.state not in "SD":
        return _STATES.get(sleep.state, f"in state {sleep.state}")
    if not sleep.call:
        return "asleep"
    if sleep.call == "futex":
        return "asleep in futex (a lock of threading, or of a C library)"
    if sleep.descriptor >= 0:
        target = procfs.target_of(pid, sleep.descriptor)
        return f"asleep in {sleep.call}({sleep.descriptor}{f' = {target}' if target else ''})"
    child = awaited_child(sleep)
    if child:
        return f"asleep in {sleep.call}(child {child})"
    return f"asleep in {sleep.call}"


def awaited_child(sleep: Sleep | None) -> int:
    """The process whose end a thread waits for without a limit, 0 if it does not."""
    if sleep is None or sleep.call != WAITING_FOR_CHILD or not 0 < sleep.argument < 1 << 31:
        return 0
    return sleep.argument
