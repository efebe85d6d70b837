"""What a lock costs that nobody else wants."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import mpbakery
from benchmark.children import Crew
from benchmark.figures import Figure, ratio_figure, ratios, spread, times
from benchmark.measuring import MAKERS, MPBAKERY, MULTIPROCESSING, Effort, Lock, in_turn, progress, time_passes


def registered_child(crew: Crew, lock: Lock) -> None:
    """Register, or for multiprocessing's lock acquire once, and then wait without using the processor."""
    if isinstance(lock, mpbakery.Lock):
        mpbakery.register(lock)
    else:
        with lock:
            pass
    crew.ready()


def uncontended(effort: Effort) -> Iterator[Figure]:
    """`with lock: pass` while nobody else wants the lock; and the same with 256 processes registered."""
    alone = {kind: make() for kind, make in MAKERS.items()}
    for lock in alone.values():
        time_passes(lock, effort.passes)
    quiet = in_turn(effort.fast_rounds, lambda kind: time_passes(alone[kind], effort.passes), "alone")
    yield ratio_figure("with lock: pass", "5 x multiprocessing's", 5, quiet, lambda value: f"{value:.0f} ns")
    children = 256
    crowded = {kind: make() for kind, make in MAKERS.items()}
    for lock in crowded.values():
        time_passes(lock, effort.passes)
    with Crew() as crew:
        for number in range(children):
            progress.step(f"starting child {number + 1} of {children}")
            for lock in crowded.values():
                crew.start(registered_child, crew, lock)
        crew.await_ready(children * len(crowded))

        def both(kind: str) -> tuple[float, float]:
            return time_passes(alone[kind], effort.passes), time_passes(crowded[kind], effort.passes)

        pairs = in_turn(effort.fast_rounds, both, "among 256")
    one, many = ({kind: [pair[which] for pair in found] for kind, found in pairs.items()} for which in (0, 1))
    growth = {kind: ratios(many[kind], one[kind]) for kind in MAKERS}
    text = {kind: f"{statistics.median(many[kind]):.0f} ns, {times(growth[kind])}" for kind in MAKERS}
    yield Figure(
        "the same, 256 processes registered",
        "2 x with one",
        text[MPBAKERY],
        text[MULTIPROCESSING],
        growth[MPBAKERY]["median"] <= 2,
        {kind: {"ratio": growth[kind], "ns_256": spread(many[kind]), "ns_1": spread(one[kind])} for kind in MAKERS},
    )
