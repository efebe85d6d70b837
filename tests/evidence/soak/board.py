"""The memory that the processes of a soak share, kept so that SIGKILL at any moment leaves it readable.

There are no locks in it, and no cell has two writers at a time: a cell belongs to a thread's seat, to the conductor, or
to whoever holds a certain lock of those under test. What takes more than one store is told by a journal, from which
somebody else can bring it to its end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import Any, Final, NamedTuple

from evidence.soak.plan import THREADS

_WORD: Final = 8

# The header; the conductor writes it.
ROUND: Final = 0  # which one it is
FINISHED: Final = 1  # the veterans, too, are to leave
HEART: Final = 2  # when the conductor was last seen (monotonic seconds)
_HEADER: Final = 8

# A place, for one process at a time; the process writes it, and when it is dead the conductor clears PID and ENDED.
PID: Final = 0
ENDED: Final = 1  # it came to its end by itself
LIVES: Final = 2  # how many processes the place has seen
DESCRIPTORS: Final = 3
MEMORY: Final = 4  # resident bytes
_PLACE: Final = 8

# A seat, for one thread at a time of the process in its place. What counts goes on counting with the next thread.
THREAD: Final = 0  # its native id
JOURNAL: Final = 1  # the lock and the phase, see `Seat.say`
BEAT: Final = 2  # when it last did something (monotonic seconds)
ENTERED: Final = 3  # acquisitions
TIMEOUTS: Final = 4
LONGEST: Final = 5  # the longest wait for an acquisition (s)
COLLISIONS: Final = 6
USERS: Final = 7  # how many times a thread acquired a lock for the first time
OWN_LOCKS: Final = 8  # locks that it made for itself
UNTOLD: Final = 9  # how many of these were not recovered from a child that died
TOLD: Final = 10  # how many deaths it was told of; the last ones stand behind
_TOLD_RING: Final = 11
_RING: Final = 37
_SEAT: Final = 48

# What a lock protects; whoever holds the lock writes it.
MARK: Final = 0  # the seat that is in, and one; 0 if none is
COUNTER: Final = 1
INTENT: Final = 2  # what the counter is going to be, 0 if that is not known yet
BEGUN_NEXT: Final = 3  # what the cells of the pair are going to be
DONE_NEXT: Final = 4
MENDED: Final = 5  # visits that were cut off by a death before they counted
MENDED_NEXT: Final = 6
_LOCK: Final = 8

# A seat's visits to a lock; whoever holds the lock writes them.
BEGUN: Final = 0
DONE: Final = 1
_PAIR: Final = 2

#: The phases of a thread with a lock. WANTING ends, and LEAVING begins, a moment before or after the lock is held.
OUT: Final = 0
WANTING: Final = 1
INSIDE: Final = 2
LEAVING: Final = 3

_LOCK_SHIFT: Final = 32


class Shape(NamedTuple):
    """How large a board is."""

    places: int
    locks: int

    @property
    def seats(self) -> int:
        """How many threads there can be."""
        return self.places * THREADS


class Trace(NamedTuple):
    """What a thread was at, with which lock."""

    thread: int
    lock: int
    phase: int


class Board:
    """All the cells, as words and as doubles, and where they are."""

    def __init__(self, shape: Shape, descriptor: int = -1) -> None:
        self.shape = shape
        self._places = _HEADER
        self._seats = self._places + shape.places * _PLACE
        self._locks = self._seats + shape.seats * _SEAT
        self._pairs = self._locks + shape.locks * _LOCK
        size = (self._pairs + shape.locks * shape.seats * _PAIR) * _WORD
        if descriptor < 0:
            descriptor = os.memfd_create("soak")
            os.ftruncate(descriptor, size)
        self._descriptor = descriptor
        room = mmap.mmap(descriptor, size)
        self.words = memoryview(room).cast("Q")
        self.times = memoryview(room).cast("d")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _receive, (self.shape, reduction.DupFd(self._descriptor))

    def place(self, place: int) -> int:
        """The first cell of a place."""
        return self._places + place * _PLACE

    def lock(self, lock: int) -> int:
        """The first cell of what a lock protects."""
        return self._locks + lock * _LOCK

    def seat(self, seat: int) -> int:
        """The first cell of a seat."""
        return self._seats + seat * _SEAT

    def pair(self, seat: int, lock: int) -> int:
        """The first cell of a seat's visits to a lock."""
        return self._pairs + (lock * self.shape.seats + seat) * _PAIR

    def pid(self, place: int) -> int:
        """Who is in a place, 0 if nobody is."""
        return self.words[self.place(place) + PID]

    def enter(self, place: int) -> int | None:
        """Take a place, for as long as this process lives; how many others had it before, None if it is not free.

        Two could come at once: a worker that has just forked is killed, and the next one forks as well. The kernel
        lets one of them have the record lock, and takes it back when that one dies.
        """
        words, cells = self.words, self.place(place)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return None
        if words[cells + PID]:
            return None  # dead, and the conductor has not looked into it yet
        lives = words[cells + LIVES]
        words[cells + LIVES] = lives + 1
        words[cells + PID] = os.getpid()
        return lives

    def clear(self, place: int) -> None:
        """Make a place free whose process is dead."""
        for seat in seats_of(place):
            self.words[self.seat(seat) + JOURNAL] = OUT
        self.words[self.place(place) + ENDED] = 0
        self.words[self.place(place) + PID] = 0

    def trace(self, seat: int) -> Trace:
        """What the thread in a seat is at."""
        cells = self.seat(seat)
        journal = self.words[cells + JOURNAL]
        return Trace(self.words[cells + THREAD], journal >> 2, journal & 3)

    def total(self, cell: int) -> int:
        """The sum over a cell of all seats."""
        return sum(self.words[self.seat(seat) + cell] for seat in range(self.shape.seats))


