"""The workers as their pool sees them: processes that are started, have something to do, are found dead, and ended."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import weakref
from collections.abc import Callable, Iterable
from multiprocessing import popen_fork
from multiprocessing import process as process_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Final

from mpbakery._system.identity import Process, is_gone, process_with
from mpbakery._work.pools.channel import Channel
from mpbakery._work.pools.doors import attempt
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.worker import WorkerEnd

#: What counts as the exit code of a process whose own cannot be known.
_UNKNOWN_END: Final = 255
#: How long to wait for the exit code of a process that is gone (s): a fork server may be about to tell it.
_LAST_WORD: Final = 0.25
#: How long a worker that was asked to end may take until it is killed (s).
_GRACE: Final = 2.0


#: The processes of workers that this process has started.
_started: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Forget whose parent this process is a copy of: when it exits, multiprocessing would end them by SIGTERM."""
    for process in list(_started):
        process_module._children.discard(process)  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_after_fork_in_child)


class Worker:
    """A worker of a pool: its process, and the pool's ends of its pipes.

    To programs that look at the workers of a pool, it is the process.
    """

    #: Once it was started.
    channel: Channel

    def __init__(
        self,
        make_process: Callable[..., BaseProcess],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        most_tasks: int | None,
    ) -> None:
        self._end = WorkerEnd()
        self.process = make_process(target=self._end.run, args=(initializer, initargs, most_tasks))
        self.process.name = self.process.name.replace("Process", "PoolWorker")
        self.process.daemon = True
        self._identity: Process | None = None
        #: Whether its exit code cannot be known.
        self.has_vanished = False
        #: What it works at, and how many tasks it will still take.
        self.task: Task | None = None
        self.left: float = math.inf if most_tasks is None else most_tasks
        #: Whether it has said that it is.
        self.is_ready = False
        #: Whether it seems to have died, and whether what it has left was taken in.
        self.is_suspect = self.is_buried = False
        #: Why its pool has killed it.
        self.fault: BaseException | None = None
        self._killed_at = math.inf
        #: Whether it can not even be killed: it may have become another user.
        self.is_out_of_reach = False

    def __repr__(self) -> str:
        return repr(self.process)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    @property
    def is_idle(self) -> bool:
        """Whether it can be given something to do."""
        return self.is_ready and self.task is None and self.left > 0 and not self.is_suspect and not self.is_buried

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for what it does."""
        return self.task is not None and not self.task.is_over

    @property
    def is_forked(self) -> bool:
        """Whether its process is a copy of this one, with whatever other threads are just doing."""
        return self._start_method not in {"spawn", "forkserver"}

    @property
    def _start_method(self) -> str:
        return getattr(self.process, "_start_method", None) or multiprocessing.get_start_method()

    # --- Its beginning ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the pipes and start the process; leaves nothing open if that fails."""
        self.channel = self._end.open()
        try:
            self.process.start()
            _started.add(self.process)
            pid = getattr(self.process, "pid", None)
            if pid is not None:
                self._identity = process_with(pid)
        except BaseException as error:
            _close_what_a_fork_has_left(error.__traceback__)
            self.channel.close()
            raise
        finally:
            self._end.close()

    def abandon(self) -> None:
        """Close the pool's ends; a process that was started nevertheless ends when it sees that."""
        if hasattr(self, "channel"):
            self.channel.close()

    # --- Its death -------------------------------------------------------------------------------------------------

    @property
    def exitcode(self) -> int | None:
        """The exit code, None while the process lives."""
        code = self.process.exitcode
        if code is None and self._identity is not None and is_gone(self._identity):
            code = self.process.exitcode  # it may have died since we asked
            if code is None:
                code = self._look_for_exitcode()
        return code

    def _look_for_exitcode(self) -> int:
        """The exit code of a process that is gone, and that nobody has told us yet."""
        popen: Any = self.process._popen  # type: ignore[attr-defined]
        # Not of a child of this process: somebody else may have its pid already, and be a child as well, for whose end
        # this would wait.
        code: int | None = popen.wait(_LAST_WORD) if self._start_method == "forkserver" else None
        if code is None:
            # Somebody else has reaped it, or SIGCHLD is ignored. The standard library would take it for alive for
            # ever, and at the end send a signal to whoever has got its pid.
            self.has_vanished = True
            popen.returncode = code = _UNKNOWN_END
        return code

    def ask_to_end(self) -> None:
        """Have it end: at once by SIGTERM, or after its task; or else by SIGKILL, after a moment."""
        attempt(self.process.terminate)
        self.channel.end_tasks()
        self._killed_at = time.monotonic() + _GRACE

    @property
    def is_ending(self) -> bool:
        """Whether it was asked to end."""
        return self._killed_at != math.inf

    def kill_if_it_is_time(self) -> None:
        """Kill it if it was asked to end, and has taken too long."""
        if time.monotonic() >= self._killed_at:
            killed, _ = attempt(self.process.kill)
            self.is_out_of_reach = not killed


def end_all(workers: Iterable[Worker]) -> None:
    """End workers that have nothing to do, and wait for that."""
    workers = list(workers)
    for worker in workers:
        worker.ask_to_end()
    sentinels = {worker.sentinel for worker in workers if hasattr(worker.process, "sentinel")}
    end = time.monotonic() + _GRACE
    while sentinels and (left := end - time.monotonic()) > 0:
        sentinels.difference_update(wait(sentinels, left))
    for worker in workers:
        if worker.exitcode is None:
            attempt(worker.process.kill)
        worker.join()
        worker.channel.close()


def _close_what_a_fork_has_left(trace: TracebackType | None) -> None:
    """Close the pipes that the standard library has made for a child, and forgets if there is no child then."""
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code is popen_fork.Popen._launch.__code__:  # type: ignore[attr-defined]
            names = frame.f_locals
            if not hasattr(names["self"], "pid"):
                for end in ("parent_r", "child_w", "child_r", "parent_w"):
                    if end in names:
                        os.close(names[end])
        trace = trace.tb_next
