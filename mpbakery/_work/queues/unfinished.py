"""How many tasks of a queue are not done, and whether anybody is left who could do them."""

from __future__ import annotations

import errno
import time
import warnings
from typing import Final

from mpbakery._errors import TasksLostWarning, reraise_handlers
from mpbakery._system.book import Book, Presence
from mpbakery._system.park import Parker
from mpbakery._work.queues.messages import Receiver
from mpbakery._work.queues.room import BELL, MENDING, TASK

#: How long nobody must be seen who has a task, before they count as lost (s).
_GRACE: Final = 0.2
#: How often one that waits for all to be done looks for that (s).
_NAP: Final = 0.1


class Unfinished:
    """The tasks of a queue that are not done.

    Whoever puts, has put what is not sent yet, gets, or has got what is not done, is seen as long as it lives: by the
    other processes, since it holds a byte of the book locked. A task goes from the first of these to the last in one
    direction. So if nobody is seen, in this order, and there is nothing in the queue, nobody is left who could do it.
    """

    def __init__(self, book: Book, receiver: Receiver, putting: Presence, busy: Presence) -> None:
        self._book = book
        self._receiver = receiver
        self._putting = putting
        self._busy = busy
        self._parker = Parker(book.mapping)

    def count(self) -> int:
        """How many there are."""
        return self._book.add(0) // TASK

    def add(self) -> None:
        """Count one more."""
        self._book.add(TASK)

    def cancel(self) -> None:
        """Count one less, which was never put."""
        self._subtract(1)

    def done(self) -> None:
        """Count one less, which this process has done. Raises ValueError if there is none."""
        if not self._subtract(1):
            raise ValueError("task_done() called too many times")
        self._busy.leave()

    def _subtract(self, tasks: int) -> bool:
        """Count so many less; False, and it has not, if there are not so many."""
        try:
            left = self._book.add(-tasks * TASK)
        except OSError as error:
            reraise_handlers(error)
            if error.errno != errno.EINVAL:
                raise
            return False
        if left < TASK:
            self._ring()
        return True

    def wait(self) -> None:
        """Wait until there are none, or nobody is left who could do them; that is told with a TasksLostWarning."""
        words = self._book.words
        since = 0.0
        count = -1
        turn = 0
        while True:
            bell = words[BELL]  # before the look, or what rings in between would not be heard
            before, count = count, self.count()
            if not count:
                break
            if count != before or not self._is_lost():
                since = 0.0
            elif not since:
                since = time.monotonic()
            elif time.monotonic() - since >= _GRACE and self._write_off(count):
                warnings.warn(TasksLostWarning(count), stacklevel=3)
                return
            turn += 1
            self._parker.park(BELL, bell, _NAP, turn)
        self._ring()  # only one is woken up by it, and there may be others who wait

    def _ring(self) -> None:
        self._book.words[BELL] = (self._book.words[BELL] + 1) & 0xFFFF
        self._parker.unpark(BELL)

    def _is_lost(self) -> bool:
        """Whether nobody is left who could do what is not done."""
        if self._receiver.closed:
            return False  # this process cannot see whether there is something in the queue
        return not (self._putting.is_seen() or self._receiver.poll() or self._busy.is_seen())

    def _write_off(self, count: int) -> bool:
        """Count so many less, if there are so many; whether that was so."""
        if not self._book.try_to_have(MENDING):
            return False
        try:
            return self.count() == count and self._subtract(count)
        finally:
            self._book.let_go(MENDING)
