"""multiprocessing's queues over locks and semaphores of ours."""

from __future__ import annotations

from multiprocessing import queues
from multiprocessing.context import BaseContext

from mpbakery._semaphore import MOST_PERMITS, Semaphore


class Queue(queues.Queue):  # type: ignore[type-arg]
    """A queue over a pipe, as `multiprocessing.Queue`."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(_limit(maxsize), ctx=ctx)
        self._sem = _places(maxsize, ctx)


class JoinableQueue(queues.JoinableQueue):  # type: ignore[type-arg]
    """A queue that can be waited for until all is done that was put into it, as `multiprocessing.JoinableQueue`."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(_limit(maxsize), ctx=ctx)
        self._sem = _places(maxsize, ctx)


def _limit(maxsize: int) -> int:
    """How many items a queue takes.

    Without a limit, multiprocessing would ask `multiprocessing.synchronize` for one, which cannot be imported where
    there is no `sem_open`.
    """
    return maxsize if maxsize > 0 else MOST_PERMITS


def _places(maxsize: int, ctx: BaseContext) -> Semaphore:
    """The semaphore for the places in a queue, which gives back none that it has not taken.

    So it need not be a bounded one, which costs twice as much.
    """
    return Semaphore(_limit(maxsize), ctx=ctx)
