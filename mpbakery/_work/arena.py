"""Shared memory for ctypes objects: pieces of anonymous mappings, without a file system.

A piece is never given out twice. The allocator of the standard library does that once its maker has dropped it, while
the children that have it go on writing. Here a mapping goes when nothing in it is used any more, in each process by
itself.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from multiprocessing import context, reduction
from typing import Any, Final

from mpbakery._errors import SharingError
from mpbakery._system.files import OwnFile, anonymous_file, is_sealed

#: The bytes of a mapping for many pieces; what is larger than _LARGE has one of its own, which goes with it.
_ARENA: Final = 1 << 16
_LARGE: Final = 1 << 14
#: What the place of a piece is a multiple of.
_ALIGNMENT: Final = 16


class Arena:
    """One mapping: inherited by fork alone, or behind a descriptor that can be sent to a process that starts.

    `buffer` and `size` are the names of `multiprocessing.heap.Arena`.
    """

    __slots__ = ("_file", "buffer", "size", "used")

    def __init__(self, buffer: mmap.mmap, file: OwnFile | None) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.used = 0
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        context.assert_spawning(self)
        raise SharingError(
            "a shared value was pickled by another pickler than multiprocessing's, which would send a copy that nobody "
            "shares: give the value to a multiprocessing.Process as an argument, or let a fork inherit it"
        )


class Piece:
    """Some bytes of an arena."""

    __slots__ = ("_arena", "_size", "_start")

    def __init__(self, arena: Arena, start: int, size: int) -> None:
        self._arena = arena
        self._start = start
        self._size = size

    def create_memoryview(self) -> memoryview:
        """The bytes; the name is that of `multiprocessing.heap.BufferWrapper`."""
        return memoryview(self._arena.buffer)[self._start : self._start + self._size]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Piece, (self._arena, self._start, self._size)


def _reduce(arena: Arena) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    context.assert_spawning(arena)
    file = arena._file
    if file is None:
        raise SharingError(
            "a shared value was made for the fork start method, and cannot follow into a process that is started "
            "another way: make it with ctx=, as in Value('i', ctx=multiprocessing.get_context('spawn'))"
        )
    if not file.is_intact():
        raise SharingError(
            f"descriptor {file.descriptor}, behind which is the memory of a shared value, was closed or replaced: the "
            f"value cannot be sent to another process any more"
        )
    return _attach, (reduction.DupFd(file.descriptor), arena.size)


# Known to this pickler alone, as it is alone in knowing that a ctypes object in shared memory is more than its bytes.
# To any other it would be these, and with them an arena that nobody looks into.
reduction.ForkingPickler.register(Arena, _reduce)


#: Arenas with room to spare, by whether they can be sent. Whoever allocates takes one out meanwhile, so that neither
#: another thread nor a signal handler can give out the same piece.
_spare: Final[dict[bool, list[Arena]]] = {False: [], True: []}


def allocate(size: int, *, sendable: bool) -> Piece:
    """A piece of `size` bytes, all zero.

    Raises OSError where the system gives no memory or descriptor for it.
    """
    if size > _LARGE:
        return Piece(create(size, sendable=sendable), 0, size)
    spare = _spare[sendable]
    try:
        arena = spare.pop()
    except IndexError:
        arena = create(_ARENA, sendable=sendable)
    if arena.size - arena.used < size:
        arena = create(_ARENA, sendable=sendable)
    piece = Piece(arena, arena.used, size)
    arena.used += -(-size // _ALIGNMENT) * _ALIGNMENT
    spare.append(arena)
    return piece


def create(size: int, *, sendable: bool) -> Arena:
    """A new mapping of at least `size` bytes."""
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    if not sendable:
        return Arena(mmap.mmap(-1, size), None)
    file = OwnFile(anonymous_file(size), owned=True)
    return Arena(mmap.mmap(file.descriptor, size), file)


def _attach(sent: Any, size: int) -> Arena:
    """The mapping of an arena that was sent to this process, which is starting."""
    file = OwnFile(sent.detach(), owned=True)
    there = os.fstat(file.descriptor).st_size
    if there < size or not is_sealed(file.descriptor):
        raise SharingError(
            f"descriptor {file.descriptor} has {there} bytes, which could shrink or are not the {size} bytes that were "
            f"announced: only what mpbakery itself sends can be used"
        )
    return Arena(mmap.mmap(file.descriptor, size), file)


def _after_fork_in_child() -> None:
    """The rest of an arena is its maker's to give out; also of one that is in use beneath this fork, in a handler."""
    _spare.update({False: [], True: []})


os.register_at_fork(after_in_child=_after_fork_in_child)
