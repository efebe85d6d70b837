"""How a lock gets into another process: it arrives as the same lock, or with an error that names the remedy."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool

import pytest

import mpbakery
from support.children import (
    answer_tasks,
    hand_on,
    hold_while_told,
    is_same_lock,
    keep_lock,
    report_arguments,
    report_slots,
    try_lock,
    use_by_name,
    use_kept_lock,
    use_lock,
)
from support.detectors import Detectors
from support.workers import PATIENCE, Crew, Puppet, expect, wait_until


@pytest.fixture
def lock(ctx: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=ctx, name="ledger")


@pytest.fixture
def pool(ctx: BaseContext, lock: mpbakery.Lock) -> Iterator[Pool]:
    """Two workers that know the lock."""
    with ctx.Pool(2, initializer=mpbakery.register, initargs=(lock,)) as workers:
        yield workers
        workers.terminate()
        workers.join()


# --- Arguments of Process ------------------------------------------------------------------------------------------


def test_an_argument_of_process_is_the_same_lock(lock: mpbakery.Lock, ctx_crew: Crew) -> None:
    puppet = Puppet(ctx_crew, lock)
    assert puppet("name") == "ledger"
    puppet("acquire")
    assert lock.locked()
    assert lock.acquire(False) is False
    puppet("release")
    assert lock.acquire(False) is True
    assert puppet("acquire", False) is False
    puppet("release")
    assert not lock.locked()
    puppet.dismiss()


def test_a_lock_passed_twice_is_one_lock(lock: mpbakery.Lock, ctx: BaseContext, ctx_crew: Crew) -> None:
    ours, theirs = ctx.Pipe()
    ctx_crew.start(report_arguments, theirs, lock, lock, [lock, {"lock": lock}])
    theirs.close()
    assert expect(ours) == (True, True, True, True)
    ctx_crew.finish()


def test_two_locks_stay_two(lock: mpbakery.Lock, ctx: BaseContext, ctx_crew: Crew) -> None:
    other = mpbakery.Lock(ctx=ctx)
    ours, theirs = ctx.Pipe()
    ctx_crew.start(report_arguments, theirs, lock, other, [other, {"lock": lock}])
    theirs.close()
    assert expect(ours) == (False, False, True, True)
    ctx_crew.finish()


def test_a_child_hands_it_on_to_its_own_child(lock: mpbakery.Lock, ctx: BaseContext, ctx_crew: Crew) -> None:
    """Three generations, the last of which holds the lock while the first looks."""
    ours, theirs = ctx.Pipe()
    ctx_crew.start(hand_on, ctx.get_start_method(), 2, theirs, lock)
    theirs.close()
    assert expect(ours) == "held"
    assert lock.acquire(False) is False
    assert repr(lock) == "<Lock(owner=SomeOtherProcess)>"
    ours.send("release")
    ctx_crew.finish()
    assert lock.acquire(False) is True


@pytest.mark.parametrize("made_for", ["fork", "spawn"])
def test_a_lock_goes_everywhere(made_for: str, ctx: BaseContext, ctx_crew: Crew) -> None:
    """Whatever start method it was made for, unlike multiprocessing's."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context(made_for))
    puppet = Puppet(ctx_crew, lock)
    lock.acquire()
    assert puppet("acquire", False) is False
    lock.release()
    assert puppet("acquire", False) is True
    puppet.dismiss()


def test_the_default_context_fits(ctx_default_crew: Crew) -> None:
    """A lock made without a word fits into the processes that multiprocessing starts without a word."""
    lock = mpbakery.Lock()
    puppet = Puppet(ctx_default_crew, lock)
    lock.acquire()
    assert puppet("acquire", False) is False
    puppet.dismiss()


@pytest.fixture
def ctx_default_crew() -> Iterator[Crew]:
    crew = Crew(multiprocessing.get_context())
    yield crew
    crew.close()


# --- Pools ---------------------------------------------------------------------------------------------------------


def test_pool_with_register(pool: Pool, lock: mpbakery.Lock, ctx: BaseContext) -> None:
    """The promise of the README: a lock may be a task's argument."""
    assert pool.starmap(use_lock, [(lock, item) for item in range(40)], chunksize=1) == list(range(40))
    assert lock.statistics().acquisitions == 40
    lock.acquire()
    assert pool.apply(try_lock, (lock,)) is False
    lock.release()
    assert pool.apply(try_lock, (lock,)) is True


def test_pool_task_arguments_are_the_registered_lock(pool: Pool, lock: mpbakery.Lock) -> None:
    assert all(pool.starmap(is_same_lock, [(lock, [lock])] * 10, chunksize=1))


