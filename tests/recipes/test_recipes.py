"""The programs of docs/family.md with other libraries: each of them runs, and prints what the page says.

`tox run -e recipes` installs the libraries. Whatever the programs leave behind fails the test: see conftest.py.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.workers import DEADLINE, PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
OUTSIDERS = Path(__file__).with_name("outsiders.py")
#: Of a page: a program with its name, and either what it prints, or the command that it is for.
BLOCK = re.compile(
    r"^```python (?P<name>\w+\.py)\n(?P<code>.*?)^```\n\n```(?P<kind>output|console)\n(?P<then>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = {match["name"]: match for match in BLOCK.finditer((ROOT / "docs" / "family.md").read_text())}
PROGRAMS = [name for name, block in BLOCKS.items() if block["kind"] == "output"]

#: How the workers of a server are killed while they hold the lock: with this below the program of the page.
DYING_TASK = """
@app.task
def add_and_tell():
    visit = add(1)
    with open("visits", "a") as file:
        file.write(f"{visit}\\n")


@app.task
def die():
    lock.acquire()
    __import__("os").kill(__import__("os").getpid(), 9)
"""
DYING_APP = """
alive = app


def app(environ, start_response):
    if environ["PATH_INFO"] == "/die":
        lock.acquire()
        __import__("os").kill(__import__("os").getpid(), 9)
    return alive(environ, start_response)
"""
CELERY = """
broker_url = "filesystem://"
broker_transport_options = dict(data_folder_in="queue", data_folder_out="queue", control_folder="control")
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in, and for all files of the libraries; its path is short, as Ray's sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="recipe-", dir="/tmp"))
    for variable in "HOME", "TMPDIR", "RAY_TMPDIR":
        monkeypatch.setenv(variable, str(path))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)  # programs import what is beside them
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield path
    shutil.rmtree(path)


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, program, *arguments], cwd=program.parent, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_them() -> None:
    text = (ROOT / "docs" / "family.md").read_text()
    assert sorted(BLOCKS) == sorted(re.findall(r"^```python (\S+)$", text, re.MULTILINE))
    assert len(PROGRAMS) >= 10


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, folder: Path) -> None:
    program = folder / name
    program.write_text(BLOCKS[name]["code"])
    assert run(program) == BLOCKS[name]["then"]


# --- A lock that cannot get in, and a worker that is killed --------------------------------------------------------

POOLS = [f"{name}-{method}" for name in ("multiprocess", "billiard") for method in ("fork", "spawn", "forkserver")]
MPIRE = [f"mpire-{method}" for method in ("fork", "spawn", "forkserver")]


@pytest.mark.parametrize("library", ["loky", "joblib", "pathos", "dask", "distributed", "ray", *POOLS, *MPIRE])
def test_a_lock_that_cannot_get_in_costs_one_task(library: str, folder: Path) -> None:
    program = shutil.copy(OUTSIDERS, folder)
    told, *results = run(Path(program), "unknown", library).splitlines()
    assert "UnknownLockError" in told.split()
    assert [result.strip("[](),") for result in results] == ["4"]


@pytest.mark.parametrize(
    ("library", "error"),
    [
        ("loky", "TerminatedWorkerError"),
        ("joblib", "TerminatedWorkerError"),
        ("mpire-fork", "RuntimeError"),
        ("billiard-fork", "WorkerLostError"),
        ("dask", "BrokenProcessPool"),
        ("distributed", "KilledWorker"),
        ("ray", "WorkerCrashedError"),
    ],
)
def test_what_is_told_of_a_worker_that_is_killed(library: str, error: str, folder: Path) -> None:
    program = shutil.copy(OUTSIDERS, folder)
    assert error in run(Path(program), "killed", library)


@pytest.mark.parametrize(
    "start",
    ["multiprocess spawn", "multiprocess forkserver", "billiard spawn", "billiard forkserver", "loky.backend loky"],
)
def test_a_shared_value_is_refused_in_the_sender(start: str) -> None:
    """It would arrive as its bytes: a copy."""
    assert run(OUTSIDERS, "refused", *start.split()).split() in [["RuntimeError"] * 2, ["SharingError"] * 2]


# --- Servers -------------------------------------------------------------------------------------------------------


@contextmanager
def serving(name: str, folder: Path) -> Iterator[None]:
    """The command that the page has for a program."""
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            shlex.split(BLOCKS[name]["then"]), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        print((folder / "log").read_text())  # pytest shows it if the test fails
        server.send_signal(signal.SIGQUIT)  # at once, without waiting for tasks
        try:
            server.wait(PATIENCE)
        finally:
            try:
                os.killpg(server.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            server.wait()


def test_celery(folder: Path) -> None:
    (folder / "celeryconfig.py").write_text(CELERY)
    for place in "queue", "control":
        (folder / place).mkdir()
    (folder / "tasks.py").write_text(BLOCKS["tasks.py"]["code"] + DYING_TASK)
    client = folder / "client.py"
    client.write_text(
        "from tasks import add_and_tell, die\n"
        "for task in [*[add_and_tell] * 10, die, *[add_and_tell] * 10]:\n"
        "    task.delay()\n"
    )
    run(client)  # before there is a worker: this broker is a folder, where one might read what is half written
    visits, log = folder / "visits", folder / "log"
    visits.touch()
    with serving("tasks.py", folder):
        wait_until(lambda: len(visits.read_text().splitlines()) == 20, "20 visits")
    assert sorted(map(int, visits.read_text().splitlines())) == list(range(1, 21))
    assert "died while it held Lock" in log.read_text()


class _Connection(http.client.HTTPConnection):
    """Over a socket that is a file."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def visit(path: Path, page: str) -> str:
    connection = _Connection(path)
    try:
        connection.request("GET", page)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_gunicorn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "socket"
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--bind unix:{path}")
    (folder / "app.py").write_text(BLOCKS["app.py"]["code"] + DYING_APP)
    with serving("app.py", folder):
        wait_until(lambda: listens(path), "gunicorn listens")
        assert [visit(path, "/") for _ in range(10)] == [f"visit {number}" for number in range(1, 11)]
        for number in range(11, 14):
            with pytest.raises(http.client.RemoteDisconnected):
                visit(path, "/die")
            assert visit(path, "/") == f"visit {number}"
    assert (folder / "log").read_text().count("died while it held Lock") >= 1
