"""The shared memory of one lock, as a simulated process sees it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER
from mpbakery._system.layout import OWNER, WORD
from mpbakery._system.memory import LateWord

if TYPE_CHECKING:
    from evidence.explorer.simulated.process import Process


class Span:
    """Some consecutive words, as a process sees them: loaded one by one."""

    __slots__ = ("_process", "_range")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, process: Process, span: slice) -> None:
        self._process = process
        self._range = range(span.start, span.stop, span.step or 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, memoryview):
            return NotImplemented
        expected = other.tolist()
        # like a memoryview, in their order, up to the first that differs
        return len(expected) == len(self._range) and all(
            self._process.perform("load", word) == value for word, value in zip(self._range, expected, strict=True)
        )

    def tolist(self) -> list[Any]:
        """All of them."""
        values = [self._process.perform("load", word) for word in self._range]
        self._process.perform("list")
        return values


class Words:
    """The shared words as a process sees them; a time is stored as the number that it is."""

    __slots__ = ("_process",)

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getitem__(self, word: int | slice) -> Any:
        if isinstance(word, slice):
            self._process.remember_less()
            return Span(self._process, word)
        if word == OWNER:
            self._process.remember_less()
        return self._process.perform("load", word)

    def __setitem__(self, word: int, value: Any) -> None:
        if isinstance(value, Fenced):
            value.fence()
            # in one piece with the fence
            self._process.perform("store0", word, operator.index(value))
        else:
            self._process.perform("store", word, value)


class Fenced(int):
    """A number with a fence in front of the store."""

    fence: Callable[[], object]


class Bytes:
    """The same memory as bytes: names are written there, and read by nobody here."""

    def __setitem__(self, span: slice, value: bytes) -> None:
        pass


class SimulatedMemory:
    """One lock's memory as a process sees it (`mpbakery._protocol.interfaces.SharedMemory`)."""

    mapping = Bytes()
    name = "simulated"
    kind = "Lock"
    place = 0
    namespace = 1

    def __init__(self, process: Process) -> None:
        self._process = process
        self.words = Words(process)
        self.spans = self.times = self.words
        self.slots = process.world.slots
        self.robust = process.world.robust

    def clearing(self, word: int | LateWord, after: object) -> tuple[Callable[[], None], Callable[..., None]]:
        """As the real one: a range zeroed, then its first word stored once more, then the truth of `after`."""
        perform = self._process.perform

        def clear(*_exit_arguments: object) -> None:
            at = operator.index(word) // WORD if isinstance(word, LateWord) else word
            self._fence_of_offset()
            perform("store0", at, 0)
            perform("store0", at, 0)
            bool(after)

        return clear, clear

    def counting(
        self, word: int, scratch: int, count: Iterator[int], after: object
    ) -> tuple[Callable[[], None], Callable[..., None]]:
        """As the real one: the next value of `count` is stored, and then a word cleared that nobody reads."""

        def store(*_exit_arguments: object) -> None:
            self._fence_of_offset()
            self._process.perform("store0", word, next(count))
            self._process.perform("store0", scratch, 0)
            bool(after)

        return store, store

    def counting_in_place(self, word: int, count: Iterator[int], after: object) -> object:
        """What the real one was once: a mutant. The word is zeroed before it gets the next value."""

        def store(*_exit_arguments: object) -> None:
            self._fence_of_offset()
            self._process.perform("store0", word, 0)
            self._process.perform("store0", word, next(count))
            bool(after)

        return store, store

    def _fence_of_offset(self) -> None:
        if self._process.world.model == PARTIAL_STORE_ORDER:
            self._process.perform("offset")

    @staticmethod
    def divert(call: object, after: object = None) -> None:
        """Forks are not simulated."""

    @staticmethod
    def late_word() -> LateWord:
        """A word for `clearing` that is not known yet."""
        return LateWord()
