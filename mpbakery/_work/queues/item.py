"""The pickled form of an item, as it is sent.

An item that is too large for a message goes on in a file, which travels along with it. The file is written before the
message is sent, so whoever receives it waits for nobody.
"""

from __future__ import annotations

import copyreg
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, TypeAlias

from mpbakery._system.packets import LONGEST, add_file, close_files

#: How much of an item goes into a message (bytes); what comes before it is shorter than the rest.
MOST: Final = LONGEST - 64
#: So much of large items may be under way (bytes), but so many of them in any case.
_MUCH: Final = 8 << 20
_FEW: Final = 2
#: A large item waits no longer for that when it has seen so many times that others came out.
_OVERTAKEN: Final = 20
#: So many picklers are kept for the next ones who put.
_KEPT: Final = 4

_writers: Final[list[_Writer]] = []


class Large:
    """The pickled form of an item that is too large for a message."""

    __slots__ = ("_files", "_overtaken", "_parts", "_under_way", "size")

    def __init__(self, parts: list[Any]) -> None:
        self._parts: list[Any] = [_flat(part) for part in parts]
        self._files: list[int] = []
        #: how much was under way when this was last asked for, and how often that was less than before
        self._under_way = self._overtaken = 0
        #: how many bytes there are in all
        self.size = sum(len(part) for part in self._parts)

    def __del__(self) -> None:
        close_files(self._files)

    def keep(self) -> None:
        """Have it stay as it is, whatever becomes of the item: a part of it can be the item's own memory."""
        self._parts = [part if isinstance(part.obj, bytes) else memoryview(bytes(part)) for part in self._parts]

    def may_go(self, under_way: int) -> bool:
        """Whether it may be sent, while so much is under way (bytes).

        Each takes as much as its message, whatever there is in its file; and nobody who puts is to fill the memory with
        what nobody gets. But where others get and put small items all the time, it would wait for ever.
        """
        self._overtaken += under_way < self._under_way
        self._under_way = under_way
        return under_way < max(_FEW, _MUCH // self.size) * LONGEST or self._overtaken >= _OVERTAKEN

    def head(self) -> bytes:
        """What goes into the message."""
        found, room = [], MOST
        for part in self._parts:
            found.append(part[:room])
            room -= len(found[-1])
            if not room:
                break
        return b"".join(found)

    def rest(self) -> int:
        """The descriptor of the file with what comes behind that."""
        if not self._files:
            files: list[int] = []
            try:
                self._write_rest(add_file(files, self.size - MOST))
                self._files, files = files, []
            finally:
                close_files(files)
        return self._files[0]

    def _write_rest(self, file: int) -> None:
        skip = MOST
        for part in self._parts:
            left = part[skip:]
            skip -= len(part) - len(left)
            while left:
                left = left[os.write(file, left) :]

    def close(self) -> None:
        """Close the file, when it is on its way."""
        close_files(self._files)


#: An item as it is sent.
Content: TypeAlias = "bytes | Large"


def _flat(part: Any) -> memoryview:
    """The bytes of what a pickler has written, such as an array in another order than that of C."""
    return part.raw() if isinstance(part, pickle.PickleBuffer) else memoryview(part).cast("B")


class _Writer:
    """A pickler, and the parts of what it has written: what is large comes as it is, and not as a copy.

    For a megabyte of bytes that is half the time of `put`; and to make a pickler takes longer than to pickle a number.
    """

    __slots__ = ("parts", "pickler", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.write = self.parts.append
        self.pickler = ForkingPickler(self)


def pickled(item: object) -> Content:
    """An item as it is sent. Raises what pickling raises."""
    try:
        writer = _writers.pop()
    except IndexError:
        writer = _Writer()
    pickler, parts = writer.pickler, writer.parts
    # as ForkingPickler has it when it is made: who registers something later counts as well
    pickler.dispatch_table = copyreg.dispatch_table | ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    pickler.dump(item)
    content = parts[0] if len(parts) == 1 and len(parts[0]) <= MOST else content_of(parts)
    if type(content) is bytes and len(_writers) < _KEPT:
        # what has pickled much keeps much memory
        pickler.clear_memo()
        parts.clear()
        _writers.append(writer)
    return content


def content_of(parts: list[Any]) -> Content:
    """What was pickled, in parts that are together too large for a message, or are not yet one."""
    large = Large(parts)
    return large if large.size > MOST else b"".join(parts)
