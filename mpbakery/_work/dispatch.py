"""Who gets which task: the parent gives each idle worker one, and knows what a dead one has left.

Three threads of the standard library's Pool come here: the one that hands tasks in, the one that fetches results, and
the one that starts workers. Everything is done under one lock of this process; the pipes are read, and the dead buried,
by the thread that fetches results.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.pool import MaybeEncodingError, mapstar, starmapstar  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any, Final

from mpbakery._errors import WorkerDiedError
from mpbakery._work.channel import EMPTY, PIPE_SIZE, NoProcess, Worker, close, content_of, message_of, private_pipe

#: How often to ask whether the workers live, while one of them has something to do (s). A death shows at once, unless
#: another process has inherited the pipe that shows it.
_LOOK: Final = 0.25
#: The same while one of them seems to have died (s).
_LOOK_AGAIN: Final = 0.002
#: How long to wait after a worker could not be started (s).
_START_AGAIN: Final = 0.1
#: So many workers for each place, and at least so many, may die in a row without getting ready, until nobody is started
#: any more.
_STARTS: Final = 3
_LEAST_STARTS: Final = 10
#: So many workers may die in the middle of reading a task, until nobody is given it any more.
_READERS: Final = 3

#: A task as the standard library's Pool has it: job, index, function, arguments, keywords.
_PoolTask = tuple[int, int, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
#: A result as it wants it: job, index, (success, value).
_PoolResult = tuple[int, int, tuple[bool, Any]]


class _Task:
    """A task on its way."""

    __slots__ = ("dead_readers", "deaths", "function", "index", "items", "job", "message")

    def __init__(self, task: _PoolTask) -> None:
        self.job, self.index, self.function = task[:3]
        self.message = message_of(task[2:])
        self.items: int | None = None
        if self.function is mapstar or self.function is starmapstar:
            self.function, chunk = task[3][0]
            self.items = len(chunk)
        #: How many workers have died while they ran it, and how many while they read it.
        self.deaths = self.dead_readers = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return getattr(self.function, "__qualname__", None) or repr(self.function)

    def error(self, pid: int, exitcode: int | None, *, given_up: bool = False, unread: bool = False) -> WorkerDiedError:
        """What has become of it."""
        size = len(self.message) if unread else None
        return WorkerDiedError(self.name, self.index, self.items, pid, exitcode, self.deaths, given_up, size)


class _Employee(Worker):
    """A worker, and what it has to do."""

    def __init__(self, *arguments: Any, most_tasks: int | None, launch: Callable[[_Employee], None]) -> None:
        super().__init__(*arguments)
        self._launch = launch
        #: What it works at.
        self.task: _Task | None = None
        #: How many tasks it will still take.
        self.left: float = math.inf if most_tasks is None else most_tasks
        self.is_ready = False
        self.is_buried = False

    def start(self) -> None:
        """Start the process the way its pool wants it."""
        self._launch(self)


class Dispatcher:
    """Stands between the threads of a standard Pool and the workers, in the place of its two queues."""

    def __init__(self, retries: int, make_process: Callable[..., BaseProcess]) -> None:
        self._retries = retries
        self._make_process = make_process
        self._lock = threading.Lock()
        self._not_full = threading.Condition(self._lock)
        self._waiting: deque[_Task] = deque()
        self._waiting_bytes = 0
        self._finished: deque[_PoolResult | None] = deque()
        self._workers: list[_Employee] = []
        self._idle: deque[_Employee] = deque()
        self._suspects: set[_Employee] = set()
        self._wake_reader, self._wake_writer = private_pipe()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._must_watch_anew = True
        self._sleeps = False
        self._next_look = 0.0
        self._is_abandoned = False
        self._is_open = False
        self._most_failures = 0
        self._failed_starts = 0
        #: Stands in all places for which nobody is started any more.
        self._vacancy = NoProcess(None)
        self._last_failure: tuple[int, int | None, Exception | None] = (0, None, None)
        self._replace: Callable[[], object] = int

    # --- For the one who makes the pool, and the thread that starts workers ----------------------------------------

    def set_up(self, places: int, replace: Callable[[], object]) -> None:
        """Say how many workers there shall be, and how to have the dead ones replaced."""
        self._most_failures = max(_LEAST_STARTS, _STARTS * places)
        self._replace = replace

    def open(self) -> None:
        """From now on, count workers that cannot be started, instead of raising."""
        self._is_open = True

    def employ(self, context: BaseContext, *, target: Any, args: tuple[Any, ...]) -> Worker | NoProcess:
        """Make a worker; in the place of `Pool.Process`."""
        with self._lock:
            if self._has_given_up():
                return self._vacancy
        make = partial(self._make_process, context)
        return _Employee(make, target, args[2:], most_tasks=args[4], launch=self._launch)

    def _launch(self, worker: _Employee) -> None:
        try:
            worker.open()
        except Exception as error:
            if not self._is_open:
                raise
            worker.process = NoProcess(1)
            time.sleep(_START_AGAIN)  # the system may have run out of something, for a moment
            with self._lock:
                self._count_failed_start(0, None, error)
                self._fail_if_hopeless()
            self._replace()
            return
        with self._lock:
            self._workers.append(worker)
            self._watch_anew()

    # --- For the thread that hands tasks in ------------------------------------------------------------------------

    def dispatch(self, pool_task: _PoolTask | None) -> None:
        """Give a task to an idle worker, or keep it until there is one; None: there are no more.

        Waits while as many bytes wait for a worker as a pipe holds. Raises what pickling the task raises, and
        WorkerDiedError if there are no workers, and will be none.
        """
        if pool_task is None:
            self._send_home()
            return
        task = _Task(pool_task)
        with self._not_full:
            while self._waiting_bytes >= PIPE_SIZE and not self._is_abandoned:
                self._not_full.wait()
            if self._is_hopeless():
                raise self._give_up(task)
            self._waiting.append(task)
            self._waiting_bytes += len(task.message)
            self._assign()

    def _send_home(self) -> None:
        with self._lock:
            for worker in self._workers:
                if worker.left and worker.task is None:
                    worker.left = 0
                    self._send(worker, EMPTY)
            self._idle.clear()

    def abandon(self) -> None:
        """The pool is terminated: nothing that waits will be done."""
        with self._not_full:
            self._is_abandoned = True
            self._not_full.notify_all()

    def close(self) -> None:
        """Close all pipes, and forget all workers; nothing else is called from then on."""
        for worker in self._workers:
            worker.close()
        close(self._wake_reader)
        close(self._wake_writer)
        for those in (self._workers, self._idle, self._suspects, self._handlers):
            those.clear()  # they refer to this object, and what they have open would stay so until cycles are collected

    # --- Under the lock --------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        while self._idle and self._waiting:
            worker = self._idle.popleft()
            worker.task = task = self._waiting.popleft()
            worker.left -= 1
            self._waiting_bytes -= len(task.message)
            self._send(worker, task.message)
        # not for every single one that leaves: each time costs two changes of threads
        if self._waiting_bytes < PIPE_SIZE // 2:
            self._not_full.notify()
        if self._sleeps:
            self._wake()  # to look, from now on, whether those who work are alive

    def _send(self, worker: _Employee, message: bytes) -> None:
        try:
            worker.send(message)
        except BrokenPipeError:
            pass  # then it is dead, which will show
        if worker.outgoing:
            self._watch_anew()

    def _put_back(self, task: _Task) -> None:
        self._waiting.appendleft(task)
        self._waiting_bytes += len(task.message)

    def _watch_anew(self) -> None:
        self._must_watch_anew = True
        self._wake()

    def _wake(self) -> None:
        self._sleeps = False
        try:
            os.write(self._wake_writer.fileno(), b"\0")
        except BlockingIOError:
            pass  # it is awake

    def _count_failed_start(self, pid: int, exitcode: int | None, cause: Exception | None = None) -> None:
        self._failed_starts += 1
        self._last_failure = pid, exitcode, cause

    def _fail_if_hopeless(self) -> None:
        if self._is_hopeless():
            for task in self._waiting:
                self._finish(task, False, self._give_up(task))
            self._waiting.clear()
            self._waiting_bytes = 0
            self._not_full.notify_all()
            self._wake()

    def _give_up(self, task: _Task) -> WorkerDiedError:
        pid, exitcode, cause = self._last_failure
        error = task.error(pid, exitcode, given_up=True)
        error.__cause__ = cause
        return error

    def _has_given_up(self) -> bool:
        return self._failed_starts >= self._most_failures

    def _is_hopeless(self) -> bool:
        return self._has_given_up() and not self._workers

    def _finish(self, task: _Task, success: bool, value: Any) -> None:
        self._finished.append((task.job, task.index, (success, value)))

    # --- For the thread that fetches results -----------------------------------------------------------------------

    def put(self, result: None) -> None:
        """Have `get` return None, after what is finished."""
        self._finished.append(result)
        self._wake()

    def get(self) -> _PoolResult | None:
        """The next result."""
        while not self._finished:
            self._turn()
        return self._finished.popleft()

    def _turn(self) -> None:
        """Wait until something happens, and see to it."""
        with self._lock:
            if self._must_watch_anew:
                self._watch()
            pause = self._pause()
            self._sleeps = pause is None
        for descriptor, _events in self._poll.poll(None if pause is None else 1000 * pause):
            handle = self._handlers.get(descriptor)
            if handle is not None:
                handle()
        if pause is not None and time.monotonic() >= self._next_look:
            for worker in list(self._workers):
                if worker.exitcode is not None:
                    self._bury(worker)
            self._next_look = time.monotonic() + (self._pause() or 0)

    def _pause(self) -> float | None:
        if self._suspects:
            return _LOOK_AGAIN
        return None if len(self._idle) == len(self._workers) else _LOOK

    def _watch(self) -> None:
        self._must_watch_anew = False
        self._handlers = {self._wake_reader.fileno(): self._woken}
        writing = set()
        for worker in self._workers:
            if worker in self._suspects:
                continue  # what it has closed would wake us all the time
            tasks, results = worker.descriptors
            self._handlers[results] = partial(self._receive, worker)
            self._handlers[worker.sentinel] = partial(self._suspect, worker)
            if worker.outgoing:
                self._handlers[tasks] = partial(self._flush, worker)
                writing.add(tasks)
        self._poll = select.poll()
        for descriptor in self._handlers:
            self._poll.register(descriptor, select.POLLOUT if descriptor in writing else select.POLLIN)

    def _woken(self) -> None:
        os.read(self._wake_reader.fileno(), PIPE_SIZE)

    def _flush(self, worker: _Employee) -> None:
        with self._lock:
            try:
                if not worker.is_buried:
                    worker.flush()
            except BrokenPipeError:
                pass
            else:
                self._must_watch_anew |= not worker.outgoing
                return
        self._suspect(worker)

    def _receive(self, worker: _Employee) -> None:
        if worker.is_buried:
            return
        try:
            message = worker.receive()
        except EOFError:
            self._suspect(worker)
        except BlockingIOError:
            pass
        else:
            if message is not None:
                self._accept(worker, message)

    def _accept(self, worker: _Employee, message: memoryview | int) -> None:
        """Take what a worker has sent, and give it the next task."""
        with self._lock:
            task, worker.task = worker.task, None
            worker.is_ready = True
            had_given_up = self._has_given_up()
            self._failed_starts = 0
            if worker.left:
                self._idle.append(worker)
                self._assign()
        if had_given_up:
            self._vacancy.exitcode = 1
            self._vacancy = NoProcess(None)
            self._replace()
        if task is None:
            return  # it says that it is ready
        try:
            success, value = content_of(message, "a result")
        except MemoryError as error:
            success, value = False, error.with_traceback(None)
        except BaseException as error:  # whatever it is: this thread must go on
            success, value = False, MaybeEncodingError(error, f"the result of {task.name}, which arrived")
        self._finish(task, success, value)

    def _suspect(self, worker: _Employee) -> None:
        """A worker seems to have died: bury it as soon as that is certain."""
        if worker.is_buried:
            return
        if worker.exitcode is None:
            self._suspects.add(worker)
            self._next_look = 0
            self._must_watch_anew = True
        else:
            self._bury(worker)

    def _bury(self, worker: _Employee) -> None:
        """Take in what a dead worker has sent, and see what becomes of its task."""
        with self._lock:
            worker.is_buried = True
            worker.left = 0
            self._workers.remove(worker)
            self._suspects.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
            self._must_watch_anew = True
        message = worker.receive_last()
        if message is not None:
            self._accept(worker, message)
        unread = worker.unread()
        worker.close()
        pid, exitcode = worker.process.pid or 0, None if worker.has_vanished else worker.exitcode
        with self._lock:
            task = worker.task
            if task is not None:
                task.deaths += not unread
                # not if it has got no more than the length: then it may have been killed while it was idle
                task.dead_readers += 0 < unread < len(task.message) - len(EMPTY)
                if task.deaths > self._retries:
                    self._finish(task, False, task.error(pid, exitcode))
                elif task.dead_readers == _READERS:
                    # It may be what they die of, and would be given out again for ever, before all others.
                    self._finish(task, False, task.error(pid, exitcode, unread=True))
                else:
                    self._put_back(task)
                    self._assign()
            if not worker.is_ready:
                self._count_failed_start(pid, exitcode)
            self._fail_if_hopeless()
        self._replace()
