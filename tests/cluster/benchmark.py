"""mpbakery.cluster.Lock beside the locks of redis-py, python-redis-lock and kazoo, on real servers, in one run.

A script, not a test: it reports, and a missed bound does not make it fail. It starts the servers itself, on loopback,
and ends them: PostgreSQL, redis-server and ZooKeeper, from Debian's packages `postgresql`, `redis-server` and
`zookeeper`. What is not there is left out, and that is said.

    python tests/cluster/benchmark.py                  some four minutes
    python tests/cluster/benchmark.py --quick --only mpbakery

The locks take turns. Those with a lease have it at 4 s, ours waits 30 s for a machine that has vanished. Each client is
a process with a connection of its own, which is there before anything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import itertools
import mmap
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[1:3])

import mpbakery
from cluster.postgres import Server, free_port, running
from mpbakery._programs.console import jain_index, table

FORK: Final = multiprocessing.get_context("fork")
LEASE: Final = 4
CLIENTS: Final = 8
#: No child lives longer, and no wait takes longer (s).
LIMIT: Final = 120

_names = itertools.count(1)


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    pairs: int = 2000
    rounds: int = 3
    contention: float = 5.0
    kills: int = 10
    timeouts: int = 10


QUICK: Final = Effort(pairs=200, rounds=1, contention=1.0, kills=2, timeouts=2)


class Handle(NamedTuple):
    """A lock in one process."""

    acquire: Callable[[float | None], bool]
    release: Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """A lock to measure: `make` gives a process its own handle on the lock of that name."""

    name: str
    make: Callable[[str], Handle]


# ---------------------------------------------------------------------------------------------------- locks


def make_ours(url: str, name: str) -> Handle:
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    lock = importlib.import_module("mpbakery.cluster").Lock(url, name)
    return Handle(lambda timeout: bool(lock.acquire(timeout=timeout)), lock.release)


def make_redis(port: int, name: str) -> Handle:
    redis: Any = importlib.import_module("redis")
    lock = redis.Redis(port=port).lock(name, timeout=LEASE)
    return Handle(lambda timeout: bool(lock.acquire(blocking_timeout=timeout)), lock.release)


def make_redis_lock(port: int, name: str) -> Handle:
    redis: Any = importlib.import_module("redis")
    lock = importlib.import_module("redis_lock").Lock(redis.Redis(port=port), name, expire=LEASE, auto_renewal=True)

    def acquire(timeout: float | None) -> bool:
        # it knows whole seconds only
        return bool(lock.acquire(timeout=None if timeout is None else max(1, round(timeout))))

    return Handle(acquire, lock.release)


def make_kazoo(port: int, name: str) -> Handle:
    client: Any = importlib.import_module("kazoo.client").KazooClient(hosts=f"127.0.0.1:{port}", timeout=LEASE)
    client.start()
    timed_out = importlib.import_module("kazoo.exceptions").LockTimeout
    lock = client.Lock(f"/{name}")

    def acquire(timeout: float | None) -> bool:
        try:
            return bool(lock.acquire(timeout=timeout))
        except timed_out:
            return False

    return Handle(acquire, lock.release)


# ---------------------------------------------------------------------------------------------------- servers


@contextlib.contextmanager
def service(command: list[str], port: int, folder: str, **environment: str) -> Iterator[None]:
    """A server, until the end of the block."""
    with (Path(folder) / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 30
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start: {(Path(folder) / 'log').read_text()[-500:]}")
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def missing(*modules: str) -> list[str]:
    return [module for module in modules if importlib.util.find_spec(module) is None]


@contextlib.contextmanager
def kinds(only: str | None) -> Iterator[list[Kind]]:
    """Every lock that there is something for here, with its server running."""
    found: list[Kind] = []
    with contextlib.ExitStack() as stack:
        if only in {None, "mpbakery"}:
            server: Server = stack.enter_context(running())
            found.append(Kind("mpbakery.cluster", functools.partial(make_ours, server.url())))
        redis_server = shutil.which("redis-server")
        if only is None and redis_server and not missing("redis", "redis_lock"):
            port, folder = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            stack.enter_context(service([redis_server, *options], port, folder))
            found.append(Kind("redis-py", functools.partial(make_redis, port)))
            found.append(Kind("python-redis-lock", functools.partial(make_redis_lock, port)))
        elif only is None:
            print("left out: redis-py and python-redis-lock; they need redis-server, redis and python-redis-lock")
        zookeeper = Path("/usr/share/zookeeper/bin/zkServer.sh")
        if only is None and zookeeper.exists() and shutil.which("java") and not missing("kazoo"):
            port, folder = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
            (Path(folder) / "zoo.cfg").write_text(
                f"tickTime=500\nminSessionTimeout=1000\nmaxClientCnxns=100\ndataDir={folder}/data\nclientPort={port}\n"
                "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
            )
            command = ["bash", str(zookeeper), "start-foreground", f"{folder}/zoo.cfg"]
            stack.enter_context(service(command, port, folder, ZOO_LOG_DIR=folder))
            found.append(Kind("kazoo", functools.partial(make_kazoo, port)))
        elif only is None:
            print("left out: kazoo; it needs ZooKeeper, java and kazoo")
        yield found


# ---------------------------------------------------------------------------------------------------- measuring


class Clients:
    """Processes with a handle each; none outlives the block."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.kind = kind
        self.name = name
        self.processes: list[BaseProcess] = []
        self.pipes: list[Any] = []

    def __enter__(self) -> Clients:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def start(self, work: Callable[..., object], *arguments: object) -> None:
        """Start a process that runs `work(handle, pipe, *arguments)`."""
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=live, args=(self.kind, self.name, work, theirs, *arguments))
        process.start()
        self.processes.append(process)
        self.pipes.append(ours)

    def hear(self, client: int) -> Any:
        """What comes next from a client."""
        if not self.pipes[client].poll(LIMIT):
            raise RuntimeError(f"{self.kind.name}: nothing from a client in {LIMIT} s")
        return self.pipes[client].recv()

    def tell(self, client: int, what: object = None) -> None:
        """Have a client go on."""
        self.pipes[client].send(what)


