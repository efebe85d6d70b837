"""A pool of the tests, whose tasks tell where they are, and wait at a gate."""

from __future__ import annotations

import os
import threading
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from support.pool_tasks import know, tell_and_wait
from support.workers import PATIENCE, expect, in_thread


class Scene:
    """A pool, what its tasks tell the test, and the gate at which they wait."""

    def __init__(
        self, context: BaseContext, processes: int = 2, initializer: Any = know, *, forbidden: str = "", **options: Any
    ) -> None:
        self._processes = processes
        self._reports, self._theirs = context.Pipe(duplex=False)
        self._gate, self._ours = context.Pipe(duplex=False)
        knowledge = self._theirs, self._gate, forbidden
        self.pool = mpbakery.Pool(processes, initializer, knowledge, context=context, **options)

    @property
    def workers(self) -> list[Any]:
        """The pool's workers."""
        return list(self.pool._pool)

    def reported(self) -> tuple[int, Any]:
        """Who has come where next: pid and item."""
        pid, item = expect(self._reports)
        return pid, item

    def has_reports(self) -> bool:
        """Whether somebody has told something."""
        return self._reports.poll(0)

    def let_through(self, count: int) -> None:
        """Open the gate for so many tasks."""
        os.write(self._ours.fileno(), bytes(count))

    def ready_workers(self) -> list[int]:
        """The pids of as many workers as there shall be, as soon as each of them has had a task, and is idle."""
        count = self._processes
        results = [self.pool.apply_async(tell_and_wait, (None,)) for _ in range(count)]
        pids = [self.reported()[0] for _ in range(count)]
        self.let_through(count)
        for result in results:
            result.get(PATIENCE)
        assert len(set(pids)) == count
        return pids

    def end(self) -> None:
        """Terminate the pool."""
        in_thread(self.pool.terminate)
        in_thread(self.pool.join)


def close_and_join(pool: mpbakery.Pool) -> None:
    pool.close()
    in_thread(pool.join)


class HeldUp:
    """Keeps the thread that reads a pool's pipes from that, so that what workers send stays there, and who has died."""

    def __init__(self, pool: mpbakery.Pool) -> None:
        self._go_on = threading.Event()
        held = threading.Event()

        def hold() -> None:
            held.set()
            assert self._go_on.wait(PATIENCE)

        pool._dispatcher._tell(hold)
        assert held.wait(PATIENCE)

    def __enter__(self) -> None:
        """It is held up already."""

    def __exit__(self, *_error: object) -> None:
        self._go_on.set()
