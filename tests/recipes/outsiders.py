"""What other libraries do with a lock that cannot get in, and when a worker is killed: programs, each by its name.

    python outsiders.py unknown dask

prints what the one who has given the task is told.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mpbakery

Submit = Callable[..., Any]

#: How long somebody waits for a result at most (s).
LIMIT = 40


def use(lock: Any) -> str:
    with lock:
        return "used"


def double(number: int) -> int:
    return 2 * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- How each of them runs a task in one worker --------------------------------------------------------------------


@contextmanager
def loky() -> Iterator[Submit]:
    executor = importlib.import_module("loky").get_reusable_executor(1)
    yield lambda function, *arguments: executor.submit(function, *arguments).result(LIMIT)
    executor.shutdown()


@contextmanager
def joblib(backend: str = "loky") -> Iterator[Submit]:
    joblib = importlib.import_module("joblib")
    parallel = joblib.Parallel(2, backend=backend)
    yield lambda function, *arguments: parallel([joblib.delayed(function)(*arguments)])


@contextmanager
def pool(library: str, method: str) -> Iterator[Submit]:
    workers = importlib.import_module(library).get_context(method).Pool(1)
    yield lambda function, *arguments: workers.apply_async(function, arguments).get(LIMIT)
    workers.terminate()
    workers.join()


@contextmanager
def pathos() -> Iterator[Submit]:
    workers = importlib.import_module("pathos.pools").ProcessPool(1)
    workers.map(abs, [1])  # or it would be forked when it has its first task, and would know the lock
    yield lambda function, *arguments: workers.amap(lambda _: function(*arguments), [0]).get(LIMIT)
    workers.terminate()
    workers.join()


@contextmanager
def mpire(method: str) -> Iterator[Submit]:
    mpbakery.install()  # or a worker that is killed takes a lock of mpire's own queues along, in one of some 200 runs
    with importlib.import_module("mpire").WorkerPool(1, start_method=method) as workers:
        workers.apply(abs, (1,))
        yield lambda function, *arguments: workers.apply(function, arguments)


@contextmanager
def dask() -> Iterator[Submit]:
    dask = importlib.import_module("dask")
    compute = functools.partial(dask.compute, scheduler="processes", num_workers=1)
    yield lambda function, *arguments: compute(dask.delayed(function)(*arguments))


@contextmanager
def distributed() -> Iterator[Submit]:
    distributed = importlib.import_module("distributed")
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield lambda function, *arguments: client.submit(function, *arguments).result(timeout=LIMIT)
        client.wait_for_workers(1, LIMIT)  # or closing fails, while a new one is being started


@contextmanager
def ray() -> Iterator[Submit]:
    ray = importlib.import_module("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield lambda function, *arguments: ray.get(ray.remote(max_retries=0)(function).remote(*arguments), timeout=LIMIT)
    ray.shutdown()


LIBRARIES: dict[str, Callable[[], Any]] = {
    "loky": loky,
    "joblib": joblib,
    "joblib-multiprocessing": functools.partial(joblib, "multiprocessing"),
    "pathos": pathos,
    "dask": dask,
    "distributed": distributed,
    "ray": ray,
    **{
        f"{name}-{method}": functools.partial(pool, name, method)
        for name in ("multiprocess", "billiard")
        for method in ("fork", "spawn", "forkserver")
    },
    **{f"mpire-{method}": functools.partial(mpire, method) for method in ("fork", "spawn", "forkserver")},
}


def refused(library: str, method: str) -> None:
    """Give to a process that is started anew what cannot arrive there."""
    context = importlib.import_module(library).get_context(method)
    for way in "fork", "spawn":
        thing = mpbakery.Value("i", ctx=multiprocessing.get_context(way))
        try:
            context.Process(target=print, args=(thing,)).start()
        except RuntimeError as error:
            print(type(error).__name__)


def main(what: str, library: str) -> None:
    with LIBRARIES[library]() as submit:
        lock = mpbakery.Lock(name="late")
        for function, arguments in [(die, ())] if what == "killed" else [(use, (lock,)), (double, (2,))]:
            try:
                print(submit(function, *arguments))
            except Exception as error:
                print(*[kind.__name__ for kind in type(error).__mro__], *str(error).split())


if __name__ == "__main__":
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    refused(*sys.argv[2:]) if sys.argv[1] == "refused" else main(*sys.argv[1:])
