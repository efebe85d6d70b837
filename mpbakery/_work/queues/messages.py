"""The ends of a queue: an item goes in and comes out as one message, which is whole or not there."""

from __future__ import annotations

import errno
import io
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Callable
from itertools import repeat
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import Empty
from typing import Any, Final, cast

from mpbakery._errors import SharingError, reraise_handlers
from mpbakery._system.files import is_sealed
from mpbakery._system.native import sleep
from mpbakery._system.packets import (
    ATTACHED,
    CLOSE_ON_EXEC,
    LONGEST,
    End,
    attached,
    close_files,
    descriptors_of,
    give_more_room,
    is_no_room,
    under_way,
    wait_for,
)
from mpbakery._system.starting import send_descriptor, starting_process
from mpbakery._work.queues.item import Content, content_of

#: How a message begins that holds all of an item, and one that holds as much of it as there is room for, and the size
#: of all of it in front of that. A label is in between.
_WHOLE: Final = b"\0"
_BEGUN: Final = b"\1"
_SIZE: Final = struct.Struct("=Q")
#: What to say about each message that is sent: come back at once, and do not kill this process if nobody can get it.
_AT_ONCE: Final = socket.MSG_DONTWAIT
_SENDING: Final = _AT_ONCE | getattr(socket, "MSG_NOSIGNAL", 0)
#: How long to wait for room before it is looked for again (s): the kernel says that there is some when three quarters
#: of it are free, and meanwhile another process could take what becomes free, again and again.
_NAP: Final = 0.02
#: How long `put` itself waits for room (s).
_MOMENT: Final = 1e-3
#: Where the kernel does not say it, because there is room, but for other messages: a nap that doubles, from here on.
_FIRST_NAP: Final = 2e-4
#: None, as it is sent.
_NOTHING: Final = pickle.dumps(None)


class Sender(Connection):
    """The end of a queue at which messages go in."""

    def __init__(self, end: End) -> None:
        self.end = end
        super().__init__(end.fileno(), readable=False)

    def try_send(self, content: Content, label: bytes = b"") -> bool:
        """Send a message, if there is room for it; whether it was sent.

        Raises:
            BrokenPipeError: nobody can receive it any more.
            OSError: the system has no memory or no descriptor left for the file of a large item, or this end is closed.
        """
        try:
            if isinstance(content, bytes):
                self.end.send(_WHOLE + label + content, _SENDING)
            else:
                if not content.may_go(under_way(self.end)):
                    return False
                message = [_BEGUN, label, _SIZE.pack(content.size), content.head()]
                self.end.sendmsg(message, attached(content.rest()), _SENDING)
                content.close()
        except OSError as error:
            if not is_no_room(error):
                raise
            if not isinstance(content, bytes):
                give_more_room(self.end)  # three or four such messages are all that there is room for at first
            return False
        return True

    def try_at_once(self, content: Content, label: bytes) -> bool:
        """Send a message if there is room for it, at once or within a millisecond; whether it was sent.

        That is about what it takes to hand it over to a thread; and if somebody is at getting, there will be room.
        """
        if self.try_send(content, label):
            return True
        return wait_for(self.end, select.POLLOUT, _MOMENT) and self.try_send(content, label)

    def wait_for_room(self, refusals: int) -> int:
        """Wait a moment, until it makes sense to try again; returns what to say as `refusals` after the next failure.

        That is how often in a row there was no room though the kernel said that there was; 0 in the beginning.
        """
        if not wait_for(self.end, select.POLLOUT, _NAP):
            give_more_room(self.end)
            return 0
        sleep(min(_NAP, _FIRST_NAP * 2 ** min(refusals, 10) * bool(refusals)))
        return refusals + 1

    def send_patiently(self, content: Content) -> None:
        """Send a message as soon as there is room for it; raises what `try_send` raises."""
        if self.closed:
            raise OSError("handle is closed")
        refusals = 0
        while not self.try_send(content):
            refusals = self.wait_for_room(refusals)

    def __reduce__(self) -> tuple[Any, ...]:
        return _sender_of, (_sent(self),)

    def _send_bytes(self, buf: Any) -> None:
        self.send_patiently(content_of([buf]))

    def _close(self) -> None:
        self.end.close()


