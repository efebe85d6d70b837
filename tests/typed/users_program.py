# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A program that uses all that mpbakery offers, as somebody would write it who checks types strictly.

mypy and pyright say what they make of it (`tox run -e types`), and it runs (test_users_program.py). A comment that has
a checker ignore something stands where a mistake must be found: both complain of one that is of no use.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess, ForkServerProcess, SpawnProcess
from multiprocessing.sharedctypes import Synchronized, SynchronizedString
from typing import TYPE_CHECKING, Any

import mpbakery

if TYPE_CHECKING:
    from multiprocessing.queues import JoinableQueue, Queue, SimpleQueue
    from multiprocessing.sharedctypes import SynchronizedArray, SynchronizedBase  # noqa: F401 - in quotes below

    from typing_extensions import assert_type
else:

    def assert_type(value: object, kind: object) -> object:
        return value


class Point(ctypes.Structure):
    """A value with fields."""

    x: int
    _fields_ = (("x", ctypes.c_int),)


# --- Locks and the rest of the family ------------------------------------------------------------------------------


def use_lock(lock: mpbakery.Lock) -> None:
    with lock as got:
        assert_type(got, bool)
    assert_type(lock.acquire(), bool)
    assert_type(lock.release(), None)
    assert_type(lock.acquire(block=True, timeout=0.5), bool)
    assert_type(lock.locked(), bool)
    assert_type(lock.owner, mpbakery.Owner | None)
    assert_type(lock.recovered_from, mpbakery.Owner | None)
    assert_type(lock.name, str)
    assert_type(lock.fileno(), int)
    lock.release()


def tell(statistics: mpbakery.Statistics) -> str:
    assert_type(statistics.waiters, tuple[mpbakery.Waiting, ...])
    owner = statistics.owner
    holder = "nobody" if owner is None else f"{owner.process} ({owner.pid}, thread {owner.thread}, since {owner.since})"
    waiting = [f"{waiter.process}, {waiter.pid}: {waiter.seconds} s" for waiter in statistics.waiters]
    assert_type(waiting, list[str])
    counts = statistics.slots, statistics.slots_in_use, statistics.acquisitions, statistics.recoveries
    assert_type(counts, tuple[int, int, int, int])
    return f"{holder} {waiting} {counts}"


def use_family() -> None:
    lock = mpbakery.Lock(slots=16, name="ledger", robust=True, tenure=0.001, ctx=multiprocessing.get_context("fork"))
    use_lock(lock)
    use_lock(mpbakery.RLock(tenure=0))  # whoever takes a lock takes a recursive one
    tell(lock.statistics())

    semaphore = mpbakery.Semaphore(2)
    with semaphore:
        assert_type(semaphore.get_value(), int)
    assert_type(semaphore.acquire(False), bool)
    assert_type(semaphore.release(), None)
    seen = semaphore.statistics()
    assert_type(seen, mpbakery.SemaphoreStatistics)
    assert_type((seen.value, seen.slots), tuple[int, int])
    assert_type(seen.waiters, tuple[mpbakery.Waiting, ...])
    bounded: mpbakery.Semaphore = mpbakery.BoundedSemaphore(3)
    assert_type(bounded.get_value(), int)

    condition = mpbakery.Condition(mpbakery.RLock())
    with condition:
        assert_type(condition.wait(0), bool)
        assert_type(condition.wait_for(lambda: True, timeout=1), bool)
        condition.notify()
        condition.notify_all()

    event = mpbakery.Event()
    event.set()
    assert_type(event.is_set(), bool)
    assert_type(event.wait(1), bool)
    event.clear()

    barrier = mpbakery.Barrier(1, action=lambda: None, timeout=1)
    assert_type(barrier.wait(), int)
    assert_type((barrier.parties, barrier.n_waiting), tuple[int, int])
    assert_type(barrier.broken, bool)
    barrier.reset()
    barrier.abort()

    mpbakery.register(lock, semaphore, condition, event, barrier)


# --- Shared values -------------------------------------------------------------------------------------------------


