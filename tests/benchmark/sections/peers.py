"""The locks that people take instead, side by side."""

from __future__ import annotations

import functools
import os
import select
import statistics
import time
import warnings
from collections.abc import Iterator
from typing import Final

import mpbakery
from benchmark.children import Crew, shared, time_limit
from benchmark.figures import Figure
from benchmark.measuring import MS, Broken, Effort, Lock, S, clock, progress, time_passes
from benchmark.peers import PEERS, Peer
from benchmark.sections.contention import Load, Outcome, busy, contender

PROCESSES: Final = 8
#: How long to measure one that nobody else wants, in all (s).
_ALONE: Final = 0.3


def peers(effort: Effort) -> Iterator[Figure]:
    """Nobody else wants it; eight processes want it all the time; its holder is killed."""
    for peer in PEERS:
        if not peer.is_there:
            continue
        progress.step(peer.title)
        yield _alone(peer, effort)
        if not peer.between_processes:
            continue
        loads = {"nothing else": None, "1 ms busy": functools.partial(busy, MS)}
        for name, hold in loads.items():
            progress.step(f"{peer.title}, {PROCESSES} processes, {name}")
            yield _contended(f"{PROCESSES} processes, {name}", peer, Load(PROCESSES, effort.throughput * 2, hold))
        progress.step(f"{peer.title}, its holder is killed")
        yield _orphaned(peer, effort)


def _alone(peer: Peer, effort: Effort) -> Figure:
    with peer.shared() as what:
        lock = peer.open(what)
        times = [time_passes(lock, 20)]
        passes = max(20, min(effort.passes, int(_ALONE / 20 * 1e9 / times[0])))
        end = time.monotonic() + _ALONE
        times = [time_passes(lock, passes)]
        while time.monotonic() < end:
            times.append(time_passes(lock, passes))
    median = statistics.median(times)
    text = f"{median:,.0f} ns" if median < 10_000 else f"{median / 1000:,.0f} µs"
    return Figure("with lock: pass", "", text, "", None, {"ns": median}, lock=peer.title)


def _contended(name: str, peer: Peer, load: Load) -> Figure:
    try:
        outcome = _contend(peer, load)
    except Broken:
        return Figure(name, "", "fails", "", None, {}, lock=peer.title)
    text = f"{outcome.per_second:,.0f} /s, {outcome.longest_wait:,.0f} ms"
    numbers = {"per_second": outcome.per_second, "longest_wait_ms": outcome.longest_wait, "jain": outcome.jain}
    return Figure(name, "", text, "", None, numbers, lock=peer.title)


def _opened(crew: Crew, peer: Peer, what: object, load: Load, board: memoryview, row: int) -> None:
    contender(crew, peer.open(what), load, board, row)


def _contend(peer: Peer, load: Load) -> Outcome:
    board = shared(1 + 2 * load.processes)
    with peer.shared() as what, Crew() as crew, time_limit(load.seconds + 20):
        for row in range(load.processes):
            crew.start(_opened, crew, peer, what, load, board, row)
        crew.await_ready(load.processes)
        board[0] = clock() + int(load.seconds * S)
        crew.open_gate()
        crew.join()
    counts, waits = list(board[1::2]), list(board[2::2])
    return Outcome(counts, max(waits) / MS, sum(counts) / load.seconds)


def _orphaned(peer: Peer, effort: Effort) -> Figure:
    """Kill the holder while another one waits."""
    told, tell = os.pipe()
    try:
        with peer.shared() as what, Crew() as crew, time_limit(60):
            holder = crew.start(_hold, crew, peer, what)
            crew.await_ready(1)
            crew.start(_enter, crew, peer, what, tell)
            crew.await_ready(1)
            crew.open_gate()
            time.sleep(0.2)  # it has begun to wait by then
            start = time.monotonic()
            crew.kill(holder)
            crew.reap(holder)
            came = bool(select.select([told], [], [], effort.contention)[0])
            seconds = time.monotonic() - start
    finally:
        os.close(told)
        os.close(tell)
    text = f"after {seconds:.3f} s the next one has it" if came else f"nobody gets it in {effort.contention:g} s"
    return Figure("holder killed", "", text, "", None, {"seconds": seconds if came else None}, lock=peer.title)


def _hold(crew: Crew, peer: Peer, what: object) -> None:
    lock: Lock = peer.open(what)
    with lock:
        crew.ready()
        time.sleep(60)


def _enter(crew: Crew, peer: Peer, what: object, tell: int) -> None:
    lock: Lock = peer.open(what)
    crew.ready()
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    with lock:
        os.write(tell, b".")
