"""What is done to a pool: each time some of its processes are killed, at a moment that is the same for all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from comparison.libraries import Late, Pool

WORKERS: Final = 2
#: How many seconds something may take that takes a fraction of one where all goes well.
PATIENCE: Final = 5.0
#: More than any pipe or socket takes while nobody reads.
LARGE: Final = 16 << 20


@dataclass
class Outcome:
    """What came of it."""

    results: int = 0
    #: how many tasks failed with an error, by the name of its class
    errors: dict[str, int] = field(default_factory=dict)
    #: how many tasks had neither result nor error in time
    missing: int = 0
    #: what came of a task that was handed in when all was over
    afterwards: str = ""
    #: processes of the pool that were still there when its owner was gone; None where that is not the question
    left: int | None = None
    #: from handing in the tasks until it was known what had come of all
    seconds: float = 0.0

    def fails(self, error: Exception) -> None:
        """One more task has failed."""
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


def works() -> int:
    """A task: the process that runs it."""
    return os.getpid()


def meets(folder: str, number: int) -> int:
    """A task: says that it has begun, and waits until all others of its round have."""
    Path(folder, str(number)).touch()
    _until(lambda: len(os.listdir(folder)) >= WORKERS)
    return os.getpid()


def sleeps(seconds: float) -> None:
    """A task that takes its time."""
    time.sleep(seconds)


def dies() -> None:
    """A task whose worker is killed while it runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_sending(owner: int) -> bytes:
    """A task whose worker is killed half-way through sending the result.

    The owner of the pool is stopped, so that nobody reads the result: the worker is killed when it waits for that.
    """
    worker = os.getpid()
    if os.fork() == 0:
        # of the worker's descriptors nothing may stay open: somebody may wait for their end
        os.closerange(0, 1 << 16)
        _until(lambda: _state(worker) == "S")
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        os.kill(owner, signal.SIGCONT)
        os._exit(0)
    os.kill(owner, signal.SIGSTOP)
    return bytes(LARGE)


def killed_at_work(pool: Pool, _folder: str) -> Outcome:
    """A worker is killed while it runs one of eight tasks."""
    return _outcome(pool, [*[(sleeps, 0.1)] * 2, (dies,), *[(sleeps, 0.1)] * 5])


def killed_idle(pool: Pool, folder: str) -> Outcome:
    """All workers are killed while they wait for something to do; then come eight tasks."""
    for pid in _workers(pool, folder):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    return _outcome(pool, [(sleeps, 0.1)] * 8)


def killed_sending(pool: Pool, folder: str) -> Outcome:
    """A worker is killed half-way through a result of 16 MB; seven other tasks follow."""
    _workers(pool, folder)
    return _outcome(pool, [(dies_sending, os.getpid()), *[(sleeps, 0.1)] * 7])


def owner_killed(pool: Pool, folder: str) -> Outcome:
    """The program is killed whose pool it is, while the workers are idle."""
    _workers(pool, folder)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


SCENES: Final = {scene.__name__: scene for scene in (killed_at_work, killed_idle, killed_sending, owner_killed)}


def _workers(pool: Pool, folder: str) -> set[int]:
    """The workers, each of which has run a task by then."""
    return {pool.wait(task, PATIENCE) for task in [pool.submit(meets, folder, number) for number in range(WORKERS)]}


def _outcome(pool: Pool, calls: Sequence[tuple[Any, ...]]) -> Outcome:
    """What comes of these tasks, and of one more when that is known."""
    outcome = Outcome()
    start = time.monotonic()
    tasks = []
    for call in calls:
        try:
            tasks.append(pool.submit(*call))
        except Exception as error:
            outcome.fails(error)
    for task in tasks:
        try:
            pool.wait(task, max(0.0, start + PATIENCE - time.monotonic()))
        except Late:
            outcome.missing += 1
        except Exception as error:
            outcome.fails(error)
        else:
            outcome.results += 1
    outcome.seconds = round(time.monotonic() - start, 2)
    try:
        pool.wait(pool.submit(works), PATIENCE)
    except Late:
        outcome.afterwards = "no answer"
    except Exception as error:
        outcome.afterwards = type(error).__name__
    else:
        outcome.afterwards = "works"
    return outcome


def _state(pid: int) -> str:
    """What the kernel says that a process does: S is asleep."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _until(holds: Callable[[], bool]) -> None:
    """Return when something holds, and has held for a while."""
    seen = 0
    while seen < 10:
        seen = seen + 1 if holds() else 0
        time.sleep(0.01)
