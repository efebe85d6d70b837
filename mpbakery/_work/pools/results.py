"""What a pool hands out for what it is given: results that are to come, and iterators over them.

The messenger's thread tells them what has come, and calls the callbacks; whatever these raise, it goes on. If something
out of the blue breaks off one of these methods, it is called once more, and that comes to the same then:

- `_set`: this is the outcome of a task;
- `_set_length`: so many tasks there are;
- `_break_off`: so many there are, because the iterable has raised this then;
- `_abort`: nothing will come any more, because of this.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import TimeoutError as MultiprocessingTimeoutError
from multiprocessing import pool as standard
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpbakery._errors import SharingError
from mpbakery._work.pools.doors import Outcome, attempt, report
from mpbakery._work.pools.threads import NOTICE

_T = TypeVar("_T")

if TYPE_CHECKING:
    from multiprocessing.pool import IMapIterator as _StandardIterator
else:

    class _StandardIterator(standard.IMapIterator, Generic[_T]):
        """The standard library's takes no parameters when the program runs."""


def check_owner(owner: int) -> None:
    """Raise SharingError if this process is not the one that has made the pool."""
    here = os.getpid()
    if here != owner:
        raise SharingError(
            f"this pool belongs to process {owner}, which has made it, and was used in process {here}, a forked child "
            f"of that one: only the maker can use a pool; make one here, after the fork"
        )


