"""Trace functions that use the lock which they trace: they run where no signal handler does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import CodeType, FrameType
from typing import Any, Final

import mpbakery

_PACKAGE: Final = os.path.dirname(mpbakery.__file__)
#: How long the traced attempt waits, and one of the trace function (s).
_WHILE: Final = 0.02
_BRIEF: Final = 0.002

Line = tuple[CodeType, int]


def _trace(operation: Callable[[], object], at_line: Callable[[Line], object]) -> None:
    """Run an operation, with a call before each line of the package that it comes to."""

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "line":
            at_line((frame.f_code, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(None)


def acquire_at_every_line(connection: Connection, lock: Any, keeps: bool) -> None:
    """Acquire and release; at each line of that in turn, the trace function acquires and releases.

    If it `keeps` what it gets, it does so at the lines of acquire alone.
    Reports how many lines there are, and what was wrong at which. If somebody else holds the lock, nobody here gets it.
    """
    mpbakery.register(lock)
    lines: list[Line] = []
    got: list[bool] = []

    def use() -> None:
        got.append(lock.acquire(True, _WHILE))
        if got[-1]:
            lock.release()

    _trace(use, lines.append)
    free = got[-1]
    wrong = []
    for target in dict.fromkeys(lines):
        got.clear()
        pending = [target]
        nested: list[bool] = []

        def strike(line: Line, pending: list[Line] = pending, nested: list[bool] = nested) -> None:
            if line in pending and not (keeps and got):
                pending.clear()
                nested.append(lock.acquire(True, _BRIEF))
                if nested[-1] and not keeps:
                    lock.release()

        _trace(use, strike)
        kept = keeps and nested == [True]
        where = f"{target[0].co_name}, line {target[1]}"
        if got[-1] != (free and not kept):
            wrong.append(f"{where}: the traced attempt got {got[-1]}, the trace function {nested}")
        if kept:
            lock.release()
        if any(lock._line.numbers()):
            wrong.append(f"{where}: a place in the line is left")
        if free and not lock.acquire(False):
            wrong.append(f"{where}: the lock is left held")
        if free:
            lock.release()
    connection.send((len(set(lines)), wrong))
