"""What semaphores and pools cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import mpbakery
from benchmark.figures import Figure, ratio_figure
from benchmark.measuring import FORK, MPBAKERY, MULTIPROCESSING, Broken, Effort, in_turn, time_passes


def time_calls(semaphore: Any, passes: int) -> float:
    """What acquire() and release() take, as two calls, in ns, without the loop around them."""
    start = time.perf_counter_ns()
    for _ in repeat(None, passes):
        semaphore.acquire()
        semaphore.release()
    middle = time.perf_counter_ns()
    for _ in repeat(None, passes):
        pass
    end = time.perf_counter_ns()
    return ((middle - start) - (end - middle)) / passes


def trivial(number: int) -> int:
    """A task that takes no time."""
    return number


def time_map(pool: Any, tasks: int, **options: int) -> float:
    """What `Pool.map` of trivial tasks takes, in seconds."""
    start = time.perf_counter()
    if pool.map(trivial, range(tasks), **options) != list(range(tasks)):
        raise Broken("a pool has mapped wrongly")
    return time.perf_counter() - start


def family(effort: Effort) -> Iterator[Figure]:
    """Semaphore and Pool beside those of multiprocessing."""
    contexts: dict[str, Any] = {MPBAKERY: mpbakery.get_context("fork"), MULTIPROCESSING: FORK}
    semaphores = {kind: context.Semaphore() for kind, context in contexts.items()}
    measures: dict[str, Callable[[Any, int], float]] = {
        "with semaphore: pass": time_passes,
        "semaphore.acquire(), .release()": time_calls,
    }
    for name, measure in measures.items():
        for semaphore in semaphores.values():
            measure(semaphore, effort.passes)

        def once(kind: str, measure: Callable[[Any, int], float] = measure) -> float:
            return measure(semaphores[kind], effort.passes)

        found = in_turn(effort.fast_rounds, once, name)
        yield ratio_figure(name, "6 x multiprocessing's", 6, found, lambda value: f"{value:.0f} ns")
    tasks = 10_000
    with contextlib.ExitStack() as stack:
        pools = {kind: stack.enter_context(context.Pool(2)) for kind, context in contexts.items()}
        ways: list[tuple[dict[str, int], float | None]] = [({}, 1.3), ({"chunksize": 1}, None)]
        for chunks, bound in ways:
            name = f"Pool.map of {tasks:,} tasks" + (", one by one" if chunks else "")
            for pool in pools.values():
                time_map(pool, tasks, **chunks)

            def mapping(kind: str, chunks: dict[str, int] = chunks) -> float:
                return time_map(pools[kind], tasks, **chunks)

            found = in_turn(10 * effort.rounds, mapping, name)
            limit = f"{bound} x multiprocessing's" if bound else ""
            yield ratio_figure(name, limit, bound, found, lambda value: f"{value * 1000:.1f} ms")
