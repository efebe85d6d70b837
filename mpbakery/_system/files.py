"""Files without a name, behind descriptors that can be sent to other processes."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Final

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


if sys.platform == "linux" and hasattr(os, "memfd_create"):
    # A file that can shrink kills whoever reads behind its new end.
    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

    def anonymous_file(size: int) -> int:
        """A descriptor of a new file of `size` bytes that has no name and cannot shrink."""
        file = os.memfd_create("mpbakery", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        return file

    def is_sealed(file: int) -> bool:
        """Whether `file` cannot shrink."""
        try:
            return fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:
            return False

    def claim_file() -> int:
        """A descriptor of a new file that is good for record locks and nothing else."""
        return os.memfd_create("mpbakery-claims", os.MFD_CLOEXEC)

else:

    def anonymous_file(size: int) -> int:
        """A descriptor of a new file of `size` bytes that has no name and cannot shrink."""
        file = claim_file()
        os.ftruncate(file, size)
        return file

    def is_sealed(file: int) -> bool:
        """Whether `file` cannot shrink."""
        # an unlinked file has no name to open it by: only its heirs could make it shrink
        return os.fstat(file).st_nlink == 0

    def claim_file() -> int:
        """A descriptor of a new file that is good for record locks and nothing else."""
        import tempfile

        file, path = tempfile.mkstemp(prefix="mpbakery-")
        os.unlink(path)
        return file
