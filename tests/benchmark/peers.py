"""The locks that people take between processes, each in the way in which its own documentation shows it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import mpbakery
from benchmark.measuring import FORK, Lock

#: How long those wait that want a limit, in seconds: longer than any measurement.
_LONG: Final = 300


@dataclass(frozen=True)
class Peer:
    """A lock that others can be compared with."""

    title: str
    #: what has to be installed for it, None for the standard library and the package itself
    package: str | None
    #: makes what the processes share, in a folder
    make: Callable[[str], Any]
    #: makes of that the lock of one process
    open: Callable[[Any], Lock] = lambda shared: shared
    #: whether it is one between processes at all
    between_processes: bool = True

    @property
    def is_there(self) -> bool:
        """Whether it can be measured here."""
        return self.package is None or find_spec(self.package) is not None

    @contextlib.contextmanager
    def shared(self) -> Iterator[Any]:
        """What the processes share, for as long as it is measured."""
        with tempfile.TemporaryDirectory() as folder:
            shared = self.make(folder)
            try:
                yield shared
            finally:
                if hasattr(shared, "shut"):
                    shared.shut()


class Flock:
    """`fcntl.flock` around a file of one's own, as in many a program."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "w")  # noqa: SIM115 - as long as the lock

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_exception: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


class _Named:
    """What is known by a name until it is unlinked."""

    def __init__(self, name: str, unlink: Callable[[], object]) -> None:
        self.name = name
        self.shut = unlink


class _OfManager:
    """The lock of a manager, which is a process of its own."""

    def __init__(self, _folder: str) -> None:
        self._manager = FORK.Manager()
        self.lock = self._manager.Lock()
        self.shut = self._manager.shutdown


class _Acquired:
    """A lock without `with`."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_exception: object) -> None:
        self._lock.release()


def _posix_ipc(_folder: str) -> _Named:
    semaphore = import_module("posix_ipc").Semaphore(None, import_module("posix_ipc").O_CREX, initial_value=1)
    return _Named(semaphore.name, semaphore.unlink)


def _fastipc(_folder: str) -> _Named:
    name = f"mpbakery-{os.getpid()}"
    import_module("fastipc").NamedMutex(name)

    def unlink() -> None:
        # it leaves files behind, and folders of files
        for path in list(Path("/dev/shm").rglob(f"*{name}*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return _Named(name, unlink)


def _path(folder: str) -> str:
    return f"{folder}/lock"


PEERS: Final = (
    Peer("mpbakery.Lock", None, lambda _: mpbakery.Lock(ctx=FORK)),
    Peer("multiprocessing.Lock", None, lambda _: FORK.Lock()),
    Peer("threading.Lock", None, lambda _: threading.Lock(), between_processes=False),
    Peer("posix_ipc.Semaphore", "posix_ipc", _posix_ipc, lambda it: import_module("posix_ipc").Semaphore(it.name)),
    Peer("fastipc.NamedMutex", "fastipc", _fastipc, lambda it: _Acquired(import_module("fastipc").NamedMutex(it.name))),
    Peer("fcntl.flock", None, _path, Flock),
    Peer("fasteners", "fasteners", _path, lambda it: import_module("fasteners").InterProcessLock(it)),
    Peer("filelock", "filelock", _path, lambda it: import_module("filelock").FileLock(it)),
    Peer(
        "portalocker",
        "portalocker",
        _path,
        lambda it: functools.partial(import_module("portalocker").Lock, timeout=_LONG)(it),
    ),
    Peer("manager.Lock", None, _OfManager, lambda it: it.lock),
)