def live(kind: Kind, name: str, work: Callable[..., object], pipe: Any, *arguments: object) -> None:
    signal.alarm(LIMIT)
    handle = kind.make(name)
    handle.acquire(None)
    handle.release()
    pipe.send("ready")
    pipe.recv()
    work(handle, pipe, *arguments)


def count_pairs(handle: Handle, pipe: Any, pairs: int) -> None:
    times = []
    for _ in range(pairs):
        start = time.perf_counter()
        handle.acquire(None)
        handle.release()
        times.append(time.perf_counter() - start)
    pipe.send(statistics.median(times))


def contend(handle: Handle, pipe: Any, board: memoryview, client: int, seconds: float) -> None:
    longest = 0.0
    start = pipe.recv()
    end = start + seconds
    time.sleep(max(0.0, start - time.monotonic()))
    while (start := time.monotonic()) < end:
        handle.acquire(None)
        now = time.monotonic()
        longest = max(longest, now - start)
        if now < end:
            board[client] += 1
        handle.release()
    pipe.send(longest)


def hold(handle: Handle, pipe: Any) -> None:
    handle.acquire(None)
    pipe.send("held")
    time.sleep(LIMIT)


def follow(handle: Handle, pipe: Any) -> None:
    pipe.send("waiting")
    handle.acquire(None)
    pipe.send(time.monotonic())
    handle.release()


def give_up(handle: Handle, pipe: Any, tries: int) -> None:
    times = []
    for _ in range(tries):
        start = time.monotonic()
        got = handle.acquire(0.2)
        times.append(time.monotonic() - start)
        if got:
            raise RuntimeError("acquired what another one holds")
    pipe.send(times)


def new_name() -> str:
    return f"benchmark-{os.getpid()}-{next(_names)}"


def pair(kind: Kind, effort: Effort) -> float:
    """The median of an uncontended pair (s)."""
    with Clients(kind, new_name()) as clients:
        clients.start(count_pairs, effort.pairs)
        clients.hear(0)
        clients.tell(0)
        median: float = clients.hear(0)
        return median


class Contention(NamedTuple):
    rate: float
    jain: float
    longest: float


def contention(kind: Kind, effort: Effort) -> Contention:
    """Clients that do nothing but acquire and release."""
    board = memoryview(mmap.mmap(-1, 8 * CLIENTS)).cast("q")
    with Clients(kind, new_name()) as clients:
        for client in range(CLIENTS):
            clients.start(contend, board, client, effort.contention)
        for client in range(CLIENTS):
            clients.hear(client)
        start = time.monotonic() + 0.3
        for client in range(CLIENTS):
            clients.tell(client)
            clients.tell(client, start)
        longest = max(clients.hear(client) for client in range(CLIENTS))
    turns = list(board)
    return Contention(sum(turns) / effort.contention, jain_index(turns), longest)


def kills(kind: Kind, effort: Effort) -> list[float]:
    """From the SIGKILL of the holder until the next one is in (s)."""
    seconds = []
    for _ in range(effort.kills):
        with Clients(kind, new_name()) as clients:
            for work in (hold, follow):
                clients.start(work)
            for client in range(2):
                clients.hear(client)
            clients.tell(0)
            clients.hear(0)
            clients.tell(1)
            clients.hear(1)
            time.sleep(0.3)  # it waits by now, as far as can be told of all of them
            killed = time.monotonic()
            os.kill(clients.processes[0].pid or 0, signal.SIGKILL)
            seconds.append(clients.hear(1) - killed)
    return seconds


def timeouts(kind: Kind, effort: Effort) -> list[float]:
    """How long an attempt of 0.2 s takes (s)."""
    with Clients(kind, new_name()) as clients:
        clients.start(hold)
        clients.start(give_up, effort.timeouts)
        for client in range(2):
            clients.hear(client)
        clients.tell(0)
        clients.hear(0)
        clients.tell(1)
        times: list[float] = clients.hear(1)
        return times


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see whether it works")
    parser.add_argument("--only", choices=["mpbakery"], help="leave the others out")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    print(f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, ", end="")
    print(f"CPython {platform.python_version()}, {CLIENTS} clients, servers on loopback")
    with kinds(options.only) as locks:
        pairs: dict[str, list[float]] = {kind.name: [] for kind in locks}
        contentions: dict[str, list[Contention]] = {kind.name: [] for kind in locks}
        for _ in range(effort.rounds):
            for kind in locks:
                pairs[kind.name].append(pair(kind, effort))
                contentions[kind.name].append(contention(kind, effort))
        rows = [("", "pair", "a second", "Jain", "longest wait", "SIGKILL to next", "timeout=0.2")]
        for kind in locks:
            several = contentions[kind.name]
            deaths, waits = kills(kind, effort), timeouts(kind, effort)
            rows.append(
                (
                    kind.name,
                    milliseconds(statistics.median(pairs[kind.name])),
                    f"{statistics.median(one.rate for one in several):,.0f}",
                    f"{statistics.median(one.jain for one in several):.4f}",
                    milliseconds(max(one.longest for one in several)),
                    f"{milliseconds(statistics.median(deaths))}, at most {milliseconds(max(deaths))}",
                    f"{min(waits):.3f} to {max(waits):.3f} s",
                )
            )
    for line in table(rows, "<>>>>>>"):
        print(line)


if __name__ == "__main__":
    main()
