"""Files without a name, behind descriptors that can be sent to other processes."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import Final

from mpbakery._errors import reraise_handlers


class OwnFile:
    """A descriptor, and which file it is: others may close it, and something else gets its number."""

    __slots__ = ("_file", "_owned", "descriptor")

    #: kept here, because the last of these may be collected when this module has no variables any more
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        """`owned`: the descriptor is to be closed when this is collected."""
        self._owned = False
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self._file = (status.st_dev, status.st_ino)
        self._owned = owned

    def __del__(self) -> None:
        if self._owned and not self._is_finalizing() and self.is_intact():
            os.close(self.descriptor)

    def is_intact(self) -> bool:
        """Whether the descriptor still is this file."""
        try:
            status = os.fstat(self.descriptor)
        except OSError as error:
            reraise_handlers(error)
            return False
        return (status.st_dev, status.st_ino) == self._file


def opened_anew(file: int) -> int:
    """Another descriptor of the same file, whose offset is one that can be added to in one step.

    Recent kernels have no lock around the offset of a file that `memfd_create` has made, since the file was not opened
    as others are: what two add at the same time would be counted once.

    Raises OSError where there is no /proc.
    """
    return os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)


if sys.platform == "linux":
    # A file that can shrink kills whoever reads behind its new end.
    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    #: What memfd_create fails with where the kernel has none, or a sandbox forbids it.
    _NO_MEMFD: Final = {errno.ENOSYS, errno.EPERM, errno.EACCES}

    def anonymous_file(size: int) -> int:
        """A descriptor of a new file of `size` bytes that has no name and cannot shrink."""
        try:
            file = os.memfd_create("mpbakery", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except AttributeError:
            return _unlinked_file(size)
        except OSError as error:
            if error.errno not in _NO_MEMFD:
                raise
            return _unlinked_file(size)
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        return file

    def is_sealed(file: int) -> bool:
        """Whether `file` cannot shrink."""
        try:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        except OSError as error:
            reraise_handlers(error)
            seals = fcntl.F_SEAL_SEAL
        # a file that takes no seals, and not one that could have been sealed, is good without
        return seals & _SEALS == _SEALS or (seals == fcntl.F_SEAL_SEAL and _has_no_name(file))

else:

    def anonymous_file(size: int) -> int:
        """A descriptor of a new file of `size` bytes that has no name and cannot shrink."""
        return _unlinked_file(size)

    def is_sealed(file: int) -> bool:
        """Whether `file` cannot shrink."""
        return _has_no_name(file)


def _has_no_name(file: int) -> bool:
    """Whether there is no name to open `file` by: then only its heirs could make it shrink."""
    return os.fstat(file).st_nlink == 0


def _unlinked_file(size: int) -> int:
    import tempfile

    file, path = tempfile.mkstemp(prefix="mpbakery-")
    os.unlink(path)
    os.ftruncate(file, size)
    return file
