"""The interface is that of multiprocessing.Lock, and bad input gets a clear error."""

from __future__ import annotations

import copy
import dataclasses
import decimal
import fractions
import inspect
import math
import multiprocessing
import operator
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._protocol.bakery import OfThread
from support.workers import AnyLock, Crew, Puppet, in_thread, wait_for_waiters


@pytest.fixture(params=["multiprocessing", "mpbakery"])
def either(request: pytest.FixtureRequest, fork: BaseContext) -> AnyLock:
    """The lock that we replace, and ours: what a test says holds for both of them."""
    if request.param == "mpbakery":
        return mpbakery.Lock(ctx=fork)
    return fork.Lock()


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork)


# --- The same as multiprocessing.Lock ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        ((True,), {}),
        ((False,), {}),
        ((1, None), {}),
        ((True, 5), {}),
        ((True, 0.5), {}),
        ((True, 0), {}),
        ((True, -3), {}),
        ((False, 7.5), {}),
        ((), {"block": True}),
        ((), {"block": False}),
        ((), {"timeout": 2}),
        ((), {"timeout": None}),
        ((), {"block": True, "timeout": 2.5}),
        ((), {"block": False, "timeout": None}),
    ],
    ids=repr,
)
def test_a_free_lock_is_acquired_whatever_the_arguments(
    either: AnyLock, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    assert either.acquire(*arguments, **keywords) is True
    assert either.acquire(False) is False
    assert either.release() is None  # type: ignore[func-returns-value]
    assert either.acquire(False) is True
    either.release()


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((False,), {}),
        ((0,), {}),
        ((True, 0), {}),
        ((True, 0.05), {}),
        ((True, -1), {}),
        ((True, -1e300), {}),
        ((False, 30), {}),
        ((), {"block": False}),
        ((), {"timeout": 0.05}),
        ((), {"timeout": -0.05}),
        ((), {"block": False, "timeout": 30}),
    ],
    ids=repr,
)
def test_a_held_lock_is_not_acquired_in_no_time(
    either: AnyLock, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    either.acquire()
    start = time.monotonic()
    assert either.acquire(*arguments, **keywords) is False
    assert time.monotonic() - start < 5
    either.release()


def test_with_gives_what_acquire_returns(either: AnyLock) -> None:
    with either as entered:
        assert entered is True
        assert either.acquire(False) is False
    assert either.acquire(False) is True


def test_an_exception_passes_through_with(either: AnyLock) -> None:
    with pytest.raises(ZeroDivisionError), either:
        raise ZeroDivisionError
    assert either.acquire(False) is True


def test_an_exception_without_a_truth_value_does_not_keep_the_lock(lock: mpbakery.Lock) -> None:
    """A documented limit: the release asks for the truth of an exception, user code, after the lock is free."""

    class Vicious(Exception):
        def __bool__(self) -> bool:
            raise RuntimeError("asked for the truth of an exception")

    caught = None
    try:
        with lock:
            raise Vicious
    except BaseException as error:  # whatever it is: pytest.raises would ask for its truth as well
        caught = error
    assert lock.acquire(False) is True
    assert type(caught) is RuntimeError
    assert type(caught.__context__) is Vicious


def test_release_of_a_new_lock(either: AnyLock) -> None:
    with pytest.raises(ValueError, match="release"):
        either.release()
    assert either.acquire(False) is True, "a release that failed must not break the lock"


def test_release_twice(either: AnyLock) -> None:
    either.acquire()
    either.release()
    with pytest.raises(ValueError, match="release"):
        either.release()


def test_release_after_another_thread_released(either: AnyLock) -> None:
    either.acquire()
    in_thread(either.release)
    with pytest.raises(ValueError, match="release"):
        either.release()
    assert either.acquire(False) is True
    either.release()
    with pytest.raises(ValueError, match="release"):
        either.release()


def test_any_thread_may_release(either: AnyLock) -> None:
    in_thread(either.acquire)
    either.release()
    with pytest.raises(ValueError, match="release"):
        in_thread(either.release)
    assert either.acquire(False) is True


def test_a_bound_release_works_in_another_thread_and_later(either: AnyLock) -> None:
    early = either.release
    either.acquire()
    early()
    in_thread(either.acquire)
    early()
    either.acquire()
    in_thread(early)
    with pytest.raises(ValueError, match="release"):
        early()
    assert either.acquire(False) is True


def test_a_bound_exit_works_in_another_thread_and_later(lock: mpbakery.Lock) -> None:
    leave = lock.__exit__
    in_thread(lock.acquire)
    leave(None, None, None)
    assert not lock.locked()
    lock.acquire()
    in_thread(lambda: leave(None, None, None))
    assert not lock.locked()
    with pytest.raises(ValueError, match="release"):
        leave(None, None, None)


def test_releases_by_others_in_every_mixture(lock: mpbakery.Lock) -> None:
    """Who released what is counted, not remembered: no order of own and others' releases may confuse it."""
    for pattern in range(64):
        for bit in range(6):
            lock.acquire()
            if pattern >> bit & 1:
                in_thread(lock.release)
            else:
                lock.release()
            if pattern % 3 == 0:
                with pytest.raises(ValueError, match="release"):
                    lock.release()
        assert not lock.locked()
        with pytest.raises(ValueError, match="release"):
            lock.release()


def test_not_recursive(either: AnyLock) -> None:
    with either:
        assert either.acquire(True, 0.05) is False


def test_works_as_the_lock_of_a_condition(either: AnyLock) -> None:
    condition = threading.Condition(either)  # type: ignore[arg-type]
    ready: list[int] = []

    def produce() -> None:
        with condition:
            ready.append(1)
            condition.notify()

    with condition:
        thread = threading.Thread(target=produce)
        thread.start()
        assert condition.wait_for(lambda: ready, 20)
    thread.join()


# --- repr ----------------------------------------------------------------------------------------------------------


def forms(lock: AnyLock, acquire_elsewhere: Callable[[], object]) -> list[str]:
    """The repr of a lock in the states that its repr tells apart."""
    seen = [repr(lock)]
    with lock:
        seen.extend((repr(lock), in_thread(lambda: repr(lock), name="observer")))

    def hold() -> None:
        with lock:
            seen.append(repr(lock))

    in_thread(hold, name="holder")
    acquire_elsewhere()
    seen.append(repr(lock))
    lock.release()
    seen.append(repr(lock))
    return seen


def test_repr_forms_are_those_of_multiprocessing(fork: BaseContext, lock: mpbakery.Lock) -> None:
    reference: Any = fork.Lock()

    def acquire_in_child(which: AnyLock) -> None:
        child = fork.Process(target=which.acquire)  # type: ignore[attr-defined]
        child.start()
        child.join()

    expected = forms(reference, lambda: acquire_in_child(reference))
    quiet = mpbakery.Lock(ctx=fork, robust=False)
    assert forms(quiet, lambda: acquire_in_child(quiet)) == expected
    assert expected[0] == "<Lock(owner=None)>"
    assert expected[4] == "<Lock(owner=SomeOtherProcess)>"


def test_repr_in_a_child(crew: Crew, lock: mpbakery.Lock) -> None:
    puppet = Puppet(crew, lock, name="anna")
    assert puppet("represent") == "<Lock(owner=None)>"
    puppet("acquire")
    assert puppet("represent") == "<Lock(owner=anna)>"
    assert repr(lock) == "<Lock(owner=SomeOtherProcess)>"
    puppet("release")
    lock.acquire()
    assert puppet("represent") == "<Lock(owner=SomeOtherProcess)>"


# --- Beyond multiprocessing.Lock -----------------------------------------------------------------------------------


def test_blocking_is_another_name_for_block(lock: mpbakery.Lock) -> None:
    assert lock.acquire(blocking=True) is True
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(blocking=True, timeout=0.01) is False
    lock.release()
    assert lock.acquire(blocking=False) is True


def test_code_written_for_threading_runs(lock: mpbakery.Lock) -> None:
    reference = threading.Lock()
    for each in (reference, lock):
        assert each.acquire(blocking=True, timeout=1.5)
        assert not each.acquire(blocking=False)
        assert each.locked()
        each.release()
        assert not each.locked()


def test_locked(crew: Crew, lock: mpbakery.Lock) -> None:
    puppet = Puppet(crew, lock)
    assert (lock.locked(), puppet("locked")) == (False, False)
    lock.acquire()
    assert (lock.locked(), puppet("locked")) == (True, True)
    puppet("release")
    assert (lock.locked(), puppet("locked")) == (False, False)
    puppet("acquire")
    assert (lock.locked(), puppet("locked")) == (True, True)
    lock.release()
    assert (lock.locked(), puppet("locked")) == (False, False)


def test_owner(crew: Crew, lock: mpbakery.Lock) -> None:
    puppet = Puppet(crew, lock, name="bella")
    assert lock.owner is None
    before = time.monotonic()
    lock.acquire()
    after = time.monotonic()
    owner: Any = puppet("owner")
    assert owner == lock.owner
    assert (owner.pid, owner.thread, owner.process) == (os.getpid(), threading.get_native_id(), "MainProcess")
    assert before <= owner.since <= after
    lock.release()
    assert puppet("owner") is None
    puppet("acquire")
    owner = lock.owner
    assert (owner.pid, owner.thread, owner.process) == (puppet.pid, puppet.pid, "bella")
    assert after <= owner.since <= time.monotonic()
    lock.release()
    assert lock.owner is None


def test_owner_of_a_thread(lock: mpbakery.Lock) -> None:
    def acquire() -> int:
        lock.acquire()
        return threading.get_native_id()

    thread = in_thread(acquire)
    assert lock.owner is not None
    assert (lock.owner.pid, lock.owner.thread) == (os.getpid(), thread)
    assert thread != threading.get_native_id()


def test_statistics(crew: Crew, lock: mpbakery.Lock) -> None:
    assert lock.statistics() == mpbakery.Statistics(
        owner=None, waiters=(), slots=1024, slots_in_use=0, acquisitions=0, recoveries=0
    )
    with lock:
        pass
    lock.acquire()
    first, second = Puppet(crew, lock, name="first"), Puppet(crew, lock, name="second")
    first.begin("acquire")
    wait_for_waiters(lock, 1)
    second.begin("acquire")
    wait_for_waiters(lock, 2)
    statistics = lock.statistics()
    assert statistics.owner == lock.owner
    assert [(waiter.pid, waiter.process) for waiter in statistics.waiters] == [
        (first.pid, "first"),
        (second.pid, "second"),
    ]
    assert [waiter.thread for waiter in statistics.waiters] == [first.pid, second.pid]
    assert 60 > statistics.waiters[0].seconds >= statistics.waiters[1].seconds >= 0
    assert (statistics.slots, statistics.slots_in_use) == (1024, 3)
    assert (statistics.acquisitions, statistics.recoveries) == (2, 0)
    lock.release()
    first.end()
    first("release")
    second.end()
    second("release")
    statistics = lock.statistics()
    assert (statistics.acquisitions, statistics.waiters, statistics.owner) == (4, (), None)


def test_what_a_lock_tells_is_frozen(lock: mpbakery.Lock) -> None:
    with lock:
        owner = lock.owner
    assert owner is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        owner.pid = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        lock.statistics().slots = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(lock.statistics())) == lock.statistics()


