"""Between a pool and one of its workers: a pipe each way, and whole messages in them.

Nothing is shared with other workers, so there is no lock that could die with one of them. The protocol: the worker says
that it is ready, with an empty message; from then on every task is answered by one result; an empty task sends it home.
So there is never more than one message under way in one direction, and none comes that is not due: only the worker
itself writes, none of the processes that its tasks fork, and it begins one result for each task.
"""

from __future__ import annotations

import os
import struct
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from mpbakery._system.pipes import CAPACITY, close_private, make_private, unread

#: The length of the message that follows (bytes).
_HEADER: Final = struct.Struct("!Q")
#: How long a header is (bytes).
_START: Final = _HEADER.size
#: A message without content.
EMPTY: Final = _HEADER.pack(0)
#: Shorter messages are put together with their header, to write both at once (bytes).
_SHORT: Final = 1 << 14

#: The content of a message, or its size if there was no memory for it.
Content = bytes | bytearray | memoryview | int


def message_of(content: Any) -> bytes:
    """The message that carries an object; raises what pickling raises."""
    pickled = ForkingPickler.dumps(content)
    return b"".join((_HEADER.pack(len(pickled)), pickled))


def content_of(message: Content, what: str) -> Any:
    """The object that a message carries.

    Raises MemoryError if there was no memory for the message, or is none for the object, and what unpickling raises.
    """
    if isinstance(message, int):
        size, cause = message, None
    else:
        try:
            return ForkingPickler.loads(message)
        except MemoryError as error:
            size, cause = len(message), error.with_traceback(None)  # which would keep the message alive
    raise MemoryError(
        f"process {os.getpid()} has no memory for {what} of {size} bytes: hand over less, such as the name of a file, "
        f"or give it more memory"
    ) from cause


# --- The worker's side, which waits --------------------------------------------------------------------------------


def read_message(descriptor: int) -> Content:
    """Wait for the next message. Raises EOFError if nobody can write one any more."""
    # The length is read first and alone: whoever is killed while it waits has then not taken a task, even if the
    # kernel has still given it what it asked for.
    (size,) = _HEADER.unpack(_fill(bytearray(_START), descriptor))
    try:
        content = bytearray(size)
    except MemoryError:
        _drop(size, descriptor)  # or it would be taken for the next message
        return int(size)
    return _fill(content, descriptor)


def write_message(descriptor: int, content: bytes | memoryview) -> None:
    """Write a whole message, and wait while the pipe is full."""
    header = _HEADER.pack(len(content))
    if len(content) < _SHORT:
        _write(descriptor, b"".join((header, content)))
    else:
        _write(descriptor, header)
        _write(descriptor, content)


def _write(descriptor: int, message: bytes | memoryview) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(descriptor, view) :]


def _fill(content: bytearray, descriptor: int) -> bytearray:
    view = memoryview(content)
    while view:
        count = os.readv(descriptor, [view])
        if count == 0:
            raise EOFError
        view = view[count:]
    return content


def _drop(size: int, descriptor: int) -> None:
    while size:
        count = len(os.read(descriptor, min(size, CAPACITY)))
        if count == 0:
            raise EOFError
        size -= count


# --- The pool's side, which does not -------------------------------------------------------------------------------


class Buffer:
    """What one thread reads into: there must be memory to read even where there is none for what was read."""

    def __init__(self) -> None:
        self.bytes = bytearray(CAPACITY)
        self.view = memoryview(self.bytes)
        self.parts = [self.bytes]


class Channel:
    """The pool's ends of the two pipes to a worker."""

    def __init__(self, tasks: Connection, results: Connection) -> None:
        make_private(tasks)
        make_private(results)
        self._tasks = tasks
        self._results = results
        #: The descriptors of both.
        self.to_worker = tasks.fileno()
        self.from_worker = results.fileno()
        #: How much was written of what is being sent (bytes).
        self.sent = 0
        #: What has come in completely.
        self.message: Content | None = None
        self._incoming = bytearray()
        #: How much of what comes in was dropped, for want of memory (bytes).
        self._dropped = 0
        #: Whether something out of the blue has come in the middle of reading or writing: nobody knows how far it was.
        self.is_torn = False

    def send(self, message: bytes) -> bool:
        """Write what was not written yet of a message, as much of it as the pipe takes; whether that was all.

        Raises BrokenPipeError if there is no reader any more.
        """
        try:
            while self.sent < len(message):
                rest = memoryview(message)[self.sent :]
                self.is_torn = True
                self.sent += os.write(self.to_worker, rest)
                self.is_torn = False
        except (BlockingIOError, BrokenPipeError) as error:
            self.is_torn = False
            if isinstance(error, BrokenPipeError):
                raise
            return False
        return True

    def receive(self, buffer: Buffer) -> bool:
        """Read what has come; whether there was anything. Raises EOFError if there is no writer any more."""
        self.is_torn = True
        try:
            count = os.readv(self.from_worker, buffer.parts)
        except BlockingIOError:
            self.is_torn = False
            return False
        if count == 0:
            self.is_torn = False
            raise EOFError
        self._take(buffer, count)
        self.is_torn = False
        return True

    def _take(self, buffer: Buffer, count: int) -> None:
        """Take in what was read."""
        if not self._incoming and count >= _START:
            (size,) = _HEADER.unpack_from(buffer.bytes)
            if size == count - _START:
                try:
                    self.message = bytes(buffer.view[_START:count])
                except MemoryError:
                    self.message = size
                return
        if not self._dropped:
            try:
                self._incoming += buffer.view[:count]
            except MemoryError:
                # The rest of the message is read all the same, or the worker would never be rid of it.
                if len(self._incoming) < _START:
                    raise
                self._dropped = len(self._incoming) - _START + count
                del self._incoming[_START:]
        else:
            self._dropped += count
        if len(self._incoming) < _START:
            return
        (size,) = _HEADER.unpack_from(self._incoming)
        if len(self._incoming) + self._dropped == _START + size:
            self.message = size if self._dropped else memoryview(self._incoming)[_START:]
            self._incoming = bytearray()
            self._dropped = 0

    def forget_message(self) -> None:
        """Begin with the next message, in both directions: what was sent is answered."""
        self.message = None
        self.sent = 0

    def receive_last(self, buffer: Buffer) -> None:
        """Read what a dead worker has left, up to the end of its message."""
        try:
            while self.message is None and self.receive(buffer):
                pass
        except EOFError:
            return

    def unread(self, message: bytes) -> int:
        """How much of what was being sent a dead worker has not read (bytes)."""
        return len(message) - self.sent + unread(self._tasks)

    def end_tasks(self) -> None:
        """Have the worker see that there will be no more tasks."""
        self.to_worker = -1  # no descriptor: the number will be somebody else's
        close_private(self._tasks)

    def close(self) -> None:
        """Close both ends."""
        self.end_tasks()
        self.from_worker = -1
        close_private(self._results)