def _receive(shape: Shape, sent: Any) -> Board:
    return Board(shape, sent.detach())


def seats_of(place: int) -> range:
    """The seats of the threads of the process in a place."""
    return range(place * THREADS, (place + 1) * THREADS)


class Seat:
    """One thread's seat, as the thread sees it."""

    def __init__(self, board: Board, seat: int, thread: int) -> None:
        self._board = board
        self._cells = board.seat(seat)
        self.number = seat
        board.words[self._cells + THREAD] = thread

    def say(self, lock: int, phase: int) -> None:
        """Write into the journal, in one store, what is done next."""
        self._board.times[self._cells + BEAT] = time.monotonic()
        self._board.words[self._cells + JOURNAL] = lock << 2 | phase if phase else OUT

    def count(self, cell: int, more: int = 1) -> None:
        """Add to a count."""
        self._board.words[self._cells + cell] += more

    def waited(self, seconds: float) -> None:
        """Remember the longest wait."""
        self._board.times[self._cells + LONGEST] = max(self._board.times[self._cells + LONGEST], seconds)

    def told(self, lock: int, thread: int) -> None:
        """Write down that this thread was told of the death of another one."""
        words = self._board.words
        number = words[self._cells + TOLD]
        words[self._cells + _TOLD_RING + number % _RING] = lock << _LOCK_SHIFT | thread
        words[self._cells + TOLD] = number + 1


class ToldReader:
    """What the threads of all seats were told since the last look."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._read = [0] * board.shape.seats

    def news(self) -> Iterator[tuple[int, int]]:
        """The lock, and the thread whose death was told. Raises OverflowError if it is too late for some."""
        words = self._board.words
        for seat, read in enumerate(self._read):
            cells = self._board.seat(seat)
            end = words[cells + TOLD]
            if end - read > _RING:
                raise OverflowError(f"{end - read} deaths told to seat {seat} since the last look")
            self._read[seat] = end
            for number in range(read, end):
                entry = words[cells + _TOLD_RING + number % _RING]
                yield entry >> _LOCK_SHIFT, entry & (1 << _LOCK_SHIFT) - 1


class Protected:
    """What one lock protects: two independent detectors of two that are in at once, and a journal.

    Occupancy: whoever comes in leaves its mark, and looks when it comes and when it goes whether the mark is as it must
    be. Lost updates: a counter is loaded, and stored one higher a while later; each seat counts what it has stored.

    The journal says what all of the cells are going to be, before the mark says that somebody is in. So whoever takes
    the lock over from the dead knows whether the counter was stored, and can bring the seat's own count to where it
    must be; doing so twice, because it is killed in the middle of that, changes nothing.
    """

    def __init__(self, board: Board, lock: int) -> None:
        self._board = board
        self._lock = lock
        self._cells = board.lock(lock)

    def visit(self, seat: int, stay: Callable[[], object]) -> int:
        """One stay under the lock; how often somebody else was seen there."""
        words, cells = self._board.words, self._cells
        pair = self._board.pair(seat, self._lock)
        collisions = int(words[cells + MARK] != 0)
        begun, done = words[pair + BEGUN] + 1, words[pair + DONE] + 1
        # before the mark, or a death right behind the mark would be judged by the last visit's intent
        words[cells + INTENT] = 0
        words[cells + BEGUN_NEXT] = begun
        words[cells + DONE_NEXT] = done
        words[cells + MENDED_NEXT] = words[cells + MENDED] + 1
        words[cells + MARK] = seat + 1
        words[pair + BEGUN] = begun
        number = words[cells + COUNTER] + 1
        words[cells + INTENT] = number
        stay()
        words[cells + COUNTER] = number
        words[pair + DONE] = done
        collisions += words[cells + MARK] != seat + 1
        words[cells + MARK] = 0
        return collisions

    def mend(self) -> None:
        """After the lock was taken over from the dead: bring the visit to its end that was cut off, if one was."""
        words, cells = self._board.words, self._cells
        mark = words[cells + MARK]
        if not mark:
            return
        pair = self._board.pair(mark - 1, self._lock)
        words[pair + BEGUN] = words[cells + BEGUN_NEXT]
        if words[cells + INTENT] and words[cells + COUNTER] == words[cells + INTENT]:
            words[pair + DONE] = words[cells + DONE_NEXT]
        else:
            words[cells + MENDED] = words[cells + MENDED_NEXT]
        words[cells + MARK] = 0

    def clear(self) -> None:
        """Start anew, with another lock."""
        words = self._board.words
        for cell in range(_LOCK):
            words[self._cells + cell] = 0
        for seat in range(self._board.shape.seats):
            words[self._board.pair(seat, self._lock) + BEGUN] = 0
            words[self._board.pair(seat, self._lock) + DONE] = 0

    def sum(self, cell: int) -> int:
        """The sum over all seats of BEGUN or DONE."""
        seats = range(self._board.shape.seats)
        return sum(self._board.words[self._board.pair(seat, self._lock) + cell] for seat in seats)

    def __getitem__(self, cell: int) -> int:
        return self._board.words[self._cells + cell]
