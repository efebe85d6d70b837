"""How what comes of a task travels from the worker to its pool: a result, or an error with its traceback.

Not every error survives pickling: many a class wants other arguments than those it hands to `super().__init__`. So an
error travels together with its name, its text and its traceback, as plain strings, which arrive in any case.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing import pool as standard
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from mpbakery._errors import MpbakeryError
from mpbakery._work.pools.channel import Content, content_of
from mpbakery._work.pools.doors import Outcome, attempt, name_of, shown

if TYPE_CHECKING:
    # type checkers do not know the standard library's
    class MaybeEncodingError(Exception):
        """A result cannot be pickled."""

        exc: str
        value: str

    class RemoteTraceback(Exception):
        """A traceback as text."""

else:
    MaybeEncodingError = standard.MaybeEncodingError
    RemoteTraceback = standard.RemoteTraceback


class TransferError(MpbakeryError, MaybeEncodingError):
    """What a task has returned, or raised, cannot be handed over to the process that has asked for it.

    `what` is "result" or "exception". Of an exception, `name` is the class with its module, and `text` what it says;
    the cause of this error has the traceback. Of a result, `name` is the task's function, and `text` shows the result,
    where it could still be seen. `reason` is what pickling or unpickling raised.

    It is a `multiprocessing.pool.MaybeEncodingError`, and has that one's fields `exc` and `value`.
    """

    __module__ = "mpbakery"  # also where nobody has asked for it by that name

    def __init__(self, what: str, name: str, text: str, reason: str) -> None:
        self.what = what
        self.name = name
        self.text = text
        self.reason = reason
        self.exc = reason
        self.value = text
        if what == "exception":
            message = (
                f"{name}: {text} (a task has raised this, and it arrives as a TransferError because it does not "
                f"survive pickling, {reason}: have __init__ of its class hand all its arguments to "
                f"super().__init__, or give the class a __reduce__)"
            )
        else:
            message = (
                f"the result of {name}{', ' if text else ''}{text}, cannot be handed over, {reason}: return what can "
                f"be pickled, and unpickled where it arrives"
            )
        RuntimeError.__init__(self, message)

    def __str__(self) -> str:
        return RuntimeError.__str__(self)

    def __repr__(self) -> str:
        return RuntimeError.__repr__(self)

    def __reduce__(self) -> tuple[type[TransferError], tuple[str, str, str, str]]:
        return type(self), (self.what, self.name, self.text, self.reason)


# --- In the worker -------------------------------------------------------------------------------------------------


def answer_of(function: Callable[..., Any], arguments: Any, keywords: Any) -> memoryview:
    """Call what a task is to call, and pickle what comes of it.

    Raises KeyboardInterrupt, and SystemExit if the task does: they end the worker, as they would any other program.
    """
    try:
        value = function(*arguments, **keywords)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return answer_with(error)
    try:
        return _pickled((True, value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _pickled((False, ("", shown(value), None, shown(error), _trace_of(error))))


def answer_with(error: BaseException) -> memoryview:
    """Pickle an error as what comes of a task."""
    survives, pickled = attempt(_pickled, error)
    module = attempt(getattr, type(error), "__module__")[1]
    name = name_of(type(error))
    if type(module) is str and module not in {"builtins", "__main__", "__mp_main__"}:
        name = f"{module}.{name}"
    way, reason = (bytes(pickled), "") if survives else (None, shown(pickled))
    return _pickled((False, (name, shown(error, str), way, reason, _trace_of(error))))


def _pickled(content: Any) -> memoryview:
    pickled: memoryview = ForkingPickler.dumps(content)
    return pickled


def _trace_of(error: BaseException) -> str:
    succeeded, lines = attempt(traceback.format_exception, type(error), error, error.__traceback__)
    return "".join(lines) if succeeded else ""


# --- In the pool ---------------------------------------------------------------------------------------------------


def outcome_of(message: Content, function: object) -> Outcome:
    """What has come of a task that was to call `function`, and was answered so: whatever it is."""
    try:
        success, value = content_of(message, "a result")
    except MemoryError as error:
        return False, error.with_traceback(None)  # which would keep the message alive
    except BaseException as error:
        return False, TransferError("result", name_of(function), "", shown(error))
    return (True, value) if success else (False, _error_of(name_of(function), *value))


def _error_of(function: str, name: str, text: str, pickled: bytes | None, reason: str, trace: str) -> BaseException:
    if pickled is not None:
        survived, error = attempt(_revived, pickled, trace)
        if survived:
            return error  # type: ignore[no-any-return]
        reason = shown(error)
    lost = TransferError("exception", name, text, reason) if name else TransferError("result", function, text, reason)
    lost.__cause__ = _remote(trace)
    return lost


def _revived(pickled: bytes, trace: str) -> BaseException:
    error = ForkingPickler.loads(pickled)
    if not issubclass(type(error), BaseException):
        raise TypeError(f"it arrives as {shown(error)}, which is no exception")
    error.__cause__ = _remote(trace)
    return error  # type: ignore[no-any-return]


def _remote(trace: str) -> RemoteTraceback:
    return RemoteTraceback(f'\n"""\n{trace}"""')
