"""Children that are killed, or stopped, at each step of what they do with a queue, in turn."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Final

import mpbakery
from support.workers import Crew, expect

_PACKAGE: Final = str(Path(mpbakery.__file__).parent)


class Steps:
    """Counts what the package's code does: each call, line and return. At one of them, something happens."""

    def __init__(self, fatal: int, action: Callable[[], object]) -> None:
        self.taken = 0
        self._fatal = fatal
        self._action = action

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Steps | None:
        """A step, as `sys.settrace` calls this."""
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        self.taken += 1
        if self.taken == self._fatal:
            self._action()
        return self

    def run(self, operation: Callable[[], object]) -> None:
        """Run an operation, step by step."""
        sys.settrace(self)
        try:
            operation()
        finally:
            sys.settrace(None)


def steps_of(crew: Crew, operation: Callable[..., object], *arguments: Any) -> int:
    """How many steps an operation has in a child, for which it is the first one."""
    ours, theirs = crew.context.Pipe()
    with ours, theirs:
        crew.start(count_steps, theirs, operation, *arguments)
        steps = expect(ours)
    crew.close()
    return int(steps)


def count_steps(connection: Connection, operation: Callable[..., object], *arguments: Any) -> None:
    """Run an operation, and say how many steps it had."""
    steps = Steps(0, int)
    steps.run(lambda: operation(*arguments))
    connection.send(steps.taken)


def die_at(step: int, operation: Callable[..., object], *arguments: Any) -> None:
    """Run an operation, and be killed at a step."""
    Steps(step, lambda: os.kill(os.getpid(), signal.SIGKILL)).run(lambda: operation(*arguments))


def stop_at(step: int, operation: Callable[..., object], *arguments: Any) -> None:
    """Run an operation, and be stopped at a step; go on when it is continued."""
    Steps(step, lambda: os.kill(os.getpid(), signal.SIGSTOP)).run(lambda: operation(*arguments))


# --- Operations ------------------------------------------------------------------------------------------------------


def put(items: Any, item: object) -> None:
    """Put one item."""
    items.put(item)


def put_if_there_is_room(items: Any, item: object) -> None:
    """Put one item, if that is possible at once."""
    try:
        items.put_nowait(item)
    except queue.Full:
        pass


def get(items: Any) -> None:
    """Get one item."""
    items.get()


def put_patiently(items: Any, item: object) -> None:
    """Put one item, with a limit of time."""
    items.put(item, timeout=60)


def get_patiently(items: Any) -> None:
    """Get one item, with a limit of time."""
    items.get(timeout=60)


def get_and_finish(items: Any) -> None:
    """Get one item, and say that it is done."""
    items.get()
    items.task_done()
