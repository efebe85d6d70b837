"""`Pool`: the interface of the standard library's, over a dispatcher that knows which worker has which task.

The threads of a pool refer to an intake, a dispatcher and results, and never to the pool: else nothing would collect
it.
"""

from __future__ import annotations

import multiprocessing
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from multiprocessing import pool as standard
from multiprocessing import util
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, Final, TypeVar

from mpbakery._errors import PoolTerminatedError
from mpbakery._work.pools.dispatch import Dispatcher
from mpbakery._work.pools.intake import Intake, PoolTask, mapstar, starmapstar
from mpbakery._work.pools.results import AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult, check_owner

_S = TypeVar("_S")
_T = TypeVar("_T")

#: Where a pool is in its life, in the standard library's words.
_INIT, _RUN, _CLOSE, _TERMINATE = standard.INIT, standard.RUN, standard.CLOSE, standard.TERMINATE

_NO_KEYWORDS: Final[Mapping[str, Any]] = MappingProxyType({})


class Pool(standard.Pool):
    """A `multiprocessing.Pool` that does not hang when a worker dies.

    A task whose worker dies while it runs raises `WorkerDiedError`; all others go on, and the worker is replaced. One
    that had not begun is given to another worker, and a result that was sent completely counts. After `terminate`,
    whatever is not done raises `PoolTerminatedError`. In everything else it behaves as `multiprocessing.Pool`.

    Args:
        processes: how many workers; as many as processors if None.
        initializer: what each worker calls before its first task, with `initargs`.
        initargs: the arguments of `initializer`.
        maxtasksperchild: after how many tasks a worker is replaced; never if None.
        context: the multiprocessing context that workers are started with; the default one if None.
        retries: how often a task is given out again whose worker has died while it ran.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
        OSError, RuntimeError: the system has no process, no descriptor or no thread left.
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
        # What is called as in the standard library's Pool is looked at by programs, although it is private.
        self._state = _INIT
        self._owner = os.getpid()
        self._pool: list[Any] = []
        self._cache: dict[int, Any] = {}
        if processes is None:
            processes = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        self._processes = _whole_number(processes, "processes", 1, "how many workers there shall be, 1 or more")
        if maxtasksperchild is not None and not (isinstance(maxtasksperchild, int) and maxtasksperchild > 0):
            raise ValueError(f"maxtasksperchild must be a positive int or None, and is {maxtasksperchild!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, and is {initializer!r}")
        again = _whole_number(retries, "retries", 0, "how often a task may be tried again, 0 for never")
        make_process = partial(self.Process, context or multiprocessing.get_context())  # type: ignore[arg-type]
        self._dispatcher = Dispatcher(make_process, self._processes, initializer, tuple(initargs), maxtasksperchild)
        self._taskqueue = intake = Intake(self._dispatcher, self._cache, again)
        self._pool = self._dispatcher.workers
        self._task_handler = intake.thread
        self._worker_handler = self._dispatcher.thread
        self._result_handler = self._dispatcher.messenger.thread
        self._dispatcher.start()
        try:
            intake.thread.start()
            self._terminate = util.Finalize(self, _terminate, args=(intake, self._dispatcher), exitpriority=15)
        except BaseException:
            _terminate(intake, self._dispatcher)
            raise
        self._state = _RUN

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if getattr(self, "_owner", 0) == getpid():  # in a forked child it is a copy, which nobody has to close
            super().__del__()

    # --- Work ------------------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = _NO_KEYWORDS) -> _T:
        """Have a worker call `func(*args, **kwds)`, and wait for the result."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = _NO_KEYWORDS,
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[_T]:
        """Have a worker call `func(*args, **kwds)`, and return the result that is to come."""
        self._check_running()
        result: AsyncResult[_T] = AsyncResult(self, callback, error_callback)
        self._taskqueue.add([(result._job, 0, func, args, dict(kwds))], result)
        return result

    def map(self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None) -> list[_T]:
        """Have workers call `func` with each item, `chunksize` items a task, and wait for the list of results."""
        return self._map(mapstar, func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """As `map`, and return the result that is to come."""
        return self._map(mapstar, func, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., _T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[_T]:
        """As `map`, with items that are sequences of arguments."""
        return self._map(starmapstar, func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """As `starmap`, and return the result that is to come."""
        return self._map(starmapstar, func, iterable, chunksize, callback, error_callback)

    def imap(self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1) -> IMapIterator[_T]:
        """An iterator over the results of `func` for each item, in order; items are read as workers take them."""
        return self._iterate(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """As `imap`, with the results in the order in which they come."""
        return self._iterate(IMapUnorderedIterator, func, iterable, chunksize)

    def _map(
        self,
        mapper: Callable[..., Any],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[Any]:
        self._check_running()
        # What can change is read now: later, it may have become shorter than what is waited for.
        items = iterable if isinstance(iterable, (tuple, range)) else list(iterable)
        if chunksize is None:
            size = max(1, -(-len(items) // (4 * self._processes)))
        else:
            size = _whole_number(chunksize, "chunksize", 1, "how many items make a task, 1 or more")
        result: MapResult[Any] = MapResult(self, size, len(items), callback, error_callback)
        self._taskqueue.add(_numbered(result._job, mapper, _chunks(func, items, size)), result)
        return result

    def _iterate(
        self, kind: type[IMapIterator[Any]], func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None
    ) -> IMapIterator[Any]:
        self._check_running()
        size = _whole_number(chunksize, "chunksize", 1, "how many items make a task, 1 or more")
        result = kind(self, in_chunks=size > 1)
        if size == 1:
            tasks = _numbered(result._job, func, iterable)
        else:
            tasks = _numbered(result._job, mapstar, _chunks(func, iterable, size))
        self._taskqueue.add(tasks, result)
        return result

    # --- The end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work; the workers end when all is done."""
        check_owner(self._owner)
        if self._state == _RUN:
            self._state = _CLOSE
            self._taskqueue.close()

    def terminate(self) -> None:
        """End the workers at once, by SIGKILL after a moment, and wait for that; what is not done fails."""
        if self._owner == os.getpid():
            self._state = _TERMINATE
            self._terminate()
            _wait(self._taskqueue, self._dispatcher)  # the above does nothing the second time, be it interrupted before

    def join(self) -> None:
        """Wait until all workers have ended, after `close` or `terminate`."""
        check_owner(self._owner)
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        if not _wait(self._taskqueue, self._dispatcher):
            raise RuntimeError("cannot wait for the end of a pool in one of its threads: do not join it in a callback")

    def _check_running(self) -> None:
        check_owner(self._owner)
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def _repopulate_pool(self) -> None:
        """Programs that ask the standard library's to replace dead workers get this, which has nothing to do."""


def _terminate(intake: Intake, dispatcher: Dispatcher) -> None:
    """End a pool that is terminated, or collected, or outlived by its program."""
    intake.stop()
    dispatcher.messenger.call(partial(intake.break_off, PoolTerminatedError))
    dispatcher.stop(PoolTerminatedError)
    _wait(intake, dispatcher)


def _wait(intake: Intake, dispatcher: Dispatcher) -> bool:
    """Wait until a pool has ended; False if this is a thread of the pool, which cannot wait for itself."""
    if threading.current_thread() in {intake.thread, dispatcher.thread, dispatcher.messenger.thread}:
        return False
    dispatcher.join()
    intake.join()
    return True


def _numbered(job: int, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[PoolTask]:
    for index, item in enumerate(items):
        yield job, index, function, (item,), {}


def _chunks(function: Callable[..., Any], items: Iterable[Any], size: int) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield function, chunk


def _whole_number(value: Any, name: str, least: int, meaning: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: give a whole number, {meaning}") from None
    if number < least:
        raise ValueError(f"{name} is {number}: give {meaning}")
    return number
