"""What processes do in a room in which they wait to be let go."""

from __future__ import annotations

from evidence.explorer.promises.room import RoomWorld
from evidence.explorer.scenarios.scenario import Script, wait_until
from evidence.explorer.simulated.operations import Interrupt, insist
from evidence.explorer.simulated.process import Process


def waits(times: int = 1, timeout: float | None = None) -> Script:
    """Wait that many times."""

    def script(process: Process) -> None:
        world = process.world
        assert isinstance(world, RoomWorld)
        for _ in range(times):
            try:
                world.wait(process, timeout)
            except Interrupt:
                world.check_no_number(process)

    return script


def wait_until_others_wait(process: Process) -> None:
    """Until all others wait, or have come to their end."""
    world = process.world
    assert isinstance(world, RoomWorld)
    others = [other for other in world.processes if other is not process]

    def all_wait() -> bool:
        return all(other.dead or other.finished or world.is_waiting(other) for other in others)

    insist(lambda: wait_until(process, all_wait))
