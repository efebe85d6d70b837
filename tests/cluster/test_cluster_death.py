"""Who dies, is stopped, forks or is interrupted with the lock beyond one machine."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from cluster.children import (
    acquire_and_end,
    acquire_and_fork,
    be_interrupted,
    fork_while_connecting,
    hold_in_parent_and_child,
    wait_for_line,
)
from cluster.postgres import Server
from conftest import FIGURES
from mpbakery import cluster
from support.workers import Crew, Puppet, expect, in_thread, wait_until

pytest_plugins = ["cluster.fixtures"]

Make = Callable[[], cluster.Lock]


class TestHolder:
    @pytest.mark.serial
    def test_killed_the_next_one_is_in_soon_and_told(
        self, crew: Crew, make: Make, record_property: Callable[[str, object], None]
    ) -> None:
        seconds = []
        for _ in range(20):
            lock = make()
            holder, heir = Puppet(crew, lock, name="the dead"), Puppet(crew, lock)
            holder("acquire")
            before = holder("token")
            heir.begin("acquire")
            wait_for_line(lock, 1)
            killed = time.monotonic()
            os.kill(holder.pid, signal.SIGKILL)
            assert heir.end() is True
            seconds.append(heir.moment - killed)
            (told,) = heir.warnings
            assert isinstance(told, cluster.OwnerDiedWarning)
            assert (told.lock, told.pid, told.process) == (lock.name, holder.pid, "the dead")
            assert told.host == os.uname().nodename[:20]
            dead = heir("recovered_from")
            assert (dead.pid, dead.process) == (holder.pid, "the dead")
            assert heir("token") > before
            assert lock.statistics().recoveries == 1
            heir("release")
            assert heir("recovered_from") is None
            holder.process.join()
        record_property(
            FIGURES,
            f"SIGKILL to next: median {statistics.median(seconds) * 1e3:.1f} ms, most {max(seconds) * 1e3:.1f} ms",
        )
        assert statistics.median(seconds) < 0.05

    def test_killed_before_anybody_waits(self, crew: Crew, lock: cluster.Lock) -> None:
        holder = Puppet(crew, lock)
        holder("acquire")
        holder.kill()
        with pytest.warns(cluster.OwnerDiedWarning, match=f"process {holder.pid} "):
            assert lock.acquire(timeout=5)
        assert lock.recovered_from is not None
        lock.release()
        with lock:
            assert lock.recovered_from is None  # and no warning

    def test_ends_without_a_release(self, crew: Crew, lock: cluster.Lock) -> None:
        crew.start(acquire_and_end, lock)
        crew.finish()
        with pytest.warns(cluster.OwnerDiedWarning):
            assert lock.acquire(timeout=5)
        lock.release()

    def test_the_warning_as_an_error_is_told_again(self, crew: Crew, lock: cluster.Lock) -> None:
        holder, strict = Puppet(crew, lock), Puppet(crew, lock)
        holder("acquire")
        holder.kill()
        wait_until(lambda: not lock.locked(), "the end of the session")
        for _ in range(2):
            with pytest.raises(cluster.OwnerDiedWarning):
                strict("acquire_strictly")
            assert not lock.locked()
        with pytest.warns(cluster.OwnerDiedWarning, match=f"process {holder.pid} "):
            lock.acquire()
        assert lock.statistics().recoveries == 1
        lock.release()

    @pytest.mark.serial
    def test_stopped_is_waited_for(self, crew: Crew, server: Server) -> None:
        lock = cluster.Lock(server.url(), "stopped", lost_after=6)
        holder = Puppet(crew, lock)
        holder("acquire")
        holder.stop()
        assert lock.acquire(timeout=8) is False
        holder.go_on()
        assert holder("lost") is False
        holder("release")
        with lock:  # nobody died
            pass


class TestWaiter:
    def test_killed_is_forgotten_and_nobody_is_told_of_it(self, crew: Crew, lock: cluster.Lock) -> None:
        dead, next_one = Puppet(crew, lock), Puppet(crew, lock)
        lock.acquire()
        dead.begin("acquire")
        wait_for_line(lock, 1)
        next_one.begin("acquire")
        wait_for_line(lock, 2)
        dead.kill()
        wait_for_line(lock, 1)  # while the lock is held: it takes up no connection
        lock.release()
        assert next_one.end() is True
        assert next_one.warnings == []
        assert next_one("token") == lock_token_after(2)

    def test_killed_just_before_its_turn(self, crew: Crew, make: Make) -> None:
        for _ in range(5):
            lock = make()
            dead, next_one = Puppet(crew, lock), Puppet(crew, lock)
            lock.acquire()
            dead.begin("acquire")
            wait_for_line(lock, 1)
            next_one.begin("acquire")
            wait_for_line(lock, 2)
            dead.stop()
            os.kill(dead.pid, signal.SIGKILL)
            lock.release()
            assert next_one.end(5) is True
            assert next_one.warnings == []


def lock_token_after(sessions: int) -> int:
    """The token of a lock that so many sessions have acquired, once each."""
    return sessions << 20


class TestFork:
    """A child has a copy of its parent's socket, and PostgreSQL takes a session for alive as long as anybody has it."""

    def test_the_lock_of_a_dead_parent_is_not_kept_by_its_child(self, crew: Crew, lock: cluster.Lock) -> None:
        ours, theirs = crew.context.Pipe()
        holder = crew.start(acquire_and_fork, theirs, lock)
        child = expect(ours)
        holder.kill()
        holder.join()
        with pytest.warns(cluster.OwnerDiedWarning):
            assert lock.acquire(timeout=3)
        lock.release()
        os.kill(child, 0)  # it is still there
        os.kill(child, signal.SIGKILL)

    def test_a_child_gives_back_nothing_of_its_parents(self, crew: Crew, lock: cluster.Lock) -> None:
        ours, theirs = crew.context.Pipe()
        crew.start(hold_in_parent_and_child, theirs, lock)
        assert expect(ours) == {
            "the child's exit from the block": None,
            "the child's release": "ValueError",
            "held after the child has ended": True,
            "lost": False,
            "the child's own acquire": True,
        }
        crew.finish()

    def test_a_fork_while_another_thread_connects(self, crew: Crew, server: Server) -> None:
        ours, theirs = crew.context.Pipe()
        holder = crew.start(fork_while_connecting, theirs, cluster.Lock(server.url(), "connecting"))
        children = expect(ours)
        lock = cluster.Lock(server.url(), "connecting")
        assert lock.locked()
        holder.kill()
        holder.join()
        with pytest.warns(cluster.OwnerDiedWarning):
            assert lock.acquire(timeout=3)
        lock.release()
        for child in children:
            os.kill(child, signal.SIGKILL)

    def test_a_descriptor_that_was_a_session_s_is_left_alone(self, make: Make) -> None:
        lock = make()
        read, write = os.pipe()
        lock.acquire()
        session = lock._find().session  # type: ignore[union-attr]
        assert session is not None
        session.close()
        os.dup2(write, session._descriptor)
        child = os.fork()
        if child == 0:
            try:
                os.write(session._descriptor, b"!")
            finally:
                os._exit(0)
        os.close(write)
        os.close(session._descriptor)
        assert os.read(read, 1) == b"!"
        os.close(read)
        os.waitpid(child, 0)
        with pytest.raises(cluster.LockLost):
            lock.release()

    def test_a_child_of_a_process_that_has_used_the_lock(self, lock: cluster.Lock, fork: BaseContext) -> None:
        with lock:
            pass
        child = fork.Process(target=acquire_and_end, args=(lock,))  # type: ignore[attr-defined]
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert not lock.lost
        with pytest.warns(cluster.OwnerDiedWarning):
            lock.acquire()
        lock.release()


