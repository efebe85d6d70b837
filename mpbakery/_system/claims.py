"""The record lock that guards the claiming of slots: the kernel frees it when its holder dies.

Record locks belong to a process, not to a thread, and are lost when any descriptor of their file is closed in it.
"""

from __future__ import annotations

import errno
import fcntl
import functools

from mpbakery._system.files import OwnFile


class ClaimFile(OwnFile):
    """The file whose record locks guard the claiming of slots: it is that of the segment in which the slots are."""

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
