"""A program with a pool that is in the middle of something, to be interrupted: `python interrupted.py METHOD WHAT`.

It prints "ready" once all workers, and it itself, are at it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

import mpbakery

WORKERS: Final = 2


def work_on(reports: Any) -> None:
    """Say so, and work for a long time."""
    reports.put(None)
    time.sleep(600)


def say_ready() -> None:
    print("ready", flush=True)


def main(method: str, what: str) -> None:
    context = mpbakery.get_context(method)
    reports = context.SimpleQueue()
    pool = mpbakery.Pool(WORKERS, _know, (reports,), context=context)
    if what in {"map", "imap", "apply", "join", "exit"}:
        job = pool.map_async(_task, range(8), chunksize=2)
        for _ in range(WORKERS):
            reports.get()
    else:
        pool.map(abs, range(WORKERS))
    say_ready()
    if what == "exit":
        sys.exit(3)
    with pool:
        _WAYS[what](pool, context, job if what in {"map", "join"} else None)


_reports: Any = None


def _know(reports: Any) -> None:
    global _reports
    _reports = reports


def _task(_number: int) -> None:
    work_on(_reports)


def _join(pool: Any, _context: Any, _job: Any) -> None:
    pool.close()
    pool.join()


def _put(_pool: Any, context: Any, _job: Any) -> None:
    items = context.Queue(1)
    items.put(1)
    items.put(2)


_WAYS: Final[dict[str, Callable[[Any, Any, Any], object]]] = {
    "map": lambda _pool, _context, job: job.get(),
    "imap": lambda pool, _context, _job: next(pool.imap(_task, range(4))),
    "apply": lambda pool, _context, _job: pool.apply(_task, (1,)),
    "get": lambda _pool, context, _job: context.Queue().get(),
    "put": _put,
    "join": _join,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
