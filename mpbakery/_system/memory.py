"""The memory of one primitive: its words, and stores that a signal handler cannot come before."""

from __future__ import annotations

import functools
import itertools
import operator
import struct
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

from mpbakery._errors import SharingError
from mpbakery._system import segments
from mpbakery._system.fence import fenced, storing_release_offset
from mpbakery._system.layout import (
    FLAG,
    IDENTITY_BYTES,
    KIND_AT,
    KINDS,
    LINK_AT,
    MAGIC,
    MAGIC_AT,
    MAX_SLOTS,
    NAME_BYTES,
    NOBODY,
    NUMBERS,
    OWNER,
    SCRATCH,
    SLOTS_AT,
    TENURE_AT,
    VERSION,
    VERSION_AT,
    WORD,
    padded,
    size_of,
)
from mpbakery._system.native import FREE_THREADED
from mpbakery._system.segments import Segment


class Memory:
    """The memory of one primitive, at its place in a segment.

    `words` loads and stores single words, `times` those that are doubles; `mapping` is all of it, as bytes. Slices are
    taken of `spans` alone.
    """

    __slots__ = (
        "identity",
        "mapping",
        "name",
        "namespace",
        "place",
        "robust",
        "segment",
        "slots",
        "spans",
        "times",
        "words",
    )

    def __init__(self, segment: Segment, place: int, size: int) -> None:
        self.segment = segment
        self.place = place
        self.mapping = segment.view(place, size)
        self.words = self.mapping.cast("Q")
        self.times = self.mapping.cast("d")
        self.spans: Spans = _FreshSpans(segment, place, size) if FREE_THREADED else self.words
        self.slots: int
        self.identity: bytes
        self.namespace: int
        _, _, self.slots, robust, self.identity, self.namespace, *_, name, _, _ = _HEADER.unpack_from(self.mapping)
        self.robust = bool(robust)
        self.name = _text(name)

    @property
    def kind(self) -> str:
        """The name of the class that a user makes to have what lives here."""
        return KINDS[self.words[KIND_AT]]

    @property
    def link(self) -> bytes:
        """In a condition, the identity of its lock; else zeros."""
        return self._bytes(LINK_AT, IDENTITY_BYTES)

    def text(self, word: int, size: int) -> str:
        """The zero-padded UTF-8 text that starts at `word`; a reader may meet it half written."""
        return _text(self._bytes(word, size))

    def _bytes(self, word: int, size: int) -> bytes:
        first = self.place + word * WORD
        return self.segment.mapping[first : first + size]

    def _view(self) -> memoryview:
        """What C stores in for one thread."""
        return self.segment.view(self.place, len(self.mapping)) if FREE_THREADED else self.mapping

    def clearing(self, word: int | LateWord, after: object) -> tuple[Callable[[], None], Callable[..., None]]:
        """Two functions that store 0 in `word` and then ask for the truth of `after`, whose __bool__ does the rest.

        The second one takes the arguments of `__exit__`. A signal handler cannot come between the call and the store:
        CPython runs handlers between bytecodes, and the call goes straight into C, where the store is made before the
        truth of `after`, a Python function that handlers can interrupt, is asked for. pack_into zeroes its whole
        range first and then stores field by field, so `word` is cleared more than once, and the word behind it is
        overwritten with the truth values of the arguments.
        """
        mapping = self._view()
        # converted with __index__ by pack_into, whatever its annotation says
        offset = cast("int", word if isinstance(word, LateWord) else fenced(word * WORD))
        return (
            functools.partial(_RELEASE.pack_into, mapping, offset, 0, after),
            functools.partial(_EXIT.pack_into, mapping, offset, 0, after),
        )

    def counting(
        self, word: int, scratch: int, count: Iterator[int], after: object
    ) -> tuple[Callable[[], None], Callable[..., None]]:
        """The same two functions, but what is stored is the next value of `count`, an iterator in C, in `word`.

        `scratch` is what is cleared after that: `word` itself would read 0 for a moment, and for ever if the process
        is killed then.
        """
        mapping = self._view()
        offset = cast("int", storing_release_offset(self.words.__setitem__, word, count, scratch * WORD))
        return (
            functools.partial(_RELEASE.pack_into, mapping, offset, 0, after),
            functools.partial(_EXIT.pack_into, mapping, offset, 0, after),
        )

    @staticmethod
    def divert(call: Callable[..., None], after: object = None) -> None:
        """Make a function that `clearing` or `counting` gave clear a scratch word from now on, wherever it was kept.

        What it asks for the truth of then is `after`, if that is given.
        """
        if isinstance(call, functools.partial):
            mapping, _offset, _value, before = call.args
            arguments = mapping, SCRATCH * WORD, 0, before if after is None else after
            call.__setstate__((call.func, arguments, {}, None))  # type: ignore[attr-defined]

    @staticmethod
    def late_word() -> LateWord:
        """A word for `clearing` that is not known yet."""
        return LateWord()


