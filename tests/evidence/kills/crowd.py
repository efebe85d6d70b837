"""Those who put and get while they are killed and stopped, and the board in shared memory that they write on."""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import queue
import random
import signal
import time
import zlib
from typing import Any, Final

from support.processes import descriptors, resident_memory

#: How many lives, of all who put, fit on the board, and how many items one of them puts before it ends by itself.
LIVES: Final = 8192
ITEMS: Final = 4096
#: From this one on they are those of the one that is never killed, which has one life after the other.
VETERAN: Final = LIVES // 2
#: The sizes of items (bytes).
SMALLEST: Final = 10
LARGEST: Final = 1 << 20

# The words of a place on the board: whoever has the place counts there what it has done.
ROUNDS: Final = 0
MOMENT: Final = 1
DESCRIPTORS: Final = 2
MEMORY: Final = 3
_PLACE: Final = 8
PLACES: Final = 64

# What is wrong, counted by all.
TORN: Final = 0
TWICE: Final = 1
ORDER: Final = 2
RAISED: Final = 3
WRONGS: Final = ("torn", "twice", "out of order", "raised")


class Board:
    """What all of them write on, each in places of its own."""

    def __init__(self) -> None:
        self._places = memoryview(mmap.mmap(-1, PLACES * _PLACE * 8)).cast("q")
        #: for each place, how often each thing was wrong
        self._wrong = memoryview(mmap.mmap(-1, PLACES * len(WRONGS) * 8)).cast("q")
        #: for each life, how many items were put, as far as `put` has returned
        self.put = memoryview(mmap.mmap(-1, LIVES * 8)).cast("q")
        #: for each item of each life, whether it was got
        self.got = mmap.mmap(-1, LIVES * ITEMS)
        #: whether those who put are to go home
        self._over = mmap.mmap(-1, 1)

    @property
    def is_over(self) -> bool:
        """Whether those who put are to go home."""
        return self._over[0] != 0

    def end(self) -> None:
        """Send home those who put."""
        self._over[0] = 1

    def note(self, place: int) -> None:
        """One more round is done in that place."""
        words = self._places
        words[place * _PLACE + ROUNDS] += 1
        words[place * _PLACE + MOMENT] = time.monotonic_ns()

    def read(self, place: int, word: int) -> int:
        """A word of a place."""
        return self._places[place * _PLACE + word]

    def write(self, place: int, word: int, value: int) -> None:
        """Write one."""
        self._places[place * _PLACE + word] = value

    def blame(self, place: int, what: int) -> None:
        """Something is wrong."""
        self._wrong[place * len(WRONGS) + what] += 1

    def wrong(self) -> dict[str, int]:
        """How often each thing was wrong."""
        return {name: sum(self._wrong[number :: len(WRONGS)].tolist()) for number, name in enumerate(WRONGS)}

    def take_measure(self, place: int) -> None:
        """Write down how much this process has open, and how much memory it has."""
        self.write(place, DESCRIPTORS, descriptors())
        self.write(place, MEMORY, resident_memory())

    def lost(self, life: int) -> tuple[int, int]:
        """How many items of a life are missing among those that came, and how many that were put behind these."""
        marks = self.got[life * ITEMS : (life + 1) * ITEMS]
        last = marks.rfind(b"\1") + 1
        return marks[:last].count(b"\0"), max(0, self.put[life] - last)


def begin() -> None:
    """The first thing that each of them does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()  # for SIGABRT, of which one dies that does not get on


def make_item(life: int, number: int, pool: bytes, chance: random.Random) -> tuple[int, int, bytes, int]:
    """An item of a random size, with what shows whether it is whole."""
    size = int(SMALLEST * (LARGEST / SMALLEST) ** chance.random())
    start = chance.randrange(len(pool) - size)
    content = pool[start : start + size]
    return life, number, content, zlib.crc32(b"%d %d %d" % (life, number, size), zlib.crc32(content))


def is_whole(item: Any) -> bool:
    """Whether an item is as it was put."""
    try:
        life, number, content, check = item
    except (TypeError, ValueError):
        return False
    return bool(check == zlib.crc32(b"%d %d %d" % (life, number, len(content)), zlib.crc32(content)))


def count_waiting(items: Any) -> int:
    """How many items wait in this process to be sent."""
    if hasattr(items, "_feeder"):
        return len(items._feeder.waiting)
    return len(getattr(items, "_buffer", ()))


def write(items: Any, board: Board, place: int, life: int, seed: int, veteran: bool) -> None:
    """Put items, until all are put that a life has, or it is over."""
    begin()
    chance = random.Random(seed)
    pool = chance.randbytes(2 * LARGEST)
    lives = range(VETERAN, LIVES) if veteran else range(life, life + 1)
    for life, number in itertools.product(lives, range(ITEMS)):
        if board.is_over:
            break
        items.put(make_item(life, number, pool, chance))
        board.put[life] = number + 1
        board.note(place)
        if veteran:
            board.take_measure(place)
        while count_waiting(items) > 20:
            time.sleep(0.01)  # or it would have put all that it has at once, and be done
    if hasattr(items, "join_thread"):
        items.close()
        items.join_thread()


def read(items: Any, board: Board, place: int, seed: int, veteran: bool) -> None:
    """Get items, and look at each of them, until one says that there are no more."""
    begin()
    chance = random.Random(seed)
    last: dict[int, int] = {}
    while True:
        try:
            # both ways to wait
            item = items.get() if not hasattr(items, "qsize") or chance.random() < 0.5 else items.get(timeout=60)
        except queue.Empty:
            continue
        except Exception:
            board.blame(place, RAISED)
            continue
        board.note(place)
        if item is None:
            break
        if is_whole(item):
            life, number = item[:2]
            at = life * ITEMS + number
            if board.got[at]:
                board.blame(place, TWICE)
            if number <= last.get(life, -1):
                board.blame(place, ORDER)
            last[life] = number
            board.got[at] = 1
        else:
            board.blame(place, TORN)
        if hasattr(items, "task_done"):
            items.task_done()
        if veteran:
            board.take_measure(place)
    os._exit(0)
