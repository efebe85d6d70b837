"""What reads the iterables of a pool's jobs, pickles one task after the other, and hands them to the dispatcher.

It is a thread of its own, because an iterable may take its time, or wait for results of the same pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import pool as standard
from typing import Any, Final

from mpbakery._errors import PoolTerminatedError
from mpbakery._work.pools.dispatch import Dispatcher
from mpbakery._work.pools.doors import Outcome, attempt
from mpbakery._work.pools.results import abort, break_off, settle
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.threads import Inbox, keep_on

#: A task as the standard library's Pool has it: job, index, function, arguments, keywords.
PoolTask = tuple[int, int, Callable[..., Any], Any, dict[str, Any]]

#: How often to ask whether the thread has come out of an iterable (s).
_LOOK: Final = 0.02


def mapstar(chunk: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Any]:
    """What a worker does with a chunk of `map`."""
    function, items = chunk
    # no list(map(...)), which would end without a word where the function raises StopIteration
    return [function(item) for item in items]


def starmapstar(chunk: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Any]:
    """What a worker does with a chunk of `starmap`."""
    function, items = chunk
    return [function(*item) for item in items]


def _is_mapper(function: object) -> bool:
    """Whether it is what recipes take of the standard library's Pool in the place of the two above."""
    return function is standard.mapstar or function is standard.starmapstar  # type: ignore[attr-defined]


class _Job:
    """What was given to a pool with one call.

    Args:
        tasks: an iterable of `PoolTask`, which may raise anything.
        set_length: what is called with the number of tasks, when that is known; None if nobody asks for it.
        result: what was handed out for it; None if the pool was told of it already.
    """

    def __init__(self, tasks: Iterable[PoolTask], set_length: Callable[[int], object] | None, result: Any) -> None:
        self._tasks = tasks
        self.iterator: Iterator[PoolTask] = iter(())
        self.set_length = set_length
        self.result = result
        self.is_begun = False
        #: How many tasks were handed in, and what the last one has said of the number of the job.
        self.count = 0
        self.number: int | None = None

    def begin(self) -> None:
        """Begin to read. Raises what the iterable raises."""
        self.iterator = iter(self._tasks)


class _PoolTask(Task):
    """A task whose outcome is told to the result of its job."""

    __slots__ = ("job", "results")

    #: The number of its job, and the results of all jobs.
    job: int
    results: dict[int, Any]

    def deliver(self, outcome: Outcome) -> None:
        """Tell the result, if anybody waits for it still."""
        result = self.results.get(self.job)
        if result is not None:
            settle(result, self.index, outcome)


class Intake:
    """Hands the tasks of jobs to a dispatcher.

    Args:
        dispatcher: who gives them to workers.
        cache: the results that are to come, by the numbers of their jobs; the intake puts them there.
        retries: how often a task may be given out again.
    """

    def __init__(self, dispatcher: Dispatcher, cache: dict[int, Any], retries: int) -> None:
        self._dispatcher = dispatcher
        self._cache = cache
        self._retries = retries
        self._jobs: Inbox[_Job | None] = Inbox()
        self._is_reading = False
        self._is_stopped = False
        self._has_ended = False
        self.thread = threading.Thread(target=partial(keep_on, self._step, self._mend), name="PoolIntake", daemon=True)

    # --- What others call, from any thread -------------------------------------------------------------------------

    def add(self, tasks: Iterable[PoolTask], result: Any) -> None:
        """Have tasks done, and `result` told what comes of them."""
        self._jobs.put(_Job(tasks, result._set_length, result))
        if self._is_stopped or self._has_ended:  # nobody may look into the inbox any more
            abort(result, PoolTerminatedError() if self._is_stopped else ValueError("Pool not running"))

    def put(self, job: tuple[Iterable[PoolTask], Callable[[int], object] | None]) -> None:
        """The same as the standard library's Pool has it, and recipes that extend it."""
        self._jobs.put(_Job(*job, None))

    def close(self) -> None:
        """There will be no more jobs."""
        self._jobs.put(None)

    def stop(self) -> None:
        """Hand in nothing more."""
        self._is_stopped = True
        self._jobs.put(None)

    def break_off(self, make_error: Callable[[], BaseException]) -> None:
        """End all results that are to come, of tasks that were handed in and of others."""
        results = [job.result for job in self._jobs.all() if job is not None and job.result is not None]
        # in this order: whatever is in the inbox no more is in the cache already
        for result in (*results, *list(self._cache.values())):
            abort(result, make_error())

    def join(self) -> None:
        """Wait until the thread has ended, or, if it was stopped, is inside of an iterable: that may be for ever."""
        while self.thread.is_alive() and not (self._is_stopped and self._is_reading):
            self.thread.join(_LOOK)

    # --- The thread ------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        job = self._jobs.first()
        if job is None or self._is_stopped:
            self._has_ended = True
            if not self._is_stopped:
                self._dispatcher.messenger.call(self._turn_away)
            self._dispatcher.close()
            return False
        job.is_begun = True
        self._feed(job)
        self._jobs.drop_first()
        return True

    def _feed(self, job: _Job) -> None:
        """Hand in all tasks of a job."""
        if job.result is not None:
            self._cache[job.result._job] = job.result
        read, task = attempt(job.begin)
        while read:
            self._dispatcher.wait_for_room()
            if self._is_stopped:
                return
            self._is_reading = True
            read, task = attempt(next, job.iterator, None)
            self._is_reading = False
            if task is None:
                break
            if read:
                self._hand_in(job, task)
        if not read:
            self._dispatcher.messenger.call(partial(self._break_off, job, task))
            return
        if job.set_length is not None:
            self._dispatcher.messenger.call(partial(job.set_length, job.count))

    def _hand_in(self, job: _Job, task: PoolTask) -> None:
        job.number, index, function, arguments, keywords = task
        items = None
        pickled, message = self._dispatcher.encode((function, arguments, keywords))
        message, outcome = (message, None) if pickled else (b"", (False, message))
        if function is mapstar or function is starmapstar or _is_mapper(function):
            function, chunk = arguments[0]
            items = len(chunk)
        new = _PoolTask(message, outcome, function, index, items, self._retries)
        new.results = self._cache
        new.job = job.number
        self._dispatcher.submit(new)
        job.count = index + 1

    def _mend(self, error: BaseException) -> None:
        """Give up the job that was in hand."""
        self._is_reading = False
        self._dispatcher.let_go()
        for job in self._jobs.all()[:1]:
            if job is not None and job.is_begun:
                self._dispatcher.messenger.call(partial(self._give_up, job, error))
                self._jobs.drop_first()

    # --- For the messenger's thread --------------------------------------------------------------------------

    def _break_off(self, job: _Job, error: BaseException) -> None:
        """The iterable of a job has raised something."""
        break_off(self._result_of(job), job.count, error)

    def _give_up(self, job: _Job, error: BaseException) -> None:
        abort(self._result_of(job), error)

    def _result_of(self, job: _Job) -> Any:
        if job.result is not None:
            return job.result
        return self._cache.get(job.number or 0) or getattr(job.set_length, "__self__", None)

    def _turn_away(self) -> None:
        """There are jobs that came too late."""
        for job in self._jobs.all():
            if job is not None:
                abort(self._result_of(job), ValueError("Pool not running"))