class Spans(Protocol):
    """Some consecutive words, or each n-th of them."""

    def __getitem__(self, span: slice, /) -> memoryview: ...


class _FreshSpans:
    """Slices that have nothing in common with those of other threads, but the memory.

    All slices of one memoryview share a count of how many there are, which the free-threaded CPython 3.13 and 3.14 do
    not keep in one piece (python/cpython#155606). Where threads lose one, the count comes to nothing with slices still
    in use, and all of them, and what they are slices of, raise ValueError from then on: the lock would be dead.
    Loading and storing single items does not touch the count.
    """

    __slots__ = ("_end", "_first", "_mapping")

    def __init__(self, segment: Segment, place: int, size: int) -> None:
        self._mapping = segment.mapping
        self._first = place // WORD
        self._end = (place + size) // WORD

    def __getitem__(self, span: slice) -> memoryview:
        return memoryview(self._mapping).cast("Q")[self._first : self._end][span]


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")


class LateWord:
    """A word for `Memory.clearing` that becomes known later; it is looked up in C as well.

    `with` asks for `__exit__` before it calls `__enter__`, where a thread's first acquisition claims its slot.
    """

    __slots__ = ("offset",)

    #: what `offset_to` says of the word
    offset: Callable[[], int]

    __index__: property = property(operator.attrgetter("offset"))

    def __init__(self) -> None:
        self.offset = self.offset_to(SCRATCH)

    @staticmethod
    def offset_to(word: int) -> Callable[[], int]:
        """What to assign to `offset`, so that this stands for `word`."""
        return fenced(word * WORD).__index__


_RELEASE: Final = struct.Struct("Q?")
_EXIT: Final = struct.Struct("Q????")
#: All that is written when a primitive is made, with zeros between what is named.
_HEADER: Final = struct.Struct(
    f"4Q{IDENTITY_BYTES}s3Q{WORD * (KIND_AT - OWNER - 1)}x2Q{NAME_BYTES}s{WORD * (TENURE_AT - FLAG)}xd{IDENTITY_BYTES}s"
)
#: Which of its process's primitives is which.
_serials: Final = itertools.count(1)


def create(
    kind: int,
    slots: int,
    *,
    name: str,
    robust: bool,
    namespace: int,
    value: int = 0,
    link: bytes = b"",
    tenure: float = 0.0,
    others: int = 0,
) -> Memory:
    """New memory; `others` is how many primitives are in use.

    Raises OSError where the system gives no memory or descriptor for it.
    """
    size = size_of(slots)
    segment, place = segments.take(size, others)
    try:
        text = padded(name, NAME_BYTES)
        identity = segment.prefix + next(_serials).to_bytes(WORD, "little")
        header = MAGIC, VERSION, slots, robust, identity, namespace, 0, NOBODY, kind, value, text, tenure, link
        _HEADER.pack_into(segment.mapping, place, *header)
    finally:
        segment.give_back()
    return Memory(segment, place, size)


def attach(segment: Segment, place: int, kind: int) -> Memory:
    """The memory at a place in a segment, both of which came from another process.

    Raises SharingError where there is no such primitive.
    """
    header = segment.view(place, NUMBERS * WORD).cast("Q")
    slots = header[SLOTS_AT]
    if header[MAGIC_AT] != MAGIC or header[VERSION_AT] != VERSION or not 0 < slots <= MAX_SLOTS:
        raise SharingError(
            f"place {place} of segment {segment.identity:x} is no primitive of layout {VERSION} (it starts with "
            f"{header[:3].tolist()!r}): only what mpbakery itself sends can be used"
        )
    memory = Memory(segment, place, size_of(slots))
    if header[KIND_AT] != kind:
        raise SharingError(
            f"place {place} of segment {segment.identity:x} is of kind {header[KIND_AT]}, not of kind {kind}, which "
            f"was announced: only what mpbakery itself sends can be used"
        )
    return memory
