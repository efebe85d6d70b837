"""Misuse of the lock beyond one machine, and traps of its server: each has a clear error, or none of its effects."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.children import wait_for_line
from cluster.postgres import Server, free_port, need, running
from cluster.relays import pgbouncer, relay
from mpbakery import cluster
from support import scripts
from support.workers import Crew, Puppet, in_thread, wait_until

pytest_plugins = ["cluster.fixtures"]

Make = Callable[[], cluster.Lock]


@contextlib.contextmanager
def refusal(*words: str) -> Iterator[None]:
    """What is done in the block raises a ServerError with all these words, and never a password."""
    with pytest.raises(cluster.ServerError) as caught:
        yield
    text = str(caught.value)
    assert not [word for word in words if not re.search(word, text)], text
    assert "\n" not in text
    assert "secret" not in text


@pytest.fixture
def stranger(server: Server) -> Iterator[str]:
    """The URL of a role that may do nothing but connect, in a database of its own."""
    server.sql("CREATE ROLE stranger LOGIN PASSWORD 'right'; ", "postgres")
    server.sql("CREATE DATABASE strange", "postgres")
    yield server.url("strange", "stranger", "right")
    server.sql("DROP DATABASE strange WITH (FORCE)", "postgres")
    server.sql("DROP ROLE stranger", "postgres")


class TestNoConnection:
    def test_no_server(self) -> None:
        port = free_port()
        with refusal(f"127.0.0.1:{port}, database locks", "refused", "is PostgreSQL running there"):
            cluster.Lock(f"postgresql://me:secret@127.0.0.1:{port}/locks", "x").acquire(False)

    def test_no_server_at_a_socket(self, tmp_path: Path) -> None:
        with refusal(str(tmp_path), "No such file", "is PostgreSQL running there"):
            cluster.Lock(f"postgresql:///locks?host={tmp_path}", "x").acquire()

    @pytest.mark.serial
    def test_no_answer(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/locks?connect_timeout=2"
            start = time.monotonic()
            with refusal("timeout", "firewall"):
                cluster.Lock(url, "x").acquire()
            assert time.monotonic() - start < 10

    def test_wrong_password(self, stranger: str) -> None:
        with refusal("password authentication failed", "PGPASSWORD"):
            cluster.Lock(stranger.replace("right", "secret"), "x").acquire()

    def test_no_password(self, stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGPASSFILE", "/nowhere")
        with refusal("password", "PGPASSWORD"):
            cluster.Lock(stranger.replace(":right", ""), "x").acquire()

    def test_no_such_role(self, server: Server) -> None:
        with refusal("role .nobody. does not exist", "CREATE ROLE"):
            cluster.Lock(server.url(user="nobody"), "x").acquire()

    def test_no_such_database(self, server: Server) -> None:
        with refusal("database .nowhere. does not exist", "CREATE DATABASE"):
            cluster.Lock(server.url("nowhere"), "x").acquire()

    def test_all_connections_taken(self) -> None:
        with running(max_connections="8", superuser_reserved_connections="2", max_wal_senders="0") as small:
            small.sql("CREATE ROLE worker LOGIN; ALTER DATABASE locks OWNER TO worker", "postgres")
            locks = [cluster.Lock(small.url(user="worker"), f"lock {number}") for number in range(12)]
            taken = 0
            with refusal("too many|connection slots", "it takes 8", "raise max_connections"):
                for lock in locks:
                    # each in a thread of its own, and so with a connection of its own
                    in_thread(lock.acquire)
                    taken += 1
            assert 5 <= taken <= 6
            for lock in locks[:taken]:
                lock.release()
            assert locks[-1].acquire(False)
            locks[-1].release()

    def test_the_lock_can_be_used_once_the_server_is_there(self, own_server: Server) -> None:
        lock = cluster.Lock(own_server.url(), "x")
        own_server.stop()
        with refusal("refused"):
            lock.acquire()
        own_server.start()
        with lock:
            pass


class TestWrongServer:
    def test_too_old(self, server: Server) -> None:
        version = re.search(r"[\d.]+", server.sql("SHOW server_version"))
        assert version
        old = b"9" + b".9" * 9
        change = lambda data: data.replace(version[0].encode(), old[: len(version[0])])  # noqa: E731
        with relay(server, change) as port, refusal(r"PostgreSQL \d: a lock needs 14 or later"):
            cluster.Lock(f"postgresql://postgres@127.0.0.1:{port}/locks", "x").acquire()

    def test_a_pooler_of_any_kind(self, server: Server) -> None:
        def change(data: bytes) -> bytes:
            # BackendKeyData: a pooler makes up the number of the backend
            place = data.find(b"K\0\0\0\x0c")
            return data if place < 0 else data[: place + 5] + struct.pack("!i", 4711) + data[place + 9 :]

        with relay(server, change) as port, refusal("connection pooler", "connect to the server itself"):
            cluster.Lock(f"postgresql://postgres@127.0.0.1:{port}/locks", "x").acquire()

    def test_a_relay_that_changes_nothing_is_fine(self, server: Server) -> None:
        with relay(server, bytes) as port:
            lock = cluster.Lock(f"postgresql://postgres@127.0.0.1:{port}/locks", "relayed")
            with lock:
                assert cluster.Lock(server.url(), "relayed").acquire(False) is False

    @pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
    def test_pgbouncer(self, server: Server, mode: str) -> None:
        need(shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin"), "pgbouncer")
        with tempfile.TemporaryDirectory() as folder, pgbouncer(server, Path(folder), mode) as port:
            lock = cluster.Lock(f"postgresql://postgres@127.0.0.1:{port}/locks", "x")
            with refusal("PgBouncer", "connect to the server itself"):
                lock.acquire()

    def test_a_standby(self, own_server: Server) -> None:
        follower = own_server.follower()
        try:
            follower.start()
            with refusal("is a standby", "target_session_attrs=read-write"):
                cluster.Lock(follower.url(), "x").acquire()
        finally:
            follower.close()


class TestRights:
    def test_none_to_make_the_table(self, stranger: str) -> None:
        with refusal(
            "no right to make the table mpbakery.locks", "python3 -m mpbakery cluster", "GRANT SELECT, INSERT"
        ):
            cluster.Lock(stranger, "x").acquire()
        with refusal("no right to make the table"):
            cluster.Lock(stranger, "x").acquire(timeout=1)

    def test_those_that_the_error_names_are_enough(self, server: Server, stranger: str) -> None:
        with cluster.Lock(server.url("strange"), "x"):
            pass
        with refusal("permission denied"):
            cluster.Lock(stranger, "x").acquire()
        server.sql(
            "GRANT USAGE ON SCHEMA mpbakery TO stranger;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON mpbakery.locks TO stranger",
            "strange",
        )
        lock = cluster.Lock(stranger, "x")
        with lock:
            owner = cluster.Lock(server.url("strange"), "x").owner
            assert owner is not None
            assert owner.pid == os.getpid()
        with cluster.Lock(stranger, "another"):
            pass
        out = scripts.run("-m", "mpbakery", "cluster", stranger)
        assert "2 locks that nobody holds" in out

    def test_taken_away_in_the_meantime(self, server: Server, stranger: str, crew: Crew) -> None:
        outer, lock = cluster.Lock(stranger, "outer"), cluster.Lock(stranger, "x")
        server.sql("ALTER DATABASE strange OWNER TO stranger", "postgres")
        other = Puppet(crew, lock)
        outer.acquire()
        with pytest.raises(cluster.ServerError, match="is released, but"), lock:
            server.sql("ALTER TABLE mpbakery.locks OWNER TO postgres", "strange")
        assert not cluster.Lock(server.url("strange"), "x").locked()
        server.sql("ALTER TABLE mpbakery.locks OWNER TO stranger", "strange")
        # through the same session, which goes on
        assert not outer.lost
        outer.release()
        assert other("acquire")
        assert len(other.warnings) == 1


class TestSettings:
    @pytest.mark.serial
    def test_of_a_role_do_not_reach_the_lock(self, server: Server, crew: Crew) -> None:
        """A statement_timeout looks like a lock that was not to be had, and others end the session that holds it."""
        server.sql("CREATE ROLE hasty LOGIN; GRANT ALL ON DATABASE locks TO hasty", "postgres")
        for setting in (
            "statement_timeout = 50",
            "lock_timeout = 50",
            "idle_session_timeout = 200",
            "idle_in_transaction_session_timeout = 50",
            "default_transaction_read_only = on",
            "default_transaction_isolation = serializable",
            "synchronous_commit = off",
            "search_path = nowhere",
            "standard_conforming_strings = off",
            *(["transaction_timeout = 50"] if server.version() >= 17 else []),
        ):
            server.sql(f"ALTER ROLE hasty SET {setting}", "postgres")
        with cluster.Lock(server.url(), "make the table"):
            pass
        server.sql("GRANT ALL ON SCHEMA mpbakery TO hasty; GRANT ALL ON mpbakery.locks TO hasty")
        lock = cluster.Lock(server.url(user="hasty"), "x' \\")
        other = Puppet(crew, lock)
        with lock:
            other.begin("acquire")
            time.sleep(0.7)
            assert not lock.lost
            assert not other.has_answered()
        assert other.end() is True
        time.sleep(0.4)
        other("release")

    def test_a_database_that_others_use_is_warned_of_once(self, server: Server) -> None:
        server.sql("CREATE DATABASE shared", "postgres")
        try:
            server.sql("CREATE TABLE customers (name text)", "shared")
            with pytest.warns(RuntimeWarning, match=r"VACUUM .* a database of their own"):
                cluster.Lock(server.url("shared"), "x").acquire()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                cluster.Lock(server.url("shared"), "x").release()
                with cluster.Lock(server.url("shared"), "x"):
                    pass
        finally:
            server.sql("DROP DATABASE shared WITH (FORCE)", "postgres")

    def test_a_wait_does_hold_back_vacuum(self, server: Server, lock: cluster.Lock, crew: Crew) -> None:
        """That is why: if it did not any more, the warning could go."""
        horizon = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND wait_event = 'advisory'"
        with lock:
            other = Puppet(crew, lock)
            other.begin("acquire")
            wait_for_line(lock, 1)
            assert server.sql(horizon) == "1"
        other.end()

    @pytest.mark.serial
    def test_a_wait_does_not_slow_down_other_locks(self, make: Make, crew: Crew) -> None:
        """What it keeps from being cleaned up is not looked through."""
        held, busy = make(), make()

        def median() -> float:
            times = []
            for _ in range(400):
                start = time.perf_counter()
                busy.acquire()
                busy.release()
                times.append(time.perf_counter() - start)
            return statistics.median(times)

        first = median()
        with held:
            other = Puppet(crew, held)
            other.begin("acquire")
            wait_for_line(held, 1)
            for _ in range(10):
                median()
            assert median() < 3 * first
        other.end()

    def test_two_names_with_one_key(self, server: Server, lock: cluster.Lock) -> None:
        with lock:
            pass
        server.sql(f"UPDATE mpbakery.locks SET name = 'another' WHERE key = {lock._key}")
        with refusal("the same key as lock 'another'", "give it another name"):
            lock.acquire()
        assert server.sql(f"SELECT count(*) FROM pg_locks WHERE objid = {lock._key & 0xFFFFFFFF}") == "0"

    def test_names_that_differ_little_have_keys_that_differ(self) -> None:
        names = [f"job-{number}" for number in range(100_000)]
        assert len({cluster._protocol.key_of(name) for name in names}) == len(names)


class TestSessionsThatEnd:
    def end(self, server: Server, of: str) -> None:
        server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of}")

    def test_that_of_a_holder(self, server: Server, lock: cluster.Lock) -> None:
        lock.acquire()
        token = lock.token
        self.end(server, f"application_name LIKE 'mpbakery {os.getpid()} %'")
        wait_until(lambda: lock.lost, "lost")
        with pytest.raises(cluster.LockLost) as caught:
            lock.release()
        assert (caught.value.lock, caught.value.token) == (lock.name, token)
        assert not lock.lost
        with pytest.warns(cluster.OwnerDiedWarning):
            lock.acquire()
        assert lock.token > token
        lock.release()

    def test_that_of_a_holder_who_does_not_look(self, server: Server, lock: cluster.Lock) -> None:
        with pytest.raises(cluster.LockLost), lock:
            self.end(server, f"application_name LIKE 'mpbakery {os.getpid()} %'")

    def test_what_the_block_raises_comes_first(self, server: Server, lock: cluster.Lock) -> None:
        def lose_and_fail() -> None:
            with lock:
                self.end(server, f"application_name LIKE 'mpbakery {os.getpid()} %'")
                raise KeyError

        with pytest.raises(KeyError):
            lose_and_fail()

    def test_one_thread_does_not_release_what_another_has_got_since(self, server: Server, lock: cluster.Lock) -> None:
        lock.acquire()
        self.end(server, f"application_name LIKE 'mpbakery {os.getpid()} %'")
        wait_until(lambda: lock.lost, "lost")
        with pytest.warns(cluster.OwnerDiedWarning):
            in_thread(lock.acquire)
        assert lock.lost
        with pytest.raises(cluster.LockLost):
            lock.release()
        assert lock.locked()
        lock.release()  # the other thread's
        assert not lock.locked()

    def test_that_of_a_waiter(self, server: Server, lock: cluster.Lock, crew: Crew) -> None:
        puppet = Puppet(crew, lock)
        with lock:
            puppet.begin("acquire")
            wait_for_line(lock, 1)
            self.end(server, f"application_name LIKE 'mpbakery {puppet.pid} %'")
            with pytest.raises(cluster.ServerError, match=r"ended while .* not held; try again"):
                puppet.end()
        assert puppet("acquire") is True

    def test_a_wait_that_an_administrator_cancels(self, server: Server, lock: cluster.Lock, crew: Crew) -> None:
        puppet = Puppet(crew, lock)
        with lock:
            puppet.begin("acquire")
            wait_for_line(lock, 1)
            whose = f"application_name LIKE 'mpbakery {puppet.pid} %'"
            server.sql(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {whose}")
            with pytest.raises(cluster.ServerError, match="canceling statement"):
                puppet.end()
        assert puppet("acquire") is True

    def test_an_idle_one_is_replaced_unseen(self, server: Server, lock: cluster.Lock) -> None:
        with lock:
            pass
        self.end(server, f"application_name LIKE 'mpbakery {os.getpid()} %'")
        with lock:
            assert lock.recovered_from is None

    @pytest.mark.serial
    def test_an_idle_one_that_is_gone_without_a_word(self, own_server: Server) -> None:
        lock = cluster.Lock(own_server.url(), "x")
        with lock:
            pass
        time.sleep(1.1)
        os.kill(own_server.pid, signal.SIGSTOP)  # nobody new is let in, but this is not what is asked
        (session,) = lock._sessions().idle
        backend = session._pg.backend_pid
        os.kill(own_server.pid, signal.SIGCONT)
        os.kill(backend, signal.SIGTERM)
        with lock:
            assert lock._sessions().busy[0] is not session


class TestDeadlock:
    def test_between_processes(self, crew: Crew, make: Make) -> None:
        a, b = make(), make()
        both = Puppet(crew, Both(a, b)), Puppet(crew, Both(b, a))
        for puppet in both:
            assert puppet("first")
        for puppet in both:
            puppet.begin("second")
        wait_until(lambda: any(puppet.has_answered() for puppet in both), "an end of the deadlock")
        told, other = sorted(both, key=lambda puppet: not puppet.has_answered())
        with pytest.raises(cluster.DeadlockError):
            told.end()
        assert not other.has_answered()
        assert told("first_is_lost") is False
        told("give_back")
        assert other.end() is True

    def test_a_cycle_of_threads_that_gave_up_in_time_is_none(self, make: Make) -> None:
        a, b = make(), make()
        barrier = threading.Barrier(2)
        got: list[bool] = []

        def work(first: cluster.Lock, second: cluster.Lock) -> None:
            with first:
                barrier.wait(30)
                got.append(second.acquire(timeout=0.1))
                barrier.wait(30)

        threads = [threading.Thread(target=work, args=order) for order in ((a, b), (b, a))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert got == [False, False]
        assert not a.locked()


class Both:
    """Two locks in a row."""

    def __init__(self, one: cluster.Lock, two: cluster.Lock) -> None:
        self.one = one
        self.two = two

    def first(self) -> bool:
        return self.one.acquire()

    def second(self) -> bool:
        return self.two.acquire()

    def first_is_lost(self) -> bool:
        return self.one.lost

    def give_back(self) -> None:
        self.one.release()
