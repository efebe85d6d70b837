"""What a search knows of an execution: what an action concerns, and whether this state was met before."""

from __future__ import annotations

from typing import Final

from evidence.explorer.simulated.operations import DRAINING, FENCES
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import World

#: What stands for the critical section and for the order of the line among the words of an action's footprint.
_GATE: Final = -2
_LINE: Final = -3


def footprint(world: World, action: str) -> tuple[frozenset[int], frozenset[int]] | None:
    """The words that an action looks at and those that it changes; None if it may concern everything."""
    if action[0] == "f":
        process = world.processes[int(action[1])]
        stored = [int(action[3:])] if "." in action else [process.buffer[0][0]]
        return frozenset(), _changed_by(world, stored)
    if not action[0].isdigit():
        return None
    process = world.processes[int(action)]
    kind, word, _value, _seconds = process.pending
    stored = [stored for stored, _value in process.buffer] if kind in DRAINING else []
    if kind in {"store", "store0"}:
        stored.append(word)
    if kind in {"enter", "leave"}:
        return frozenset(), frozenset((_GATE,))
    if kind in {"load", "park"}:
        return frozenset((word,)), _changed_by(world, stored)
    return (frozenset(), _changed_by(world, stored)) if kind in FENCES | {"store", "store0"} else None


def _changed_by(world: World, stored: list[int]) -> frozenset[int]:
    """With the words, what the promises make of them."""
    line = any(world.concerns_order(word) for word in stored)
    return frozenset([*stored, _LINE] if line else stored)


def state_of(world: World) -> int:
    """A number for everything that the rest of the execution depends on, but for who made the last step."""
    return hash(
        (
            tuple(world.memory),
            tuple(_state_of_process(world, process) for process in world.processes),
            world.budget.left(),
            (world.claimed_by, frozenset(world.living), world.epoch, world.naps, world.disturbed),
            tuple(process.index for process in world.inside),
            world.counted(),
        )
    )


def _state_of_process(world: World, process: Process) -> tuple[object, ...]:
    if process.finished or process.dead:
        return (process.finished, process.dead, tuple(process.buffer))
    pending = process.pending
    return (
        process.history,
        pending.kind,
        pending.word,
        tuple(process.buffer),
        process.parked_on,
        process.woken,
        process.wakes_at,
        process.late,
        world.changes != process.seen,
        process.told,
        (process.after_call, process.depth, process.keeps, process.will_undo) if world.handlers else None,
    )
