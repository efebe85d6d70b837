"""Who gets which task: each idle worker is given one, and what a dead one has left is known.

All this is known to one thread alone, the dispatcher's own. It reads and writes the pipes, and starts and buries
workers; others send it tasks, or what else there is to do, and ring. So there is no lock here that could be left
locked, and no state that two could change at once. It runs no code of the program's either, but for what makes a
process: the intake pickles, and the messenger unpickles.

Whatever is under way has its place, and leaves it only when it has come to the next one: a task is among those that
have arrived, or that wait, or it is a worker's, or the messenger's. If something out of the blue comes just then, it is
in both places; so each place can tell whether what lies there is still its own. See `keep_on`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, Final

from mpbakery._work.pools.backlog import Backlog
from mpbakery._work.pools.channel import EMPTY, Buffer, Content, message_of
from mpbakery._work.pools.deaths import fate_of
from mpbakery._work.pools.doors import Outcome, attempt
from mpbakery._work.pools.hiring import Hiring
from mpbakery._work.pools.lookout import Lookout
from mpbakery._work.pools.messenger import Messenger
from mpbakery._work.pools.staff import Worker, end_all
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.threads import join, keep_on, let_go

#: How often to ask whether the workers live, while one of them has something to do (s). A death shows at once, unless
#: another process has inherited the pipe that shows it.
_LOOK: Final = 0.25
#: The same while one of them seems to have died, or is to end (s).
_LOOK_AGAIN: Final = 0.002
#: So many outcomes are delivered together, while tasks wait for a worker, and one follows the other so closely (s).
_TOGETHER: Final = 32
_CLOSELY: Final = 0.001
#: When none follows any more for so long, those that there are are delivered (s). A shorter time would want a timer of
#: its own each time, which costs more than all else that is done for a short task.
_NO_MORE: Final = 0.005


class Dispatcher:
    """Gives tasks to workers, from a thread of its own.

    Args:
        make_process: makes the process of a worker, which it is given as `target` and `args`.
        places: how many workers there shall be.
        initializer: what each of them calls first, with `initargs`, or None.
        initargs: the arguments of `initializer`.
        most_tasks: after how many tasks a worker is replaced, None for never.
    """

    def __init__(
        self,
        make_process: Callable[..., BaseProcess],
        places: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        most_tasks: int | None,
    ) -> None:
        self._make_worker = partial(Worker, make_process, initializer, initargs, most_tasks)
        self._places = places
        self.thread = threading.Thread(
            target=partial(keep_on, self._step, self._mend), name="PoolDispatcher", daemon=True
        )
        #: Delivers what comes of tasks, and calls what else must not come in between.
        self.messenger = Messenger()
        #: Held while a task is pickled.
        self._pickling = threading.RLock()

        #: What others send: tasks, and what is to be done.
        self._arrived: deque[Task] = deque()
        self._due: deque[Callable[[], object]] = deque()
        self._lookout = Lookout()
        self._is_closing = False
        self._make_end: Callable[[], BaseException] | None = None

        #: Those that live, or were not buried yet.
        self._workers: list[Worker] = []
        self._hiring = Hiring(
            self._make_worker, places, self._tell_of_start, (self._pickling, self.messenger.unpickling)
        )
        self._backlog = Backlog()
        self._idle: deque[Worker] = deque()

        self._buffer = Buffer()
        self._must_watch_anew = True
        #: Whether there is more to see to than what comes by itself.
        self._must_attend = True
        #: Whether somebody may have died who is not buried yet.
        self._in_doubt = False
        self._look_pause = _LOOK
        self._next_look = 0.0
        #: Whether the messenger was brought something that it has not been told of.
        self._must_hurry = False
        self._last_brought = 0.0

    # --- What others call, from any thread -------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers: always the same list, which changes as they come and go."""
        return self._workers

    def start(self) -> None:
        """Start the workers, in the thread of the caller, and the dispatcher's own. Leaves nothing if that fails."""
        try:
            for _ in range(self._places):
                worker = self._make_worker()
                worker.start()
                self._workers.append(worker)
            self.messenger.thread.start()
            self.thread.start()
        except BaseException:
            if self.thread in threading.enumerate():  # it was this that was interrupted
                self.stop(RuntimeError)
            else:
                end_all(self._workers)
                self._close()
            raise

    def encode(self, content: Any) -> Outcome:
        """Pickle what makes a task; returns the message, or what that has raised. No worker is forked meanwhile."""
        with self._pickling:
            return attempt(message_of, content)

    def let_go(self) -> None:
        """Hold nothing, after something out of the blue has come in the middle of `encode`."""
        let_go(self._pickling)

    def submit(self, task: Task) -> None:
        """Have a worker do a task, when those before it were given out."""
        self._backlog.announce(task)
        self._arrived.append(task)
        self._lookout.feed()

    def wait_for_room(self) -> None:
        """Wait while as many bytes wait for a worker as a pipe holds; for the only thread that submits."""
        self._backlog.wait_for_room()

    def close(self) -> None:
        """There will be no more tasks: workers go home when all are done, and the thread ends."""
        self._tell(self._begin_to_close)

    def stop(self, make_error: Callable[[], BaseException]) -> None:
        """End all workers; `make_error` makes the error of every task that is not done."""
        self._tell(partial(self._begin_to_stop, make_error))

    def join(self) -> None:
        """Wait until all workers have ended, and everything is delivered."""
        join(self.thread)
        join(self.messenger.thread)

    def _tell(self, function: Callable[[], object]) -> None:
        """Have the thread call something of ours, which is called again if something out of the blue breaks it off."""
        self._due.append(function)
        self._lookout.wake()

    # --- The thread ------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """See to everything that there is to see to, and wait for more."""
        if self._due or self._arrived or self._must_attend or len(self._workers) < self._places:
            self._attend()
            if self._is_over():
                self._close()
                return False
        self._wait()
        return True

    def _attend(self) -> None:
        """See to what others have sent, and to who is missing; the rest is seen to as it comes."""
        while self._due:
            self._due[0]()
            self._due.popleft()
        while self._arrived:
            self._take(self._arrived[0])
            self._arrived.popleft()
        if self._make_end is not None:
            self._break_off(self._make_end)
        self._assign()
        if self._lacks_workers():
            self._hiring.hire()
        if self._hiring.has_given_up and not self._workers and not self._hiring.starting:
            self._fail_all(self._hiring.why_not)
        if self._is_closing and not self._has_work():
            self._send_home()
        self._must_attend = self._is_closing or self._make_end is not None

    def _mend(self, error: BaseException) -> None:
        """Find out how things stand, after something out of the blue."""
        self._must_attend = True
        for worker in self._workers:
            if worker.channel.is_torn:
                # Nobody knows how much of a message went through.
                worker.fault = error
                worker.is_suspect = True
                attempt(worker.process.kill)
        self._idle = deque(worker for worker in self._workers if worker.is_idle)
        self._hiring.let_go()
        self._backlog.count_anew(self._arrived)
        self._hurry()
        self._watch_closely()
        for worker in list(self._workers):
            if worker.is_buried:
                self._bury(worker)
            elif not worker.is_suspect:
                self._send(worker)
                if worker.channel.message is not None:
                    self._take_answer(worker, worker.channel.message)

    def _begin_to_close(self) -> None:
        self._is_closing = True

    def _begin_to_stop(self, make_error: Callable[[], BaseException]) -> None:
        self._make_end = make_error
        self._backlog.shut()

    def _is_over(self) -> bool:
        ends = self._is_closing or self._make_end is not None
        waits = self._backlog.first() is not None  # for a worker, and none can be started at the moment
        return ends and not (self._workers or self._hiring.starting or self._due or self._arrived or waits)

    def _close(self) -> None:
        """Leave nothing open, and nothing that refers to anything else."""
        self._hiring.end()
        self.messenger.end()
        self._backlog.shut()
        self._lookout.close()
        self._workers.clear()
        self._idle.clear()

    # --- Tasks -----------------------------------------------------------------------------------------------------

    def _take(self, task: Task) -> None:
        if task.is_done:
            self._bring(task)
        else:
            self._backlog.put(task)

    def _assign(self) -> None:
        """Give those who are idle something to do."""
        while self._idle and (task := self._backlog.first()) is not None:
            worker = self._idle[0]
            if worker.is_idle:
                task.worker = worker
                worker.task = task
                worker.left -= 1
                self._backlog.drop_first()
                self._idle.popleft()
                self._send(worker)
            else:
                self._idle.popleft()
        self._backlog.let_in()

    def _send(self, worker: Worker) -> None:
        """Send a worker of its task what the pipe takes."""
        task = worker.task
        if task is None or worker.is_buried:
            return
        try:
            if not worker.channel.send(task.message):
                self._must_watch_anew = True
        except BrokenPipeError:
            self._suspect(worker)

    def _fail(self, task: Task, make_error: Callable[[], BaseException]) -> None:
        if not task.is_done:
            task.failure = make_error
        self._bring(task)

    def _fail_all(self, make_error: Callable[[Task], BaseException]) -> None:
        """Fail all tasks that wait."""
        while (task := self._backlog.first()) is not None:
            self._fail(task, partial(make_error, task))
            self._backlog.drop_first()

    def _has_work(self) -> bool:
        others = self._due or self._arrived or self._backlog.first()
        return bool(others) or any(worker.is_busy for worker in self._workers)

    def _send_home(self) -> None:
        for worker in self._workers:
            if worker.is_idle:
                worker.task = home = Task(EMPTY, None, None, 0, None, 0)
                home.is_over = True
                worker.left = 0
                self._send(worker)

    def _break_off(self, make_error: Callable[[], BaseException]) -> None:
        self._fail_all(lambda _task: make_error())
        for worker in self._workers:
            task = worker.task
            if task is not None and worker.is_busy:
                self._fail(task, make_error)
            worker.left = 0
            worker.task = None
            if not worker.is_ending:
                worker.ask_to_end()
                self._watch_closely()

    # --- Waiting ---------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait until something happens, and see to it."""
        if self._must_watch_anew:
            self._watch()
        # while all workers are busy, an answer will come first
        self._lookout.lie_down(hungry=bool(self._idle) or not self._workers)
        pause = self._pause()
        self._lookout.wait(pause)
        now = time.monotonic()
        if self._must_hurry and now - self._last_brought >= _NO_MORE:
            self._hurry()
        if pause is None:
            self._next_look = now + _LOOK
        elif now >= self._next_look:
            self._look()

    def _pause(self) -> float | None:
        """How long to wait at most (s), None for ever."""
        if self._due or self._arrived:
            return 0.0
        if self._must_hurry:
            return _NO_MORE
        end = math.inf
        if self._in_doubt or len(self._idle) < len(self._workers):
            end = self._next_look
        if len(self._workers) < self._places and self._lacks_workers():
            end = min(end, self._hiring.next_start)
        return None if end == math.inf else max(0.0, end - time.monotonic())

    def _watch(self) -> None:
        """Say anew what is waited for."""
        readers: dict[int, Callable[[], object]] = {}
        writers: dict[int, Callable[[], object]] = {}
        for worker in self._workers:
            if worker.is_suspect:
                continue  # what it has closed would wake us all the time
            readers[worker.channel.from_worker] = partial(self._receive, worker)
            readers[worker.sentinel] = partial(self._suspect, worker)
            if worker.task is not None and worker.channel.sent < len(worker.task.message):
                writers[worker.channel.to_worker] = partial(self._send_more, worker)
        self._lookout.watch(readers, writers)
        self._must_watch_anew = False

    def _watch_closely(self) -> None:
        """Look again and again, from now on, who has died."""
        self._must_watch_anew = self._in_doubt = True
        self._look_pause = _LOOK_AGAIN
        self._next_look = 0.0

    def _send_more(self, worker: Worker) -> None:
        self._must_watch_anew = True
        self._send(worker)

    def _receive(self, worker: Worker) -> None:
        if worker.is_buried:
            return
        try:
            worker.channel.receive(self._buffer)
        except EOFError:
            self._suspect(worker)
        else:
            if worker.channel.message is not None:
                self._take_answer(worker, worker.channel.message)

    def _bring(self, task: Task) -> None:
        """Have what has come of a task delivered."""
        brought = self.messenger.bring(task)
        # A change of threads costs as much as a short task. So if they follow each other closely, several go at once.
        now = time.monotonic()
        follows, self._last_brought = now - self._last_brought < _CLOSELY, now
        self._must_hurry = True
        if brought >= _TOGETHER or not follows or not self._backlog:
            self._hurry()

    def _hurry(self) -> None:
        self._must_hurry = False
        self.messenger.hurry()

    def _take_answer(self, worker: Worker, message: Content) -> None:
        """Take what a worker has sent, and give it the next task."""
        task = worker.task
        if task is not None:
            task.answer = message
            self._bring(task)
            worker.task = None
        worker.is_ready = True
        worker.channel.forget_message()
        self._hiring.note_success()
        if worker.is_idle:
            self._idle.append(worker)
            self._assign()

    # --- Workers come and go ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See who has died, and who is to be killed."""
        self._in_doubt = False
        for worker in list(self._workers):
            if worker.exitcode is not None or worker.is_out_of_reach:
                self._bury(worker)
            else:
                worker.kill_if_it_is_time()
                self._in_doubt |= worker.is_suspect or worker.is_ending
        self._look_pause = min(2 * self._look_pause, _LOOK) if self._in_doubt else _LOOK
        self._next_look = time.monotonic() + self._look_pause

    def _suspect(self, worker: Worker) -> None:
        """A worker seems to have died: bury it as soon as that is certain."""
        if worker.is_buried:
            return
        worker.is_suspect = True
        if worker.exitcode is not None:
            self._bury(worker)
        else:
            self._watch_closely()

    def _bury(self, worker: Worker) -> None:
        """Take in what a dead worker has sent, and see what becomes of its task."""
        worker.is_buried = True
        self._must_watch_anew = True
        if worker.fault is None:
            worker.channel.receive_last(self._buffer)
            if worker.channel.message is not None:
                self._take_answer(worker, worker.channel.message)
        pid, exitcode = worker.pid or 0, None if worker.has_vanished else worker.exitcode
        if worker.task is not None and worker.is_busy:
            self._bereave(worker, worker.task, pid, exitcode)
        if not worker.is_ready and not worker.is_ending:
            self._hiring.note_failure(pid, exitcode)
        worker.channel.close()
        if not worker.is_out_of_reach:
            worker.join()
        if worker in self._idle:
            self._idle.remove(worker)
        self._workers.remove(worker)

    def _bereave(self, worker: Worker, task: Task, pid: int, exitcode: int | None) -> None:
        """See what becomes of the task of a dead worker."""
        failure = fate_of(task, worker, pid, exitcode)
        if failure is None:
            self._backlog.put_back(task)
        else:
            self._fail(task, failure)
        worker.task = None

    def _lacks_workers(self) -> bool:
        """Whether a worker is to be started."""
        if self._make_end is not None or self._hiring.has_given_up:
            return False
        is_wanted = not self._is_closing or self._has_work()
        return is_wanted and len(self._workers) + len(self._hiring.starting) < self._places

    def _tell_of_start(self, worker: Worker, error: BaseException | None) -> None:
        """Tell the thread that a worker was started, or was not, in any thread."""
        self._tell(partial(self._was_started, worker, error))

    def _was_started(self, worker: Worker, error: BaseException | None) -> None:
        if error is not None:
            worker.abandon()
            self._hiring.note_failure(0, None, error)
        elif worker not in self._workers:
            self._workers.append(worker)
            self._must_watch_anew = True
        self._hiring.starting.discard(worker)
