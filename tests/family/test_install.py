"""install(): plain multiprocessing makes ours, also where it could make nothing; and all of it can be undone."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool
import multiprocessing.synchronize
import threading
from collections.abc import Iterator
from multiprocessing import context, heap, sharedctypes
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from conftest import START_METHODS
from mpbakery._work.arena import Arena
from mpbakery._work.queues import queue
from support.everything import USES, square
from support.namespaces import without_shared_memory
from support.places import EVERYTHING, run_without_shared_memory
from support.scripts import run
from support.workers import PATIENCE, Crew, expect, in_thread

PRIMITIVES = ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier")


def everything_that_could_change() -> dict[str, object]:
    """All attributes of multiprocessing and of its contexts."""
    places: list[Any] = [
        multiprocessing,
        context,
        context.BaseContext,
        context.DefaultContext,
        context.ForkContext,
        heap,
    ]
    return {f"{place.__name__}.{name}": value for place in places for name, value in vars(place).items()}


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    before = everything_that_could_change()
    yield
    mpbakery.uninstall()
    after = everything_that_could_change()
    # a test may have been the first to import one of its modules
    assert {name: after.get(name) for name in before} == before


def made_by(where: Any) -> dict[str, type]:
    return {name: type(getattr(where, name)(*([1] if name == "Barrier" else []))) for name in PRIMITIVES}


OURS = {name: getattr(mpbakery, name) for name in PRIMITIVES}
THEIRS = {name: getattr(multiprocessing.synchronize, name) for name in PRIMITIVES}


# --- What it changes -----------------------------------------------------------------------------------------------


def test_the_functions_of_the_module_make_ours() -> None:
    assert made_by(multiprocessing) == THEIRS
    with mpbakery.installed():
        assert made_by(multiprocessing) == OURS
        assert isinstance(multiprocessing.Value("i").get_lock(), mpbakery.RLock)
        assert isinstance(multiprocessing.Array("i", 3).get_lock(), mpbakery.RLock)
        for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
            assert type(getattr(multiprocessing, kind)()) is getattr(queue, kind)
    assert made_by(multiprocessing) == THEIRS


@pytest.mark.parametrize("method", START_METHODS)
def test_contexts_make_ours_also_those_that_were_there_before(method: str) -> None:
    before = multiprocessing.get_context(method)
    with mpbakery.installed():
        assert made_by(before) == OURS
        assert made_by(multiprocessing.get_context(method)) == OURS
    assert made_by(before) == THEIRS


def test_a_pool_is_ours() -> None:
    with mpbakery.installed(), multiprocessing.Pool(1) as pool:
        assert isinstance(pool, mpbakery.Pool)
        assert pool.apply(square, (3,)) == 9
        pool.close()
        pool.join()


def test_the_classes_of_pools_stay_but_their_queues_are_ours() -> None:
    """Others derive from them: joblib's, for example."""
    pool_class, thread_pool_class = multiprocessing.pool.Pool, multiprocessing.pool.ThreadPool
    with mpbakery.installed():
        assert multiprocessing.pool.Pool is pool_class
        assert multiprocessing.pool.ThreadPool is thread_pool_class
        with multiprocessing.dummy.Pool(1) as threads:
            assert isinstance(threads, thread_pool_class)
            assert threads.apply(square, (3,)) == 9
        with multiprocessing.pool.Pool(1) as pool:
            assert isinstance(pool._inqueue, queue.SimpleQueue)  # type: ignore[attr-defined]
            assert pool.apply(square, (3,)) == 9
            pool.close()
            pool.join()


def test_the_memory_of_sharedctypes_is_ours() -> None:
    """Of what it makes when it is used directly, if there is no memory left over from before."""
    with mpbakery.installed():
        value = sharedctypes.RawArray("b", 1 << 23)
        value[5] = 5
    (arena, _start, _stop), _size = value._wrapper._state
    assert isinstance(arena, Arena)


def test_an_executor_without_a_context() -> None:
    with mpbakery.installed():
        executor: Any = concurrent.futures.ProcessPoolExecutor(1)
        with executor:
            assert isinstance(executor._call_queue._rlock, mpbakery.Lock)
            assert executor.submit(square, 4).result(PATIENCE) == 16


@pytest.mark.parametrize("method", START_METHODS)
def test_everything_works(method: str) -> None:
    assert list(json.loads(run(EVERYTHING, method, "plain", *USES))) == list(USES)


# --- In and out ----------------------------------------------------------------------------------------------------


def test_installing_twice_is_installing_once() -> None:
    mpbakery.install()
    mpbakery.install()
    assert made_by(multiprocessing) == OURS
    mpbakery.uninstall()
    assert made_by(multiprocessing) == THEIRS


def test_uninstalling_what_is_not_installed() -> None:
    mpbakery.uninstall()
    assert made_by(multiprocessing) == THEIRS


def test_blocks_nest() -> None:
    with mpbakery.installed():
        with mpbakery.installed():
            pass
        assert made_by(multiprocessing) == OURS
    assert made_by(multiprocessing) == THEIRS


def test_a_block_leaves_what_was_installed_for_good() -> None:
    mpbakery.install()
    with mpbakery.installed():
        pass
    assert made_by(multiprocessing) == OURS


