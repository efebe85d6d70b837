"""How long it takes to look into a running program, and what that costs: the machine, and the program."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmark.figures import Figure, spread
from benchmark.measuring import QUICK, Effort
from support import scripts
from support.specimens import exhibit

#: So long a lock may be held without being stuck: longer than this program takes (s).
_NEVER = "80000"


def time_command(*command: str) -> float:
    """The seconds that a command of the interpreter takes, which must end well."""
    start = time.perf_counter()
    scripts.run(*command)
    return time.perf_counter() - start


def looking(effort: Effort) -> Iterator[Figure]:
    """A look into a program of 14 processes, and into one with 20,000 locks."""
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