def test_register_claims_at_once(pool: Pool, lock: mpbakery.Lock) -> None:
    wait_until(lambda: lock.statistics().slots_in_use == 2, "a slot for each worker")
    assert pool.apply(report_slots, (lock,)) == 2
    assert lock.statistics().acquisitions == 0


def test_register_more_than_once(lock: mpbakery.Lock) -> None:
    mpbakery.register(lock, lock)
    mpbakery.register(lock)
    mpbakery.register()
    assert lock.statistics().slots_in_use == 1


def test_pool_with_a_lock_that_the_initializer_keeps(lock: mpbakery.Lock, ctx: BaseContext) -> None:
    """As it is done with multiprocessing.Lock: in a global variable of the worker."""
    with ctx.Pool(2, initializer=keep_lock, initargs=(lock,)) as pool:
        assert pool.map(use_kept_lock, range(20), chunksize=1) == list(range(20))
        assert pool.starmap(use_lock, [(lock, item) for item in range(20)], chunksize=1) == list(range(20))
        pool.terminate()
        pool.join()
    assert lock.statistics().acquisitions == 40


def test_pool_without_register_where_it_is_inherited(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    with fork.Pool(2) as pool:
        assert pool.starmap(use_lock, [(lock, item) for item in range(20)], chunksize=1) == list(range(20))
        pool.terminate()
        pool.join()
    assert lock.statistics().acquisitions == 20


def test_pool_with_a_lock_that_it_does_not_know(ctx: BaseContext) -> None:
    """A task whose lock is unknown fails; it must not vanish, and the caller wait for it for ever."""
    with ctx.Pool(1) as pool:
        late = mpbakery.Lock(ctx=ctx, name="late")
        try:
            with pytest.raises(mpbakery.UnknownLockError, match=r"late.*mpbakery\.register"):
                pool.apply_async(use_lock, (late, 1)).get(timeout=10)
        finally:
            pool.terminate()
            pool.join()


def test_executor_with_a_lock_that_it_does_not_know(ctx: BaseContext) -> None:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=ctx) as executor:
        executor.submit(os.getpid).result(PATIENCE)
        late = mpbakery.Lock(ctx=ctx, name="late")
        with pytest.raises(mpbakery.UnknownLockError, match=r"late.*mpbakery\.register"):
            executor.submit(use_lock, late).result(PATIENCE)
        assert executor.submit(os.cpu_count).result(PATIENCE) == os.cpu_count(), "the worker must live on"


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition", "Event", "Barrier"])
def test_a_worker_of_somebody_elses_lives_on_when_an_unknown_one_arrives(kind: str, fork: BaseContext) -> None:
    """Not the unpickling raises, of which it would die, but the use, in the task."""
    ours, theirs = fork.Pipe()
    crew = Crew(fork)
    try:
        worker = crew.start(answer_tasks, theirs)
        late = getattr(mpbakery, kind)(*[2] * (kind == "Barrier"), ctx=fork, name="late")
        use = "is_set" if kind == "Event" else "abort" if kind == "Barrier" else "acquire"
        ours.send((operator.methodcaller(use), (late,)))
        error = expect(ours)
        assert isinstance(error, mpbakery.UnknownLockError)
        assert error.lock == "late"
        ours.send((os.getpid, ()))
        assert expect(ours) == worker.pid
    finally:
        crew.close()


def test_an_unknown_lock_goes_on_to_where_it_is_known(lock: mpbakery.Lock, ctx: BaseContext) -> None:
    """As out of the server process of a manager, which has only kept it for others."""
    with ctx.Manager() as manager:
        kept = manager.dict()
        kept["lock"] = lock
        assert kept["lock"] is lock


def test_who_asks_what_an_unknown_lock_can_do_is_no_user_of_it() -> None:
    """Libraries ask so of each argument, in their own loops; but `acquire` must not seem to be missing."""
    unknown = pickle.loads(pickle.dumps(mpbakery.Lock(name="gone")))
    for name in ("dtype", "shape", "_asdict", "__dask_graph__", "__array_interface__"):
        assert not hasattr(unknown, name)
    for name in ("acquire", "wait", "notify_all", "is_set", "get_value", "n_waiting", "recovered_from"):
        with pytest.raises(mpbakery.UnknownLockError, match="gone"):
            hasattr(unknown, name)
    assert "gone" in repr(unknown)


def test_registering_an_unknown_lock_leaves_the_worker_alive() -> None:
    """What a pool does whose initializer fails is to start the next worker, for ever."""
    known = mpbakery.Lock()
    unknown = pickle.loads(pickle.dumps(mpbakery.Lock(name="gone")))
    mpbakery.register(unknown, known)
    assert known.statistics().slots_in_use == 1
    with pytest.raises(mpbakery.UnknownLockError, match="gone"), unknown:
        pass