def use_values() -> None:
    number = mpbakery.Value("i", 1)
    assert_type(number, "Synchronized[int]")
    with number.get_lock():
        number.value += 1
    assert_type(mpbakery.Value("d", 0.5, lock=mpbakery.Lock()), "Synchronized[float]")
    assert_type(mpbakery.Value("c", b"x"), "Synchronized[Any]")
    assert_type(mpbakery.Value(ctypes.c_double, ctx=multiprocessing.get_context("spawn")), "Synchronized[float]")
    assert_type(mpbakery.Value(Point, 3), "SynchronizedBase[Point]")
    assert_type(mpbakery.Value(Point, 3, lock=False).x, int)
    assert_type(mpbakery.Value("i", lock=multiprocessing.RLock()), "Synchronized[int]")

    numbers = mpbakery.Array("i", 3)
    assert_type(numbers, "SynchronizedArray[int]")
    assert_type((numbers[0], numbers[:], len(numbers)), tuple[int, list[int], int])
    assert_type(mpbakery.Array("d", [0.5], lock=mpbakery.RLock())[0], float)
    assert_type(mpbakery.Array("c", 10), SynchronizedString)
    assert_type(mpbakery.Array(ctypes.c_char, b"text").value, bytes)
    assert_type(mpbakery.Array(ctypes.c_bool, 2), "SynchronizedArray[bool]")
    assert_type(mpbakery.Array(ctypes.c_int, 2, lock=False), ctypes.Array[ctypes.c_int])

    assert_type(mpbakery.RawValue(Point, 3), Point)
    assert_type(mpbakery.RawValue(ctypes.c_int, 3).value, int)
    assert_type(mpbakery.RawArray(ctypes.c_int, [1, 2]), ctypes.Array[ctypes.c_int])
    assert_type(mpbakery.RawArray("i", 2), Any)


# --- Contexts and queues -------------------------------------------------------------------------------------------


def put(queue: Queue[int], number: int) -> None:
    queue.put(number)


def use_queues() -> None:
    context = mpbakery.get_context("fork")
    queue: Queue[int] = context.Queue(10)
    put(queue, 7)
    assert_type(queue.get(timeout=10), int)
    queue.close()
    joinable: JoinableQueue[str] = context.JoinableQueue()
    joinable.put_nowait("one")
    assert_type(joinable.get(), str)
    joinable.task_done()
    joinable.join()
    simple: SimpleQueue[bytes] = context.SimpleQueue()
    simple.put(b"")
    assert_type(simple.get(), bytes)
    simple.close()


def double(number: int) -> float:
    return number * 2.0


def work(connection: Connection, condition: mpbakery.Condition, total: Synchronized[int]) -> None:
    with condition:
        total.value += 1
        connection.send(total.value)


def use_contexts() -> None:
    assert_type(mpbakery.get_context("fork").Process, type[ForkProcess])
    assert_type(mpbakery.get_context("spawn").Process, type[SpawnProcess])
    assert_type(mpbakery.get_context("forkserver").Process, type[ForkServerProcess])
    assert_type(mpbakery.get_context("spawn").get_context("fork").Process, type[ForkProcess])

    context = mpbakery.get_context()
    assert_type(context.get_context().Lock(slots=4, name="a", robust=False), mpbakery.Lock)
    assert_type(context.RLock(), mpbakery.RLock)
    assert_type(context.Semaphore(2), mpbakery.Semaphore)
    assert_type(context.BoundedSemaphore(2), mpbakery.BoundedSemaphore)
    assert_type(context.Condition(context.Lock()), mpbakery.Condition)
    assert_type(context.Event(), mpbakery.Event)
    assert_type(context.Barrier(2), mpbakery.Barrier)
    assert_type(context.Value("l"), "Synchronized[int]")
    assert_type(context.Value(ctypes.c_float, lock=context.RLock()), "Synchronized[float]")
    assert_type(context.Array("f", [1.5]), "SynchronizedArray[float]")
    assert_type(context.Array("c", 3), SynchronizedString)
    assert_type(context.RawValue(ctypes.c_long), ctypes.c_long)
    assert_type(context.RawArray(Point, 2), ctypes.Array[Point])
    executor = ProcessPoolExecutor(1, mp_context=context, initializer=mpbakery.register, initargs=(context.Lock(),))
    with executor:
        assert_type(executor.submit(double, 2).result(), float)

    fork = mpbakery.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=work, args=(theirs, fork.Condition(), fork.Value("i")))
    child.start()
    print(ours.recv())
    child.join()


# --- Pools ---------------------------------------------------------------------------------------------------------


def use_pools(items: Sequence[int]) -> None:
    with mpbakery.Pool(2, mpbakery.register, (mpbakery.Lock(),), retries=1) as pool:
        assert_type(pool, mpbakery.Pool)
        assert_type(pool.map(double, items), list[float])
        result: float = pool.apply_async(double, (1,)).get(timeout=10)
        print(result)
        assert_type(list(pool.imap_unordered(double, items, chunksize=2)), list[float])
        assert_type(pool.starmap_async(double, [(1,), (2,)]).get(), list[float])
    context = mpbakery.get_context("fork")
    with context.Pool(1, retries=0) as pool:
        assert_type(pool, mpbakery.Pool)
        assert_type(pool.apply(double, (2,)), float)


# --- install, and what goes wrong ----------------------------------------------------------------------------------


def use_install() -> None:
    block = mpbakery.installed()
    assert_type(mpbakery.install(), None)
    assert_type(mpbakery.uninstall(), None)
    manager: AbstractContextManager[None] = block
    with manager:
        assert isinstance(multiprocessing.Lock(), mpbakery.Lock)


