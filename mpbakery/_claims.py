"""The record lock that guards the claiming of slots: the kernel frees it when its holder dies.

Record locks belong to a process, not to a thread, and are lost when any descriptor of their file is closed in it.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os

from mpbakery._errors import reraise_handlers


class OwnFile:
    """A descriptor, and which file it is: others may close it, and something else gets its number."""

    __slots__ = ("_file", "_owned", "descriptor")

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        """`owned`: the descriptor is to be closed when this is collected."""
        self._owned = False
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self._file = (status.st_dev, status.st_ino)
        self._owned = owned

    def __del__(self) -> None:
        if self._owned and self.is_intact():
            os.close(self.descriptor)

    def is_intact(self) -> bool:
        """Whether the descriptor still is this file."""
        try:
            status = os.fstat(self.descriptor)
        except OSError as error:
            reraise_handlers(error)
            return False
        return (status.st_dev, status.st_ino) == self._file


class ClaimFile(OwnFile):
    """The file whose record locks guard the claiming of slots.

    It is one for all locks of a family of forked processes, since descriptors are scarce, or the lock's own where its
    memory has a descriptor anyhow.
    """

    __slots__ = ("unlock",)

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        """`owned`: the descriptor is to be closed when this is collected."""
        super().__init__(descriptor, owned=owned)
        #: unlock(place) gives the record lock of that byte back: in C, so that no signal handler can come before it
        self.unlock = functools.partial(fcntl.lockf, descriptor, fcntl.LOCK_UN, 1)

    def try_lock(self, place: int) -> bool:
        """Get the record lock of byte `place`, unless another process has it; whether it is this process's now."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            raise
        return True
