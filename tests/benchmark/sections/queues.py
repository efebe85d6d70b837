"""What comes through a queue."""

from __future__ import annotations

import functools
import logging
import logging.handlers
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import mpbakery
from benchmark.figures import Figure, ratios, spread, times
from benchmark.measuring import FORK, MPBAKERY, MULTIPROCESSING, Broken, Effort, in_turn

_CONTEXTS: Final[dict[str, Any]] = {MPBAKERY: mpbakery.get_context("fork"), MULTIPROCESSING: FORK}
_RECORDS: Final = 8_000
_LOGGERS: Final = 4


@dataclass(frozen=True)
class Load:
    """What is put, by how many, and how much faster than multiprocessing's it is to come through."""

    name: str
    item: Any
    producers: int
    #: how many items, as a part of those that are small
    share: float
    least: float | None


def loads() -> list[Load]:
    """All that is measured."""
    kilobyte, megabyte = os.urandom(1_000), os.urandom(1 << 20)
    return [
        *(Load("numbers", 1, producers, 1.0, 1.3) for producers in (1, 4, 8)),
        *(Load("1 kB", kilobyte, producers, 0.5, 1.2) for producers in (1, 4, 8)),
        *(Load("1 MB", megabyte, producers, 0.008, 0.9) for producers in (1, 4)),
        Load("64 MB", os.urandom(64 << 20), 1, 0.0001, None),
    ]


def produce(queue: Any, item: Any, count: int, start: Any) -> None:
    """Put an item so many times."""
    start.wait()
    for _ in range(count):
        queue.put(item)


def log(queue: Any, count: int, start: Any) -> None:
    """Log so many records by way of a queue."""
    logger = logging.getLogger("benchmark")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(queue))
    start.wait()
    for number in range(count):
        logger.info("record %d of %s", number, "a process")


def time_queue(kind: str, work: Callable[..., None], arguments: tuple[Any, ...], producers: int, count: int) -> float:
    """How many seconds it takes until all is got that some put, who begin at the same moment."""
    queue, start = _CONTEXTS[kind].Queue(), FORK.Barrier(producers + 1)
    each = count // producers
    children = [FORK.Process(target=work, args=(queue, *arguments, each, start)) for _ in range(producers)]
    try:
        for child in children:
            child.start()
        start.wait()
        begin = time.perf_counter()
        for _ in range(each * producers):
            queue.get(timeout=60)
        seconds = time.perf_counter() - begin
        for child in children:
            child.join(60)
        if not queue.empty() or any(child.exitcode for child in children):
            raise Broken("a queue has something left, or who puts has failed")
    finally:
        for child in children:
            child.kill()
            child.join()
        queue.close()
    return seconds


def rate_figure(load: Load, count: int, found: dict[str, list[float]]) -> Figure:
    """The items a second, beside those of multiprocessing."""
    rates = {kind: [count / seconds for seconds in values] for kind, values in found.items()}
    ratio = ratios(rates[MPBAKERY], rates[MULTIPROCESSING])
    values = {kind: spread(measured) for kind, measured in rates.items()}
    return Figure(
        f"items a second: {load.name}, {load.producers} put",
        "" if load.least is None else f"at least {load.least} x multiprocessing's",
        f"{values[MPBAKERY]['median']:,.0f}, {times(ratio)}",
        f"{values[MULTIPROCESSING]['median']:,.0f}",
        None if load.least is None else ratio["median"] >= load.least,
        {"ratio": ratio, **values},
    )


def queues(effort: Effort) -> Iterator[Figure]:
    """Items through a Queue, and logging through a QueueHandler."""
    for load in loads():
        count = max(load.producers, int(effort.items * load.share))
        once = functools.partial(
            time_queue, work=produce, arguments=(load.item,), producers=load.producers, count=count
        )
        yield rate_figure(load, count, in_turn(3 * effort.rounds, once, f"{load.name}, {load.producers} put"))
    once = functools.partial(time_queue, work=log, arguments=(), producers=_LOGGERS, count=_RECORDS)
    found = in_turn(3 * effort.rounds, once, "logging")
    ratio = ratios(found[MPBAKERY], found[MULTIPROCESSING])
    values = {kind: spread(measured) for kind, measured in found.items()}
    yield Figure(
        f"QueueHandler: {_RECORDS:,} records, {_LOGGERS} log",
        "at most 1 x multiprocessing's",
        f"{values[MPBAKERY]['median'] * 1000:.0f} ms, {times(ratio)}",
        f"{values[MULTIPROCESSING]['median'] * 1000:.0f} ms",
        ratio["median"] <= 1,
        {"ratio": ratio, **values},
    )
