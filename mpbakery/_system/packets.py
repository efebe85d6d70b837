"""Sockets that carry whole messages between processes, and files that travel in them.

They are a pair of AF_UNIX sockets of type SOCK_SEQPACKET: the kernel takes and gives each message in one piece, to one
reader, in the order in which they were sent. It also closes a descriptor that was under way when nobody can receive it
any more.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Iterator
from typing import Final

from mpbakery._errors import SharingError, reraise_handlers
from mpbakery._system.files import is_sealed, opened_anew
from mpbakery._system.native import poll

#: The most that one message holds (bytes): for more than 80 KiB, the kernel would look for more than 16 KiB of memory
#: in one piece, and not always find them.
LONGEST: Final = 1 << 16
#: What messages under way may take, when there has to be more room for them (bytes; the kernel gives the double).
_ROOM: Final = 4 << 20
#: What sending a message says while there is no room for it.
_NO_ROOM: Final = frozenset([errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS])
#: How large a file has to be possible (bytes).
_LIKELY: Final = 1 << 20
#: What the system says that has such sockets, but not at the moment.
_SCARCE: Final = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
#: What to say when something is received: no other program is to inherit the file that comes along.
CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_INT: Final = struct.Struct("i")

_DAY: Final = 86400.0

#: Whether this system has what is here; None before anybody has asked.
_there: bool | None = None


# Not the class that programs use, which libraries of greenlets replace, or change what it does.
class End(_socket.socket):
    """One of a pair of such sockets. It closes itself, without the warning of those that should have been closed."""

    __slots__ = ()

    def __init__(self, number: int) -> None:
        """`number` is its descriptor. Raises SharingError if that is something else."""
        super().__init__(fileno=number)
        self.settimeout(None)  # whatever `socket.setdefaulttimeout` says: others have this socket as well
        if (self.family, self.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            raise SharingError(f"descriptor {number} is no end of a queue: only what mpbakery itself sends can be used")

    def __del__(self) -> None:
        self.close()


def new_pair() -> tuple[End, End]:
    """Two of them: what is sent through the first is received through the second, and the other way round."""
    first, second = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return End(first.detach()), End(second.detach())


def give_more_room(end: End) -> None:
    """Let so many messages be under way from `end` as there are in a pipe.

    A message takes 768 bytes at least. At first there is room for 277 of those, and each is received while it is still
    in the processor's cache, which is twice as fast. The kernel gives no more than the double of `net.core.wmem_max`.
    """
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)


def are_there() -> bool:
    """Whether this system has such sockets, and all that queues over them need beside.

    Raises OSError if it can be found out only when there is memory, or a descriptor, to spare.
    """
    global _there
    if _there is None:
        try:
            _there = sys.platform == "linux" and _work()
        except OSError as error:
            reraise_handlers(error)
            if error.errno in _SCARCE:
                raise
            _there = False
    # a process may have gone where there is no /proc since it was asked
    return _there and os.path.exists("/proc/self/fd")


def _work() -> bool:
    """Use everything once."""
    first, second = new_pair()
    files: list[int] = []
    try:
        file = add_file(files, _LIKELY)
        files.append(opened_anew(file))
        if os.lseek(file, 1 << 62, os.SEEK_SET) != 1 << 62:
            return False
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        sent = first.sendmsg([bytes(LONGEST)], attached(file), socket.MSG_DONTWAIT)
        first.send(b"and another", socket.MSG_DONTWAIT)
    finally:
        close_files(files)
    _data, ancillary, _flags, _address = second.recvmsg(LONGEST, ATTACHED, CLOSE_ON_EXEC)
    files = list(descriptors_of(ancillary))
    sealed = [is_sealed(file) for file in files]
    close_files(files)
    return sent == LONGEST and sealed == [True] and second.recv(LONGEST, socket.MSG_DONTWAIT) == b"and another"


#: The room for one descriptor in what comes along with a message (bytes).
ATTACHED: Final = socket.CMSG_SPACE(_INT.size)


def descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> Iterator[int]:
    """The descriptors that have come along with a message."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            yield from (number for (number,) in _INT.iter_unpack(data[: len(data) // _INT.size * _INT.size]))


def add_file(files: list[int], size: int) -> int:
    """Add to `files` the descriptor of a new file of `size` bytes that has no name and cannot shrink; returns it.

    In one step, as far as signal handlers see: whoever has the list knows of every descriptor.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    files.extend(map(os.memfd_create, ("mpbakery",), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,)))
    os.ftruncate(files[-1], size)
    fcntl.fcntl(files[-1], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return files[-1]


def close_files(files: list[int]) -> None:
    """Close descriptors and remove them from the list, each in one step."""
    try:
        deque(map(os.close, iter(files.pop, None)), maxlen=0)
    except IndexError:
        pass  # there are no more


def attached(file: int) -> list[tuple[int, int, bytes]]:
    """What to send along with a message for the file behind a descriptor to travel with it."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(file))]


def is_no_room(error: OSError) -> bool:
    """Whether that is why a message could not be sent. Otherwise raises BrokenPipeError if nobody can receive it."""
    reraise_handlers(error)
    if error.errno in {errno.ECONNRESET, errno.ENOTCONN, errno.ECONNREFUSED}:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
    return error.errno in _NO_ROOM


def under_way(end: End) -> int:
    """How much memory the messages take that were sent through `end` and not received yet (bytes)."""
    (size,) = _INT.unpack(fcntl.ioctl(end, termios.TIOCOUTQ, bytes(_INT.size)))
    return int(size)


def wait_for(end: End, event: int, seconds: float | None) -> bool:
    """Wait until one can receive (`select.POLLIN`) or send (`select.POLLOUT`); whether one can.

    At most so long, and, of a time that is longer than a day, a day.
    """
    waiting = poll()
    waiting.register(end, event)
    return bool(waiting.poll(None if seconds is None else min(max(0.0, seconds), _DAY) * 1000))