class AsyncResult(standard.AsyncResult[_T]):
    """What comes of `apply_async`."""

    _success: bool
    _value: Any

    def __init__(
        self,
        pool: Any,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._pool = pool
        self._owner = os.getpid()
        self._event = threading.Event()
        self._job: int = next(standard.job_counter)  # type: ignore[attr-defined]
        self._cache = pool._cache
        self._callback = callback
        self._error_callback = error_callback

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or `timeout` seconds have passed."""
        if not self._event.is_set():
            check_owner(self._owner)  # nobody could ever bring it here
            while not self._event.wait(NOTICE if timeout is None else timeout) and timeout is None:
                pass

    def _set(self, _index: int, outcome: Outcome) -> None:
        self._end(*outcome)

    def _set_length(self, _tasks: int) -> None:
        """There is one task."""

    def _break_off(self, _index: int, error: BaseException) -> None:
        self._abort(error)

    def _abort(self, error: BaseException) -> None:
        self._end(False, error)

    def _end(self, success: bool, value: Any) -> None:
        if not self._event.is_set():
            self._value = value
            self._success = success
            callback = self._callback if success else self._error_callback
            self._callback = self._error_callback = None  # it is called once, whatever comes of it
            if callback is not None:
                called, error = attempt(callback, value)
                if not called:
                    report(error)
        self._event.set()  # in any case: the first time, it may have been broken off before it had woken all
        self._cache.pop(self._job, None)
        self._pool = None


class MapResult(AsyncResult[list[_T]], standard.MapResult[_T]):
    """What comes of `map_async` and `starmap_async`: one list, in pieces."""

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._chunksize = chunksize
        self._items: list[Any] = [None] * length
        self._error: BaseException | None = None
        self._number_left = -(-length // chunksize)
        self._is_there = bytearray(self._number_left)

    def _set(self, index: int, outcome: Outcome) -> None:
        if self._event.is_set():
            return  # it was broken off
        success, value = outcome
        if self._is_there[index]:
            self._number_left = self._is_there.count(0)
        else:
            if success:
                self._items[index * self._chunksize : (index + 1) * self._chunksize] = value
            elif self._error is None:
                self._error = value
            left = self._number_left - 1
            self._is_there[index] = 1
            self._number_left = left
        self._set_length(len(self._is_there))

    def _set_length(self, _tasks: int) -> None:
        if self._number_left == 0:
            if self._error is None:
                self._end(True, self._items)
            else:
                self._end(False, self._error)
            self._items = []


class _End:
    """Comes after all results of an iterator."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class IMapIterator(_StandardIterator[_T]):
    """What comes of `imap`: the results in order.

    An error is raised in the place of its result, and the next one can be asked for after it.
    """

    def __init__(self, pool: Any, *, in_chunks: bool) -> None:
        self._pool = pool
        self._owner = os.getpid()
        self._job: int = next(standard.job_counter)  # type: ignore[attr-defined]
        self._cache = pool._cache
        self._in_chunks = in_chunks
        #: The rest of a chunk that came.
        self._items: deque[_T] = deque()
        #: With the number of each, so that one that has come twice is known: see above.
        self._outcomes: queue.SimpleQueue[tuple[int, Outcome] | _End] = queue.SimpleQueue()
        self._taken = -1
        #: How many have come, and how many will.
        self._index = 0
        self._length: int | None = None
        self._unsorted: dict[int, Outcome] = {}
        #: What the iterable has raised, which comes last.
        self._last_error: BaseException | None = None
        self._is_over = False

    def __iter__(self) -> IMapIterator[_T]:
        return self

    def __next__(self, timeout: float | None = None) -> _T:
        """The next result; waits for it, for `timeout` seconds if that is given.

        Raises StopIteration after the last one, multiprocessing.TimeoutError, what the task has raised, and
        PoolTerminatedError if the pool was terminated before.
        """
        while True:
            try:
                return self._items.popleft()
            except IndexError:
                pass
            success, value = self._next_outcome(timeout)
            if not success:
                if isinstance(value, StopIteration):
                    # which would say that there are no more results
                    raise RuntimeError(f"a task has raised {value!r}") from value
                raise value
            self._items.extend(value if self._in_chunks else (value,))

    def next(self, timeout: float | None = None) -> _T:
        """The same, under the name that multiprocessing has for a call with a timeout."""
        return self.__next__(timeout)

    def _next_outcome(self, timeout: float | None) -> Outcome:
        while True:
            if self._outcomes.empty():
                check_owner(self._owner)
            try:
                item = self._outcomes.get(timeout=NOTICE if timeout is None else max(0, timeout))
            except queue.Empty:
                if timeout is None:
                    continue
                raise MultiprocessingTimeoutError from None
            if isinstance(item, _End):
                self._outcomes.put(item)  # for the next one who asks
                if item.error is None:
                    raise StopIteration
                raise item.error
            index, outcome = item
            if index != self._taken:
                self._taken = index
                return outcome

    def _set(self, index: int, outcome: Outcome) -> None:
        if index >= self._index and not self._is_over:
            self._unsorted[index] = outcome
        while self._index in self._unsorted:
            index = self._index
            following = index + 1
            self._outcomes.put((index, self._unsorted[index]))
            self._index = following
            del self._unsorted[index]
        self._end_if_complete()

    def _set_length(self, tasks: int) -> None:
        self._length = tasks
        self._end_if_complete()

    def _break_off(self, index: int, error: BaseException) -> None:
        self._last_error = error
        self._set_length(index)

    def _abort(self, error: BaseException) -> None:
        self._end(error)

    def _end_if_complete(self) -> None:
        if self._length is not None and self._index == self._length and not self._is_over:
            if self._last_error is not None:
                self._outcomes.put((self._length, (False, self._last_error)))
                self._last_error = None
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._outcomes.put(_End(error))
        self._is_over = True
        self._cache.pop(self._job, None)
        self._pool = None


class IMapUnorderedIterator(IMapIterator[_T]):
    """What comes of `imap_unordered`: the results as they come."""

    #: The task that has come last, and how many have come: in one, for both change at once, or none.
    _mark: tuple[int, int] = -1, 0

    def _set(self, index: int, outcome: Outcome) -> None:
        last, count = self._mark
        if index != last and not self._is_over:
            self._outcomes.put((index, outcome))
            self._mark = index, count + 1
        self._index = self._mark[1]
        self._end_if_complete()


def settle(result: Any, index: int, outcome: Outcome) -> None:
    """Have a result know what has come of task `index`."""
    if isinstance(result, (AsyncResult, IMapIterator)):
        result._set(index, outcome)
    else:  # one of the standard library's, which a recipe has made, and which lets out what its callback raises
        called, error = attempt(result._set, index, outcome)
        if not called:
            report(error)


def break_off(result: Any, index: int, error: BaseException) -> None:
    """Have a result know that its iterable has raised something in the place of task `index`."""
    if isinstance(result, (AsyncResult, IMapIterator)):
        result._break_off(index, error)
    else:
        attempt(result._set, index, (False, error))
        attempt(result._set_length, index + 1)


def abort(result: Any, error: BaseException) -> None:
    """End a result with an error."""
    if isinstance(result, (AsyncResult, IMapIterator)):
        result._abort(error)
    else:
        break_off(result, getattr(result, "_index", 0), error)
