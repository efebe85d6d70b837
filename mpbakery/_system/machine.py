"""The machine that the protocol really runs on: its clock, its fences, and its ways to wait."""

from __future__ import annotations

import time
from typing import Final, cast

from mpbakery._errors import reraise_handlers
from mpbakery._system import fence, park
from mpbakery._system.layout import IDLE
from mpbakery._system.native import sleep

#: How often a waiter looks at the word that it waits for before it yields, and how often it yields before it parks.
SPINS: Final = 200
YIELDS: Final = 20


class ThisMachine(park.Parker):
    """Time, fences and parking for one lock's memory."""

    __slots__ = ()

    spins = SPINS
    yields = YIELDS
    order = None if fence.order is None else staticmethod(fence.order)
    # converted with __index__ by the store, whatever its annotation says
    idle = cast("int", fence.fenced(IDLE))
    clock = staticmethod(time.monotonic)
    new_fence = staticmethod(fence.new_fence)
    nap = staticmethod(park.nap)

    @staticmethod
    def yield_() -> None:
        """Let another process have the processor."""
        try:
            fence.yield_()
        except OSError as error:  # a sandbox forbids it
            reraise_handlers(error)
            sleep(1e-6)
