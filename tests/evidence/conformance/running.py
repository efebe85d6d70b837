"""Runs units side by side, each in a process group of its own, of which nothing is left afterwards."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

import mpbakery
from evidence.conformance.reports import VARIABLE, Row, judge, left_out
from evidence.conformance.units import NO_SEMLOCK, Unit
from support.namespaces import WITHOUT_SEMAPHORES
from support.processes import adopt_orphans, all_processes, command_of

#: How long a unit's last processes have to end by themselves, such as a fork server, and a unit to print where it
#: hangs (s).
GRACE: Final = 10.0
_NAP: Final = 0.02
#: How long a signal may go unnoticed (s).
_LOOK: Final = 0.2

_ADAPTER: Final = Path(__file__).resolve().with_name("adapter.py")
#: Where a unit imports from: the package that this process has, and the modules of the tests.
_PATH: Final = (str(Path(mpbakery.__file__).parent.parent), str(_ADAPTER.parents[2]))


class Interrupted(Exception):
    """SIGINT or SIGTERM has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Have SIGINT and SIGTERM only noted in a block: an exception could come while a process is being started."""
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Run:
    """A unit that runs."""

    def __init__(self, unit: Unit, folder: Path, limit: float) -> None:
        self.row = Row(unit, platform.python_version())
        self._report = folder / "report"
        self._output = folder / "output"
        self._report.touch()
        path = [str(folder), *_PATH] if unit.place == NO_SEMLOCK else _PATH
        if unit.place == NO_SEMLOCK:
            (folder / "sitecustomize.py").write_text(WITHOUT_SEMAPHORES)
        self._begin = time.monotonic()
        self._end = self._begin + limit + GRACE
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(_ADAPTER), str(self._report), str(limit), *left_out(unit)],
                env={
                    **os.environ,
                    VARIABLE: json.dumps(unit),
                    "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pidfd = os.pidfd_open(self._process.pid)

    def is_over(self) -> bool:
        """Whether it has ended by itself, or has been ended because its time was up."""
        if self._process.poll() is None and time.monotonic() < self._end:
            return False
        self.close(GRACE)
        return True

    def close(self, grace: float = 0.0) -> None:
        """See that nothing is left, and complete the row."""
        if self.pidfd < 0:
            return
        row = self.row
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        row.seconds = time.monotonic() - self._begin
        judge(row, self._report.read_text())
        if status:
            row.problems.append(f"it ended with status {status}")
        if left := end_group(self._process.pid, grace if status == 0 else min(grace, 1.0)):
            row.problems.append(f"processes were left: {', '.join(left)}")
        row.problems.sort()
        if row.problems:
            row.details.append(self._output.read_text(errors="replace"))
        os.close(self.pidfd)
        self.pidfd = -1


def end_group(group: int, grace: float) -> list[str]:
    """Wait for a group's processes to end, all of which are orphans now; kill and describe those who do not."""
    end = time.monotonic() + grace
    while _is_populated(group):
        if time.monotonic() > end:
            left = list(_members(group))
            os.killpg(group, signal.SIGKILL)
            while _is_populated(group):
                time.sleep(_NAP)
            return left
        time.sleep(_NAP)
    return []


def _is_populated(group: int) -> bool:
    """Whether the group has processes, when those that have ended are reaped."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _members(group: int) -> Iterator[str]:
    for pid in all_processes():
        try:
            if os.getpgid(pid) == group:
                yield f"{pid} ({command_of(pid) or 'zombie'})"
        except ProcessLookupError:
            pass


def run_all(
    units: Iterable[Unit], jobs: int, limit: float, show: Callable[[Row], object], progress: Callable[[int], object]
) -> None:
    """Run units, some at a time, and show the row of each when it has ended.

    Raises Interrupted, after everything has been ended.
    """
    # what a unit leaves behind becomes a child of this process, which can then see it and reap it
    adopt_orphans()
    waiting = list(units)
    running: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder, noting_signals() as noted:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(Run(waiting.pop(0), Path(tempfile.mkdtemp(dir=folder)), limit))
                progress(len(running))
                wait([run.pidfd for run in running], _LOOK)
                if noted:
                    raise Interrupted(noted[0])
                for run in [run for run in running if run.is_over()]:
                    running.remove(run)
                    show(run.row)
        finally:
            for run in running:
                run.close()
