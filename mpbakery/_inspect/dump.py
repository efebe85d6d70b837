"""`dump_on_signal`: a program that tells by itself what it waits for, when a signal asks it to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from mpbakery._errors import reraise_handlers
from mpbakery._inspect import look, text


def dump_on_signal(
    signum: int = signal.SIGUSR1, *, file: TextIO | int | None = None, stuck: float = look.STUCK_AFTER
) -> None:
    """Have this process print what `python3 -m mpbakery inspect` would, whenever it gets a signal.

    It goes on afterwards, also with whatever it was waiting for. Forked children inherit this; processes that are
    started in another way call it themselves. Python's handlers run in the main thread, between two bytecodes: a
    process whose main thread is in the middle of a long call into C code answers after that.

    Args:
        signum: the number of the signal.
        file: where to print, a file with a descriptor or the descriptor itself; None for `sys.stderr`. It has to stay
            open.
        stuck: as for `inspect`.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range; or this is not the main thread.
        OSError: the signal cannot be handled, or there is no such signal.
    """
    stuck = look.checked_stuck(stuck)
    if file is None:
        file = sys.stderr
    if isinstance(file, bool) or not (isinstance(file, int) or callable(getattr(file, "fileno", None))):
        raise TypeError(f"file is {file!r}: give a file with a descriptor, or None for sys.stderr")
    descriptor = file if isinstance(file, int) else file.fileno()
    signal.signal(signum, _dumper(descriptor, stuck))


def _dumper(descriptor: int, stuck: float) -> Callable[[int, FrameType | None], Any]:
    def dump(_number: int, _frame: FrameType | None) -> None:
        heading = f"--- mpbakery, process {os.getpid()} ---"
        try:
            told = list(text.lines(look.inspect_here(stuck), whole=True))
        except Exception as error:  # whatever it is: the program that is looked into has nothing to do with it
            told = [f"{type(error).__name__}: {error}"]
        _write(descriptor, "\n".join([heading, *told, ""]).encode(errors="backslashreplace"))

    return dump


def _write(descriptor: int, data: bytes) -> None:
    # Not with the file itself: this may have interrupted the program in the middle of writing to it.
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        reraise_handlers(error)  # else nobody reads it, and the program goes on
