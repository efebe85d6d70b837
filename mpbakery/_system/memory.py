"""The memory of one primitive: its words, and stores that a signal handler cannot come before."""

from __future__ import annotations

import functools
import mmap
import operator
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final, cast

from mpbakery._errors import SharingError
from mpbakery._system.fence import release_offset, storing_release_offset
from mpbakery._system.files import anonymous_file, is_sealed
from mpbakery._system.layout import (
    IDENTITY_AT,
    KIND_AT,
    KINDS,
    MAGIC,
    MAX_SLOTS,
    NAME_AT,
    NAME_BYTES,
    NAMESPACE_AT,
    NOBODY,
    OWNER,
    ROBUST_AT,
    SCRATCH,
    SLOTS_AT,
    VERSION,
    WORD,
    padded,
    size_of,
    span_of,
)


class Memory:
    """The mapping of one lock.

    `words` loads and stores single words, `times` those that are doubles; `mapping` is all of it, as bytes.
    """

    __slots__ = ("descriptor", "identity", "mapping", "name", "namespace", "robust", "slots", "times", "words")

    def __init__(self, mapping: mmap.mmap, descriptor: int) -> None:
        self.mapping = mapping
        self.words = memoryview(mapping).cast("Q")
        self.times = memoryview(mapping).cast("d")
        self.descriptor = descriptor
        words = self.words
        self.slots: int = words[SLOTS_AT]
        self.robust = bool(words[ROBUST_AT])
        self.namespace: int = words[NAMESPACE_AT]
        self.identity = bytes(mapping[span_of(IDENTITY_AT, 2 * WORD)])
        self.name = self.text(NAME_AT, NAME_BYTES)

    @property
    def kind(self) -> str:
        """The name of the class that a user makes to have what lives here."""
        return KINDS[self.words[KIND_AT]]

    def text(self, word: int, size: int) -> str:
        """The zero-padded UTF-8 text that starts at `word`; a reader may meet it half written."""
        return bytes(self.mapping[span_of(word, size)]).rstrip(b"\0").decode(errors="replace")

    def clearing(self, word: int | LateWord, after: object) -> tuple[Callable[[], None], Callable[..., None]]:
        """Two functions that store 0 in `word` and then ask for the truth of `after`, whose __bool__ does the rest.

        The second one takes the arguments of `__exit__`. A signal handler cannot come between the call and the store:
        CPython runs handlers between bytecodes, and the call goes straight into C, where the store is made before the
        truth of `after`, a Python function that handlers can interrupt, is asked for. pack_into zeroes its whole
        range first and then stores field by field, so `word` is cleared more than once, and the word behind it is
        overwritten with the truth values of the arguments.
        """
        # converted with __index__ by pack_into, whatever its annotation says
        offset = cast("int", word if isinstance(word, LateWord) else release_offset(word * WORD))
        return (
            functools.partial(_RELEASE.pack_into, self.mapping, offset, 0, after),
            functools.partial(_EXIT.pack_into, self.mapping, offset, 0, after),
        )

    def counting(
        self, word: int, scratch: int, count: Iterator[int], after: object
    ) -> tuple[Callable[[], None], Callable[..., None]]:
        """The same two functions, but what is stored is the next value of `count`, an iterator in C, in `word`.

        `scratch` is what is cleared after that: `word` itself would read 0 for a moment, and for ever if the process
        is killed then.
        """
        offset = cast("int", storing_release_offset(self.words.__setitem__, word, count, scratch * WORD))
        return (
            functools.partial(_RELEASE.pack_into, self.mapping, offset, 0, after),
            functools.partial(_EXIT.pack_into, self.mapping, offset, 0, after),
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


class LateWord:
    """A word for `Memory.clearing` that becomes known later; it is looked up in C as well.

    `with` asks for `__exit__` before it calls `__enter__`, where a thread's first acquisition claims its slot.
    """

    __slots__ = ("offset",)

    __index__ = property(operator.attrgetter("offset"))

    def __init__(self) -> None:
        #: what `offset_to` says of the word
        self.offset = self.offset_to(SCRATCH)

    @staticmethod
    def offset_to(word: int) -> Callable[[], int]:
        """What to assign to `offset`, so that this stands for `word`."""
        return release_offset(word * WORD).__index__


_RELEASE: Final = struct.Struct("Q?")
_EXIT: Final = struct.Struct("Q????")
_HEADER: Final = struct.Struct(f"4Q16s3Q{WORD * (KIND_AT - OWNER - 1)}x2Q{NAME_BYTES}s")


def create(
    kind: int, slots: int, *, name: str, robust: bool, namespace: int, descriptor: bool, value: int = 0
) -> Memory:
    """A new mapping: anonymous, so that it is inherited by fork alone, or behind a descriptor that can be sent on.

    Raises OSError where the system gives no memory or descriptor for it.
    """
    size = size_of(slots)
    file = anonymous_file(size) if descriptor else -1
    try:
        mapping = mmap.mmap(file, size)
    except BaseException:
        if descriptor:
            os.close(file)
        raise
    identity = os.urandom(16)
    text = padded(name, NAME_BYTES)
    _HEADER.pack_into(mapping, 0, MAGIC, VERSION, slots, robust, identity, namespace, 0, NOBODY, kind, value, text)
    return Memory(mapping, file)


def attach(descriptor: int, kind: int) -> Memory:
    """The mapping behind a descriptor that came from another process.

    Raises SharingError where it is not the mapping of such a primitive, whole and of this version.
    """
    size = os.fstat(descriptor).st_size
    header = os.pread(descriptor, WORD * 3, 0)
    magic, version, slots = struct.unpack("3Q", header) if len(header) == WORD * 3 else (0, 0, 0)
    if magic != MAGIC or version != VERSION:
        raise SharingError(
            f"descriptor {descriptor} is no mpbakery lock of layout {VERSION} (it starts with {header!r}): both "
            f"processes must run the same version of mpbakery"
        )
    if not 0 < slots <= MAX_SLOTS or size < size_of(slots) or not is_sealed(descriptor):
        raise SharingError(
            f"descriptor {descriptor} has {size} bytes, which could shrink or are not enough for {slots} slots: "
            f"only what mpbakery.Lock itself sends can be used"
        )
    memory = Memory(mmap.mmap(descriptor, size_of(slots)), descriptor)
    if memory.words[KIND_AT] != kind:
        raise SharingError(
            f"descriptor {descriptor} is of kind {memory.words[KIND_AT]}, not of kind {kind}, which was announced: "
            f"only what mpbakery itself sends can be used"
        )
    return memory
