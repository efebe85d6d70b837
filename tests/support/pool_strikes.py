"""An exception out of the blue, before any bytecode that a thread of a pool executes: and what must hold after that."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError as NothingYet
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import mpbakery
import mpbakery._work.pools.pool
import mpbakery._work.pools.threads
from support.pool_tasks import exit_at_once, square
from support.pool_throwers import ThrowsWhenPickled
from support.workers import begin

#: The code of a pool.
_CODE = str(Path(mpbakery._work.pools.threads.__file__).parent)
#: What every thread of a pool stands on.
_GROUND = mpbakery._work.pools.threads.keep_on.__code__
#: More than a pipe holds (bytes).
_LARGE = 200_000
#: How long a result may take (s).
_PATIENCE = 15.0

#: The threads of a pool, by their names.
THREADS = ("PoolIntake", "PoolDispatcher", "PoolMessenger")


class Struck(BaseException):
    """What comes out of the blue."""


class Place(NamedTuple):
    """A bytecode."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        lines = (line for start, end, line in self.code.co_lines() if start <= self.offset < end)
        return f"{Path(self.code.co_filename).name}:{next(lines, 0)} {self.code.co_name}+{self.offset}"


class Striker:
    """Notes which bytecodes a thread comes to, and strikes before one of them, the first time."""

    def __init__(self, thread: str, target: Place | None, error: type[BaseException]) -> None:
        self._thread = thread
        self._target = target
        self._error = error
        self.seen: dict[Place, None] = {}
        self.has_struck = False

    def trace(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        """The function for `threading.settrace`."""
        code = frame.f_code
        if threading.current_thread().name != self._thread or not code.co_filename.startswith(_CODE) or code is _GROUND:
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._look

    def _look(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        if event == "opcode":
            place = Place(frame.f_code, frame.f_lasti)
            if place not in self.seen:
                self.seen[place] = None
                if place == self._target:
                    self.has_struck = True
                    raise self._error
        return self._look


def use(context: BaseContext, end: str) -> Iterator[str]:
    """Use a pool in many ways; yields what does not hold."""
    called: list[object] = []
    pool = mpbakery.Pool(2, context=context, maxtasksperchild=3)
    results: dict[str, tuple[Any, Any]] = {
        "apply": (pool.apply_async(square, (3,), callback=called.append), 9),
        "map": (pool.map_async(square, range(6), chunksize=2), [0, 1, 4, 9, 16, 25]),
        "large": (pool.apply_async(len, (bytes(_LARGE),)), _LARGE),
        "death": (pool.apply_async(exit_at_once, (3,)), None),
        "poison": (pool.apply_async(square, (ThrowsWhenPickled("ValueError"),)), None),
    }
    iterators = pool.imap(square, range(4)), pool.imap_unordered(square, iter(range(5)), chunksize=2)
    errors: list[BaseException] = []
    for name, (result, expected) in results.items():
        try:
            value = result.get(_PATIENCE)
        except NothingYet:
            yield f"{name} does not come"
        except BaseException as error:
            errors.append(error)
        else:
            if value != expected:
                yield f"{name} is {value}"
    for iterator, expected in zip(iterators, (range(4), range(5)), strict=True):
        yield from _exhaust(iterator, [number * number for number in expected], errors)
    # two errors are right, and who is struck may lose a job, or a worker
    if len(errors) > 5 or any(not isinstance(error, _RIGHT) for error in errors):
        yield f"these are too many errors, or wrong ones: {errors}"
    try:
        if pool.apply_async(square, (4,)).get(_PATIENCE) != 16:
            yield "the next result is wrong"
    except BaseException as error:
        yield f"the next task raises {error!r}"
    if len(called) > 1:
        yield f"a callback was called with {called}"
    getattr(pool, end)()
    ending = threading.Thread(target=pool.join, daemon=True)
    ending.start()
    ending.join(_PATIENCE)
    if ending.is_alive():
        yield f"join() does not return after {end}()"


#: What a task may raise here, struck or not.
_RIGHT = (Struck, MemoryError, ValueError, mpbakery.WorkerDiedError, mpbakery.TransferError)


def _exhaust(iterator: Any, expected: list[int], errors: list[BaseException]) -> Iterator[str]:
    seen = []
    failed = 0
    while True:
        try:
            seen.append(iterator.next(_PATIENCE))
        except StopIteration:
            break
        except NothingYet:
            yield f"an iterator does not go on after {seen}"
            return
        except BaseException as error:
            errors.append(error)
            failed += 1
            if failed > 3:
                break
    if len(set(seen)) < len(seen) or not set(seen) <= set(expected) or (not failed and sorted(seen) != expected):
        yield f"an iterator has given {seen}"


def strike(
    connection: Connection, context: BaseContext, thread: str, kind: str, first: int, step: int, end: str
) -> None:
    """Strike a thread before every `step`th of the bytecodes that it executes, from the `first` one on."""
    os.register_at_fork(after_in_child=_trace_nothing)
    error = {"Struck": Struck, "MemoryError": MemoryError}[kind]
    whole = Striker(thread, None, error)
    problems = [f"not struck: {problem}" for problem in _run(whole, context, end)]
    places = list(whole.seen)
    strikes = 0
    for place in places[first::step]:
        begin()
        striker = Striker(thread, place, error)
        problems += [f"{place}: {problem}" for problem in _run(striker, context, end)]
        strikes += striker.has_struck
    connection.send((len(places), strikes, problems))


def _run(striker: Striker, context: BaseContext, end: str) -> list[str]:
    threading.settrace(striker.trace)
    try:
        return list(use(context, end))
    finally:
        threading.settrace(None)


def _trace_nothing() -> None:
    sys.settrace(None)
