"""The interface of the lock beyond one machine: what it promises where nothing goes wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import mpbakery
from cluster.children import wait_for_line
from cluster.postgres import Server
from mpbakery import cluster
from mpbakery.cluster._session import Session, run
from support.workers import Crew, Puppet, in_thread, in_threads, wait_until

pytest_plugins = ["cluster.fixtures"]

Make = Callable[[], cluster.Lock]


class TestAcquire:
    @pytest.mark.parametrize(
        "arguments", [(), (True,), (False,), (True, 1.0), (True, 0), (True, -1), (False, 5)], ids=str
    )
    def test_a_free_lock(self, lock: cluster.Lock, arguments: tuple[Any, ...]) -> None:
        assert lock.acquire(*arguments) is True
        assert lock.locked()
        lock.release()
        assert not lock.locked()

    @pytest.mark.parametrize("arguments", [(False,), (True, 0), (True, -1), (False, 5)], ids=str)
    def test_a_held_lock_at_once(self, crew: Crew, lock: cluster.Lock, arguments: tuple[Any, ...]) -> None:
        assert Puppet(crew, lock)("acquire")
        start = time.monotonic()
        assert lock.acquire(*arguments) is False
        assert time.monotonic() - start < 1.0

    @pytest.mark.serial
    @pytest.mark.parametrize("tries", range(5))
    def test_a_held_lock_in_time(self, crew: Crew, lock: cluster.Lock, tries: int) -> None:
        assert Puppet(crew, lock)("acquire")
        lock.acquire(False)  # connects
        start = time.monotonic()
        assert lock.acquire(timeout=0.2) is False
        assert 0.2 <= time.monotonic() - start < 0.4

    def test_blocking_is_another_name(self, crew: Crew, lock: cluster.Lock) -> None:
        assert Puppet(crew, lock)("acquire")
        assert lock.acquire(blocking=False) is False

    @pytest.mark.parametrize("timeout", ["1", b"1", [], float("nan")], ids=repr)
    def test_what_is_no_time(self, lock: cluster.Lock, timeout: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="timeout is"):
            lock.acquire(timeout=timeout)
        assert not lock.locked()

    def test_a_huge_timeout(self, lock: cluster.Lock) -> None:
        assert lock.acquire(timeout=1e300)
        lock.release()
        assert lock.acquire(timeout=1e8)
        lock.release()

    def test_with_gives_what_acquire_returns(self, lock: cluster.Lock) -> None:
        with lock as value:
            assert value is True

    def test_an_exception_passes_through(self, lock: cluster.Lock) -> None:
        with pytest.raises(KeyError), lock:
            raise KeyError
        assert not lock.locked()

    def test_in_an_exit_stack(self, lock: cluster.Lock) -> None:
        with contextlib.ExitStack() as stack:
            assert stack.enter_context(lock) is True
            assert lock.locked()
        assert not lock.locked()

    def test_not_recursive(self, lock: cluster.Lock) -> None:
        with lock:
            assert lock.acquire(False) is False
            assert lock.acquire(timeout=0.05) is False
            assert lock.locked()
            with pytest.raises(cluster.DeadlockError, match="this thread or task itself"):
                lock.acquire()
            assert lock.locked()
        assert not lock.locked()

    def test_first_come_first_served(self, crew: Crew, lock: cluster.Lock) -> None:
        puppets = [Puppet(crew, lock) for _ in range(5)]
        lock.acquire()
        for number, puppet in enumerate(puppets, 1):
            puppet.begin("acquire")
            wait_for_line(lock, number)
        assert [waiting.pid for waiting in lock.statistics().waiters] == [puppet.pid for puppet in puppets]
        lock.release()
        for place, puppet in enumerate(puppets):
            assert puppet.end() is True
            assert not any(other.has_answered() for other in puppets[place + 1 :])
            puppet("release")


class TestRelease:
    def test_of_a_lock_that_is_not_held(self, lock: cluster.Lock) -> None:
        with pytest.raises(ValueError, match="does not hold"):
            lock.release()
        with lock:
            pass
        with pytest.raises(ValueError, match="released twice"):
            lock.release()

    def test_of_what_another_process_holds(self, crew: Crew, lock: cluster.Lock) -> None:
        assert Puppet(crew, lock)("acquire")
        with pytest.raises(ValueError, match="another process"):
            lock.release()
        assert lock.locked()

    def test_by_another_thread(self, lock: cluster.Lock) -> None:
        in_thread(lock.acquire)
        assert lock.locked()
        lock.release()
        assert not lock.locked()

    def test_by_another_object(self, lock: cluster.Lock) -> None:
        other = pickle.loads(pickle.dumps(lock))
        with lock:
            assert other.token == lock.token
            other.release()
            lock.acquire()

    def test_by_another_thread_while_its_own_waits_for_another_lock(self, crew: Crew, make: Make) -> None:
        held, wanted = make(), make()
        puppet = Puppet(crew, wanted)
        assert puppet("acquire")

        def hold_and_wait() -> None:
            with held, wanted:
                pass

        thread = threading.Thread(target=hold_and_wait, daemon=True)
        thread.start()
        wait_for_line(wanted, 1)
        with pytest.raises(mpbakery.NotOwnedError, match="waiting for another lock"):
            held.release()
        assert held.locked()
        puppet("release")
        thread.join(30)
        assert not held.locked()


class TestThreads:
    def test_exclude_each_other(self, make: Make) -> None:
        lock, inside, most = make(), 0, 0

        def work() -> None:
            nonlocal inside, most
            for _ in range(50):
                with lock:
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1

        in_threads([work] * 6)
        assert most == 1
        assert lock.statistics().acquisitions == 300

    def test_a_thread_sees_what_another_one_holds(self, lock: cluster.Lock) -> None:
        with lock:
            assert in_thread(lambda: (lock.token, lock.lost)) == (lock.token, False)

    def test_sessions_are_used_again(self, server: Server, lock: cluster.Lock) -> None:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'locks' AND pid <> pg_backend_pid()"
        with lock:
            before = int(server.sql(count))
        for _ in range(20):
            in_thread(lambda: use(lock))
        assert int(server.sql(count)) <= before + 1

    def test_idle_sessions_are_few(self, server: Server, lock: cluster.Lock) -> None:
        in_threads([lambda: use(lock)] * 12)
        mine = f"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mpbakery {os.getpid()} %'"
        wait_until(lambda: int(server.sql(mine)) <= 4, "no more idle sessions than are kept")

    def test_a_session_that_holds_nothing_ends_by_itself_and_one_that_holds_does_not(self, lock: cluster.Lock) -> None:
        lock.acquire()
        session = _session_of(lock)
        assert _ask(session, "SHOW idle_session_timeout") == "0"
        lock.release()
        assert _ask(session, "SHOW idle_session_timeout") == "1min"
        assert lock.acquire(False)
        assert _session_of(lock) is session
        assert _ask(session, "SHOW idle_session_timeout") == "0"
        lock.release()


def use(lock: cluster.Lock) -> None:
    with lock:
        pass


def _session_of(lock: cluster.Lock) -> Session:
    attempt = lock._find()
    assert attempt is not None
    assert attempt.session is not None
    return attempt.session


def _ask(session: Session, command: str) -> str:
    ((answer,),) = run(session.ask(command))
    return str(answer)


class TestTold:
    def test_owner(self, crew: Crew, lock: cluster.Lock) -> None:
        assert lock.owner is None
        before = time.monotonic()
        puppet = Puppet(crew, lock, name="the holder")
        puppet("acquire")
        owner = lock.owner
        assert owner is not None
        assert isinstance(owner, mpbakery.Owner)
        assert (owner.pid, owner.process) == (puppet.pid, "the holder")
        assert owner.host == os.uname().nodename[:20]
        assert before - 1 < owner.since < time.monotonic() + 1
        puppet("release")
        assert lock.owner is None

    def test_owner_is_the_thread(self, lock: cluster.Lock) -> None:
        thread = in_thread(lambda: lock.acquire() and threading.get_native_id())
        owner = lock.owner
        assert owner is not None
        assert owner.thread == thread
        lock.release()

    def test_a_long_and_strange_name_of_a_process(self, crew: Crew, lock: cluster.Lock) -> None:
        puppet = Puppet(crew, lock, name="Prozeß \n ' % " + "x" * 200)
        puppet("acquire")
        owner = lock.owner
        assert owner is not None
        assert owner.pid == puppet.pid
        assert owner.process.startswith("Proze? ? ' % x")

    def test_statistics(self, crew: Crew, lock: cluster.Lock) -> None:
        assert lock.statistics() == cluster.Statistics(None, (), 0, 0)
        with lock:
            puppet = Puppet(crew, lock, name="the waiter")
            puppet.begin("acquire")
            wait_for_line(lock, 1)
            now = lock.statistics()
            (waiting,) = now.waiters
            assert isinstance(waiting, mpbakery.Waiting)
            assert (waiting.pid, waiting.process) == (puppet.pid, "the waiter")
            assert 0 <= waiting.seconds < 30
            assert now.owner is not None
            assert now.owner.pid == os.getpid()
        assert puppet.end()
        puppet("release")
        assert lock.statistics() == cluster.Statistics(None, (), 2, 0)

    def test_what_it_tells_is_frozen(self, lock: cluster.Lock) -> None:
        with lock:
            owner = lock.owner
        assert owner is not None
        with pytest.raises(dataclasses.FrozenInstanceError):
            owner.pid = 1  # type: ignore[misc]

    def test_repr_asks_nobody_and_tells_no_password(self) -> None:
        lock = cluster.Lock("postgresql://me:secret@nowhere.invalid:1234/base", "ledger")
        assert repr(lock) == "<Lock('ledger' at nowhere.invalid:1234, database base, not held here)>"
        assert not lock.lost
        assert lock.recovered_from is None
        assert lock.name == "ledger"

    def test_repr_while_held(self, lock: cluster.Lock) -> None:
        with lock:
            assert repr(lock).endswith(f", token {lock.token})>")


class TestToken:
    def test_grows_with_every_acquisition_by_whomever(self, crew: Crew, lock: cluster.Lock) -> None:
        puppets = [Puppet(crew, lock) for _ in range(3)]
        tokens = []
        for puppet in puppets * 3:
            puppet("acquire")
            tokens.append(puppet("token"))
            puppet("release")
            with lock:
                tokens.append(lock.token)
        assert tokens == sorted(set(tokens))

    def test_is_not_there_without_the_lock(self, crew: Crew, lock: cluster.Lock) -> None:
        with pytest.raises(mpbakery.NotOwnedError, match="acquire it first"):
            _ = lock.token
        Puppet(crew, lock)("acquire")
        with pytest.raises(mpbakery.NotOwnedError):
            _ = lock.token


class TestTravel:
    def test_every_start_method(self, ctx_crew: Crew, lock: cluster.Lock) -> None:
        puppet = Puppet(ctx_crew, lock)
        assert puppet("acquire")
        assert lock.acquire(False) is False
        puppet("release")
        assert lock.acquire(timeout=5)
        assert puppet("acquire", False) is False
        lock.release()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickles(self, server: Server, protocol: int) -> None:
        lock = cluster.Lock(server.url(), "pickled", lost_after=12)
        other = pickle.loads(pickle.dumps(lock, protocol))
        assert type(other) is cluster.Lock
        with lock:
            assert other.acquire(False) is False
        twin = pickle.loads(pickle.dumps(cluster.AsyncLock(server.url(), "pickled"), protocol))
        assert type(twin) is cluster.AsyncLock

    @pytest.mark.parametrize(
        "error",
        [
            cluster.LockLost("ledger", 7),
            cluster.DeadlockError("ledger"),
            cluster.ServerError("what happened"),
            cluster.OwnerDiedWarning("ledger", 1, 2, "worker", 0.5, "node7"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_errors_survive_pickling(self, error: Exception) -> None:
        other = pickle.loads(pickle.dumps(error))
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
        assert type(error).__module__ == "mpbakery.cluster"
        assert isinstance(error, (mpbakery.MpbakeryError, mpbakery.OwnerDiedWarning))


class TestArguments:
    @pytest.mark.parametrize(
        ("url", "error"),
        [
            (None, TypeError),
            (b"postgresql://x", TypeError),
            ("mysql://host/base", ValueError),
            ("postgresql://u:secret@[half", ValueError),
            ("host=x nonsense=secret", ValueError),
        ],
        ids=repr,
    )
    def test_a_url_that_is_none(self, url: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="url is") as caught:
            cluster.Lock(url, "ledger")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "error"),
        [(None, TypeError), (b"x", TypeError), ("", ValueError), ("x" * 256, ValueError), ("ü" * 128, ValueError),
         ("a\0b", ValueError), ("\ud800", ValueError)],
        ids=lambda it: repr(it)[:10],
    )  # fmt: skip
    def test_a_name_that_is_none(self, name: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="name "):
            cluster.Lock("postgresql://x", name)

    @pytest.mark.parametrize(
        "name", ["x" * 255, "ü" * 127, " ", "a\nb", "'; DROP TABLE x; --", "%s $1", "\\"], ids=repr
    )
    def test_names_that_are_odd(self, server: Server, name: str) -> None:
        lock = cluster.Lock(server.url(), name)
        with lock:
            assert lock.owner is not None
        lock.acquire()
        lock.release()

    @pytest.mark.parametrize(
        ("lost_after", "error"),
        [("30", TypeError), (None, TypeError), (True, TypeError), (5.9, ValueError), (-1, ValueError),
         (float("nan"), ValueError), (float("inf"), ValueError)],
        ids=repr,
    )  # fmt: skip
    def test_seconds_that_are_none(self, lost_after: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="lost_after is"):
            cluster.Lock("postgresql://x", "ledger", lost_after=lost_after)


def test_all_that_is_public_is_documented_and_says_that_it_is_from_here() -> None:
    for name in cluster.__all__:
        public = getattr(cluster, name)
        assert public.__doc__, name
        assert public.__module__ == "mpbakery.cluster", name
        for attribute, member in vars(public).items():
            if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{attribute}"
