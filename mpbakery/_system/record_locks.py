"""Record locks: what guards the claiming of slots, and what says that a process is alive.

Record locks belong to a process, not to a thread. The kernel frees them when the process ends, before it is a zombie,
and none is inherited by a forked child. So who holds one is alive, whatever can be read of it elsewhere. That does not
hold the other way round: all that a process has on a file are lost when it closes any descriptor of that file, as a
daemon does that closes everything.

Each lock has a byte of its file for the claiming of its slots, somewhere below `LIVES`; each process has one from there
on. The bytes need not exist.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct
import sys
from collections.abc import Callable
from typing import Final

from mpbakery._errors import reraise_handlers
from mpbakery._system.files import OwnFile
from mpbakery._system.identity import Process

#: Where the bytes begin that stand for processes.
LIVES: Final = 1 << 62
_START: Final = (1 << 40) - 1
_PID_BITS: Final = 22
_PID: Final = (1 << _PID_BITS) - 1

#: What a record lock fails with that another process has. POSIX lets a system choose; on Linux the second one means
#: that a security module forbids it.
_TAKEN: Final = {errno.EAGAIN} if sys.platform == "linux" else {errno.EAGAIN, errno.EACCES}

#: struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")


def place_of(process: Process) -> int:
    """The byte that stands for a process. It follows from what stands in a slot's record, and from nothing else."""
    return LIVES + ((process.start & _START) << _PID_BITS | process.pid & _PID)


def is_locked(descriptor: int, place: int) -> bool:
    """Whether another process has a record lock on byte `place` of a file, on Linux. Raises OSError where refused."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    answer: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[0]
    return answer != fcntl.F_UNLCK


class ClaimFile(OwnFile):
    """The file whose record locks guard the claiming of slots: it is that of the segment in which the slots are."""

    __slots__ = ("_lock", "unlock")

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        """`owned`: the descriptor is to be closed when this is collected."""
        super().__init__(descriptor, owned=owned)
        self._lock = functools.partial(fcntl.lockf, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        #: unlock(place) gives the record lock of that byte back: in C, so that no signal handler can come before it
        self.unlock = functools.partial(fcntl.lockf, descriptor, fcntl.LOCK_UN, 1)

    def try_lock(self, place: int) -> bool:
        """Get the record lock of byte `place`, unless another process has it; whether it is this process's now.

        Raises OSError where record locks are refused.
        """
        try:
            self._lock(place)
        except OSError as error:
            if not self.is_taken(error):
                raise
            return False
        return True

    def life_of(self, process: Process) -> Callable[[], object]:
        """What has this process, `process`, hold its record lock from now on.

        To be called anew now and then, since it may have been lost. In C: in the child of a signal handler that forks,
        it would be held for the parent. Raises OSError where another process has it, or where record locks are refused.
        """
        return functools.partial(self._lock, place_of(process))

    @staticmethod
    def is_taken(error: OSError) -> bool:
        """Whether a record lock was not to be had because another process has it."""
        return error.errno in _TAKEN

    def lives(self, process: Process) -> bool:
        """Whether another process, `process`, holds its record lock: then it is alive."""
        try:
            return (self._is_locked if sys.platform == "linux" else self._cannot_be_locked)(place_of(process))
        except OSError as error:
            reraise_handlers(error)
            return False

    def _is_locked(self, place: int) -> bool:
        """Whether another process has the record lock of a byte."""
        return is_locked(self.descriptor, place)

    def _cannot_be_locked(self, place: int) -> bool:
        """The same where struct flock is another one. Of two who ask at once, one is told so wrongly."""
        try:
            return not self.try_lock(place)
        finally:
            self.unlock(place)
