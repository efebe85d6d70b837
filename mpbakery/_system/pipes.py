"""Pipes to other processes: ends that no forked child keeps open, and how much of what was written was not read."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import weakref
from multiprocessing.connection import Connection, Pipe
from typing import Final

#: What a pipe holds on Linux, unless it was told otherwise (bytes).
CAPACITY: Final = 1 << 16

_private: weakref.WeakSet[Connection] = weakref.WeakSet()


def private_pipe() -> tuple[Connection, Connection]:
    """A new pipe, both ends of which are private: its reading and its writing end."""
    reader, writer = Pipe(duplex=False)
    make_private(reader)
    make_private(writer)
    return reader, writer


def make_private(end: Connection) -> None:
    """Have every forked child close its copy of `end`, and no reading or writing wait."""
    os.set_blocking(end.fileno(), False)
    _private.add(end)


def close_private(end: Connection) -> None:
    """Close an end that is private; one that is closed already is left alone."""
    _private.discard(end)  # first, or a fork in between would close whatever has got the number of the descriptor
    try:
        end.close()
    except OSError:
        pass  # somebody else has closed the descriptor


def _after_fork_in_child() -> None:
    """Close the parent's ends: a worker that holds those of another would keep it from seeing that the parent died."""
    for end in list(_private):
        close_private(end)


os.register_at_fork(after_in_child=_after_fork_in_child)


def unread(end: Connection) -> int:
    """How much lies in the pipe that was written to this end, and that nobody has read (bytes); 0 if unknown."""
    try:
        count = fcntl.ioctl(end.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(count, sys.byteorder)