def test_name(fork: BaseContext) -> None:
    assert mpbakery.Lock(name="ledger", ctx=fork).name == "ledger"
    assert mpbakery.Lock(name="", ctx=fork).name == ""
    assert mpbakery.Lock(name="Grüße, 世界", ctx=fork).name == "Grüße, 世界"
    assert mpbakery.Lock(name="n" * 64, ctx=fork).name == "n" * 64
    made_up = {mpbakery.Lock(ctx=fork).name for _ in range(50)}
    assert len(made_up) == 50
    assert all(made_up)


def test_recovered_from_is_none_without_a_death(lock: mpbakery.Lock) -> None:
    assert lock.recovered_from is None
    with lock:
        assert lock.recovered_from is None


def test_a_lock_is_freed_when_nobody_refers_to_it(fork: BaseContext) -> None:
    import gc
    import weakref

    lock = mpbakery.Lock(ctx=fork)
    with lock:
        pass
    in_thread(lock.acquire)
    gone = weakref.ref(lock)
    gc.disable()
    try:
        del lock
        assert gone() is None, "a cycle keeps the lock and its mapping alive until a garbage collection"
    finally:
        gc.enable()


# --- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "timeout", ["1", "soon", b"2", [], {}, object(), 1j, (1,)], ids=lambda value: type(value).__name__ + str(value)[:8]
)
@pytest.mark.parametrize("held", [False, True])
def test_a_timeout_that_is_no_number(lock: mpbakery.Lock, timeout: Any, held: bool) -> None:
    if held:
        lock.acquire()
    with pytest.raises(TypeError, match=r"timeout is .*seconds as a number"):
        lock.acquire(True, timeout)
    assert lock.locked() is held
    assert not lock.statistics().waiters


