"""The numbers of the slots, which say who waits and in which order: in a line as in a waiting room."""

from __future__ import annotations

from mpbakery._protocol.interfaces import Words
from mpbakery._system.layout import HIGH, NUMBERS


class Numbered:
    """What sees the numbers of one primitive, in its `words`."""

    __slots__ = ("words",)

    words: Words

    def numbers(self) -> list[int]:
        """The numbers of all slots in use."""
        return self.words[NUMBERS : NUMBERS + self.words[HIGH]].tolist()
