"""What stands in the memory of primitives, as values. It may be garbage: it is another program's memory."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mpbakery._system import layout
from mpbakery._system.layout import (
    ARRIVED,
    BARRIER,
    BOUNDED_SEMAPHORE,
    CHOOSING,
    CONDITION,
    DEADLINE,
    ENDED,
    ENTERED,
    EVENT,
    FIRST_PLACE,
    FIRST_TICKET,
    FLAG,
    FOREIGN,
    GUARD,
    HELD,
    HIGH,
    IDENTITY_AT,
    IDENTITY_BYTES,
    KIND_AT,
    KINDS,
    LINK_AT,
    LOCK,
    MAGIC,
    MAGIC_AT,
    MAX_SLOTS,
    NAME_AT,
    NAME_BYTES,
    NAMESPACE_AT,
    NUMBERS,
    OWNER,
    PID,
    PLACE_UNIT,
    PROCESS_NAME,
    PROCESS_NAME_BYTES,
    QUEUE_LOCK,
    RECORD,
    RECOVERIES,
    RECURSIVE_LOCK,
    ROBUST_AT,
    SEGMENT_IDENTITY_AT,
    SEGMENT_MAGIC,
    SEGMENT_MAGIC_AT,
    SEGMENT_SIZE_AT,
    SEGMENT_VERSION_AT,
    SEMAPHORE,
    SLOTS_AT,
    START,
    TAKEN,
    THREAD,
    USED_AT,
    VALUE_AT,
    VERSION,
    VERSION_AT,
    WORD,
)
from mpbakery._system.procfs import Read

#: What has one owner, what has permits, and in what threads wait to be let go.
LOCKS: Final = frozenset([LOCK, RECURSIVE_LOCK, GUARD, QUEUE_LOCK])
SEMAPHORES: Final = frozenset([SEMAPHORE, BOUNDED_SEMAPHORE])
ROOMS: Final = frozenset([CONDITION, EVENT, BARRIER])

#: The most that is read of one program: so many primitives, and so many bytes.
MOST_PLACES: Final = 1 << 20
MOST_BYTES: Final = 1 << 28

_MOST_PID: Final = 1 << 31
#: So many bytes are read at once of a place: as a rule, all but the records.
_FIRST_READ: Final = 1024
_SEGMENT_HEADER: Final = struct.Struct("5Q")
_HEADER: Final = struct.Struct(f"{NUMBERS}Q")
_RECORD: Final = struct.Struct(f"{RECORD}Q")
_DOUBLE: Final = struct.Struct("d")
_WORD: Final = struct.Struct("Q")


@dataclass(frozen=True)
class Seat:
    """A slot that belongs to a thread, or did so until that died; times are monotonic seconds, 0 for none."""

    slot: int
    number: int
    pid: int
    start: int
    thread: int
    has_ended: bool
    process: str
    held: float
    entered: int
    arrived: float
    deadline: float


@dataclass(frozen=True)
class Place:
    """A primitive at one moment, and where it is in its segment; parts of it may be a moment apart."""

    offset: int
    identity: str
    kind: int
    name: str
    slots: int
    robust: bool
    namespace: int
    owner: Seat | None
    foreign: bool
    recoveries: int
    value: int
    flag: bool
    taken: int
    count: int
    link: str
    seats: tuple[Seat, ...]

    @property
    def type(self) -> str:
        """The class that a user makes to have this."""
        return "Barrier's guard" if self.kind == GUARD else KINDS[self.kind]

    @property
    def line(self) -> list[Seat]:
        """Who waits, first the one that comes next."""
        if self.kind in ROOMS:
            waiting = [seat for seat in self.seats if seat.number >= FIRST_TICKET]
            return sorted(waiting, key=lambda seat: (seat.number, seat.arrived))
        # whoever is in the doorway has no place in line yet
        waiting = [seat for seat in self.seats if seat.number > CHOOSING]
        return sorted(waiting, key=lambda seat: (seat.number, seat.slot))

    @property
    def permits(self) -> int:
        """In a semaphore, how many permits can be had."""
        permits = max(0, self.value + self.count - self.taken)
        return min(permits, self.value) if self.kind == BOUNDED_SEMAPHORE else permits

    @property
    def acquisitions(self) -> int:
        """How often a lock was acquired since it was made."""
        return self.count if self.kind in LOCKS else 0


class Budget:
    """How much may still be read: forged memory could go on for ever."""

    def __init__(self) -> None:
        self.places = MOST_PLACES
        self.bytes = MOST_BYTES

    @property
    def is_spent(self) -> bool:
        """Whether something had to be left out."""
        return self.places <= 0 or self.bytes <= 0


def segment_in(read: Read, mapped: int) -> tuple[int, int] | None:
    """The identity and the size of the segment in a mapping of so many bytes.

    None if there is none, or one of another layout.
    """
    data = read(0, _SEGMENT_HEADER.size)
    if len(data) < _SEGMENT_HEADER.size:
        return None
    words = _SEGMENT_HEADER.unpack(data)
    magic, version, size = words[SEGMENT_MAGIC_AT], words[SEGMENT_VERSION_AT], words[SEGMENT_SIZE_AT]
    # mappings are whole pages
    if (magic, version) != (SEGMENT_MAGIC, VERSION) or not mapped - mmap.PAGESIZE < size <= mapped:
        return None
    return words[SEGMENT_IDENTITY_AT], size


def is_of_other_layout(read: Read) -> bool:
    """Whether there is a segment in a mapping of another version of mpbakery."""
    data = read(0, _SEGMENT_HEADER.size)
    if len(data) < _SEGMENT_HEADER.size:
        return False
    words = _SEGMENT_HEADER.unpack(data)
    return (words[SEGMENT_MAGIC_AT], words[SEGMENT_VERSION_AT] != VERSION) == (SEGMENT_MAGIC, True)


def places(read: Read, size: int, budget: Budget) -> Iterator[Place]:
    """All primitives in a segment, up to the first place where there is none."""
    data = read(USED_AT * WORD, WORD)
    end = min(_WORD.unpack(data)[0], size) if len(data) == WORD else 0
    offset = FIRST_PLACE
    while offset < end and not budget.is_spent:
        place = place_at(read, size, offset, budget)
        if place is None:
            return
        yield place
        offset += -(-layout.size_of(place.slots) // PLACE_UNIT) * PLACE_UNIT


def place_at(read: Read, size: int, offset: int, budget: Budget) -> Place | None:
    """The primitive at a place; None if there is none that could be one."""
    data = read(offset, _FIRST_READ)
    budget.places -= 1
    budget.bytes -= len(data)
    if len(data) < _FIRST_READ:
        return None
    words = _HEADER.unpack_from(data)
    slots, high, kind = words[SLOTS_AT], words[HIGH], words[KIND_AT]
    if (
        words[MAGIC_AT] != MAGIC
        or words[VERSION_AT] != VERSION
        or not 0 < slots <= MAX_SLOTS
        or not 0 < kind < len(KINDS)
        or not high <= slots + 1
        or offset + layout.size_of(slots) > size
    ):
        return None
    seats, count, owner = _seats(read, offset, data, slots, high, words[OWNER], budget)
    text = slice(NAME_AT * WORD, NAME_AT * WORD + NAME_BYTES)
    identity = slice(IDENTITY_AT * WORD, IDENTITY_AT * WORD + IDENTITY_BYTES)
    link = data[LINK_AT * WORD : LINK_AT * WORD + IDENTITY_BYTES]
    return Place(
        offset=offset,
        identity=data[identity].hex(),
        kind=kind,
        name=printable(data[text]),
        slots=slots,
        robust=words[ROBUST_AT] != 0,
        namespace=words[NAMESPACE_AT],
        owner=owner if kind in LOCKS else None,
        foreign=words[FOREIGN] != 0,
        recoveries=words[RECOVERIES],
        value=words[VALUE_AT],
        flag=words[FLAG] != 0,
        taken=words[TAKEN],
        count=count,
        link=link.hex() if any(link) else "",
        seats=seats,
    )


def _seats(
    read: Read, offset: int, data: bytes, slots: int, high: int, register: int, budget: Budget
) -> tuple[tuple[Seat, ...], int, Seat | None]:
    """The slots that belong to threads, what was counted through all of them, and the one of the owner, if any."""
    if not high:
        return (), 0, None
    end = (NUMBERS + high) * WORD
    numbers = data[NUMBERS * WORD : end]
    if end > len(data):
        numbers += read(offset + len(data), end - len(data))
    size = high * RECORD * WORD
    records = read(offset + layout.record_of(slots, 0) * WORD, size)
    budget.bytes -= size
    if len(records) < size or len(numbers) < high * WORD:
        return (), 0, None
    # in a slot out of range, nobody can hold it
    owner_slot = layout.slot_of(slots, register)
    seats = []
    count = 0
    owner = None
    for slot in range(high):
        start = slot * RECORD * WORD
        words = _RECORD.unpack_from(records, start)
        count += words[ENTERED]
        if not 0 < words[PID] < _MOST_PID:
            continue
        name = start + PROCESS_NAME * WORD
        seat = Seat(
            slot=slot,
            number=_WORD.unpack_from(numbers, slot * WORD)[0],
            pid=words[PID],
            start=words[START],
            thread=words[THREAD] & ~ENDED,
            has_ended=words[THREAD] >= ENDED,
            process=printable(records[name : name + PROCESS_NAME_BYTES]),
            held=_time(records, start + HELD * WORD),
            entered=words[ENTERED],
            arrived=_time(records, start + ARRIVED * WORD),
            deadline=_time(records, start + DEADLINE * WORD),
        )
        if seat.has_ended and not seat.held:
            continue  # nobody's
        seats.append(seat)
        if slot == owner_slot and words[HELD]:
            owner = seat
    return tuple(seats), count, owner


def _time(data: bytes, offset: int) -> float:
    """Monotonic seconds, 0 for what cannot be a time."""
    seconds: float = _DOUBLE.unpack_from(data, offset)[0]
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def printable(padded: bytes) -> str:
    """Zero-padded UTF-8 as text that can be shown anywhere: what is not meant for the eye is escaped."""
    text = padded.rstrip(b"\0").decode(errors="replace")
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
