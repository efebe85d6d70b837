"""Contexts: all that multiprocessing's contexts make, for each start method, also where it cannot be made otherwise."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
from multiprocessing import queues
from typing import Any

import pytest

import mpbakery
from conftest import START_METHODS
from support.everything import USES, put_many
from support.places import EVERYTHING, run_without_shared_memory
from support.scripts import run
from support.workers import PATIENCE, Crew

# --- Which context -------------------------------------------------------------------------------------------------


def test_a_context_knows_its_start_method(context: Any) -> None:
    method = context.get_start_method()
    assert method in START_METHODS
    assert mpbakery.get_context(method) is context
    theirs: Any = multiprocessing.get_context(method)
    assert isinstance(context, type(theirs))
    assert context.Process is theirs.Process


def test_a_context_of_a_context_is_ours(context: Any) -> None:
    assert context.get_context() is context
    for method in START_METHODS:
        assert context.get_context(method) is mpbakery.get_context(method)


@pytest.mark.parametrize("method", ["", "Fork", "threads", 7], ids=repr)
def test_an_unknown_start_method(context: Any, method: Any) -> None:
    for where in (mpbakery, context):
        with pytest.raises(ValueError, match=r"cannot find context for .*'fork', 'spawn', 'forkserver'"):
            where.get_context(method)


def test_the_default_is_that_of_multiprocessing() -> None:
    assert mpbakery.get_context().get_start_method() == multiprocessing.get_context().get_start_method()


@pytest.mark.parametrize("method", START_METHODS)
def test_the_default_follows_set_start_method(method: str) -> None:
    script = (
        "import multiprocessing, mpbakery\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "print(mpbakery.get_context().get_start_method())"
    )
    assert run("-c", script) == f"{method}\n"


def test_importing_does_not_fix_the_default() -> None:
    script = "import multiprocessing, mpbakery\nprint(multiprocessing.get_start_method(allow_none=True))"
    assert run("-c", script) == "None\n"


def test_a_start_method_cannot_be_set_on_a_context(context: Any) -> None:
    with pytest.raises(ValueError, match="cannot set start method"):
        context.set_start_method("fork")


# --- What it makes -------------------------------------------------------------------------------------------------


def test_what_it_makes(context: Any) -> None:
    made = {
        "Lock": context.Lock(),
        "RLock": context.RLock(),
        "Condition": context.Condition(),
        "Semaphore": context.Semaphore(),
        "BoundedSemaphore": context.BoundedSemaphore(),
        "Event": context.Event(),
        "Barrier": context.Barrier(1),
    }
    assert {name: type(one) for name, one in made.items()} == {name: getattr(mpbakery, name) for name in made}
    assert isinstance(context.Queue(), queues.Queue)
    assert isinstance(context.JoinableQueue(), queues.JoinableQueue)
    assert isinstance(context.SimpleQueue(), queues.SimpleQueue)
    assert context.Value("i", 5).value == 5
    assert isinstance(context.Value("i").get_lock(), mpbakery.RLock)
    assert isinstance(context.Array("i", 2, lock=context.Lock()).get_lock(), mpbakery.Lock)
    assert context.RawValue("i", 6).value == 6
    assert context.RawArray("i", [7, 8])[:] == [7, 8]


def test_what_multiprocessing_has_no_arguments_for(context: Any) -> None:
    for kind in ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event"):
        assert getattr(context, kind)(slots=3, name="mine").name == "mine"
    assert context.Barrier(2, slots=3, name="mine").name == "mine"
    assert context.Lock(slots=3).statistics().slots == 3
    assert not context.RLock(robust=False)._memory.robust
    with pytest.raises(ValueError, match="retries is -1"):
        context.Pool(1, retries=-1)


def test_arguments_arrive(context: Any) -> None:
    lock = context.RLock()
    with context.Condition(lock):
        assert lock.acquire(False) is True
        lock.release()
    semaphore = context.Semaphore(2)
    assert [semaphore.acquire(False) for _ in range(3)] == [True, True, False]
    bounded = context.BoundedSemaphore(value=1)
    with pytest.raises(ValueError, match="released too many times"):
        bounded.release()
    called: list[int] = []
    barrier = context.Barrier(1, lambda: called.append(1), timeout=PATIENCE)
    barrier.wait()
    assert called == [1]
    with context.Pool(1, os.putenv, ("MPBAKERY", "1"), 5) as pool:
        assert pool.apply(abs, (-3,)) == 3
        pool.close()
        pool.join()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_queue_counts(context: Any, kind: str) -> None:
    made = getattr(context, kind)(2)
    made.put("a")
    assert made.qsize() == 1
    assert not made.full()
    made.put("b")
    assert made.full()
    with pytest.raises(queue.Full):
        made.put_nowait("c")
    with pytest.raises(queue.Full):
        made.put("c", timeout=0.01)
    assert [made.get(timeout=PATIENCE), made.get(timeout=PATIENCE)] == ["a", "b"]
    assert made.empty()
    with pytest.raises(queue.Empty):
        made.get_nowait()
    made.close()
    made.join_thread()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_queue_without_a_limit_counts(context: Any, kind: str) -> None:
    made = getattr(context, kind)()
    assert made.qsize() == 0
    for number in range(3):
        made.put_nowait(number)
    assert made.qsize() == 3
    assert not made.full()
    assert [made.get(timeout=PATIENCE) for _ in range(2)] == [0, 1]
    assert made.qsize() == 1
    made.close()
    made.join_thread()


def test_items_of_many_come_through_once(context: Any, context_crew: Crew) -> None:
    made = context.Queue()
    for worker in range(3):
        context_crew.start(put_many, made, worker, 50)
    got = [made.get(timeout=PATIENCE) for _ in range(150)]
    assert sorted(got) == [(worker, number) for worker in range(3) for number in range(50)]
    for worker in range(3):
        assert [number for who, number in got if who == worker] == list(range(50))
    context_crew.finish()


# --- All of it, where the standard library would need what is not there --------------------------------------------


def test_nothing_asks_for_the_module_that_needs_semaphores(context: Any) -> None:
    """Neither in this process nor in its children: the uses say whether it has been imported."""
    uses = [use for use in USES if use != "executor"]  # which asks for it first of all
    out = run(EVERYTHING, context.get_start_method(), "ours", *uses)
    assert json.loads(out) == dict.fromkeys(uses, False)


def test_an_executor(context: Any) -> None:
    out = run(EVERYTHING, context.get_start_method(), "ours", "executor")
    assert list(json.loads(out)) == ["executor"]


def test_where_nothing_can_be_made_in_shared_memory(context: Any, crew: Crew, mount_namespaces: None) -> None:
    refused, used = run_without_shared_memory(crew, context.get_start_method(), "ours")
    assert refused, "the standard library can make its locks here: nothing is shown"
    assert used == list(USES)


def test_without_semaphores(context: Any, no_semaphores: None) -> None:
    """An executor needs `install()` there, see test_install.py."""
    uses = [use for use in USES if use != "executor"]
    out = run(EVERYTHING, context.get_start_method(), "ours", *uses)
    assert json.loads(out) == dict.fromkeys(uses, False)


def test_the_place_without_semaphores_is_one(no_semaphores: None) -> None:
    script = (
        "import multiprocessing\n"
        "try:\n"
        "    multiprocessing.Lock()\n"
        "except ImportError as error:\n"
        "    print(str(error)[:42])"
    )
    assert run("-c", script) == "This platform lacks a functioning sem_open\n"
