"""What a worker of a pool does: it reads a task, calls what it says, and answers with what comes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.connection import Connection, Pipe
from typing import Any

from mpbakery._system.files import OwnFile
from mpbakery._system.orphans import end_when_orphaned
from mpbakery._work.pools.channel import EMPTY, Channel, content_of, read_message, write_message
from mpbakery._work.pools.doors import attempt
from mpbakery._work.pools.outcome import answer_of, answer_with


class WorkerEnd:
    """A worker's ends of its two pipes, which its process inherits, or is sent."""

    _tasks: Connection
    _results: Connection

    def open(self) -> Channel:
        """Make the pipes; returns the pool's ends."""
        self._tasks, tasks = Pipe(duplex=False)
        results, self._results = Pipe(duplex=False)
        return Channel(tasks, results)

    def close(self) -> None:
        """Close the pool's copies of the worker's ends."""
        self._tasks.close()
        self._results.close()

    def run(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], most_tasks: int | None) -> None:
        """Work, in the worker's process, until there are no more tasks, or it has done `most_tasks`.

        It ends with the pool's process, whatever it does, and when it is interrupted: Ctrl-C is for all processes of a
        program, whose own process says so with its traceback.
        """
        end_when_orphaned()
        try:
            self._work(initializer, initargs, most_tasks)
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None

    def _work(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], most_tasks: int | None
    ) -> None:
        work = _Work(self._tasks.fileno(), self._results.fileno())
        if initializer is not None:
            initializer(*initargs)
        work.say_ready()
        done = 0
        while (most_tasks is None or done < most_tasks) and work.do_next():
            done += 1


class _Work:
    """What a worker knows while it works."""

    def __init__(self, tasks: int, results: int) -> None:
        self._pid = os.getpid()
        self._tasks = OwnFile(tasks, owned=False)
        self._results = OwnFile(results, owned=False)

    def say_ready(self) -> None:
        """Tell the pool that from now on there may be tasks."""
        self._answer(EMPTY[:0])

    def do_next(self) -> bool:
        """Wait for a task, and do it; False if there are no more."""
        self._check(self._tasks)
        try:
            message = read_message(self._tasks.descriptor)
        except (EOFError, OSError):
            return False  # the pool is gone
        if not message:
            return False
        readable, task = attempt(content_of, message, "a task")
        del message  # the memory is the task's
        if isinstance(task, KeyboardInterrupt):
            raise task
        self._answer(answer_of(*task) if readable else answer_with(task))
        return True

    def _answer(self, content: bytes | memoryview) -> None:
        if os.getpid() != self._pid:
            # A copy that a task, or the initializer, has forked and let return. What it writes would be taken for the
            # result of whatever task the worker has, and it would eat what is written for the worker. It cleans up
            # nothing: the worker's children are not its own.
            util._flush_std_streams()  # type: ignore[attr-defined]
            os._exit(0)
        self._check(self._results)
        try:
            # Whatever is raised here, by a signal handler, ends the worker: after half an answer there can be no other.
            write_message(self._results.descriptor, content)
        except BrokenPipeError:
            raise SystemExit(1) from None  # the pool is gone, and nobody wants to read a traceback

    def _check(self, end: OwnFile) -> None:
        if not end.is_intact():
            # Closed by a task, as daemons do; what has got the number now may be a pipe of the task's own.
            raise SystemExit(
                f"mpbakery: worker {self._pid} ends, because descriptor {end.descriptor}, which connects it with its "
                f"pool, was closed or replaced: have tasks leave descriptors alone that are not theirs"
            )
