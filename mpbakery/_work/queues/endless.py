"""The room of a queue without a limit: there always is some, and only how many items there are matters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from itertools import count, repeat
from typing import Final

from mpbakery._system.book import Book, Presence
from mpbakery._system.layout import WORD
from mpbakery._work.queues.feeder import Parcel
from mpbakery._work.queues.messages import Arrival, Receiver
from mpbakery._work.queues.room import BIAS, FIRST, GRACE, ITEM, SURPLUS, TALLIES, TASK

#: How many processes can have a tally of their own at the same time. The others count together, which takes longer.
_TALLIES: Final = 4096
#: A tally is two words: how many items its processes have put, and how many they have got.
_PAIR: Final = 2


class Endless:
    """The room of a queue without a limit.

    Each process counts for itself, in a tally that it has locked as long as it lives. Then the next one goes on with
    it: what counts is the sum of all.
    """

    label_size: Final = 0
    #: the bytes of a book
    size: Final = (FIRST + _PAIR * _TALLIES) * WORD

    def __init__(self, book: Book, receiver: Receiver, feeding: Presence) -> None:
        self._book = book
        self._receiver = receiver
        self._feeding = feeding
        self.renew()

    def renew(self) -> None:
        """In a forked child: the parent's tally is the parent's."""
        self._up: Callable[[], object] = self._book.adding(ITEM)
        self._down: Callable[[], object] = self._book.adding(-ITEM)
        #: the right to look for a tally, until somebody has taken it
        self._right: list[None] = [None]
        #: how many items there seemed to be when there were none, and since when (monotonic seconds)
        self._seen = (0, 0.0)

    def take(self, _deadline: float | None) -> bytes:
        """Count one more."""
        if self._right:
            self._claim()
        self._up()
        return b""

    def give(self, _label: bytes | bytearray) -> None:
        """Count one less."""
        if self._right:
            self._claim()
        self._down()

    def leave(self, _arrival: Arrival) -> None:
        """Count one less."""
        if self._right:
            self._claim()
        self._down()

    def refresh(self, waiting: Iterable[Parcel]) -> None:
        """Nothing has to be said."""

    def taken(self) -> int:
        """How many items there are.

        What was lost with a process that was killed counts as well, until the queue has been seen empty by two of these
        calls, a second apart.
        """
        found = self._count()
        if self._receiver.poll() or self._feeding.is_seen():
            return max(found, 1)
        before, since = self._seen
        now = time.monotonic()
        if found != before:
            self._seen = (found, now)
        elif found and now - since >= GRACE:
            self._book.words[SURPLUS] += found
        return 0

    def is_full(self) -> bool:
        """Never."""
        return False

    def _count(self) -> int:
        words = self._book.words
        tallies = self._book.spans[FIRST:]
        put, got = sum(tallies[::_PAIR].tolist()), sum(tallies[1::_PAIR].tolist())
        return self._book.add(0) % TASK - BIAS + put - got - words[SURPLUS]

    def _claim(self) -> None:
        """Have a tally from now on, if there is one."""
        right, words = self._right, self._book.words
        try:
            right.pop()
        except IndexError:
            return  # another thread looks for one, or a signal handler
        for number in range(_TALLIES):
            tally = (os.getpid() + number) % _TALLIES
            if self._book.try_to_have(TALLIES + tally):
                at = FIRST + _PAIR * tally
                # One step between threads and signal handlers, since all of it is C: the next number, and its store.
                up, down = (
                    map(words.__setitem__, repeat(word), count(words[word] + 1)).__next__ for word in (at, at + 1)
                )
                # no call after this look: a handler could fork in it, and the child would count on its parent's tally
                if self._right is right:
                    self._up, self._down = up, down
                return
