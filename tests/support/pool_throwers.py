"""Arguments, results and functions that throw whatever there is to throw, wherever a pool calls something of theirs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class Odd(BaseException):
    """Of which nothing works, and which does not survive pickling."""

    def __init__(self, _first: int, _second: int) -> None:
        super().__init__()

    def __repr__(self) -> str:
        raise Odd(1, 2)

    __str__ = __repr__


class Twisted(str):
    """A string that throws whatever it is asked."""

    __slots__ = ()

    def __str__(self) -> str:
        raise Odd(1, 2)

    __len__ = __format__ = __getitem__ = __eq__ = __add__ = __str__  # type: ignore[assignment]
    __hash__ = str.__hash__


class OddlyNamed(Exception):
    """Whose repr() is no plain string."""

    def __repr__(self) -> str:
        return Twisted("twisted")


def recurse(number: int = 0) -> int:
    return recurse(number + 1) + 1


def ask_for_too_much() -> bytearray:
    return bytearray(sys.maxsize)


def _thrower(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def throw() -> NoReturn:
        raise error()

    return throw


_THROWERS: dict[str, Callable[[], object]] = {
    "ValueError": _thrower(lambda: ValueError("thrown")),
    "StopIteration": _thrower(lambda: StopIteration("thrown")),
    "SystemExit": _thrower(lambda: SystemExit(3)),
    "KeyboardInterrupt": _thrower(KeyboardInterrupt),
    "CancelledError": _thrower(asyncio.CancelledError),
    "GeneratorExit": _thrower(GeneratorExit),
    "OSError": _thrower(lambda: OSError(9, "thrown")),
    "EOFError": _thrower(EOFError),
    "MemoryError": ask_for_too_much,
    "RecursionError": recurse,
    "Odd": _thrower(lambda: Odd(1, 2)),
    "OddlyNamed": _thrower(lambda: OddlyNamed("thrown")),
}
#: What can be thrown.
THROWN = list(_THROWERS)


def throw(what: str) -> NoReturn:
    """Throw that."""
    _THROWERS[what]()
    raise AssertionError(f"{what} was not thrown")


class ThrowsWhenPickled:
    """Throws when it is pickled."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __reduce__(self) -> NoReturn:
        throw(self._what)

    def __call__(self) -> None:
        """It may be the function of a task."""


class ThrowsWhenUnpickled:
    """Throws when it is unpickled."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return throw, (self._what,)


class ThrowsWhenAsked:
    """Ends the process of who calls it, and throws when it is asked for its name, or its looks."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, *_arguments: object) -> None:
        os._exit(3)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__qualname__":
            raise AttributeError(name)
        throw(self.__dict__["_what"])

    def __repr__(self) -> str:
        throw(self._what)


class ThrowsWhenIterated:
    """An iterable of so many numbers that throws then: from `iter()` if there are none."""

    def __init__(self, what: str, count: int) -> None:
        self._what = what
        self._count = count

    def __iter__(self) -> Iterator[int]:
        if self._count == 0:
            throw(self._what)
        return self._numbers()

    def _numbers(self) -> Iterator[int]:
        yield from range(self._count)
        throw(self._what)


class ErrorThatThrows(Exception):
    """An error that throws when it is pickled, or unpickled, or shown."""

    def __init__(self, what: str, when: str) -> None:
        super().__init__(what, when)
        self._what = what
        self._when = when

    def __reduce__(self) -> Any:
        if self._when == "pickled":
            throw(self._what)
        if self._when == "unpickled":
            return throw, (self._what,)
        return type(self), (self._what, self._when)

    def __str__(self) -> str:
        if self._when == "shown":
            throw(self._what)
        return "an error that throws"

    __repr__ = __str__


def return_one_that_throws(what: str, when: str) -> object:
    return ThrowsWhenPickled(what) if when == "pickled" else ThrowsWhenUnpickled(what)


def raise_one_that_throws(what: str, when: str) -> NoReturn:
    raise ErrorThatThrows(what, when)


class ApiError(Exception):
    """As in many a library: its `__init__` takes more than it hands on."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")


def call_api(_item: object) -> NoReturn:
    raise ApiError(404, "not found")  # this line is looked for
