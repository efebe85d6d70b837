"""What programs do that nobody reckons with: names that cannot be told, warnings that cannot be shown, and so on."""

from __future__ import annotations

import functools
import importlib
import io
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any

import mpbakery
from support.workers import PATIENCE, expect, in_thread

# --- Names ---------------------------------------------------------------------------------------------------------


class Unspeakable:
    """What cannot be told."""

    def __str__(self) -> str:
        raise LookupError("asked for a name that there is none of")


class Vicious(str):
    """A string whose methods do as they like."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def encode(self, *_how: object, **_errors: object) -> Any:
        return 7


class Anonymous(ForkProcess):
    """A process that does not tell its name, once it runs."""

    @property
    def name(self) -> str:
        if self._popen is None and self._parent_pid is not None:  # type: ignore[attr-defined]
            raise LookupError("asked for a name that there is none of")
        return "anonymous"

    @name.setter
    def name(self, _name: str) -> None:
        pass


class Slow:
    """A name during whose telling a signal comes; it cannot be told in the end."""

    def __str__(self) -> str:
        signal.raise_signal(signal.SIGUSR1)
        raise LookupError("the signal went unnoticed")


def hold_and_put(connection: Connection, lock: mpbakery.Lock, items: Any) -> None:
    """Hold a lock, put the lock's repr into a queue, and stay until told to end."""
    with lock:
        items.put(repr(lock))
        expect(connection)


# --- Handlers ------------------------------------------------------------------------------------------------------


class OutOfTime(Exception):
    """What a handler raises."""


def give_up(_number: int, _frame: object) -> None:
    raise OutOfTime


class Alarm:
    """Handlers of other forms than a function's."""

    def __call__(self, _number: int, _frame: object) -> None:
        raise OutOfTime

    def ring(self, *_arguments: object) -> None:
        raise OutOfTime


#: Handlers, by what they are.
HANDLERS: dict[str, Callable[..., object]] = {
    "function": give_up,
    "method of any arguments": Alarm().ring,
    "callable": Alarm(),
    "partial": functools.partial(give_up),
}


def acquire_when_a_handler_raises(connection: Connection, lock: mpbakery.Lock, handler: str) -> None:
    """Tell what comes of the first acquisition in a process during the telling of whose name a handler raises."""
    signal.signal(signal.SIGUSR1, HANDLERS[handler])
    try:
        connection.send(lock.acquire())
    except OutOfTime:
        connection.send("OutOfTime")


# --- Warnings ------------------------------------------------------------------------------------------------------


def _show_with(raised: Callable[[], BaseException]) -> None:
    def show(*_what: object, **_where: object) -> None:
        raise raised()

    warnings.showwarning = show


def _close_stderr() -> None:
    sys.stderr.close()


def _lose_stderr() -> None:
    sys.stderr = object()


def _write_in_ascii() -> None:
    sys.stderr = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")


def _write_in_no_encoding() -> None:
    _show_with(lambda: LookupError("unknown encoding: klingon"))


def _have_a_handler_raise() -> None:
    signal.signal(signal.SIGUSR1, give_up)

    def show(*_what: object, **_where: object) -> None:
        signal.raise_signal(signal.SIGUSR1)

    warnings.showwarning = show


#: What keeps a warning from being shown, though nobody wants it to be an error.
HINDRANCES: dict[str, Callable[[], None]] = {
    "closed stderr": _close_stderr,
    "no file for stderr": _lose_stderr,
    "stderr in ASCII": _write_in_ascii,
    "an unknown encoding": _write_in_no_encoding,
}
#: What raises while a warning is shown, and is not to be swallowed; and what comes out.
OBJECTIONS: dict[str, tuple[Callable[[], None], str]] = {
    "an error by a filter": (lambda: warnings.simplefilter("error"), "OwnerDiedWarning"),
    "a handler": (_have_a_handler_raise, "OutOfTime"),
    "an exit": (lambda: _show_with(SystemExit), "SystemExit"),
    "no memory": (lambda: _show_with(MemoryError), "MemoryError"),
    "no stack": (lambda: _show_with(RecursionError), "RecursionError"),
}


def take_over(connection: Connection, lock: mpbakery.Lock, way: str) -> None:
    """Tell what comes of taking a lock over where the warning comes upon a hindrance or an objection."""
    warnings.simplefilter("always")
    HINDRANCES[way]() if way in HINDRANCES else OBJECTIONS[way][0]()
    try:
        connection.send((lock.acquire(timeout=PATIENCE), lock.recovered_from is not None))
        lock.release()
    except BaseException as error:  # it is what the test wants to see
        connection.send((type(error).__name__, lock.recovered_from is not None))


def take_item(connection: Connection, items: Any, way: str) -> None:
    """Tell what comes out of a queue whose last reader died."""
    warnings.simplefilter("always")
    HINDRANCES[way]()
    connection.send(items.get(timeout=PATIENCE))


# --- A stack without room ------------------------------------------------------------------------------------------

#: So many calls deep there can be, and so many are left at most where something is used (CPython 3.10 needs the most).
_DEEPEST = 300
_LEFT = 60


def _with(one: Any) -> None:
    with one:
        pass


def _pair(one: Any) -> None:
    one.acquire()
    one.release()


def _finally(one: Any) -> None:
    one.acquire()
    try:
        pass
    finally:
        one.release()


def _kept(one: Any) -> None:
    release = one.release
    one.acquire()
    release()


def _in_time(one: Any) -> None:
    if one.acquire(timeout=PATIENCE):
        one.release()


#: Ways to acquire and to release.
WAYS: dict[str, Callable[[Any], None]] = {
    "with": _with,
    "pair": _pair,
    "finally": _finally,
    "kept": _kept,
    "in time": _in_time,
}


def use_near_the_recursion_limit(connection: Connection, kind: Callable[[], Any], way: str, first: bool) -> None:
    """Acquire and release at each depth; tell with how many calls left that failed, with how many it stayed held."""

    def use_at(depth: int) -> None:
        use_at(depth - 1) if depth else WAYS[way](one)

    def depth() -> int:
        frame: FrameType | None = sys._getframe(1)
        count = 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        return count

    failed, held = [], []
    usual = sys.getrecursionlimit()
    for left in range(1, _LEFT):
        one = kind()
        if not first:
            _with(one)
        sys.setrecursionlimit(_DEEPEST)
        try:
            use_at(_DEEPEST - depth() - left)
        except RecursionError:
            failed.append(left)
        finally:
            sys.setrecursionlimit(usual)
        if not in_thread(lambda one=one: one.acquire(False)):  # type: ignore[misc]
            held.append(left)
    connection.send((failed, held))


# --- No memory for one thing ---------------------------------------------------------------------------------------


def use_without_memory(connection: Connection, kind: Callable[[], Any], way: str) -> None:
    """Acquire and release, while one allocation fails, each in turn; tell at which of them it was left held."""
    testcapi: Any = importlib.import_module("_testcapi")
    left = []
    for number in range(120):
        one = kind()
        _with(one)
        try:
            testcapi.set_nomemory(number, number + 1)
            WAYS[way](one)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        if not in_thread(lambda one=one: one.acquire(False)):  # type: ignore[misc]
            left.append(number)
    connection.send(left)