@pytest.mark.parametrize("timeout", [math.nan, -math.nan], ids=["nan", "-nan"])
def test_a_timeout_that_is_not_a_number(lock: mpbakery.Lock, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is nan"):
        lock.acquire(True, timeout)
    assert not lock.locked()


@pytest.mark.parametrize(
    "timeout",
    [math.inf, 1e9, 1e10, 1e18, 1e300, 2**31, 2**63, 2**64, 10**400, decimal.Decimal("1e30")],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}",
)
def test_a_huge_timeout_is_a_long_wait(crew: Crew, lock: mpbakery.Lock, timeout: Any) -> None:
    lock.acquire()
    puppet = Puppet(crew, lock)
    puppet.begin("acquire", True, timeout)
    wait_for_waiters(lock, 1)
    lock.release()
    assert puppet.end() is True


@pytest.mark.parametrize(
    "timeout",
    [
        -1,
        -0.0,
        0,
        -1e300,
        -math.inf,
        -(10**400),
        5e-324,
        1e-9,
        True,
        False,
        fractions.Fraction(1, 1000),
        decimal.Decimal("0.001"),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}",
)
def test_a_tiny_or_negative_timeout_is_a_short_wait(lock: mpbakery.Lock, timeout: Any) -> None:
    lock.acquire()
    start = time.monotonic()
    assert lock.acquire(True, timeout) is False
    assert time.monotonic() - start < 6
    lock.release()
    assert lock.acquire(True, timeout) is True


