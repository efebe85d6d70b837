"""Whether there is room for another item: what queues ask, and where in a book the answer is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from mpbakery._work.queues.feeder import Parcel
from mpbakery._work.queues.messages import Arrival

# The words of a queue's book.
EPOCH: Final = 0  # a new one begins when somebody looks for lost places
LATEST: Final = 1  # the latest one in which something was put that has come out
HIGH: Final = 2  # so many places, from the first one on, have ever had a number under way
BELL: Final = 3  # what those who wait for all to be done sleep on
SURPLUS: Final = 4  # how many items are counted that are lost
FIRST: Final = 8  # where the places begin, or the tallies

# Its bytes that are locked.
FEEDING: Final = 0  # by those who are putting, or have put what they have not sent yet
BUSY: Final = 1  # by those who have tasks that are not done
MENDING: Final = 2  # by whoever puts things in order
TALLIES: Final = 16  # by those who count: the first tally

# What its number counts: items, or epochs, in its lower half, which is so much higher than that, since a count that was
# mended too far must not borrow from the upper half; and tasks that are not done in the upper half.
BIAS: Final = 1 << 31
ITEM: Final = 1
TASK: Final = 1 << 32

#: How long whoever does not go on counts as alive (s).
GRACE: Final = 1.0


class Room(Protocol):
    """What a queue asks whether there is room for another item."""

    def take(self, deadline: float | None) -> bytes | None:
        """Take a place; the label of its item, None if there is none before `deadline` (0 for at once)."""

    def give(self, label: bytes | bytearray) -> None:
        """Give the place back that an item has."""

    def leave(self, arrival: Arrival) -> None:
        """The same, when the item has come out."""

    def refresh(self, waiting: Iterable[Parcel]) -> None:
        """Say that this process is alive, and still has these items."""

    def taken(self) -> int:
        """How many items there are."""

    def is_full(self) -> bool:
        """Whether there is no place."""

    def renew(self) -> None:
        """In a forked child: start anew."""
