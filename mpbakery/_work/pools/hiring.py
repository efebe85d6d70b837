"""How a pool gets its workers, and when it gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from mpbakery._errors import WorkerDiedError
from mpbakery._work.pools.deaths import died
from mpbakery._work.pools.doors import attempt
from mpbakery._work.pools.staff import Worker
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.threads import Inbox, keep_on, let_go

#: How long to wait after a worker could not be started (s): the system may have run out of something, for a moment.
_START_AGAIN: Final = 0.1
#: How long a fork waits at most until nothing is being pickled (s), and how long the thread waits for that at a time.
_STILL: Final = 5.0
_MOMENT: Final = 0.005
#: So many workers for each place, and at least so many, may die in a row without getting ready, until nobody is started
#: any more.
_STARTS: Final = 3
_LEAST_STARTS: Final = 10

#: Is told of a worker that was started, or with an error of one that was not.
_Tell = Callable[[Worker, "BaseException | None"], object]


class Hiring:
    """Starts workers for a dispatcher, whose thread alone uses it.

    Args:
        make_worker: makes a worker that is to be started.
        places: how many there shall be.
        tell: is called with a worker that was started, or with the error if it was not, in any thread.
        still: locks that others hold while they pickle or unpickle.
    """

    def __init__(self, make_worker: Callable[[], Worker], places: int, tell: _Tell, still: tuple[Any, ...]) -> None:
        self._make_worker = make_worker
        self._tell = tell
        self._still = still
        self._starter = _Starter()
        #: Those that somebody else is starting.
        self.starting: set[Worker] = set()
        #: The one that is to be started next, and when it is forked at the latest.
        self._candidate: Worker | None = None
        self._fork_by = 0.0
        #: When the next one may be started.
        self.next_start = 0.0
        self._most_failures = max(_LEAST_STARTS, _STARTS * places)
        self._failures = 0
        self._last_failure: tuple[int, int | None, BaseException | None] = (0, None, None)

    def hire(self) -> None:
        """Start a worker, if it is time for that, or have it started; call this again soon if one is still missing."""
        if time.monotonic() < self.next_start:
            return
        if self._candidate is None:
            made, worker = attempt(self._make_worker)
            if not made:
                self.note_failure(0, None, worker)
                return
            self._candidate = worker
            self._fork_by = time.monotonic() + _STILL
        if self._candidate.is_forked:
            self._fork(self._candidate)
        else:
            self._have_started(self._candidate)

    def _have_started(self, worker: Worker) -> None:
        self._candidate = None
        begun, error = attempt(self._starter.start, worker, self._tell)
        if begun:
            self.starting.add(worker)
        else:
            self._tell(worker, error)

    def _fork(self, worker: Worker) -> None:
        # In this thread, because a child gets a copy of what other threads are just doing. What this one does is known:
        # it unpickles nothing, and so holds no lock of an import that nobody could ever give back. For the same reason
        # not while a task is pickled, or a result unpickled. But whatever does that may wait for this very worker.
        held = [lock for lock in self._still if lock.acquire(timeout=_MOMENT)]
        try:
            if len(held) == len(self._still) or time.monotonic() >= self._fork_by:
                self._candidate = None
                started, error = attempt(worker.start)
                self._tell(worker, None if started else error)
        finally:
            for lock in held:
                lock.release()

    def let_go(self) -> None:
        """Hold nothing, after something out of the blue."""
        for lock in self._still:
            let_go(lock)

    def end(self) -> None:
        """There is nobody to start any more."""
        self._starter.end()
        self._candidate = None
        # or this would refer, by the traceback of an error for example, to who refers to this
        self._tell = _nobody
        self._last_failure = (0, None, None)

    def note_failure(self, pid: int, exitcode: int | None, cause: BaseException | None = None) -> None:
        """A worker has died before it was ready, or it could not even be started because of `cause`."""
        self._failures += 1
        self._last_failure = pid, exitcode, cause
        if cause is not None:
            self.next_start = time.monotonic() + _START_AGAIN

    def note_success(self) -> None:
        """A worker works."""
        if self._failures:
            self._failures = 0
            self.next_start = 0.0

    @property
    def has_given_up(self) -> bool:
        """Whether nobody is started any more, until one that lives works."""
        return self._failures >= self._most_failures

    def why_not(self, task: Task) -> WorkerDiedError:
        """The error of a task that finds no worker."""
        pid, exitcode, cause = self._last_failure
        error = died(task, pid, exitcode, given_up=True)
        error.__cause__ = cause
        return error


def _nobody(_worker: Worker, _error: BaseException | None) -> None:
    """Is told of nothing."""


class _Starter:
    """Starts workers whose start may take its time: there is more to send to a new process than a pipe holds, say.

    It is a thread that lives as long as the pool: a worker may have asked the kernel to end with the thread that has
    started it.
    """

    def __init__(self) -> None:
        self._wanted: Inbox[tuple[Worker, _Tell] | None] = Inbox()
        self._thread: threading.Thread | None = None

    def start(self, worker: Worker, tell: _Tell) -> None:
        """Start a worker, some time."""
        if self._thread is None:
            thread = threading.Thread(target=partial(keep_on, self._step, self._mend), name="PoolStarter", daemon=True)
            thread.start()
            self._thread = thread
        self._wanted.put((worker, tell))

    def end(self) -> None:
        """There will be no more to start."""
        self._wanted.put(None)

    def _step(self) -> bool:
        wanted = self._wanted.first()
        if wanted is None:
            return False
        worker, tell = wanted
        started, error = attempt(worker.start)
        tell(worker, None if started else error)
        self._wanted.drop_first()
        return True

    def _mend(self, error: BaseException) -> None:
        """Give up the worker that was to be started: if there is a process, it ends when its pipes are closed."""
        for wanted in self._wanted.all()[:1]:
            if wanted is not None:
                worker, tell = wanted
                tell(worker, error)
                self._wanted.drop_first()