@pytest.mark.parametrize("slots", [0, -1, -(10**30), 65537, 10**9, 2**64])
def test_slots_out_of_range(slots: int, fork: BaseContext) -> None:
    with pytest.raises(ValueError, match=re.escape(f"slots is {slots}") + ".*from 1 to 65536"):
        mpbakery.Lock(slots=slots, ctx=fork)


@pytest.mark.parametrize("slots", ["8", 8.0, None, math.nan, [8], b"8"], ids=repr)
def test_slots_that_are_no_whole_number(slots: Any, fork: BaseContext) -> None:
    with pytest.raises(TypeError, match=r"slots is .*whole number"):
        mpbakery.Lock(slots=slots, ctx=fork)


@pytest.mark.parametrize("slots", [1, 2, 65536])
def test_slots_at_the_edges_of_the_range(slots: int, fork: BaseContext) -> None:
    lock = mpbakery.Lock(slots=slots, ctx=fork)
    with lock:
        assert lock.acquire(False) is False
    assert lock.statistics().slots == slots


def test_slots_are_given_by_name_only() -> None:
    with pytest.raises(TypeError):
        mpbakery.Lock(8)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["n" * 65, "ü" * 33, "世" * 22])
def test_a_name_that_is_too_long(name: str, fork: BaseContext) -> None:
    with pytest.raises(ValueError, match="at most 64 bytes"):
        mpbakery.Lock(name=name, ctx=fork)


