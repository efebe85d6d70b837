"""How long it takes to look into a running program, and what that costs: the machine, and the program."""

from __future__ import annotations

import resource
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import mpbakery
from benchmark.figures import Figure, spread
from benchmark.measuring import QUICK, Effort
from mpbakery._primitives import deadlocks
from mpbakery._protocol import naps, waiter
from support import scripts
from support.specimens import exhibit

#: So long a lock may be held without being stuck: longer than this program takes (s).
_NEVER = "80000"


def time_command(*command: str) -> float:
    """The seconds that a command of the interpreter takes, which must end well."""
    start = time.perf_counter()
    scripts.run(*command)
    return time.perf_counter() - start


def time_top(pid: int, refreshes: int) -> float:
    """The seconds of a processor that `top` takes for so many refreshes, one a second."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    scripts.run("-m", "mpbakery", "top", "--count", str(refreshes), str(pid))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def acquisitions(pid: int) -> int:
    """How often the locks of a program were acquired."""
    return sum(one.acquisitions for one in mpbakery.inspect(pid).primitives)


def rate(pid: int, seconds: int, *, watched: bool) -> float:
    """How often a second the locks of a program are acquired, while `top` looks at it or not."""
    start = time.monotonic()
    before = acquisitions(pid)
    if watched:
        scripts.run("-m", "mpbakery", "top", "--count", str(seconds), str(pid))
    else:
        time.sleep(seconds)
    return (acquisitions(pid) - before) / (time.monotonic() - start)


def time_doubts(count: int, rounds: int) -> list[float]:
    """The seconds of a processor that it takes to find out about one's deadlock, in a process with so many locks."""
    locks = [mpbakery.RLock() for _ in range(count)]
    for lock in locks:
        with lock:
            pass  # as they are in a program: with a slot
    first, second = locks[0], locks[-1]
    taken: list[float] = []
    find: Callable[[Any], list[Any]] = deadlocks._find

    def time_find(slot: Any) -> list[Any]:
        start = time.thread_time()
        ring = find(slot)
        if ring:
            taken.append(time.thread_time() - start)
        return ring

    def want_second() -> None:
        with first, second:
            pass

    vars(deadlocks).update(_find=time_find)
    vars(waiter).update(DOUBT=0.2)
    try:
        for _ in range(rounds):
            with second, warnings.catch_warnings():
                warnings.simplefilter("error", mpbakery.DeadlockWarning)
                thread = threading.Thread(target=want_second)
                thread.start()
                while not second.statistics().waiters:
                    time.sleep(0.001)
                time.sleep(0.25)  # so that the two do not look at the same time
                try:
                    first.acquire()
                except mpbakery.DeadlockWarning:
                    pass
            thread.join()
    finally:
        vars(deadlocks).update(_find=find)
        vars(waiter).update(DOUBT=naps.DOUBT)
    return taken


def looking(effort: Effort) -> Iterator[Figure]:
    """A look into a program of 14 processes, one with 20,000 locks, and watching one that is busy."""
    rounds = 3 if effort is QUICK else 7  # a program in its plight ends by itself after a minute
    for plight, what, bound in (
        ("fourteen", "14 processes, 4 locks: inspect", 0.15),
        ("many", "20,000 locks: inspect", 2.0),
    ):
        with exhibit(plight) as program:
            command = "-m", "mpbakery", "inspect", "--stuck", _NEVER, str(program.pid)
            pairs = [(time_command(*command), time_command("-c", "")) for _ in range(rounds)]
        beyond = [taken - start for taken, start in pairs]
        median = statistics.median(beyond)
        yield Figure(
            f"{what}, beyond the interpreter's start",
            f"{bound:g} s",
            f"{median:.3f} s",
            "",
            median <= bound,
            {"beyond": spread(beyond), "start": spread([start for _, start in pairs])},
        )
    for count, bound in ((10, 0.001), (200, 0.005), (20_000, 0.5)):
        doubts = time_doubts(count, rounds)
        median = statistics.median(doubts)
        yield Figure(
            f"one who waits looks whether it is a deadlock, among {count:,} locks",
            f"{bound * 1e3:g} ms",
            f"{median * 1e3:.2f} ms",
            "",
            median <= bound,
            {"look": spread(doubts)},
        )
    refreshes = rounds
    for plight, what in (("fourteen", "14 processes, 4 locks"), ("many", "20,000 locks")):
        with exhibit(plight) as program:
            taken = (time_top(program.pid, 1 + refreshes) - time_top(program.pid, 1)) / refreshes
        yield Figure(f"{what}: top, of a core", "5 %", f"{taken:.1%}", "", taken <= 0.05, {"share": taken})
    with exhibit("in_order") as program:
        pairs = [(rate(program.pid, 3, watched=True), rate(program.pid, 3, watched=False)) for _ in range(rounds)]
    ratio = statistics.median(watched / alone for watched, alone in pairs)
    yield Figure(
        "2 busy processes: their rate under top",
        "0.97 x",
        f"{ratio:.3f} x",
        "",
        ratio >= 0.97,
        {"watched": spread([watched for watched, _ in pairs]), "alone": spread([alone for _, alone in pairs])},
    )
