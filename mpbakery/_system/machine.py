"""The machine that the protocol really runs on: its clock, its fences, and its ways to wait."""

from __future__ import annotations

import time
from typing import Final

from mpbakery._system import fence, park

#: How often a waiter looks at the word that it waits for before it yields, and how often it yields before it parks.
SPINS: Final = 200
YIELDS: Final = 20


class ThisMachine(park.Parker):
    """Time, fences and parking for one lock's memory."""

    __slots__ = ()

    spins = SPINS
    yields = YIELDS
    order = None if fence.order is None else staticmethod(fence.order)
    clock = staticmethod(time.monotonic)
    new_fence = staticmethod(fence.new_fence)
    yield_ = staticmethod(fence.yield_)
    nap = staticmethod(park.nap)