class TestInterrupts:
    def test_ctrl_c_at_random_moments(self, crew: Crew, make: Make) -> None:
        """The lock is never left held, and nobody is left in line."""
        left = caught = 0
        for number in range(40):
            lock = make()
            ours, theirs = crew.context.Pipe()
            victim = crew.start(be_interrupted, theirs, lock, number % 2 == 1)
            other = Puppet(crew, lock) if number % 2 else None
            if other:
                other("acquire")
            theirs.close()
            assert expect(ours) == "ready"
            time.sleep(random.uniform(0, 0.02))
            os.kill(victim.pid or 0, signal.SIGINT)
            caught += expect(ours)
            wait_for_line(lock, 0)
            if other:
                other("release")
            left += not in_thread(lambda lock=lock: lock.acquire(timeout=5))  # type: ignore[misc]
            lock.release()
            victim.join()
        assert left == 0
        assert caught == 40

    def test_ctrl_c_in_a_wait_leaves_the_outer_lock_held(self, make: Make, crew: Crew) -> None:
        outer, inner = make(), make()
        Puppet(crew, inner)("acquire")
        with outer:
            session = outer._find()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                inner.acquire()
            assert not outer.lost
            assert outer.locked()
            assert outer._find() is session
            wait_for_line(inner, 0)
        assert not outer.locked()

    def test_ctrl_c_in_the_midst_of_the_wait_is_quick(self, make: Make, crew: Crew) -> None:
        lock = make()
        Puppet(crew, lock)("acquire")
        start = time.monotonic()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
        assert time.monotonic() - start < 2
        wait_for_line(lock, 0)

    def test_a_handler_may_use_the_lock_while_it_is_waited_for(self, make: Make, crew: Crew) -> None:
        lock, other = make(), make()
        puppet = Puppet(crew, lock)
        puppet("acquire")
        seen: list[Any] = []

        def handle(*_arguments: object) -> None:
            with other:
                seen.append(lock.acquire(False))
            puppet("release")

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            assert lock.acquire(timeout=10)
            lock.release()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert seen == [False]


class TestDeadlock:
    def test_two_locks_in_opposite_order(self, crew: Crew, make: Make) -> None:
        a, b = make(), make()
        results: list[str] = []
        barrier = threading.Barrier(2)

        def work(first: cluster.Lock, second: cluster.Lock) -> None:
            with first:
                barrier.wait(30)
                try:
                    with second:
                        results.append("both")
                except cluster.DeadlockError as error:
                    results.append(error.lock)
                assert not first.lost

        threads = [threading.Thread(target=work, args=order) for order in ((a, b), (b, a))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert min(results) == "both"
        assert len(results) == 2
        assert {results[0], results[1]} & {a.name, b.name}
        assert not a.locked()
        assert not b.locked()


def test_an_interpreter_that_ends_with_a_lock_held_says_nothing(server: Server) -> None:
    code = f"import mpbakery.cluster as c; l = c.Lock({server.url()!r}, 'ends'); l.acquire()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        cluster.Lock(server.url(), "ends").acquire()
    cluster.Lock(server.url(), "ends").release()
