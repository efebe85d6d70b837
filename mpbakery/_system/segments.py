"""Segments: large sparse mappings in which the memory of many primitives lies, each behind one descriptor.

    header    the words named in `layout`, in a page of their own
    places    one after the other, each the memory of one primitive, from the beginning of a page on

A process gives out places in segments that it has made itself, one after the other, and none of them twice: who has a
place, in which process, nobody can know. So a segment's memory goes back when nothing in it is used any more, in each
process by itself. What nobody has touched takes no memory. Segments are the larger, the more is in use: a single
primitive that stays keeps at most as much memory from going back as others of its time needed.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final

from mpbakery._errors import ClaimFileLostError, SharingError
from mpbakery._system.files import OwnFile, anonymous_file, is_sealed
from mpbakery._system.layout import (
    FIRST_PLACE,
    PLACE_UNIT,
    SEGMENT_MAGIC,
    USED_AT,
    VERSION,
    WORD,
)
from mpbakery._system.record_locks import ClaimFile
from mpbakery._system.starting import send_descriptor, starting_process

#: The bytes of the smallest and of the largest segment for many places; what is larger has one of its own.
_LEAST: Final = 4 << 20
_MOST: Final = 128 << 20

_HEADER: Final = struct.Struct("5Q")

#: This process's segments, by their identities.
_known: weakref.WeakValueDictionary[int, Segment] = weakref.WeakValueDictionary()
#: Segments with room to spare. Whoever takes a place takes the segment out meanwhile, so that neither another thread
#: nor a signal handler can give out the same place.
_spare: Final[list[Segment]] = []


class Segment:
    """One mapping with many places. Its descriptor is that of the record locks of all that is in it, too."""

    __slots__ = ("__weakref__", "_maker", "_more", "_used", "claims", "identity", "mapping", "prefix", "size")

    def __init__(self, mapping: mmap.mmap, claims: ClaimFile, identity: int, used: int) -> None:
        self.mapping = mapping
        self.claims = claims
        self.identity = identity
        #: what the identities of all that is in it begin with
        self.prefix = identity.to_bytes(WORD, "little")
        self.size = len(mapping)
        self._used = used
        self._maker = os.getpid()
        # Further descriptors of this file that have arrived. They stay open: closing one would free the record locks.
        self._more: list[OwnFile] = []
        _known[identity] = self

    def take(self, size: int) -> int | None:
        """A new place of so many bytes, all zero; None if there is no room."""
        place = self._used
        end = place + -(-size // PLACE_UNIT) * PLACE_UNIT
        if end > self.size:
            return None
        self._used = end
        return place

    def give_back(self) -> None:
        """Let others take places; what was taken so far can be found by readers from outside from now on."""
        struct.pack_into("Q", self.mapping, USED_AT * WORD, self._used)
        if self._maker == os.getpid():  # else a handler has forked in the meantime, and the rest is the parent's
            _spare.append(self)

    def view(self, place: int, size: int) -> memoryview:
        """The bytes of a place.

        Raises SharingError if there is no such place.
        """
        if not FIRST_PLACE <= place <= self.size - size or place % PLACE_UNIT:
            raise SharingError(
                f"segment {self.identity:x} has {self.size} bytes, and no place {place} of {size} bytes: only what "
                f"mpbakery itself sends can be used"
            )
        return memoryview(self.mapping)[place : place + size]

    def keep(self, file: OwnFile) -> None:
        """Keep another descriptor of this segment open."""
        self._more.append(file)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        popen = starting_process()
        if popen is None:
            raise SharingError(f"segment {self.identity:x} can be sent to a process that is starting, and to no other")
        if not self.claims.is_intact():
            raise ClaimFileLostError(f"in segment {self.identity:x}", self.claims.descriptor)
        if os.fstat(self.claims.descriptor).st_size < self.size:
            raise SharingError(
                f"segment {self.identity:x}, of {self.size} bytes, is larger than files may be here (ulimit -f), and "
                f"cannot follow into a process that is started afresh: fork, or raise that limit"
            )
        return _attach, (send_descriptor(self.claims.descriptor, popen), self.identity)


def take(size: int, others: int) -> tuple[Segment, int]:
    """A segment and a new place in it, for so many bytes; then call the segment's `give_back`.

    `others` is how many places of about that size are in use: a new segment has room for as many more.
    Raises OSError where the system gives no memory or descriptor for it.
    """
    try:
        segment = _spare.pop()
    except IndexError:
        pass
    else:
        # a daemon that has closed all descriptors could not claim anything in an old one
        if segment.claims.is_intact() and (place := segment.take(size)) is not None:
            return segment, place
    segment = _new(size, others)
    place = segment.take(size)
    if place is None:
        raise OSError(f"a segment of {segment.size} bytes has no room for {size}")  # cannot be: it was made for it
    return segment, place


def here() -> list[Segment]:
    """The segments that this process has at this moment."""
    return list(_known.values())


def _new(size: int, others: int) -> Segment:
    least = FIRST_PLACE + -(-size // PLACE_UNIT) * PLACE_UNIT
    wanted = max(least, min(max(_LEAST, size * others), _MOST))
    try:
        claims, mapping = _map_new(wanted)
    except OSError:
        try:
            claims, mapping = _map_new(least)  # there is a limit of address space
        except OSError:
            # Or one of file sizes, which is meant for others. What is in no file is inherited by fork alone.
            claims, mapping = ClaimFile(anonymous_file(0), owned=True), mmap.mmap(-1, least)
    identity = int.from_bytes(os.urandom(WORD), "little")
    _HEADER.pack_into(mapping, 0, SEGMENT_MAGIC, VERSION, len(mapping), identity, FIRST_PLACE)
    return Segment(mapping, claims, identity, FIRST_PLACE)


def _map_new(size: int) -> tuple[ClaimFile, mmap.mmap]:
    claims = ClaimFile(anonymous_file(size), owned=True)
    return claims, _map(claims.descriptor, size)


if sys.version_info >= (3, 13):

    def _map(descriptor: int, size: int) -> mmap.mmap:
        return mmap.mmap(descriptor, size, trackfd=False)

else:

    def _map(descriptor: int, size: int) -> mmap.mmap:
        return mmap.mmap(descriptor, size)  # which has a descriptor of its own


def _attach(sent: Any, identity: int) -> Segment:
    """A segment that was sent to this process, which is starting.

    Raises SharingError where the descriptor is none of a segment, whole and of this version.
    """
    file = ClaimFile(sent.detach(), owned=True)
    size = os.fstat(file.descriptor).st_size
    header = os.pread(file.descriptor, _HEADER.size, 0)
    magic, version, announced, found, _used = _HEADER.unpack(header) if len(header) == _HEADER.size else (0,) * 5
    if magic != SEGMENT_MAGIC or version != VERSION:
        raise SharingError(
            f"descriptor {file.descriptor} is no mpbakery segment of layout {VERSION} (it starts with {header!r}): "
            f"both processes must run the same version of mpbakery"
        )
    if found != identity or announced != size or size < FIRST_PLACE or not is_sealed(file.descriptor):
        raise SharingError(
            f"descriptor {file.descriptor} has {size} bytes, which could shrink or are not those of segment "
            f"{identity:x}: only what mpbakery itself sends can be used"
        )
    known = _known.get(identity)
    if known is not None:
        known.keep(file)
        return known
    return Segment(_map(file.descriptor, size), file, identity, size)


# What is left in its parent's segments is the parent's to give out.
os.register_at_fork(after_in_child=_spare.clear)
