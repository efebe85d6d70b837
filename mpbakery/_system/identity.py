"""Which process is this, and is that one still alive?

A process is its pid and a word that says when it started: a pid alone is given to another process sooner or later. A
process is dead only on proof; what cannot be read counts as alive, because taking a lock from the living is worse than
waiting. And a proof is hearsay: what a process reads of others depends on where it stands, and on what it may read.
Who can be asked for better, the record lock that a process holds for its life (see `claims`), is asked first.

The kernel is asked in four ways, since each is closed somewhere: by a descriptor of the process (Linux 5.3), which also
works without /proc; by /proc/<pid>; where no descriptor is left, by what /proc says without one; and as the parent.
Where there is none of them, as on macOS for the children of others, only "no such pid" proves a death: a holder that is
a zombie, or whose pid was given to a new process, is then waited for.
"""

from __future__ import annotations

import errno
import io
import os
from typing import Any, Final, NamedTuple

from mpbakery._errors import reraise_handlers
from mpbakery._system import native


class Process(NamedTuple):
    """A process, for as long as the machine is up."""

    pid: int
    start: int


# When a process started is a number of one of two kinds, and only numbers of the same kind can be compared.
UNKNOWN_START: Final = 0
#: The inode of the process's descriptor, which is given out once (Linux 6.9): the same wherever it is read.
_BY_INODE: Final = 2 << 62
_INODE: Final = (1 << 62) - 1
#: The time in /proc, in ticks of 1/100 s: two processes can have one pid in one tick. It is counted from another moment
#: in each time namespace, so which one it was read in is part of the kind.
_BY_TICKS: Final = 1 << 62
_TICKS: Final = (1 << 40) - 1
_NAMESPACE_BITS: Final = 22

#: What is added to a made-up number of a PID namespace; real ones are less.
_MADE_UP: Final = 1 << 63

_process: Process | None = None
_namespace: int | None = None
#: The PID namespaces that the ancestors of this process lived in when they forked it into another one.
_left: frozenset[int] = frozenset()


def this_process() -> Process:
    """This process."""
    global _process
    known = _process
    while known is None or known.pid != os.getpid():
        # anew if a handler has forked in the middle of it
        pid = os.getpid()
        _process = known = Process(pid, _own_start(pid))
    return known


def this_namespace() -> int:
    """The number of this process's PID namespace: pids mean the same only within one.

    It is made up where it cannot be read, as in a chroot without /proc; a forked child has its parent's.
    """
    global _namespace
    known = _namespace
    if known is None:
        try:
            known = os.stat("/proc/self/ns/pid").st_ino
        except OSError as error:
            reraise_handlers(error)
            known = _MADE_UP | int.from_bytes(os.urandom(8), "little")
        _namespace = known
    return known


def is_foreign(namespace: int) -> bool:
    """Whether that is known to be another PID namespace than this process's."""
    here = this_namespace()
    if namespace == here:
        return False
    return namespace in _left or not (namespace | here) & _MADE_UP


def forget() -> None:
    """To be called in a forked child, before anything else here is."""
    global _process, _namespace, _left
    _process = None
    # A process has a parent that it can see, but where its parent is in a PID namespace outside of its own.
    if _namespace is not None and os.getppid() == 0:
        _left |= {_namespace}
        _namespace = None


def process_with(pid: int) -> Process:
    """The process that has this pid now."""
    return Process(pid, _own_start(pid))


def is_gone(process: Process) -> bool:
    """Whether its pid is nobody's any more, or another process's: one that was not reaped yet has it still."""
    return not exists(process.pid) or _is_other(process.start, _own_start(process.pid))


