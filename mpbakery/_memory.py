"""The anonymous shared mapping of one lock, and the name of every word in it.

All words are 64 bits, native byte order, aligned. The layout is an interface of its own, for readers from outside:
`MAGIC` and `VERSION` say that it is this one.

    header    words 0 to 31, see below; HIGH is its last word
    numbers   one word a slot, right behind HIGH, so that one comparison covers HIGH and the whole waiting room
    records   RECORD words a slot: whose the slot is, and what only its owner writes
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import operator
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final, cast

from mpbakery._errors import SharingError
from mpbakery._fence import release_offset, storing_release_offset

if sys.maxsize <= 2**32:
    raise ImportError("mpbakery needs a 64-bit Python: on a 32-bit one, 64-bit words are not stored in one piece")

WORD: Final = 8

# The header. What has no other writer named is written once, by the process that makes the lock.
MAGIC_AT: Final = 0
VERSION_AT: Final = 1
SLOTS_AT: Final = 2
ROBUST_AT: Final = 3
IDENTITY_AT: Final = 4  # two words, random
NAMESPACE_AT: Final = 6
NOBODY: Final = 7  # always 0: where OWNER points before the first acquisition
OWNER: Final = 8  # the HELD word of the slot that entered last; written by the head of the queue alone
RECOVERIES: Final = 9  # takeovers from dead owners; written by the owner
FOREIGN: Final = 10  # not 0 once a thread has released what another had acquired
ATTENTION: Final = 11  # not 0 if a release has more to do than to clear HELD: somebody is parked, or FOREIGN is set
SCRATCH: Final = 12  # two words, cleared by a release in a thread that has no slot
KIND_AT: Final = 14  # which primitive this is: LOCK …
VALUE_AT: Final = 15  # in a semaphore: the permits that it was made with; in a barrier: the parties
NAME_AT: Final = 16  # eight words, UTF-8, zero padded
NAME_BYTES: Final = 64
FLAG: Final = 24  # not 0 if an event is set, or a barrier broken
TAKEN: Final = 25  # how many permits of a semaphore were taken; written by the head of the queue alone
HUNGRY: Final = 26  # not 0 if the head of a semaphore's queue waits for a permit
HIGH: Final = 31  # how many slots, from slot 0 on, were ever claimed; written under the claim lock
NUMBERS: Final = 32  # number[slot]: IDLE, CHOOSING, or a ticket

IDLE: Final = 0
CHOOSING: Final = 1  # less than any ticket, so that whoever is in the doorway counts as ahead of everyone

# In a room in which threads wait to be let go, number[slot] is IDLE, a ticket, or how its thread was let go.
LET_GO: Final = 1
TURNED_AWAY: Final = 2  # from a barrier that broke
FIRST_TICKET: Final = 3

# The record of a slot, as offsets from its first word.
RECORD: Final = 16
PID: Final = 0  # 0: the slot is free; written under the claim lock
START: Final = 1
THREAD: Final = 2
HELD: Final = 3  # a double: when the lock was taken through this slot (monotonic seconds), 0 when it was given back
EXIT_ARGUMENTS: Final = 4  # scratch: the store that releases a lock must put the arguments of __exit__ behind HELD
ENTERED: Final = 5  # how many times the lock was acquired through this slot
GIVEN: Final = ENTERED  # in a semaphore: how many permits were given back through this slot
LEFT_BY_OTHERS: Final = 6  # which of these (by its count, doubled) another thread set out to release; plus 1 when done
PARK: Final = 7  # the futex word: AWAKE, or how the slot's thread is parked
ARRIVED: Final = 8  # a double: when the thread that waits came to the doorway (monotonic seconds)
PROCESS_NAME: Final = 9  # seven words, UTF-8, zero padded
PROCESS_NAME_BYTES: Final = 56

AWAKE: Final = 0
PARKED: Final = 1
PARKED_LONG: Final = 2  # for so long that coming next in line is a reason to be woken

# What the memory is for.
LOCK: Final = 1
RECURSIVE_LOCK: Final = 2
SEMAPHORE: Final = 3
BOUNDED_SEMAPHORE: Final = 4
CONDITION: Final = 5
EVENT: Final = 6
BARRIER: Final = 7
GUARD: Final = 8  # the lock inside a barrier
#: The class that a user makes to have one of these.
KINDS: Final = ("", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Barrier")

MAGIC: Final = int.from_bytes(b"mpbakery", "little")
VERSION: Final = 1
MAX_SLOTS: Final = 1 << 16


def record_of(slots: int, slot: int) -> int:
    """The first word of the record of `slot`, in a lock with that many slots; records are whole cache lines.

    There is one slot more, number `slots`, for who takes over from a dead owner when all others are in use.
    """
    return -(-(NUMBERS + slots + 1) // RECORD) * RECORD + slot * RECORD


def slot_of(slots: int, held: int) -> int:
    """The slot whose HELD word is word `held`; -1 for NOBODY."""
    return (held - record_of(slots, 0)) // RECORD if held != NOBODY else -1


def size_of(slots: int) -> int:
    """The bytes of a mapping with that many slots."""
    return record_of(slots, slots + 1) * WORD


def span_of(word: int, size: int) -> slice:
    """The bytes of a mapping that start at `word`."""
    return slice(word * WORD, word * WORD + size)


def padded(text: str, size: int) -> bytes:
    """`text` in UTF-8, cut to `size` bytes at a character's end, zero padded."""
    return text.encode(errors="replace")[:size].decode(errors="ignore").encode().ljust(size, b"\0")


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
