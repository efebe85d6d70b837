"""The layout of shared memory: the name of every word in it, and where it is.

All words are 64 bits, native byte order, aligned. The layout is an interface of its own, for readers from outside:
`MAGIC` and `VERSION` say that it is this one.

A segment is a header of its own, and then places; in each there is one primitive (see `segments`):

    header    words 0 to 31, see below; HIGH is its last word
    numbers   one word a slot, right behind HIGH, so that one comparison covers HIGH and the whole waiting room
    records   RECORD words a slot: whose the slot is, and what only its owner writes
"""

from __future__ import annotations

import sys
from typing import Final

if sys.maxsize <= 2**32:
    raise ImportError("mpbakery needs a 64-bit Python: on a 32-bit one, 64-bit words are not stored in one piece")

WORD: Final = 8

# The header. What has no other writer named is written once, by the process that makes the lock.
MAGIC_AT: Final = 0
VERSION_AT: Final = 1
SLOTS_AT: Final = 2
ROBUST_AT: Final = 3
IDENTITY_AT: Final = 4  # two words: the identity of the segment, and which of its process's primitives this is
IDENTITY_BYTES: Final = 16
NAMESPACE_AT: Final = 6
NOBODY: Final = 7  # always 0: where OWNER points before the first acquisition
OWNER: Final = 8  # the HELD word of the slot that entered last, with CLOSED or without; the head of the queue writes it
RECOVERIES: Final = 9  # takeovers from dead owners; written by the owner
FOREIGN: Final = 10  # not 0 once a thread has released what another had acquired
ATTENTION: Final = 11  # not 0 if a release has more to do: the head of the queue may be asleep, or FOREIGN is set
SCRATCH: Final = 12  # two words, cleared by a release in a thread that has no slot
KIND_AT: Final = 14  # which primitive this is: LOCK …
VALUE_AT: Final = 15  # in a semaphore: the permits that it was made with; in a barrier: the parties
NAME_AT: Final = 16  # eight words, UTF-8, zero padded
NAME_BYTES: Final = 64
FLAG: Final = 24  # not 0 if an event is set, or a barrier broken
TAKEN: Final = 25  # how many permits of a semaphore were taken; written by the head of the queue alone
TENURE_AT: Final = 28  # a double: for how many seconds who has entered through the queue may come again without it
LINK_AT: Final = 29  # two words: in a condition, the identity of its lock
HIGH: Final = 31  # how many slots, from slot 0 on, were ever claimed; written under the claim lock
NUMBERS: Final = 32  # number[slot]: IDLE, CHOOSING, or a ticket

IDLE: Final = 0
CHOOSING: Final = 1  # less than any ticket, so that whoever is in the doorway counts as ahead of everyone

# In a room in which threads wait to be let go, number[slot] is IDLE, a ticket, or how its thread was let go.
LET_GO: Final = 1
TURNED_AWAY: Final = 2  # from a barrier that broke
FIRST_TICKET: Final = 3

#: In OWNER, beside the index of a word: the slot that entered last cannot come again without standing in the queue.
CLOSED: Final = 1 << 29
INDEX: Final = CLOSED - 1

# The record of a slot, as offsets from its first word.
RECORD: Final = 16
PID: Final = 0  # 0: the slot is free; written under the claim lock
START: Final = 1  # when the process started, see `identity`
THREAD: Final = 2  # with ENDED once it has ended: the slot is free then, too, unless HELD is not 0
HELD: Final = 3  # a double: when the lock was taken through this slot (monotonic seconds), 0 when it was given back
EXIT_ARGUMENTS: Final = 4  # scratch: the store that releases a lock must put the arguments of __exit__ behind HELD
ENTERED: Final = 5  # how many times the lock was acquired through this slot
GIVEN: Final = ENTERED  # in a semaphore: how many permits were given back through this slot
LEFT_BY_OTHERS: Final = 6  # which of these (by its count, doubled) another thread set out to release; plus 1 when done
PARK: Final = 7  # the futex word: AWAKE, or how the slot's thread is parked
ARRIVED: Final = 8  # a double: when the thread that waits came to the doorway (monotonic seconds)
DEADLINE: Final = 9  # a double: when the thread that waits gives up (monotonic seconds), 0 for never
PROCESS_NAME: Final = 10  # six words, UTF-8, zero padded
PROCESS_NAME_BYTES: Final = 48

ENDED: Final = 1 << 63

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
QUEUE_LOCK: Final = 9  # a lock that nobody but a queue uses: a reader that has it may be idle
#: The class that a user makes to have one of these.
KINDS: Final = (
    "",
    "Lock",
    "RLock",
    "Semaphore",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Barrier",
    "Barrier",
    "Queue",
)

MAGIC: Final = int.from_bytes(b"mpbakery", "little")
VERSION: Final = 2
MAX_SLOTS: Final = 1 << 16

# The header of a segment; but for USED_AT, written once.
SEGMENT_MAGIC: Final = int.from_bytes(b"mpbakseg", "little")
SEGMENT_MAGIC_AT: Final = 0
SEGMENT_VERSION_AT: Final = 1
SEGMENT_SIZE_AT: Final = 2  # bytes
SEGMENT_IDENTITY_AT: Final = 3
USED_AT: Final = 4  # up to which byte there are places: each begins with its own header, which tells how long it is
#: The bytes that a place is a multiple of, and the first place.
PLACE_UNIT: Final = 4096
FIRST_PLACE: Final = PLACE_UNIT


def record_of(slots: int, slot: int) -> int:
    """The first word of the record of `slot`, in a lock with that many slots; records are whole cache lines.

    There is one slot more, number `slots`, for who takes over from a dead owner when all others are in use.
    """
    return -(-(NUMBERS + slots + 1) // RECORD) * RECORD + slot * RECORD


def slot_of(slots: int, owner: int) -> int:
    """The slot that OWNER stands for when it is `owner`: the slot of that HELD word; -1 for NOBODY."""
    held = owner & INDEX
    return (held - record_of(slots, 0)) // RECORD if held != NOBODY else -1


def size_of(slots: int) -> int:
    """The bytes of the memory of a primitive with that many slots."""
    return record_of(slots, slots + 1) * WORD


def span_of(word: int, size: int) -> slice:
    """The bytes of a place that start at `word`."""
    return slice(word * WORD, word * WORD + size)


def padded(text: str, size: int) -> bytes:
    """`text` in UTF-8, cut to `size` bytes at a character's end, zero padded."""
    return text.encode(errors="replace")[:size].decode(errors="ignore").encode().ljust(size, b"\0")