@pytest.mark.parametrize("name", [5, b"ledger", ["ledger"], True], ids=repr)
def test_a_name_that_is_no_string(name: Any, fork: BaseContext) -> None:
    with pytest.raises(TypeError, match=r"name is .*string"):
        mpbakery.Lock(name=name, ctx=fork)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "tail\0", "x\udcffy"], ids=ascii)
def test_an_odd_name_is_refused_or_kept(name: str, fork: BaseContext) -> None:
    """A name that UTF-8 or zero padding cannot carry must not come back as another one without a word."""
    try:
        kept = mpbakery.Lock(name=name, ctx=fork).name
    except ValueError as error:
        kept = "refused" if "name is" in str(error) else str(error)
    assert kept in {name, "refused"}


@pytest.mark.parametrize(
    "context", ["fork", 1, object(), multiprocessing.Lock], ids=lambda value: type(value).__name__ + str(value)[:4]
)
def test_a_context_that_is_none(context: Any) -> None:
    with pytest.raises(TypeError, match=r"ctx is .*get_context"):
        mpbakery.Lock(ctx=context)


def test_register_refuses_what_is_no_lock(lock: mpbakery.Lock, fork: BaseContext) -> None:
    reference: Any = fork.Lock()
    wrong: Any
    for wrong in (reference, None, "lock", [lock]):
        with pytest.raises(TypeError, match=r"cannot register .*mpbakery locks"):
            mpbakery.register(lock, wrong)
    assert lock.statistics().slots_in_use == 0, "nothing is claimed when an argument is wrong"


def test_a_lock_cannot_be_copied_into_two(lock: mpbakery.Lock) -> None:
    assert copy.copy(lock) is lock
    assert copy.deepcopy(lock) is lock


