"""The pools that are compared, each behind the same few calls."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import mpbakery


class Pool:
    """A pool of one of the libraries, with this many workers."""

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand in a task."""
        raise NotImplementedError

    def wait(self, task: Any, seconds: float) -> Any:
        """The task's result. Raises `Late` when it has not come by then, and else what it failed with."""
        raise NotImplementedError


class Late(Exception):
    """No result came in time."""


class _Futures(Pool):
    """A pool that gives futures."""

    _pool: Any

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments)

    def wait(self, task: Any, seconds: float) -> Any:
        done, _ = concurrent.futures.wait([task], seconds)
        if not done:
            raise Late
        return task.result()


class _AsyncResults(Pool):
    """A pool with the interface of `multiprocessing.Pool`."""

    _pool: Any

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.apply_async(function, arguments)

    def wait(self, task: Any, seconds: float) -> Any:
        task.wait(seconds)
        if not task.ready():
            raise Late
        return task.get()


class Multiprocessing(_AsyncResults):
    """`multiprocessing.Pool`."""

    def __init__(self, workers: int) -> None:
        self._pool = multiprocessing.Pool(workers)


class Concurrent(_Futures):
    """`concurrent.futures.ProcessPoolExecutor`."""

    def __init__(self, workers: int) -> None:
        self._pool = concurrent.futures.ProcessPoolExecutor(workers)


class Loky(_Futures):
    """loky's reusable executor, which is to be asked for anew after each failure."""

    def __init__(self, workers: int) -> None:
        self._loky = import_module("loky")
        self._workers = workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._loky.get_reusable_executor(self._workers, timeout=60).submit(function, *arguments)


class Pebble(_Futures):
    """`pebble.ProcessPool`."""

    def __init__(self, workers: int) -> None:
        self._pool = import_module("pebble").ProcessPool(max_workers=workers)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.schedule(function, args=arguments)


class Mpbakery(_AsyncResults):
    """`mpbakery.Pool`."""

    def __init__(self, workers: int) -> None:
        self._pool = mpbakery.Pool(workers)


@dataclass
class Library:
    """One of those compared."""

    #: what has to be installed for it, None for the standard library and the package itself
    package: str | None
    #: what it is called in the report
    title: str
    make: Callable[[int], Pool]


LIBRARIES: Final = {
    "multiprocessing": Library(None, "multiprocessing.Pool", Multiprocessing),
    "concurrent": Library(None, "ProcessPoolExecutor", Concurrent),
    "loky": Library("loky", "loky", Loky),
    "pebble": Library("pebble", "pebble.ProcessPool", Pebble),
    "mpbakery": Library(None, "mpbakery.Pool", Mpbakery),
}
