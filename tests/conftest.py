"""What every test module shares: start methods, a crew of children, and the guard against processes left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from mpbakery._system import packets
from support.namespaces import WITHOUT_SEMAPHORES, try_mount_namespace, try_pid_namespace
from support.processes import adopt_orphans, all_processes, command_of, status_of
from support.workers import SERVICES, Crew, expect

START_METHODS = ("fork", "spawn", "forkserver")

#: The property of a test whose value is shown at the end of a run.
FIGURES = "figures"

#: Modules whose tests CI does not try a second time: where they fail, the lock has a fault. Nor does it any storm.
NEVER_AGAIN = frozenset(
    [
        "test_cluster_points",
        "test_cluster_restarts",
        "test_crash_points",
        "test_exclusion",
        "test_ground",
        "test_negative_controls",
        "test_queue_deaths",
        "test_queue_points",
        "test_signal_points",
        "test_signals",
    ]
)

#: How long the children of a test that is over may take to end (s).
_GRACE = 5.0


def pytest_configure(config: pytest.Config) -> None:
    """Make this process the one that orphans come to, and have what it starts heed Ctrl-C, as in a terminal."""
    adopt_orphans()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests must not be tried again."""
    for item in items:
        if item.path.stem in NEVER_AGAIN or "storm" in item.nodeid or "explorer" in item.path.parts:
            item.add_marker(pytest.mark.flaky(reruns=0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that tests have recorded as properties, also those of other workers."""
    figures = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == FIGURES
    ]
    if figures:
        terminalreporter.section("figures")
        for figure in sorted(figures):
            terminalreporter.line(figure)


@pytest.fixture(params=START_METHODS)
def ctx(request: pytest.FixtureRequest) -> BaseContext:
    """Every start method in turn."""
    context: BaseContext = multiprocessing.get_context(request.param)
    return context


@pytest.fixture
def fork() -> BaseContext:
    """The context for tests that are about the lock rather than about how it travels."""
    return multiprocessing.get_context("fork")


@pytest.fixture
def crew(fork: BaseContext) -> Iterator[Crew]:
    """Forked children, killed and reaped when the test is over."""
    children = Crew(fork)
    yield children
    children.close()


@pytest.fixture
def ctx_crew(ctx: BaseContext) -> Iterator[Crew]:
    """Children of every start method, killed and reaped when the test is over."""
    children = Crew(ctx)
    yield children
    children.close()


@pytest.fixture
def pid_namespaces(crew: Crew) -> None:
    """Skip a test where a process may not make a PID namespace."""
    ours, theirs = crew.context.Pipe()
    crew.start(try_pid_namespace, theirs)
    if refusal := expect(ours):
        pytest.skip(f"a new PID namespace is not permitted here: {refusal}")


@pytest.fixture
def mount_namespaces(crew: Crew) -> None:
    """Skip a test where a process may not make a mount namespace."""
    ours, theirs = crew.context.Pipe()
    crew.start(try_mount_namespace, theirs)
    theirs.close()
    if refusal := expect(ours):
        pytest.skip(f"a new mount namespace is not permitted here: {refusal}")


@pytest.fixture(params=START_METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    """Ours, for every start method in turn."""
    return mpbakery.get_context(request.param)


@pytest.fixture
def context_crew(context: Any) -> Iterator[Crew]:
    """Children of that context, killed and reaped when the test is over."""
    children = Crew(context)
    yield children
    children.close()


@pytest.fixture
def no_semaphores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that a test starts have a Python that was built without `sem_open`."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SEMAPHORES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture
def queues_over_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are made as on a system that has no sockets which carry whole messages."""
    monkeypatch.setattr(packets, "_there", False)


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail a test that leaves running children, or children of children, and end them."""
    before = _descendants()
    yield
    end = time.monotonic() + _GRACE
    while left := _running(before):
        if time.monotonic() > end:
            break
        time.sleep(0.005)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if left:
        pytest.fail(f"processes left behind: {left}")


def _running(before: dict[int, str]) -> dict[int, str]:
    """Descendants of this process that were not there before, by their pids, with what they run."""
    multiprocessing.active_children()  # reaps those that nobody joined
    helpers = {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}  # type: ignore[attr-defined]
    return {pid: what for pid, what in _descendants().items() if pid not in before and pid not in helpers}


def _descendants() -> dict[int, str]:
    """The processes that descend from this one, those left out that are dead; orphans among the dead are reaped."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for process in all_processes():
        if fields := status_of(process):
            children.setdefault(int(fields[1]), []).append((process, fields[0] in {b"Z", b"X"}))
    found: dict[int, str] = {}
    parents = [os.getpid()]
    while parents:
        parent = parents.pop()
        for pid, dead in children.get(parent, []):
            if dead and parent == os.getpid():
                _reap(pid)
            elif not dead:
                found[pid] = command_of(pid)
            if pid not in SERVICES:
                parents.append(pid)
    return found


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
