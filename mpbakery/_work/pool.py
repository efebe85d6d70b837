"""`Pool`: the standard library's, with a channel of its own for each worker in the place of two shared queues."""

from __future__ import annotations

import contextlib
import functools
import inspect
import multiprocessing
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sized
from multiprocessing import pool as standard
from multiprocessing import queues
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, Final

from mpbakery._errors import MpbakeryError
from mpbakery._work.dispatch import Dispatcher

#: What this module relies on in the standard library's: parameters of functions that it does not document.
_EXPECTED: Final = {
    "worker": "inqueue outqueue initializer initargs maxtasks wrap_exception",
    "mapstar": "args",
    "starmapstar": "args",
    "MaybeEncodingError": "exc value",
    "Pool": "processes initializer initargs maxtasksperchild context",
    "Pool.Process": "ctx args kwds",
    "Pool._setup_queues": "self",
    "Pool._get_sentinels": "self",
    "Pool._repopulate_pool": "self",
    "Pool._repopulate_pool_static": (
        "ctx Process processes pool inqueue outqueue initializer initargs maxtasksperchild wrap_exception"
    ),
    "Pool._handle_tasks": "taskqueue put outqueue pool cache",
    "Pool._handle_results": "outqueue get cache",
    "Pool._map_async": "self func iterable mapper chunksize callback error_callback",
    "Pool._help_stuff_finish": "inqueue task_handler size",
    "Pool._terminate_pool": (
        "taskqueue inqueue outqueue pool change_notifier worker_handler task_handler result_handler cache"
    ),
}


class Pool(standard.Pool):
    """A `multiprocessing.Pool` that does not hang when a worker dies.

    A task whose worker dies while it runs raises `WorkerDiedError`; all others go on, and the worker is replaced. One
    that had not begun is given to another worker, and a result that was sent completely counts. In everything else it
    behaves as `multiprocessing.Pool`.

    Args:
        processes: how many workers; as many as processors if None.
        initializer: what each worker calls before its first task, with `initargs`.
        initargs: the arguments of `initializer`.
        maxtasksperchild: after how many tasks a worker is replaced; never if None.
        context: the multiprocessing context that workers are started with; the default one if None.
        retries: how often a task is given out again whose worker has died while it ran.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        MpbakeryError: the standard library's Pool is not the one that this class extends.
        OSError: the system has no process or no descriptor left.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        retries: int = 0,
    ) -> None:
        self._retries = retries
        super().__init__(processes, initializer, initargs, maxtasksperchild, context or multiprocessing.get_context())

    def _setup_queues(self) -> None:
        _check_standard_library()
        # The threads of the pool keep what they are given. It must not be the pool, or nothing would ever collect it.
        self._dispatcher = dispatcher = Dispatcher(_checked_retries(self._retries), self.Process)
        self._inqueue = self._outqueue = dispatcher
        self._quick_put = dispatcher.dispatch
        self._quick_get = dispatcher.get
        # not as an attribute, which would have another type than the base class's, for all who check types
        vars(self)["Process"] = dispatcher.employ
        self._context, self._ctx = self._ctx, _Notifying()  # type: ignore[has-type]

    def _get_sentinels(self) -> list[Any]:
        return [self._change_notifier._reader]  # type: ignore[attr-defined]

    def _repopulate_pool(self) -> None:
        self._ctx = self._context
        self._dispatcher.set_up(
            self._processes,  # type: ignore[attr-defined]
            functools.partial(self._change_notifier.put, None),  # type: ignore[attr-defined]
        )
        super()._repopulate_pool()  # type: ignore[misc]
        self._dispatcher.open()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = MappingProxyType({}),
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> standard.AsyncResult[Any]:
        """Have a worker call `func(*args, **kwds)`, and return the result that is to come."""
        return super().apply_async(func, args, dict(kwds), _guarded(callback), _guarded(error_callback))

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Callable[..., Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> Any:
        self._check_running()  # type: ignore[attr-defined]
        items = iterable if isinstance(iterable, Sized) else list(iterable)
        if chunksize is None:
            # The standard library divides by the number of workers that there are, which is 0 when all have just died.
            chunksize = -(-len(items) // (4 * self._processes))  # type: ignore[attr-defined]
        return super()._map_async(  # type: ignore[misc]
            func, items, mapper, chunksize, _guarded(callback), _guarded(error_callback)
        )

    @staticmethod
    def _help_stuff_finish(inqueue: Dispatcher, task_handler: object, size: int) -> None:
        inqueue.abandon()

    @classmethod
    def _terminate_pool(cls, taskqueue: object, inqueue: Dispatcher, *others: object) -> None:
        super()._terminate_pool(taskqueue, inqueue, *others)  # type: ignore[misc]
        inqueue.close()


class _Notifying:
    """The context of a pool while the standard library makes the queue that wakes the thread which starts workers.

    The pool's own would put locks into it, and those of multiprocessing need `sem_open`. None are needed: one thread
    reads, and an item is so short that the kernel writes it in one piece.
    """

    Lock = contextlib.nullcontext

    def SimpleQueue(self) -> queues.SimpleQueue[None]:
        return queues.SimpleQueue(ctx=self)


def _checked_retries(retries: int) -> int:
    try:
        number = operator.index(retries)
    except TypeError:
        raise TypeError(f"retries is {retries!r}: give a whole number, 0 for none") from None
    if number < 0:
        raise ValueError(f"retries is {number}: give how often a task may be tried again, 0 for never")
    return number


def _guarded(callback: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
    """A callback that does not end the thread that brings results when it raises, but says so all the same."""
    if callback is None:
        return None

    def call(value: Any) -> None:
        try:
            callback(value)
        except BaseException as error:
            arguments = type(error), error, error.__traceback__, threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs(arguments))

    return call


def _check_standard_library() -> None:
    for name, expected in _EXPECTED.items():
        try:
            found = " ".join(inspect.signature(operator.attrgetter(name)(standard)).parameters)
        except AttributeError:
            found = "nothing"
        if found != expected:
            version = ".".join(map(str, sys.version_info[:3]))
            raise MpbakeryError(
                f"multiprocessing.pool.{name} of Python {version} takes {found}, instead of {expected}: mpbakery.Pool "
                f"extends the Pool of CPython 3.10 to 3.15 and does not know this one; use multiprocessing.Pool, or a "
                f"newer mpbakery"
            )
