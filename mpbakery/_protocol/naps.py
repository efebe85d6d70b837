"""How long those nap who wait: each nap ends with a look whether whom they wait for is alive."""

from __future__ import annotations

from typing import Final

#: A waiter at the head, or next in line, looks after this many seconds.
NAP: Final = 0.05
#: The longest nap, in seconds, of those close to the head, who may come next within it, and of those far down the line.
LONG_NAP: Final = 0.2
LONGEST_NAP: Final = 1.0
#: After so many seconds without a limit of time, who waits wonders whether it is for ever, and each time later, twice
#: as long after.
DOUBT: Final = 1.0
#: From this place in the line on, a waiter naps for so long that coming next is a reason to be woken.
FAR: Final = 32


def nap_of(place: int) -> float:
    """How many seconds to nap with so many ahead: who comes later looks less often."""
    return min(NAP * max(1, place), LONG_NAP) if place < FAR else LONGEST_NAP
