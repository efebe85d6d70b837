"""What a worker's death does to the task that it had: another one gets it, or it raises `WorkerDiedError`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mpbakery._errors import WorkerDiedError
from mpbakery._work.pools.channel import EMPTY
from mpbakery._work.pools.doors import name_of
from mpbakery._work.pools.staff import Worker
from mpbakery._work.pools.task import Task

#: So many workers may die while they read a task, which then has not run, until that counts as what they die of.
_READERS: Final = 3


def fate_of(task: Task, worker: Worker, pid: int, exitcode: int | None) -> Callable[[], BaseException] | None:
    """What makes the error of the task of a dead worker, None if it is to be given to another one."""
    unread = worker.channel.unread(task.message)
    task.deaths += not unread
    # not if it has got no more than the length: then it may have been killed while it was idle
    task.dead_readers += 0 < unread < len(task.message) - len(EMPTY)
    fault = worker.fault
    if fault is not None:
        return lambda: fault
    if task.deaths > task.retries:
        return partial(died, task, pid, exitcode)
    if task.dead_readers == _READERS:
        # It may be what they die of, and would be given out again for ever, before all others.
        return partial(died, task, pid, exitcode, unread=True)
    return None


def died(
    task: Task, pid: int, exitcode: int | None, *, given_up: bool = False, unread: bool = False
) -> WorkerDiedError:
    """The error that says what has become of a task.

    Args:
        task: which one.
        pid: the process that has died.
        exitcode: how it has, as multiprocessing has it; None where that is not known.
        given_up: whether it was not given to anybody, since no worker of the pool lives long enough.
        unread: whether that was while it was read, before it ran.
    """
    size = len(task.message) if unread else None
    return WorkerDiedError(name_of(task.function), task.index, task.items, pid, exitcode, task.deaths, given_up, size)
