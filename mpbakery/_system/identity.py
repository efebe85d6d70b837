"""Which process is this, and is that one still alive?

A process is its pid and its start time: a pid alone is given to another process sooner or later. A process is dead
only on proof; what cannot be read counts as alive, because taking a lock from the living is worse than waiting.

Where there is no /proc (not Linux), the start time reads 0 and only "no such pid" proves a death: a holder that is
a zombie, or whose pid was given to a new process, is then waited for.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from mpbakery._errors import reraise_handlers

UNKNOWN_START: Final = 0


class Process(NamedTuple):
    """A process, for as long as the machine is up."""

    pid: int
    start: int


def _read_status(pid: int) -> list[bytes] | None:
    """The fields of /proc/<pid>/stat from the state on, or None where they cannot be had."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # the /proc of another PID namespace, where that number is somebody else
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # the name of the program, in parentheses, may hold spaces and parentheses of its own
            return file.read(4096).rpartition(b")")[2].split()
    except OSError as error:
        reraise_handlers(error)
        return None


class _Self(NamedTuple):
    """What this process looks up once about itself, and anew in a forked child."""

    process: Process
    namespace: int


_self: _Self | None = None


def _look_up_self() -> _Self:
    global _self
    known = _self
    while known is None or known.process.pid != os.getpid():
        # anew if a handler has forked in the middle of it
        pid = os.getpid()
        status = _read_status(pid)
        _self = known = _Self(Process(pid, int(status[19]) if status else UNKNOWN_START), _read_namespace())
    return known


def this_process() -> Process:
    """This process."""
    return _look_up_self().process


def this_namespace() -> int:
    """The number of this process's PID namespace: pids mean the same only within one; 0 where unknown."""
    return _look_up_self().namespace


def forget() -> None:
    """To be called in a forked child, before anything else here is."""
    global _self
    _self = None


def exists(pid: int) -> bool:
    """Whether some process has that pid: cheap, and no proof of life."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        reraise_handlers(error)
        return True
    return True


def is_dead(process: Process) -> bool:
    """Whether `process` is proved to be gone: no such pid, another start time, or a zombie."""
    if not exists(process.pid):
        return True
    status = _read_status(process.pid)
    if not status:
        return False
    state, threads, start = status[0], int(status[17]), int(status[19])
    if process.start not in {UNKNOWN_START, start}:
        return True
    # a zombie with more than one thread has lost its main thread only: the others still run
    return state in {b"Z", b"X"} and threads <= 1


def _read_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError as error:
        reraise_handlers(error)
        return 0