@pytest.mark.parametrize("use", ["acquire", "release", "locked", "name", "statistics", "with", "owner"])
def test_every_use_of_an_unknown_lock_in_a_task_says_so(fork: BaseContext, use: str) -> None:
    with fork.Pool(1) as pool:
        late = mpbakery.Lock(ctx=fork, name="late")
        try:
            with pytest.raises(mpbakery.UnknownLockError, match=r"late.*mpbakery\.register"):
                pool.apply_async(use_by_name, (late, use)).get(timeout=10)
        finally:
            pool.terminate()
            pool.join()


def test_executor_with_register(lock: mpbakery.Lock, ctx: BaseContext) -> None:
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=ctx, initializer=mpbakery.register, initargs=(lock,)
    ) as executor:
        assert list(executor.map(use_lock, [lock] * 30, range(30))) == list(range(30))
        lock.acquire()
        assert executor.submit(try_lock, lock).result(PATIENCE) is False
        lock.release()
    assert lock.statistics().acquisitions == 31


def test_executor_without_register_where_it_is_inherited(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as executor:
        assert list(executor.map(use_lock, [lock] * 10, range(10))) == list(range(10))


def test_a_lock_as_an_attribute_of_an_argument(lock: mpbakery.Lock, ctx: BaseContext, ctx_crew: Crew) -> None:
    """Whatever carries it: detectors and lock in one object."""
    detectors = Detectors(ctx, 1)
    ours, theirs = ctx.Pipe()
    ctx_crew.start(hold_while_told, theirs, {"inside": (lock, detectors)})
    theirs.close()
    assert expect(ours) == "held"
    assert lock.locked()
    ours.send("release")
    ctx_crew.finish()
    assert not lock.locked()


# --- Pickled anywhere else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_at_home_it_is_the_same_object(lock: mpbakery.Lock, protocol: int) -> None:
    assert pickle.loads(pickle.dumps(lock, protocol)) is lock


def test_pickled_through_a_pipe_it_is_the_same_lock(lock: mpbakery.Lock, ctx_crew: Crew) -> None:
    assert Puppet(ctx_crew, lock)("is_this", lock) is True


def test_a_lock_that_is_gone_is_unknown(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork, name="gone")
    data = pickle.dumps(lock)
    del lock
    unknown = pickle.loads(data)
    with pytest.raises(
        mpbakery.UnknownLockError, match=r"gone.*not known in this process.*mpbakery\.register"
    ) as caught:
        unknown.acquire()
    assert caught.value.lock == "gone"
    assert len(bytes.fromhex(caught.value.identity)) == 16


def test_a_registered_lock_is_kept(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    mpbakery.register(lock)
    data, name = pickle.dumps(lock), lock.name
    del lock
    assert pickle.loads(data).name == name


def test_unknown_after_exec(lock: mpbakery.Lock) -> None:
    """A program that this one starts has nothing of it, whatever descriptors it may have inherited."""
    script = (
        "import pickle, sys, mpbakery\n"
        "lock = pickle.load(sys.stdin.buffer)\n"
        "try:\n"
        "    lock.acquire()\n"
        "except mpbakery.UnknownLockError as error:\n"
        "    print(error.lock, error.identity)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(lock),
        capture_output=True,
        timeout=60,
        check=True,
        close_fds=False,
    )
    name, identity = output.stdout.decode().split()
    assert name == "ledger"
    assert len(bytes.fromhex(identity)) == 16


def test_a_holder_that_becomes_another_program(lock: mpbakery.Lock, ctx_crew: Crew) -> None:
    """It is the same process, and cannot release any more: the lock is held until that program ends."""
    puppet = Puppet(ctx_crew, lock)
    puppet("acquire")
    puppet.begin("become_another_program")
    puppet.process.join(PATIENCE)
    with pytest.warns(mpbakery.OwnerDiedWarning, match=f"process {puppet.pid} "):
        assert lock.acquire(True, PATIENCE) is True


def test_bytes_cut_short_at_any_place(lock: mpbakery.Lock) -> None:
    data = pickle.dumps(lock)
    for end in range(len(data)):
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, IndexError, AttributeError, ImportError)):
            pickle.loads(data[:end])
    assert pickle.loads(data) is lock


@pytest.mark.parametrize("identity", [b"", b"short", b"\0" * 16, b"\xff" * 16, b"x" * 100, None, 7, "text"], ids=repr)
def test_an_identity_that_is_none(fork: BaseContext, identity: object) -> None:
    lock = mpbakery.Lock(ctx=fork)
    find, (known, name) = lock.__reduce__()
    assert find(known, name) is lock
    with pytest.raises((mpbakery.UnknownLockError, TypeError), match=r"mpbakery\.register|pickled lock is"):
        find(identity, name).acquire()