class Arrival:
    """What a message is received into, and what is in there."""

    __slots__ = ("_start", "buffer", "found", "receive", "receive_at_once", "view")

    def __init__(self, end: End, label_size: int) -> None:
        self._start = 1 + label_size
        self.buffer = bytearray(LONGEST)
        self.view = memoryview(self.buffer)
        #: What the system call has returned. It is in this list before any bytecode comes after it: a signal handler
        #: that raises there would leave the descriptor open that has come along, and nobody would know its number.
        self.found: list[tuple[int, list[Any], int, object]] = []
        self.receive, self.receive_at_once = (
            map(self.found.append, map(end.recvmsg_into, *map(repeat, ((self.buffer,), ATTACHED, flags)))).__next__
            for flags in (CLOSE_ON_EXEC, CLOSE_ON_EXEC | _AT_ONCE)
        )

    def __del__(self) -> None:
        self.close()

    @property
    def label(self) -> bytearray:
        """What the sender has to say about the item."""
        return self.buffer[1 : self._start]

    def content(self) -> memoryview:
        """The pickled form of the item.

        Raises:
            EOFError: there is none, since nobody can send one any more.
            MemoryError: there is no memory for it.
            OSError: this process has no descriptor left for its file.
            SharingError: its file is none that mpbakery has sent.
        """
        count = self.found[0][0]
        if not count:
            raise EOFError
        if self.buffer[0] == _WHOLE[0]:
            return self.view[self._start : count]
        (size,) = _SIZE.unpack_from(self.buffer, self._start)
        head = self.view[self._start + _SIZE.size : count]
        files = self.files()
        if not files:
            raise OSError(
                errno.EMFILE,
                f"an item of {size} bytes is lost: this process has no descriptor left for the file that it came in; "
                f"close some, or raise the limit (ulimit -n)",
            )
        file, rest = files[0], size - len(head)
        there = os.fstat(file).st_size
        if there < rest or not is_sealed(file):
            raise SharingError(
                f"a file of {there} bytes came with an item, which could shrink or are not the {rest} bytes that were "
                f"announced: only what mpbakery itself sends can be used"
            )
        try:
            content = memoryview(bytearray(size))
        except MemoryError:
            raise MemoryError(
                f"an item of {size} bytes is lost: process {os.getpid()} has no memory for it; put less, such as the "
                f"name of a file, or give it more memory"
            ) from None
        content[: len(head)] = head
        done = 0
        while done < rest:
            count = os.preadv(file, [content[len(head) + done :]], done)
            if not count:
                raise SharingError(f"a file that came with an item has shrunk from {there} to {done} bytes")
            done += count
        return content

    def files(self) -> list[int]:
        """The descriptors that have come along."""
        count, files, flags, address = self.found[0]
        if files and isinstance(files[0], tuple):
            # in one step: a handler that raises must find each of them once
            self.found[0] = (count, list(descriptors_of(files)), flags, address)
        return cast("list[int]", self.found[0][1])

    def close(self) -> None:
        """Close what has come along."""
        if self.found:
            close_files(self.files())
            self.found.clear()


class Receiver(Connection):
    """The end of a queue at which messages come out."""

    def __init__(self, end: End, label_size: int = 0) -> None:
        self.end = end
        self.label_size = label_size
        #: whether `recv` waits until there is something, instead of receiving None
        self.waits = True
        self._spare: list[Arrival] = []
        super().__init__(end.fileno(), writable=False)

    def get(self, deadline: float | None = None, leave: Callable[[Arrival], object] | None = None) -> Any:
        """The next item.

        Args:
            deadline: monotonic seconds, 0 for at once, None for never.
            leave: what is called when the item has come out, before it is unpickled.

        Raises:
            queue.Empty: there was none before `deadline`.
            EOFError: nobody can send one any more.
            OSError: this end is closed.

        And what unpickling raises, and `Arrival.content`: then the item is lost.
        """
        # The way of nearly all items, without a call that could be saved: this is where readers are slow.
        try:
            arrival = self._spare.pop()
        except IndexError:
            arrival = Arrival(self.end, self.label_size)
        try:
            if deadline is None:
                arrival.receive()
            else:
                self._receive_until(deadline, arrival)
        except ConnectionResetError as error:
            reraise_handlers(error)  # the other end was closed; that has no effect on what was sent before
            return self.get(deadline, leave)
        if leave is not None and arrival.found[0][0]:
            leave(arrival)
        item = ForkingPickler.loads(arrival.content())
        if arrival.found[0][1]:
            arrival.close()
        else:
            arrival.found.clear()
        if not self._spare:
            self._spare.append(arrival)
        return item

    def _receive_until(self, deadline: float, arrival: Arrival) -> None:
        while True:
            try:
                arrival.receive_at_once()
            except BlockingIOError as error:
                reraise_handlers(error)
            else:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                self._spare[:] = [arrival]
                raise Empty
            wait_for(self.end, select.POLLIN, left)

    def __reduce__(self) -> tuple[Any, ...]:
        return _receiver_of, (_sent(self), self.label_size)

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO | None:
        arrival = Arrival(self.end, self.label_size)
        try:
            if self.waits:
                arrival.receive()
            else:
                self._receive_until(0, arrival)
        except ConnectionResetError as error:
            reraise_handlers(error)
            return self._recv_bytes(maxsize)
        except Empty:
            return io.BytesIO(_NOTHING)
        content = arrival.content()
        if maxsize is not None and len(content) > maxsize:
            return None
        received = io.BytesIO()
        received.write(content)
        return received

    def _poll(self, timeout: float | None) -> bool:
        return wait_for(self.end, select.POLLIN, timeout)

    def _close(self) -> None:
        self.end.close()


def _sent(connection: Connection) -> Any:
    popen = starting_process()
    number = connection.fileno()
    return reduction.DupFd(number) if popen is None else send_descriptor(number, popen)


def _sender_of(sent: Any) -> Sender:
    return Sender(_end_of(sent))


def _receiver_of(sent: Any, label_size: int) -> Receiver:
    return Receiver(_end_of(sent), label_size)


def _end_of(sent: Any) -> End:
    """The end of a pair that was sent to this process."""
    number = sent.detach()
    os.set_inheritable(number, False)  # one that a spawned process is given at its start is inheritable
    return End(number)