# --- Errors, names, types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        mpbakery.SlotsExhausted("places", 16, 65536, "Semaphore"),
        mpbakery.UnknownLockError("ledger", "c0ffee"),
        mpbakery.ForeignNamespaceError("ledger", 4026531836, 4026532000),
        mpbakery.ClaimFileLostError("ledger", 5),
        mpbakery.ClaimsRefusedError("ledger", 13),
        mpbakery.SharingError("lock ledger cannot follow"),
        mpbakery.OwnerDiedWarning("ledger", 4711, 4712, "anna", 1.25),
        mpbakery.MpbakeryError("something"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_with_their_fields(error: Exception) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (mpbakery.SlotsExhausted("go", 16, 65536, "Event"), ["16 slots of Event go", "Event(slots=64)"]),
        (mpbakery.UnknownLockError("ledger", "c0ffee"), ["ledger", "c0ffee", "mpbakery.register", "initargs"]),
        (mpbakery.ForeignNamespaceError("ledger", 123, 456), ["ledger", "123", "456", "inside that namespace"]),
        (mpbakery.ClaimFileLostError("ledger", 5), ["descriptor 5", "ledger", "fileno()"]),
        (mpbakery.ClaimsRefusedError("ledger", 13), ["lockf()", "errno 13", "Permission denied", "ledger", "F_SETLK"]),
        (mpbakery.OwnerDiedWarning("ledger", 4711, 4712, "anna", 1.25), ["4711", "anna", "ledger", "1.250 s"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_name_what_happened_and_the_remedy(error: Exception, words: list[str]) -> None:
    assert [word for word in words if word not in str(error)] == []


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"])
def test_errors_name_the_class_that_the_remedy_is_for(kind: str, fork: BaseContext) -> None:
    parties = (1,) if kind == "Barrier" else ()
    shared = getattr(mpbakery, kind)(*parties, slots=1, name="mine", ctx=fork)
    if kind not in {"Condition", "Event"}:  # a thread has a slot of these only while it waits
        mpbakery.register(shared)
        with pytest.raises(mpbakery.SlotsExhausted, match=rf"slots of {kind} mine .*as in {kind}\(slots="):
            in_thread(lambda: mpbakery.register(shared))


def test_the_most_slots_are_not_asked_to_be_exceeded() -> None:
    for slots in (16384, 20000, 65535, 65536):
        asked = re.search(r"slots=(\d+)", str(mpbakery.SlotsExhausted("ledger", slots, 65536)))
        assert asked is None or slots < int(asked[1]) <= 65536, "the remedy would be refused"


def test_the_kinds_of_errors() -> None:
    errors = [mpbakery.SlotsExhausted, mpbakery.UnknownLockError, mpbakery.ForeignNamespaceError]
    errors += [mpbakery.ClaimFileLostError, mpbakery.ClaimsRefusedError, mpbakery.SharingError]
    assert all(issubclass(error, mpbakery.MpbakeryError) for error in errors)
    assert issubclass(mpbakery.MpbakeryError, RuntimeError)
    assert issubclass(mpbakery.OwnerDiedWarning, RuntimeWarning)


@pytest.mark.parametrize("name", mpbakery.__all__)
def test_all_that_is_public_is_documented(name: str) -> None:
    """And not by what Python says of the kind of thing that it is made of."""
    public = getattr(mpbakery, name)
    found = [public]
    if inspect.isclass(public):
        ours = [kind for kind in public.__mro__ if kind.__module__.startswith("mpbakery")]
        names = {key for kind in ours for key in vars(kind) if not key.startswith("_")}
        members = [inspect.getattr_static(public, key) for key in names]
        found += [member for member in members if callable(member) or isinstance(member, property)]
    for each in found:
        assert not isinstance(each, OfThread) or "__doc__" in vars(each), f"{name}: {each}"
        assert inspect.getdoc(each), f"{name}: {each}"
        assert inspect.getdoc(each) not in map(inspect.getdoc, (type(each), operator.attrgetter)), f"{name}: {each}"


def test_all_names_are_there_and_no_others() -> None:
    public = {
        name for name in dir(mpbakery) if not name.startswith("_") and not inspect.ismodule(getattr(mpbakery, name))
    }
    assert public - {"annotations"} == set(mpbakery.__all__)
    assert sorted(mpbakery.__all__) == mpbakery.__all__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", mpbakery.__version__)


def test_the_package_says_that_it_is_typed() -> None:
    assert os.path.exists(os.path.join(os.path.dirname(mpbakery.__file__), "py.typed"))


def test_importing_is_light_and_free_locks_need_no_ctypes() -> None:
    """ctypes is not to be had everywhere, and is only for those who wait."""
    script = (
        "import sys, mpbakery\n"
        "with mpbakery.Lock():\n"
        "    pass\n"
        "print('ctypes' in sys.modules, 'asyncio' in sys.modules, 'typing_extensions' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert output.stdout.split() == ["False", "False", "False"]


def test_a_wait_in_the_middle_of_the_first_waits_import() -> None:
    """As of a signal handler, which may come while ctypes is half imported.

    The outer wait is long enough to park: on a busy machine a short one is over before, and imports nothing.
    """
    script = (
        "import sys, mpbakery\n"
        "lock = mpbakery.Lock()\n"
        "class Interruption:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == '_ctypes':\n"
        "            print('inner', lock.acquire(True, 0.01))\n"
        "sys.meta_path.insert(0, Interruption())\n"
        "lock.acquire()\n"
        "print('outer', lock.acquire(True, 2), 'ctypes' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (output.returncode, output.stderr) == (0, "")
    assert output.stdout.splitlines() == ["inner False", "outer False True"]


def test_windows_is_told_at_import() -> None:
    script = "import sys\nsys.platform = 'win32'\nimport mpbakery"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert output.returncode == 1
    assert "ImportError: mpbakery needs a POSIX system" in output.stderr