def test_uninstalling_inside_of_a_block_waits_for_its_end() -> None:
    mpbakery.install()
    with mpbakery.installed():
        mpbakery.uninstall()
        assert made_by(multiprocessing) == OURS
    assert made_by(multiprocessing) == THEIRS


def test_blocks_of_threads_may_overlap() -> None:
    entered, leave = threading.Event(), threading.Event()

    def outlast() -> dict[str, type]:
        with mpbakery.installed():
            entered.set()
            assert leave.wait(PATIENCE)
            return made_by(multiprocessing)

    def come_and_go() -> None:
        with mpbakery.installed():
            assert entered.wait(PATIENCE)
        leave.set()

    first = threading.Thread(target=come_and_go)
    first.start()
    assert in_thread(outlast) == OURS
    first.join()
    assert made_by(multiprocessing) == THEIRS


def test_a_block_that_raises_is_undone() -> None:
    with pytest.raises(ZeroDivisionError), mpbakery.installed():
        raise ZeroDivisionError
    assert made_by(multiprocessing) == THEIRS


def test_what_was_made_meanwhile_stays_as_it_is(crew: Crew) -> None:
    with mpbakery.installed():
        lock, made = crew.context.Lock(), crew.context.Queue()
    crew.start(made.put, "from a child")
    with lock:
        assert made.get(timeout=PATIENCE) == "from a child"
    crew.finish()
    made.put("after")
    assert made.get(timeout=PATIENCE) == "after"


# --- What is too late ----------------------------------------------------------------------------------------------


def test_a_name_that_was_imported_before_is_too_late() -> None:
    script = (
        "from multiprocessing import Lock\n"
        "import mpbakery\n"
        "mpbakery.install()\n"
        "from multiprocessing import RLock\n"
        "print(type(Lock()).__module__, type(RLock()).__module__.split('.')[0])"
    )
    assert run("-c", script) == "multiprocessing.synchronize mpbakery\n"


CHILD = """
import multiprocessing
import mpbakery

{where_every_process_comes_by}

def tell():
    print(type(multiprocessing.Lock()).__module__.split(".")[0], flush=True)

if __name__ == "__main__":
    mpbakery.install()
    context = multiprocessing.get_context("{method}")
    child = context.Process(target=tell)
    child.start()
    child.join()
"""


@pytest.mark.parametrize(
    ("method", "line", "whose"),
    [
        ("fork", "", "mpbakery"),
        ("spawn", "", "multiprocessing"),
        ("forkserver", "", "multiprocessing"),
        ("spawn", "mpbakery.install()", "mpbakery"),
        ("forkserver", "mpbakery.install()", "mpbakery"),
    ],
)
def test_who_inherits_it(tmp_path: Path, method: str, line: str, whose: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(CHILD.format(where_every_process_comes_by=line, method=method))
    assert run(str(script)) == f"{whose}\n"


# --- Without semaphores, and without /dev/shm ----------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_everything_works_without_semaphores(method: str, no_semaphores: None) -> None:
    assert list(json.loads(run(EVERYTHING, method, "plain", *USES))) == list(USES)


def test_an_executor_is_refused_without_semaphores_until_it_is_installed(no_semaphores: None) -> None:
    script = """
import concurrent.futures, multiprocessing, sys
import mpbakery

def attempt():
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=mpbakery.get_context("fork")) as executor:
            return executor.submit(abs, -1).result(30)
    except NotImplementedError:
        return "refused"

def can_be_imported():
    try:
        import multiprocessing.synchronize
    except ImportError:
        return False
    multiprocessing.synchronize.SemLock._make_name = None  # as joblib does
    return multiprocessing.synchronize.Lock is mpbakery.Lock

print(attempt(), can_be_imported())
with mpbakery.installed():
    print(attempt(), can_be_imported())
print(attempt(), can_be_imported(), hasattr(multiprocessing, "synchronize"))
"""
    assert run("-c", script) == "refused False\n1 True\nrefused False False\n"


def test_where_there_are_semaphores_their_module_is_the_real_one() -> None:
    with mpbakery.installed():
        assert multiprocessing.synchronize.Lock is THEIRS["Lock"]


def use_sharedctypes(connection: Any) -> None:
    """A child that uses what the standard library cannot make here, and then can."""
    try:
        sharedctypes.RawArray("b", 100)
    except OSError:
        with mpbakery.installed():
            connection.send(len(sharedctypes.RawArray("b", 100)))


def test_sharedctypes_without_shared_memory(crew: Crew, mount_namespaces: None) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(without_shared_memory, use_sharedctypes, theirs)
    theirs.close()
    assert expect(ours) == 100
    crew.finish()


@pytest.mark.parametrize("method", START_METHODS)
def test_everything_works_without_shared_memory(method: str, crew: Crew, mount_namespaces: None) -> None:
    refused, used = run_without_shared_memory(crew, method, "plain")
    assert refused, "the standard library can make its locks here: nothing is shown"
    assert used == list(USES)


# --- Others who use multiprocessing --------------------------------------------------------------------------------


def test_tqdm() -> None:
    pytest.importorskip("tqdm")
    script = (
        "import mpbakery\n"
        "mpbakery.install()\n"
        "import tqdm\n"
        "print(type(tqdm.tqdm.get_lock().locks[0]).__module__.split('.')[0])"
    )
    assert run("-c", script) == "mpbakery\n"
