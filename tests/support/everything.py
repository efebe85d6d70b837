"""Everything that a context makes, used for real: by itself in a place that lacks something, or from a test.

`python everything.py METHOD plain|ours USE...` uses multiprocessing's context of that start
method after `mpbakery.install()`, or mpbakery's own without it, and prints what has been used, and which modules have
been imported.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

import mpbakery
from support.workers import PATIENCE, begin, expect

SYNCHRONIZE = "multiprocessing.synchronize"

if __name__ in {"__main__", "__mp_main__"} and "plain" in sys.argv:
    # where a child of spawn comes by as well
    mpbakery.install()


def square(number: int) -> int:
    """A task."""
    return number * number


def is_loaded(_item: object = None) -> bool:
    """A task that says whether this process has the module that needs `sem_open`."""
    return SYNCHRONIZE in sys.modules


def use_from_afar(connection: Connection, made: dict[str, Any]) -> None:
    """What a child does with everything that its parent has made; it meets the parent at the barrier."""
    begin()
    made["barrier"].wait(PATIENCE)
    with made["lock"]:
        made["raw value"].value += 1
    with made["recursive lock"], made["recursive lock"]:
        made["raw array"][0] += 1
    with made["value"]:
        made["value"].value += 1
    made["array"][0] += 1
    with made["condition"]:
        made["condition"].notify_all()
    assert made["semaphore"].acquire(timeout=PATIENCE)
    made["bounded semaphore"].release()
    assert made["event"].wait(PATIENCE)
    for name in ("queue", "joinable queue", "simple queue"):
        made[name].put((name, made["queue of orders"].get()))
    made["queue of orders"].task_done()
    connection.send(is_loaded())
    made["queue"].close()
    made["queue"].join_thread()


def use_primitives(context: Any) -> bool:
    """Use what a child inherits, from both sides; whether either has the module that needs `sem_open`."""
    made = {
        "lock": context.Lock(),
        "recursive lock": context.RLock(),
        "condition": context.Condition(),
        "semaphore": context.Semaphore(0),
        "bounded semaphore": context.BoundedSemaphore(2),
        "event": context.Event(),
        "barrier": context.Barrier(2),
        "queue": context.Queue(),
        "joinable queue": context.JoinableQueue(),
        "simple queue": context.SimpleQueue(),
        "queue of orders": context.JoinableQueue(5),
        "value": context.Value("i", 41),
        "array": context.Array("d", [1.0, 2.0]),
        "raw value": context.RawValue("i", 10),
        "raw array": context.RawArray("i", 3),
    }
    ours, theirs = context.Pipe()
    assert made["bounded semaphore"].acquire()
    for number in range(3):
        made["queue of orders"].put(number)
    child = context.Process(target=use_from_afar, args=(theirs, made))
    with made["condition"]:
        child.start()
        made["barrier"].wait(PATIENCE)
        assert made["condition"].wait(PATIENCE)
    made["semaphore"].release()
    made["event"].set()
    assert made["queue"].get(timeout=PATIENCE) == ("queue", 0)
    assert made["joinable queue"].get(timeout=PATIENCE) == ("joinable queue", 1)
    made["joinable queue"].task_done()
    made["joinable queue"].join()
    assert made["simple queue"].get() == ("simple queue", 2)
    there = expect(ours)
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert made["bounded semaphore"].acquire(timeout=0)
    assert made["bounded semaphore"].acquire(timeout=0)
    assert made["value"].value == 42
    assert made["array"][:] == [2.0, 2.0]
    assert (made["raw value"].value, made["raw array"][:]) == (11, [1, 0, 0])
    return bool(there) or is_loaded()


def use_pool(context: Any) -> bool:
    """Use pools of this and of multiprocessing's own context; whether a worker has the module that needs `sem_open`."""
    there: list[bool] = []
    theirs = multiprocessing.get_context(context.get_start_method())
    for pool in (context.Pool(2), mpbakery.Pool(2, context=theirs)):
        with pool:
            assert pool.map(square, range(20)) == [square(number) for number in range(20)]
            there += pool.map(is_loaded, range(2))
            pool.close()
            pool.join()
    return any(there)


def use_manager(context: Any) -> bool:
    """Use objects of a manager, from a child as well; whether this process has the module that needs `sem_open`."""
    with context.Manager() as manager:
        shared, lock = manager.dict(), manager.Lock()
        with lock:
            shared["answer"] = 42
        assert shared.copy() == {"answer": 42}
    return is_loaded()


def use_executor(context: Any) -> bool:
    """Use a ProcessPoolExecutor; whether a worker has the module that needs `sem_open`."""
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(square, range(10))) == [square(number) for number in range(10)]
        return executor.submit(is_loaded).result(PATIENCE)


def put_many(queue: Any, worker: int, count: int) -> None:
    """Put numbered items."""
    for number in range(count):
        queue.put((worker, number))


def get_one(queue: Any) -> object:
    """Get one item."""
    return queue.get()


#: The ways to use a context, and how each says whether somebody has the module that needs `sem_open`.
USES = {"primitives": use_primitives, "pool": use_pool, "manager": use_manager, "executor": use_executor}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["fork", "spawn", "forkserver"])
    parser.add_argument("whose", choices=["plain", "ours"])
    parser.add_argument("uses", nargs="+", choices=list(USES))
    options = parser.parse_args()
    begin()
    get_context: Any = multiprocessing.get_context if options.whose == "plain" else mpbakery.get_context
    context = get_context(options.method)
    print(json.dumps({use: USES[use](context) for use in options.uses}))


if __name__ == "__main__":
    main()