def look_inside(pid: int | None) -> str:
    mpbakery.dump_on_signal(signal.SIGUSR2, stuck=5)
    try:
        seen = mpbakery.inspect(pid, stuck=60.0)
    except mpbakery.InspectionError as error:
        return str(error)
    assert_type(seen, mpbakery.Inspection)
    assert_type((seen.pid, seen.verdict, seen.is_healthy), tuple[int, str, bool])
    assert_type((seen.processes, seen.notes), tuple[tuple[int, ...], tuple[str, ...]])
    primitive: mpbakery.InspectedPrimitive = seen.primitives[0]
    assert_type((primitive.kind, primitive.name, primitive.value), tuple[str, str, int | None])
    holder: mpbakery.InspectedThread | None = primitive.holder
    assert_type(primitive.waiters, tuple[mpbakery.InspectedThread, ...])
    ring: mpbakery.Deadlock
    for ring in seen.deadlocks:
        steps: tuple[mpbakery.DeadlockStep, ...] = ring.steps
        return " ".join(f"{step.thread.process} holds {step.holds} and wants {step.wants}" for step in steps)
    return "nobody" if holder is None else f"{holder.process} {holder.doing} {holder.seconds} {holder.gives_up_in}"


def explain(error: Exception | Warning) -> str:
    if isinstance(error, mpbakery.WorkerDiedError):
        assert_type((error.function, error.index, error.items), tuple[str, int, int | None])
        assert_type((error.pid, error.exitcode, error.signal), tuple[int, int | None, int | None])
        return f"{error.tries} {error.given_up} {error.unread}"
    if isinstance(error, mpbakery.TransferError):
        assert_type((error.what, error.name, error.text, error.reason), tuple[str, str, str, str])
    if isinstance(error, mpbakery.PoolTerminatedError):
        return str(error)
    if isinstance(error, mpbakery.OwnerDiedWarning):
        assert_type((error.lock, error.pid, error.thread), tuple[str, int, int])
        return f"{error.process} {error.held:.3f}"
    if isinstance(error, mpbakery.DeadlockWarning):
        one: mpbakery.DeadlockedThread = error.ring[0]
        assert_type((one.pid, one.thread, one.process, one.holds, one.wants), tuple[int, int, str, str, str])
        return f"{len(error.ring)} threads"
    if isinstance(error, mpbakery.TasksLostWarning):
        assert_type(error.tasks, int)
    if isinstance(error, mpbakery.SlotsExhausted):
        return f"{error.lock} {error.slots + error.most} {error.kind}"
    if isinstance(error, mpbakery.UnknownLockError):
        return error.lock + error.identity
    if isinstance(error, mpbakery.ForeignNamespaceError):
        return f"{error.lock} {error.made_in - error.used_in}"
    if isinstance(error, mpbakery.ClaimFileLostError):
        return f"{error.lock} {error.descriptor + 1}"
    if isinstance(error, mpbakery.ClaimsRefusedError):
        return f"{error.lock} {error.errno + 1}"
    if isinstance(error, (mpbakery.SharingError, mpbakery.NotOwnedError)):
        assert_type(error.args, tuple[Any, ...])
    mine: mpbakery.MpbakeryError | None = error if isinstance(error, mpbakery.MpbakeryError) else None
    return str(mine)


# --- What must be found --------------------------------------------------------------------------------------------


def make_mistakes(lock: mpbakery.Lock, queue: Queue[int]) -> None:
    lock.acquire(timeout="1")  # type: ignore[arg-type]
    lock.aquire()  # type: ignore[attr-defined]
    mpbakery.register(multiprocessing.Lock())  # type: ignore[arg-type]
    mpbakery.Lock("ledger")  # type: ignore[call-arg, arg-type]
    mpbakery.Condition(mpbakery.Semaphore())  # type: ignore[arg-type]
    mpbakery.Value("i").value = "one"  # type: ignore[assignment]
    mpbakery.Value("i", lock=threading.Lock())  # type: ignore[call-overload]
    mpbakery.Value(7)  # type: ignore[call-overload]
    mpbakery.Array("i", 3)[0] = 0.5  # type: ignore[call-overload]
    mpbakery.get_context("spawn").Lock(ctx=None)  # type: ignore[call-arg]
    mpbakery.get_context("fork").Pool(retrys=1)  # type: ignore[call-arg]
    queue.put("one")  # type: ignore[arg-type]


if __name__ == "__main__":
    warnings.simplefilter("error", mpbakery.OwnerDiedWarning)
    use_family()
    use_values()
    use_queues()
    use_contexts()
    use_pools([1, 2, 3])
    use_install()
    print(look_inside(None))
    print(mpbakery.__version__, explain(mpbakery.SharingError()))
