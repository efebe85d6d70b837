"""Ctrl-C, SIGTERM, sys.exit and a kill in the middle of work with a pool: no process is left, one traceback at most."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from support import interrupted, scripts
from support.pool_tasks import interrupt_at_once
from support.processes import all_processes, state_of, status_of
from support.workers import PATIENCE, wait_until

pytestmark = pytest.mark.timeout(60)


class Program:
    """A program in a process group of its own, as one that was started in a terminal."""

    def __init__(self, method: str, what: str) -> None:
        self._process = scripts.start(interrupted.__file__, method, what, in_group=True)
        self.pid = self._process.pid
        self._asleep = 0
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        if what != "exit":
            # A thread may sleep for a moment before it begins to wait.
            wait_until(lambda: self._looks_asleep() > 20, "the program waits")

    def _looks_asleep(self) -> int:
        """How often it was seen asleep since it was last seen awake."""
        self._asleep = self._asleep + 1 if state_of(self.pid) == "S" else 0
        return self._asleep

    def has_ended_within(self, seconds: float) -> bool:
        """Wait for the program itself, but not for long; whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self) -> tuple[int, str]:
        """Its exit status, and what all its processes have written to stderr, once all have ended."""
        _out, err = self._process.communicate(timeout=PATIENCE)  # until the last one has closed its stderr
        wait_until(lambda: not self._has_processes(), "the whole group has ended")
        return self._process.returncode, err

    def _has_processes(self) -> bool:
        group = b"%d" % self.pid
        return any(status[0] != b"Z" and status[2] == group for status in map(status_of, all_processes()) if status)

    def end(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with self._process:
            pass


@pytest.fixture
def start() -> Iterator[Callable[[str, str], Program]]:
    """Starts programs, and ends them when the test is over."""
    programs: list[Program] = []

    def begin(method: str, what: str) -> Program:
        programs.append(Program(method, what))
        return programs[-1]

    yield begin
    for program in programs:
        program.end()


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("what", ["map", "imap", "apply", "get", "put", "join"])
def test_ctrl_c(start: Callable[[str, str], Program], method: str, what: str) -> None:
    program = start(method, what)
    os.killpg(program.pid, signal.SIGINT)
    if what == "get" and not program.has_ended_within(10.0):
        os.killpg(program.pid, signal.SIGINT)  # see "Ctrl-C in a queue's `get`" in docs/limits.md
    status, err = program.wait()
    assert status == -signal.SIGINT
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt"), err


@pytest.mark.parametrize("what", ["map", "get"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_parent_is_killed(
    start: Callable[[str, str], Program], method: str, what: str, number: signal.Signals
) -> None:
    program = start(method, what)
    os.kill(program.pid, number)
    status, err = program.wait()
    assert status == -number
    assert "Traceback" not in err


def test_exit_with_tasks_running(start: Callable[[str, str], Program], method: str) -> None:
    status, err = start(method, "exit").wait()
    assert (status, err) == (3, "")


def test_a_worker_alone_is_interrupted(ctx: BaseContext, capfd: pytest.CaptureFixture[str]) -> None:
    with mpbakery.Pool(1, context=ctx) as pool:
        with pytest.raises(mpbakery.WorkerDiedError) as caught:
            pool.apply_async(interrupt_at_once).get(PATIENCE)
        assert caught.value.exitcode == 130
        assert pool.apply_async(abs, (-1,)).get(PATIENCE) == 1
    assert capfd.readouterr().err == ""
