"""A file that processes share to count together, and to see who of them is alive.

Its offset is a number that all who have the file can add to, in one piece: the kernel does it under a lock of its own.
Its bytes can be locked, and the kernel lets go of what a process had locked as soon as that is dead. Its content is
memory that they share.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
from collections.abc import Callable

from mpbakery._errors import SharingError, reraise_handlers
from mpbakery._system.files import OwnFile, anonymous_file, is_sealed, opened_anew
from mpbakery._system.native import FREE_THREADED
from mpbakery._system.record_locks import is_locked


class Book:
    """Such a file, as one process has it."""

    __slots__ = ("_file", "mapping", "words")

    def __init__(self, file: OwnFile, size: int) -> None:
        self._file = file
        self.mapping = mmap.mmap(file.descriptor, size)
        self.words = memoryview(self.mapping)[: size & -8].cast("q")

    @property
    def spans(self) -> memoryview:
        """The words once more, to take slices of: threads cannot share what has slices, see `memory._FreshSpans`."""
        return memoryview(self.mapping)[: self.words.nbytes].cast("q") if FREE_THREADED else self.words

    @classmethod
    def create(cls, size: int) -> Book:
        """A new one, with so many bytes of memory, all zero.

        Raises OSError where the system gives no memory or descriptor for it.
        """
        made = OwnFile(anonymous_file(size), owned=True)
        return cls(OwnFile(opened_anew(made.descriptor), owned=True), size)

    @classmethod
    def attach(cls, descriptor: int, size: int) -> Book:
        """The one behind a descriptor that came from another process.

        Raises SharingError if it has less memory than that, or could come to have less.
        """
        file = OwnFile(descriptor, owned=True)
        os.set_inheritable(descriptor, False)  # one that a spawned process is given at its start is inheritable
        there = os.fstat(descriptor).st_size
        if there < size or not is_sealed(descriptor):
            raise SharingError(
                f"descriptor {descriptor} has {there} bytes, which could shrink or are not the {size} bytes that were "
                f"announced: only what mpbakery itself sends can be used"
            )
        return cls(file, size)

    @property
    def descriptor(self) -> int:
        """The number of its descriptor."""
        return self._file.descriptor

    def is_intact(self) -> bool:
        """Whether that still is this file."""
        return self._file.is_intact()

    def add(self, amount: int) -> int:
        """Add to the number, and return what it is then; it was 0 in the beginning.

        Raises OSError with EINVAL, and has added nothing, if it would be less than 0.
        """
        return os.lseek(self._file.descriptor, amount, os.SEEK_CUR)

    def adding(self, amount: int) -> Callable[[], int]:
        """`add` of that amount, as a function in C."""
        return functools.partial(os.lseek, self._file.descriptor, amount, os.SEEK_CUR)

    def hold(self, place: int) -> None:
        """Lock the byte at `place`, together with all other processes that hold it."""
        fcntl.lockf(self._file.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, place)

    def try_to_have(self, place: int) -> bool:
        """Lock the byte at `place` for this process alone; whether that is so now."""
        try:
            fcntl.lockf(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            reraise_handlers(error)
            return False
        return True

    def let_go(self, place: int) -> None:
        """Unlock the byte at `place`."""
        fcntl.lockf(self._file.descriptor, fcntl.LOCK_UN, 1, place)

    def is_held(self, place: int) -> bool:
        """Whether another process, which is alive, has locked the byte at `place`."""
        return is_locked(self._file.descriptor, place)


class Presence:
    """How often a process is at something, which all others can see for as long as it lives."""

    __slots__ = ("_book", "_mine", "_place")

    def __init__(self, book: Book, place: int) -> None:
        self._book = book
        self._place = place
        self.renew()

    def renew(self) -> None:
        """In a forked child: it is at nothing."""
        # a list, since its methods are one step for threads and signal handlers
        self._mine: list[None] = []

    def enter(self) -> None:
        """Be at it, once more."""
        self._mine.append(None)
        self._book.hold(self._place)  # also if it is held: another thread may be about to let go

    def leave(self) -> None:
        """Be at it once less; nothing if this process is not."""
        with contextlib.suppress(IndexError):
            self._mine.pop()
        while not self._mine:
            self._book.let_go(self._place)
            if not self._mine:
                return
            # Another thread has entered in between, and would not be seen; it may have left by now, so look again.
            self._book.hold(self._place)

    def is_seen(self) -> bool:
        """Whether any process, which is alive, is at it."""
        return bool(self._mine) or self._book.is_held(self._place)
