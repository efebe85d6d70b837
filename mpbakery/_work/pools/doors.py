"""The doors behind which a pool calls what others have written.

Pickling and unpickling, iterables, callbacks and reprs run code of the program's, or of the libraries that it uses, and
that may raise anything: SystemExit, CancelledError, RecursionError, an error whose own repr() raises. It does so behind
one of these doors, and comes out of them as the failure of the one task that it was called for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

#: Whether something has succeeded, and its value, or what it raised.
Outcome = tuple[bool, Any]

#: Of what is shown of a value, so much is shown (characters).
_MOST: Final = 1000


def attempt(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call what may raise anything, and return what comes of it."""
    try:
        return True, call(*arguments)
    except BaseException as error:
        return False, error


def shown(value: object, how: Callable[[object], str] = repr) -> str:
    """What `repr()`, or `str()`, says of a value, or what can be said if that raises."""
    try:
        text = "".join(("", how(value)))  # a plain string, also of a repr() that returns one of a class of its own
    except BaseException:
        return object.__repr__(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def name_of(function: object) -> str:
    """What messages call a function."""
    try:
        name = getattr(function, "__qualname__", None)
    except BaseException:
        name = None
    return name if type(name) is str else shown(function)


def report(error: BaseException) -> None:
    """Show an error as the one that ends a thread would be shown, though this thread goes on."""
    arguments = type(error), error, error.__traceback__, threading.current_thread()
    # That fails where stderr is closed, or full, or where the program has a hook of its own: then it is not shown.
    attempt(threading.excepthook, threading.ExceptHookArgs(arguments))