def exists(pid: int) -> bool:
    """Whether some process has that pid: cheap, and no proof of life."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        reraise_handlers(error)
    else:
        return True
    try:
        os.getpgid(pid)  # may be asked for everyone, and where a sandbox forbids kill()
    except ProcessLookupError:
        return False
    except OSError as error:
        reraise_handlers(error)
    return True


def is_dead(process: Process) -> bool:
    """Whether `process` is proved to be gone: no such pid, another start, or a zombie."""
    return not exists(process.pid) or any(
        has_proof(process) for has_proof in (_by_descriptor, _by_status, _by_links, _by_parenthood)
    )


def _is_other(one: int, other: int) -> bool:
    """Whether these are the starts of two processes."""
    kind = 62 if one & _BY_INODE else 40
    return one != other and one >> kind == other >> kind != 0


def _own_start(pid: int) -> int:
    try:
        with _descriptor_of(pid) as file, next(map(io.FileIO, map(_in_os("eventfd"), (0,)))) as other:
            described, anonymous = os.fstat(file.fileno()), os.fstat(other.fileno())
        if described.st_dev != anonymous.st_dev:  # else it is the one inode of all that has none, before Linux 6.9
            return _BY_INODE | described.st_ino & _INODE
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError):
            reraise_handlers(error)
    status = _read_status(pid)
    return status.start if status else UNKNOWN_START


def _in_os(name: str) -> Any:
    """A function that not every system has. Raises AttributeError where there is none."""
    return getattr(os, name)


def _descriptor_of(pid: int) -> io.FileIO:
    """A descriptor of a process. Raises OSError, or AttributeError where the system has no such thing."""
    # in C, so that no handler that raises comes between the opening and what closes
    return next(map(io.FileIO, map(_in_os("pidfd_open"), (pid,))))


def _by_descriptor(process: Process) -> bool:
    try:
        with _descriptor_of(process.pid) as file:
            if _is_other(process.start, _BY_INODE | os.fstat(file.fileno()).st_ino & _INODE):
                return True
            return native.is_readable(file)
    except AttributeError:
        return False
    except OSError as error:
        reraise_handlers(error)
        # the last two: there is a thread of that number, which is no process
        return error.errno in {errno.ESRCH, errno.ENOENT, errno.EINVAL}


class _Status(NamedTuple):
    """What /proc says of a process."""

    state: bytes
    threads: int
    start: int


def _is_proc_ours() -> bool:
    """Whether /proc is there, and not that of another PID namespace, where a pid is somebody else."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError as error:
        reraise_handlers(error)
        return False


def _read_status(pid: int) -> _Status | None:
    """What /proc says of a process, or None where that cannot be had."""
    try:
        if not _is_proc_ours():
            return None
        # not /proc/<pid>/stat: qemu answers that itself for the process that it emulates, with a start of its own
        with open(f"/proc/{pid}/task/{pid}/stat", "rb", buffering=0) as file:
            # the name of the program, in parentheses, may hold spaces and parentheses of its own
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError as error:
        reraise_handlers(error)
        return None
    if len(fields) < 20:
        return None
    ticks = int(fields[19]) & _TICKS
    return _Status(fields[0], int(fields[17]), _BY_TICKS | _time_namespace() << 40 | ticks)


def _time_namespace() -> int:
    """Enough of the number of this process's time namespace to tell it from others."""
    try:
        return os.stat("/proc/self/ns/time").st_ino & ((1 << _NAMESPACE_BITS) - 1)
    except OSError as error:
        reraise_handlers(error)
        return 0


def _by_status(process: Process) -> bool:
    status = _read_status(process.pid)
    if status is None:
        return False
    # a zombie with more than one thread has lost its main thread only: the others still run
    return _is_other(process.start, status.start) or (status.state in {b"Z", b"X"} and status.threads <= 1)


def _by_links(process: Process) -> bool:
    """Without a descriptor: a zombie runs no program any more."""
    try:
        if not _is_proc_ours():
            return False
        os.readlink(f"/proc/{process.pid}/exe")
    except FileNotFoundError:
        pass
    except OSError as error:
        reraise_handlers(error)
        return False
    else:
        return False
    try:
        # the folder's two links, and one for each thread: there is none but the main thread
        return os.stat(f"/proc/{process.pid}/task").st_nlink == 3
    except OSError as error:
        reraise_handlers(error)
        return False


def _by_parenthood(process: Process) -> bool:
    waitid = getattr(os, "waitid", None)
    if waitid is None:
        return False
    try:
        return waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError as error:
        reraise_handlers(error)
        return False
