"""Whatever is raised by what a pool calls of its program is the failure of one task, or of one job: the pool goes on.

Everything that can be thrown, at each of the places where a pool calls what others have written.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from multiprocessing import pool as standard
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery import TransferError, WorkerDiedError
from support.pool_tasks import square, wait_a_moment
from support.pool_throwers import (
    THROWN,
    ApiError,
    ThrowsWhenAsked,
    ThrowsWhenIterated,
    ThrowsWhenPickled,
    ThrowsWhenUnpickled,
    call_api,
    raise_one_that_throws,
    return_one_that_throws,
    throw,
)
from support.workers import PATIENCE, in_thread

pytestmark = pytest.mark.timeout(60)

#: What ends the worker, not the task alone, if a task raises it.
ENDS = {"SystemExit", "KeyboardInterrupt"}


class Healthy:
    """A pool, and a task in it that has nothing to do with what is thrown."""

    def __init__(self, pool: mpbakery.Pool) -> None:
        self.pool = pool
        self._threads = pool._dispatcher.thread, pool._dispatcher.messenger.thread, pool._taskqueue.thread
        self._other = pool.apply_async(wait_a_moment, (7,))

    def check(self) -> None:
        """The other task is done, so is another one, and no thread has ended."""
        assert self._other.get(PATIENCE) == 7
        assert self.pool.apply_async(square, (3,)).get(PATIENCE) == 9
        assert self.pool.map_async(square, range(5), chunksize=2).get(PATIENCE) == [0, 1, 4, 9, 16]
        assert all(thread.is_alive() for thread in self._threads)


@pytest.fixture
def healthy(fork: BaseContext) -> Iterator[Healthy]:
    pool = mpbakery.Pool(2, context=fork)
    yield Healthy(pool)
    in_thread(pool.terminate)
    in_thread(pool.join)


def raised_by(call: Callable[..., object], *arguments: Any) -> BaseException:
    """What a call raises, be it SystemExit."""
    try:
        found = call(*arguments)
    except BaseException as error:
        return error
    raise AssertionError(f"nothing was raised, but {found!r} returned")


def name_of(error: BaseException) -> str:
    return type(error).__name__


# --- In the thread that reads iterables and pickles ----------------------------------------------------------------


@pytest.mark.parametrize("what", THROWN)
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("kind", ["imap", "imap_unordered"])
def test_an_iterable_throws(healthy: Healthy, what: str, chunksize: int, kind: str) -> None:
    thrown = "RuntimeError" if what == "StopIteration" else what  # so says Python, of every generator
    for count in (0, 1, 6):
        results = getattr(healthy.pool, kind)(square, ThrowsWhenIterated(what, count), chunksize)
        whole = count - count % chunksize
        assert sorted(results.next(PATIENCE) for _ in range(whole)) == [n * n for n in range(whole)]
        assert name_of(raised_by(results.next, PATIENCE)) == thrown
        assert name_of(raised_by(results.next, PATIENCE)) == "StopIteration"
    healthy.check()


@pytest.mark.parametrize("what", THROWN)
def test_what_is_mapped_throws(healthy: Healthy, what: str) -> None:
    """That is read in the thread of the caller."""
    assert name_of(raised_by(healthy.pool.map_async, square, ThrowsWhenIterated(what, 0))) == what
    healthy.check()


@pytest.mark.parametrize("what", THROWN)
def test_the_pickling_of_a_task_throws(healthy: Healthy, what: str) -> None:
    pool, poison = healthy.pool, ThrowsWhenPickled(what)
    function: Callable[[Any], Any] = square
    called: list[BaseException] = []
    assert name_of(raised_by(pool.apply_async(square, (poison,), error_callback=called.append).get, PATIENCE)) == what
    assert name_of(raised_by(pool.apply_async(poison).get, PATIENCE)) == what
    assert name_of(raised_by(pool.map_async(function, [1, poison, 3], chunksize=1).get, PATIENCE)) == what
    assert [name_of(error) for error in called] == [what]
    for kind, chunksize in itertools.product((pool.imap, pool.imap_unordered), (1, 2)):
        seen = all_of(kind(function, [1, 2, poison, 4, 5, 6], chunksize))
        thrown = "RuntimeError" if what == "StopIteration" else what  # which would say that there are no more
        assert seen == {"1", "4", "25", "36", thrown} | ({"16"} if chunksize == 1 else set())
    healthy.check()


def all_of(results: Any) -> set[str]:
    """What comes of an iterator, the names of errors among it."""
    seen: list[str] = []
    while True:
        try:
            seen.append(str(results.next(PATIENCE)))
        except StopIteration:
            return set(seen)
        except BaseException as error:
            seen.append(name_of(error))


# --- In the worker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", THROWN)
def test_the_unpickling_of_a_task_throws(healthy: Healthy, what: str) -> None:
    error = raised_by(healthy.pool.apply_async(square, (ThrowsWhenUnpickled(what),)).get, PATIENCE)
    if what == "KeyboardInterrupt":
        assert name_of(error) == "WorkerDiedError"
    elif what == "MemoryError":
        assert name_of(error) == "MemoryError"  # which says how large the task is
    else:
        assert_it_arrived(error, what)
    healthy.check()


@pytest.mark.parametrize("what", THROWN)
def test_a_task_throws(healthy: Healthy, what: str) -> None:
    pool = healthy.pool
    for result in (pool.apply_async(throw, (what,)), pool.map_async(throw, [what]), pool.map_async(throw, [what] * 3)):
        error = raised_by(result.get, PATIENCE)
        if what in ENDS:
            assert name_of(error) == "WorkerDiedError"
        else:
            assert_it_arrived(error, what)
    healthy.check()


def assert_it_arrived(error: BaseException, what: str) -> None:
    """It is what was thrown, or an error that tells of it; and says where it was."""
    if name_of(error) != what:
        assert isinstance(error, TransferError)
        assert error.name == f"support.pool_throwers.{what}"
    trace = error.__cause__
    assert isinstance(trace, standard.RemoteTraceback)  # type: ignore[attr-defined]
    assert "in throw" in trace.tb


@pytest.mark.parametrize("what", THROWN)
@pytest.mark.parametrize("when", ["pickled", "unpickled"])
def test_the_handing_over_of_a_result_throws(healthy: Healthy, what: str, when: str) -> None:
    """Pickled, in the worker, or unpickled, in a thread of the pool."""
    called: list[BaseException] = []
    result = healthy.pool.apply_async(return_one_that_throws, (what, when), error_callback=called.append)
    error = raised_by(result.get, PATIENCE)
    if when == "pickled" and what == "KeyboardInterrupt":
        assert isinstance(error, WorkerDiedError)
    elif when == "unpickled" and what == "MemoryError":
        assert isinstance(error, MemoryError)
    else:
        assert isinstance(error, TransferError)
        assert isinstance(error, standard.MaybeEncodingError)  # type: ignore[attr-defined]
        assert (error.what, error.name) == ("result", "return_one_that_throws")
        assert what in error.reason or what == "OddlyNamed"
    assert called == [error]
    healthy.check()


@pytest.mark.parametrize("what", THROWN)
@pytest.mark.parametrize("when", ["pickled", "unpickled", "shown"])
def test_the_handing_over_of_an_error_throws(healthy: Healthy, what: str, when: str) -> None:
    error = raised_by(healthy.pool.apply_async(raise_one_that_throws, (what, when)).get, PATIENCE)
    if when == "shown":
        assert name_of(error) == "ErrorThatThrows"
    else:
        assert isinstance(error, TransferError)
        assert (error.what, error.name, error.text) == (
            "exception",
            "support.pool_throwers.ErrorThatThrows",
            "an error that throws",
        )
    assert "in raise_one_that_throws" in str(error.__cause__)
    healthy.check()


# --- In the thread that delivers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", THROWN)
@pytest.mark.parametrize("hook", ["a good hook", "a hook that throws"])
def test_a_callback_throws(healthy: Healthy, monkeypatch: pytest.MonkeyPatch, what: str, hook: str) -> None:
    told: list[str] = []

    def listen(arguments: Any) -> None:
        told.append(arguments.exc_type.__name__)
        if hook == "a hook that throws":
            throw(what)

    def call_back(_value: object) -> None:
        throw(what)

    monkeypatch.setattr(threading, "excepthook", listen)
    pool = healthy.pool
    assert pool.apply_async(square, (3,), callback=call_back).get(PATIENCE) == 9
    assert pool.map_async(square, [3], callback=call_back).get(PATIENCE) == [9]
    assert name_of(raised_by(pool.apply_async(throw, ("ValueError",), error_callback=call_back).get)) == "ValueError"
    healthy.check()
    assert told == [what] * 3


@pytest.mark.parametrize("what", THROWN)
def test_the_name_of_a_function_throws(healthy: Healthy, what: str) -> None:
    """It is asked for when there is something to say of its task."""
    function = ThrowsWhenAsked(what)
    assert isinstance(raised_by(healthy.pool.apply_async(function).get, PATIENCE), WorkerDiedError)
    assert isinstance(raised_by(healthy.pool.map_async(function, [1]).get, PATIENCE), WorkerDiedError)
    healthy.check()


# --- In the thread that starts workers -----------------------------------------------------------------------------


class Spawning(mpbakery.Pool):
    """A pool whose processes cannot be made while `what` is to be thrown."""

    what = ""

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        if Spawning.what:
            throw(Spawning.what)
        return ctx.Process(*args, **kwds)


@pytest.mark.parametrize("what", THROWN)
def test_what_makes_a_process_throws(fork: BaseContext, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    with Spawning(1, context=fork, maxtasksperchild=1) as pool:
        monkeypatch.setattr(Spawning, "what", what)
        assert pool.apply_async(square, (3,)).get(PATIENCE) == 9
        waiting = pool.apply_async(square, (4,))
        error = raised_by(waiting.get, PATIENCE)
        assert isinstance(error, WorkerDiedError)
        assert error.given_up
        assert name_of(error.__cause__ or error) == what
    in_thread(pool.join)
    monkeypatch.setattr(Spawning, "what", what)
    assert name_of(raised_by(lambda: Spawning(1, context=fork))) == what


# --- What is told --------------------------------------------------------------------------------------------------


def test_an_error_that_does_not_survive_pickling(ctx: BaseContext) -> None:
    with mpbakery.Pool(1, context=ctx) as pool:
        for result in (pool.apply_async(call_api, (1,)), pool.map_async(call_api, [1])):
            with pytest.raises(
                TransferError, match=r"^support\.pool_throwers\.ApiError: 404: not found \(.*__reduce__\)$"
            ) as caught:
                result.get(PATIENCE)
            error = caught.value
            assert (error.what, error.name, error.text) == (
                "exception",
                "support.pool_throwers.ApiError",
                "404: not found",
            )
            assert "TypeError" in error.reason
            assert 'raise ApiError(404, "not found")  # this line is looked for' in str(error.__cause__)
    in_thread(pool.join)


def test_a_result_that_cannot_be_pickled(fork: BaseContext) -> None:
    with mpbakery.Pool(1, context=fork) as pool, pytest.raises(TransferError, match=r"^the result of .*, ") as caught:
        pool.apply(return_one_that_throws, ("ValueError", "pickled"))
    assert "ThrowsWhenPickled object at" in caught.value.text
    assert caught.value.exc == caught.value.reason == "ValueError('thrown')"
    in_thread(pool.join)


@pytest.mark.parametrize("what", ["result", "exception"])
def test_the_error_survives_pickling(what: str) -> None:
    error = TransferError(what, "name", "text", "reason")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (TransferError, str(error), vars(error))


def test_an_api_error_is_none_that_could_be_pickled() -> None:
    """So that the tests above show what they are to show."""
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        pickle.loads(pickle.dumps(ApiError(404, "not found")))
