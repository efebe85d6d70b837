"""The numbers of the slots, which say who waits and in which order: in a line as in a waiting room."""

from __future__ import annotations

from mpbakery._protocol.interfaces import Spans, Words
from mpbakery._system.layout import HIGH, NUMBERS


class Numbered:
    """What sees the numbers of one primitive, in its `words` and slices of them."""

    __slots__ = ("spans", "words")

    spans: Spans
    words: Words

    def numbers(self) -> list[int]:
        """The numbers of all slots in use."""
        return self.spans[NUMBERS : NUMBERS + self.words[HIGH]].tolist()
