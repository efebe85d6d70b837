"""The room of a queue with a limit: so many places, each of which is free or taken.

The places are numbered. The numbers of those that are free are messages, on their way from the end at which items come
out to the end at which they go in: whoever puts an item receives one, and sends it along with the item; whoever gets
the item sends it back. The kernel gives each number to one process, and those who wait for one are served in turn; who
is stopped is in nobody's way.

A number that a process has in hand when it is killed is lost. What the processes share beside says of each place
whether it is taken, and how often it has been. So whoever wants a place in vain can find those that are lost:

- One that has been free for a second, while there was no number to be had, has lost its number.
- One that has been taken for a second has its item in the queue by now, or never will have. If it has, it comes out
  before everything that is put later, since items come out in the order in which they went in. So a new epoch begins,
  whose number goes along with every item that is put from now on. When one of these has come out, or the queue is
  empty, what has been taken all the time is lost.

Their numbers are sent again. If that was wrong, because somebody was stopped for that second between one system call
and the next, the queue has one item more than its limit until that item comes out: with it comes how often its place
had been taken, and that is not so any more, so nobody gives the place back for it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final

from mpbakery._errors import reraise_handlers
from mpbakery._system.book import Book
from mpbakery._system.layout import WORD
from mpbakery._system.native import sleep
from mpbakery._system.packets import is_no_room, wait_for
from mpbakery._work.queues.feeder import Parcel
from mpbakery._work.queues.messages import Arrival, Receiver, Sender
from mpbakery._work.queues.room import BIAS, EPOCH, FIRST, GRACE, HIGH, ITEM, LATEST, MENDING, TASK

#: How often one that waits for a place looks for lost ones (s).
_NAP: Final = 0.1
#: How many numbers are sent at once: those of places that have not been used yet follow when they are wanted.
_BATCH: Final = 256
#: How long to wait for whoever puts the places in order (s).
_NAPS: Final = (1e-4, 1e-3, 1e-2, 0.0)

_AT_ONCE: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)

_NUMBER: Final = struct.Struct("=I")
#: The number of a place, how often it has been taken, and the epoch.
_LABEL: Final = struct.Struct("=IqI")


class Places:
    """The places of a queue with a limit."""

    label_size: Final = _LABEL.size

    def __init__(self, book: Book, sender: Sender, receiver: Receiver, count: int) -> None:
        self._book = book
        self._words = book.words
        self._sender = sender
        self._receiver = receiver
        self._count = count
        #: where there is a byte for each place, which is not 0 if its number was sent
        self._sent = (FIRST + count) * WORD
        # Whoever waits for a number comes back now and then. With a look at the clock of its own, all who wait would
        # wake up for each number.
        timeout = struct.pack("ll", 0, int(_NAP * 1e6))
        sender.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self.renew()

    @staticmethod
    def size(count: int) -> int:
        """The bytes of a book for so many places."""
        return (FIRST + count) * WORD + count

    def renew(self) -> None:
        """In a forked child: start anew."""
        self._look: _Look | None = None
        #: the right to put the places in order, among the threads of this process
        self._turn: list[None] = [None]
        #: when it was last said that this process has what waits in it (monotonic seconds)
        self._refreshed = 0.0

    def fill(self) -> None:
        """Send the first numbers, when the queue is made."""
        self._send_unsent()

    def take(self, deadline: float | None) -> bytes | None:
        """Take a place; the label of its item, None if there is none before `deadline` (0 for at once).

        Raises BrokenPipeError if nobody can get an item any more.
        """
        words = self._words
        while (number := self._next_number(deadline)) is not None:
            at = FIRST + number
            # what was sent a second time comes here while the place is taken, and is dropped
            if number < self._count and words[at] <= 0:
                taking = words[at] = 1 - words[at]
                return _LABEL.pack(number, taking, words[EPOCH])
        return None

    def give(self, label: bytes | bytearray) -> None:
        """Give the place back that an item has."""
        number, taking, _epoch = _LABEL.unpack(label)
        words = self._words
        if number < self._count and words[FIRST + number] == taking:
            words[FIRST + number] = -taking
            self._send_number(number)

    def leave(self, arrival: Arrival) -> None:
        """The same, when the item has come out."""
        label = arrival.label
        epoch = _LABEL.unpack(label)[2]
        if epoch > self._words[LATEST]:
            self._words[LATEST] = epoch
        self.give(label)

    def refresh(self, waiting: Iterable[Parcel]) -> None:
        """Say that this process is alive, and still has these items."""
        now = time.monotonic()
        if now - self._refreshed < GRACE / 4:
            return
        self._refreshed = now
        words = self._words
        for parcel in list(waiting):
            number, taking, _epoch = _LABEL.unpack(parcel.label)
            if words[FIRST + number] == taking:
                words[FIRST + number] = taking + 1
                parcel.label = _LABEL.pack(number, taking + 1, words[EPOCH])

    def taken(self) -> int:
        """How many items there are. What was lost with a process that was killed is found as by who waits for it."""
        self._look_for_lost(dry=not self._is_number_there())
        return sum(word > 0 for word in self._used())

    def is_full(self) -> bool:
        """Whether there is no place."""
        if self._is_number_there():
            return False
        self._put_in_order()
        return not self._is_number_there()

    def _used(self) -> list[int]:
        """The words of the places that have ever had a number under way."""
        return self._book.spans[FIRST : FIRST + self._words[HIGH]].tolist()

    # --- The numbers of free places --------------------------------------------------------------------------------

    def _is_number_there(self) -> bool:
        return wait_for(self._sender.end, select.POLLIN, 0)

    def _next_number(self, deadline: float | None) -> int | None:
        """The number of a place that should be free, None if there is none before `deadline`."""
        number = self._receive_number(_AT_ONCE)
        while number is None:
            self._put_in_order()
            number = self._receive_number(_AT_ONCE)
            if number is not None or deadline == 0:
                break
            left = _NAP if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            if left >= _NAP:
                number = self._receive_number(0)
            else:
                wait_for(self._sender.end, select.POLLIN, left)
        return number

    def _receive_number(self, flags: int) -> int | None:
        try:
            message = self._sender.end.recv(_NUMBER.size, flags)
        except OSError as error:
            if is_no_room(error):
                return None
            raise
        if not message:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        (number,) = _NUMBER.unpack(message)
        return int(number)

    def _send_number(self, number: int) -> bool:
        """Send the number of a place that is free; whether there was room for it."""
        try:
            self._receiver.end.send(_NUMBER.pack(number), _AT_ONCE)
        except OSError as error:
            reraise_handlers(error)
            self._book.mapping[self._sent + number] = 0  # who wants it sends it
            return False
        return True

    def _next_unsent(self) -> int:
        """A place whose number has not been sent, less than 0 if there is none."""
        return self._book.mapping.find(b"\0", self._sent, self._sent + self._count) - self._sent

    def _send_unsent(self) -> None:
        words = self._words
        for _ in range(_BATCH):
            number = self._next_unsent()
            if number < 0:
                return
            words[HIGH] = max(words[HIGH], number + 1)
            self._book.mapping[self._sent + number] = 1
            if not self._send_number(number):
                return

    # --- Putting the places in order -------------------------------------------------------------------------------

    def _put_in_order(self) -> None:
        """Send numbers that have not been sent, and those of lost places, since there is none to be had."""
        if self._next_unsent() >= 0:
            self._exclusively(self._send_unsent)
        self._look_for_lost(dry=True)

    def _look_for_lost(self, *, dry: bool) -> None:
        """Find places that are lost, as it is told above; `dry`: there is no number to be had."""
        now = time.monotonic()
        look = self._look
        if look is None:
            self._look = _Look(now, dry, self._used())
            return
        if look.suspects is None:
            if now - look.since < GRACE:
                return
            pairs = enumerate(zip(self._used(), look.words, strict=False))
            same = {number: word for number, (word, before) in pairs if word == before}
            if dry and look.dry:
                sent = self._book.mapping
                self._send_again({n: word for n, word in same.items() if word <= 0 and sent[self._sent + n]})
            look.suspects = {number: word for number, word in same.items() if word > 0}
            look.epoch = (self._book.add(ITEM) - BIAS) % TASK
        # again and again: of two who look at the same time, the one with the earlier epoch may be the last to store it
        self._words[EPOCH] = max(self._words[EPOCH], look.epoch)
        if not look.suspects:
            self._look = None
        elif self._words[LATEST] >= look.epoch or not (self._receiver.closed or self._receiver.poll()):
            self._send_again(look.suspects)
            self._look = None

    def _send_again(self, lost: dict[int, int]) -> None:
        """Send the numbers of lost places, given with their words as they were seen."""

        def send() -> None:
            for number, word in lost.items():
                if self._words[FIRST + number] == word:
                    self._words[FIRST + number] = -abs(word)
                    self._send_number(number)

        if lost:
            self._exclusively(send)

    def _exclusively(self, action: Callable[[], object]) -> None:
        """Call `action`, unless somebody else puts the places in order: two would send the same numbers."""
        try:
            self._turn.pop()
        except IndexError:
            return
        try:
            for nap in _NAPS:
                if self._book.try_to_have(MENDING):
                    try:
                        action()
                    finally:
                        self._book.let_go(MENDING)
                    return
                sleep(nap)
            # It takes microseconds: whoever has it is stopped, and a number that is sent twice is no great harm.
            action()
        finally:
            self._turn.append(None)


class _Look:
    """What the places looked like when somebody missed one, and what became of that."""

    __slots__ = ("dry", "epoch", "since", "suspects", "words")

    def __init__(self, since: float, dry: bool, words: list[int]) -> None:
        self.since = since
        self.dry = dry
        self.words = words
        #: those that were taken, and still the same a second later; None before that
        self.suspects: dict[int, int] | None = None
        #: what began when that was found
        self.epoch = 0
