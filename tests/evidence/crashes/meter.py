"""A primitive that counts what its process does to shared memory, and kills the process at a chosen count.

Nothing in the primitive knows about it: its protocol runs over a memory, a machine and a claim lock that are those
of the package, but count. Every load and every store of a word counts, every look at a range of words, every
operation on the claim lock, going to sleep, and waking somebody. The store that releases a lock is one call into C,
and counts where that call asks for a truth value next; the one that gives a permit back is a store of its own in that
call, and counts as such.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mpbakery._primitives.shared import Shared
from mpbakery._protocol.interfaces import Claims
from mpbakery._protocol.slots import SlotTable
from mpbakery._system import identity, layout
from mpbakery._system.identity import Process
from mpbakery._system.layout import HELD, INDEX, NOBODY, NUMBERS, OWNER, RECORD, WORD, record_of
from mpbakery._system.machine import ThisMachine
from mpbakery._system.memory import LateWord, Memory

#: What is told of a victim that came to the end of what it was to be killed in.
RETURNED = "return"

_HEADER = (
    *("SLOTS_AT", "KIND_AT", "VALUE_AT", "NOBODY", "OWNER", "RECOVERIES", "FOREIGN", "ATTENTION"),
    *("FLAG", "TAKEN", "TENURE_AT", "HIGH"),
)
_RECORD = ("PID", "START", "THREAD", "HELD", "ENTERED", "LEFT_BY_OTHERS", "PARK", "ARRIVED", "DEADLINE", "PROCESS_NAME")
_NAMES_OF_HEADER: dict[int, str] = {getattr(layout, name): name for name in _HEADER}
_NAMES_OF_RECORD: dict[int, str] = {getattr(layout, name): name for name in _RECORD}


def name_of(slots: int, word: int) -> str:
    """What the layout of the memory calls a word."""
    if word < NUMBERS:
        return _NAMES_OF_HEADER.get(word, f"word {word}")
    if word < record_of(slots, 0):
        return f"NUMBERS[{word - NUMBERS}]"
    slot, field = divmod(word - record_of(slots, 0), RECORD)
    return f"{_NAMES_OF_RECORD.get(field, f'word {field}')}[{slot}]"


class End(NamedTuple):
    """How a victim ended: after which operation, whether it held the lock then, and when (monotonic seconds)."""

    operation: str
    held: bool
    moment: float


class Journal:
    """A page that a victim shares with those who fork it: its end, and a ledger of two cells that the lock protects."""

    _END = struct.Struct("d?200s")
    _END_AT = 64

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        #: the two cells are equal, but while somebody writes them under the lock
        self.ledger = memoryview(self._page)[: 2 * WORD].cast("Q")

    def write(self, operation: str, held: bool) -> None:
        """Leave word of one's end."""
        self._END.pack_into(self._page, self._END_AT, time.monotonic(), held, operation.encode()[:200])

    def read(self) -> End:
        """The word that was left last."""
        moment, held, operation = self._END.unpack_from(self._page, self._END_AT)
        return End(operation.rstrip(b"\0").decode(errors="ignore"), held, moment)


class Meter:
    """Counts operations from `start()` on, and kills this process when the `fatal`-th one is done; 0 is before them."""

    def __init__(self, memory: Memory, journal: Journal, fatal: int) -> None:
        """`memory` is that of the lock which this process may hold at its end."""
        self._words = memory.words
        self._journal = journal
        self._fatal = fatal
        self._count = -1

    @property
    def running(self) -> bool:
        """Whether operations count already."""
        return self._count >= 0

    def start(self) -> None:
        """Count from now on."""
        self._count = 0
        if self._fatal == 0:
            self.die("none")

    def step(self, operation: str) -> None:
        """An operation has been carried out."""
        if self.running:
            self._count += 1
            if self._count == self._fatal:
                self.die(operation)

    def die(self, operation: str) -> None:
        """Leave word, and kill this process."""
        self._journal.write(operation, self._holds())
        os.kill(os.getpid(), signal.SIGKILL)

    def _holds(self) -> bool:
        """Whether this process holds the lock, as the memory's layout defines it."""
        held = self._words[OWNER] & INDEX
        return held != NOBODY and self._words[held] != 0 and self._words[held - HELD] == os.getpid()


class MeteredWords:
    """Words, or doubles, that count what is done to them."""

    def __init__(self, words: Any, meter: Meter, name_of: Callable[[int], str]) -> None:
        self._words = words
        self._meter = meter
        self._name_of = name_of

    def __getitem__(self, word: int) -> Any:
        value = self._words[word]
        self._meter.step(f"load {self._name_of(word)}")
        return value

    def __setitem__(self, word: int, value: float) -> None:
        self._words[word] = value
        self._meter.step(f"store {self._name_of(word)}")


class MeteredSpans:
    """Slices of words, that count what is done to them."""

    def __init__(self, spans: Any, meter: Meter) -> None:
        self._spans = spans
        self._meter = meter

    def __getitem__(self, span: slice) -> MeteredSpan:
        return MeteredSpan(self._spans[span], self._meter)


class MeteredSpan:
    """Consecutive words that count when somebody looks at them."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, span: memoryview, meter: Meter) -> None:
        self._span = span
        self._meter = meter

    def __eq__(self, other: object) -> bool:
        equal = self._span == other
        self._meter.step("compare a span")
        return equal

    def tolist(self) -> list[int]:
        """The words."""
        values = self._span.tolist()
        self._meter.step("list a span")
        return values


class MeteredMapping:
    """The mapping as bytes; what is read of it does not count, since it is nothing but names."""

    def __init__(self, mapping: memoryview, meter: Meter, name_of: Callable[[int], str]) -> None:
        self._bytes = mapping
        self._meter = meter
        self._name_of = name_of

    def __getitem__(self, span: slice) -> bytes:
        return bytes(self._bytes[span])

    def __setitem__(self, span: slice, value: bytes) -> None:
        self._bytes[span] = value
        self._meter.step(f"store {self._name_of(span.start // WORD)}")


class SecondHalf:
    """The second half of a release: it counts the first one."""

    def __init__(self, after: object, meter: Meter, first: str) -> None:
        self._after = after
        self._meter = meter
        self._first = first

    def __bool__(self) -> bool:
        self._meter.step(self._first)
        return bool(self._after)


class MeteredMemory(Memory):
    """The memory of a primitive, that counts."""

    def __init__(self, memory: Memory, meter: Meter, whose: str) -> None:
        """`whose` follows the names of its words."""
        super().__init__(memory.segment, memory.place, len(memory.mapping))
        self._meter = meter
        self._first_half = f"clear HELD{whose}"
        self._mapping = Memory(memory.segment, memory.place, len(memory.mapping))

        def name(word: int) -> str:
            return name_of(memory.slots, word) + whose

        self.words = MeteredWords(self.words, meter, name)  # type: ignore[assignment]
        self.spans = MeteredSpans(self.spans, meter)  # type: ignore[assignment]
        self.times = MeteredWords(self.times, meter, name)  # type: ignore[assignment]
        self.mapping = MeteredMapping(self.mapping, meter, name)  # type: ignore[assignment]
        # the mapping itself is what C stores in, but for the count of permits, which has a store of its own
        self._mapping.words = self.words

    def clearing(self, word: int | LateWord, after: object) -> tuple[Callable[[], None], Callable[..., None]]:
        """The functions that release."""
        return self._mapping.clearing(word, SecondHalf(after, self._meter, self._first_half))

    def counting(
        self, word: int, scratch: int, count: Iterator[int], after: object
    ) -> tuple[Callable[[], None], Callable[..., None]]:
        """The functions that give a permit back."""
        return self._mapping.counting(word, scratch, count, SecondHalf(after, self._meter, self._first_half))


class MeteredClaims:
    """The record locks, that count."""

    def __init__(self, claims: Claims, meter: Meter) -> None:
        self._claims = claims
        self._meter = meter
        self.descriptor = claims.descriptor
        self.is_intact = claims.is_intact

    def try_lock(self, place: int) -> bool:
        """Count, whether it was to be had or not."""
        got_it = self._claims.try_lock(place)
        self._meter.step("lock the claims")
        return got_it

    def unlock(self, place: int) -> None:
        """Count."""
        self._claims.unlock(place)
        self._meter.step("unlock the claims")

    def life_of(self, process: Process) -> Callable[[], object]:
        """Count what has it live."""
        live = self._claims.life_of(process)

        def count() -> None:
            live()
            self._meter.step("live")

        return count

    def is_taken(self, error: OSError) -> bool:
        """The same."""
        return self._claims.is_taken(error)

    def lives(self, process: Process) -> bool:
        """Count."""
        alive = self._claims.lives(process)
        self._meter.step("ask who lives")
        return alive


class MeteredMachine(ThisMachine):
    """A machine that is so fast that time stands still while its process is awake, and that sleeps until it is woken.

    So what the process does does not depend on how loaded the real machine is, and its k-th operation is the same one
    each time.
    """

    spins = 1
    yields = 1

    def __init__(
        self, memory: Memory, meter: Meter, asleep: Callable[[], object], time_is_up: Callable[[], bool]
    ) -> None:
        """`asleep()` is called before each sleep; `time_is_up()` says that it ends, though nobody has ended it."""
        super().__init__(memory.segment.mapping, memory.place)
        self._words = memory.words
        self._meter = meter
        self._asleep = asleep
        self._time_is_up = time_is_up
        self._standing: float | None = None

    def clock(self) -> float:
        """Seconds."""
        if not self._meter.running:
            return time.monotonic()
        if self._standing is None:
            self._standing = time.monotonic()
        return self._standing

    def park(self, word: int, expected: int, seconds: float, turn: int) -> None:
        """Sleep until the word changes, as a process does that gets no processor when its time is up; or until told."""
        self._meter.step("park")
        self._asleep()
        while self._words[word] == expected and not self._time_is_up():
            super().park(word, expected, seconds, turn)
        self._standing = time.monotonic()
        self._meter.step("wake up")

    def unpark(self, word: int) -> None:
        """Wake whoever sleeps."""
        super().unpark(word)
        self._meter.step("unpark")


def parts_of(shared: Shared) -> list[Shared]:
    """The primitives that it is made of, beside itself."""
    return [part for part in shared._parts() if isinstance(part, Shared)]


def put_on_meter(
    shared: Shared, meter: Meter, asleep: Callable[[], object], time_is_up: Callable[[], bool], whose: str = ""
) -> None:
    """Make what this process does with a primitive that it has not used yet count."""
    for part in parts_of(shared):
        put_on_meter(part, meter, asleep, time_is_up, f" of the {type(part).__name__}")
    mapping = shared._memory
    memory, machine = MeteredMemory(mapping, meter, whose), MeteredMachine(mapping, meter, asleep, time_is_up)
    claims = MeteredClaims(shared._table._claims, meter)
    shared._memory = memory  # type: ignore[misc]
    shared._table = SlotTable(memory, claims, identity, machine, keeping=shared._keeping)  # type: ignore[misc]
    shared._set_up(machine)
