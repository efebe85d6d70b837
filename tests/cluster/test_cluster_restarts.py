"""The server is restarted, crashes, or is replaced by its standby: two can be inside, the token protects the data."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.children import add_while_told, wait_for_line
from cluster.postgres import Server
from cluster.stores import StaleTokenError, Store
from conftest import FIGURES
from mpbakery import cluster
from support.workers import Crew, Puppet, expect, wait_until

pytest_plugins = ["cluster.fixtures"]

pytestmark = pytest.mark.serial


@pytest.fixture
def lock(own_server: Server) -> cluster.Lock:
    return cluster.Lock(own_server.url(), "ledger")


def restart(server: Server, how: str) -> None:
    if how == "the holder's session":
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    elif how == "an administrator":
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mpbakery%'")
    else:
        server.restart(signal.SIGINT if how == "a restart" else signal.SIGQUIT)


@pytest.mark.parametrize("how", ["a restart", "a crash", "an administrator"])
@pytest.mark.parametrize("refusing", [False, True], ids=["without tokens", "with tokens"])
def test_two_are_inside(
    crew: Crew, own_server: Server, lock: cluster.Lock, tmp_path: Path, how: str, refusing: bool
) -> None:
    """The one that has lost the lock goes on to write: where nothing compares tokens, an update is lost."""
    store = Store(tmp_path / "store", refusing=refusing)
    store.create()
    lock.acquire()
    token = lock.token
    value = store.read(token)
    assert not lock.lost  # and yet, just after that:
    restart(own_server, how)
    other = Puppet(crew, lock)
    assert other("acquire") is True
    assert other("token") > token
    store.write(store.read(other("token")) + 1, other("token"))
    if refusing:
        with pytest.raises(StaleTokenError):
            store.write(value + 1, token)
    else:
        store.write(value + 1, token)
    other("release")
    assert lock.lost
    with pytest.raises(cluster.LockLost):
        lock.release()
    # without tokens both have written 1: that is the lost update, so that this test would see one
    assert store.read(1 << 62) == 1


@pytest.mark.parametrize("how", ["a restart", "a crash"])
def test_waiters_are_told_and_can_try_again(crew: Crew, own_server: Server, lock: cluster.Lock, how: str) -> None:
    puppet = Puppet(crew, lock)
    lock.acquire()
    puppet.begin("acquire")
    wait_for_line(lock, 1)
    restart(own_server, how)
    with pytest.raises(cluster.ServerError, match="try again"):
        puppet.end()
    assert puppet("acquire") is True
    with pytest.raises(cluster.LockLost):
        lock.release()


def test_tokens_grow_through_crashes(own_server: Server, lock: cluster.Lock) -> None:
    """Most of them are not on disk when they are told, and some are forgotten in the crash."""
    warnings.simplefilter("ignore", cluster.OwnerDiedWarning)  # that it was released may be forgotten as well
    tokens: list[int] = []
    forgotten = 0
    for _ in range(3):
        for _ in range(200):
            with lock:
                tokens.append(lock.token)
        own_server.restart(signal.SIGQUIT)
        forgotten += int(own_server.sql("SELECT token FROM mpbakery.locks")) < tokens[-1]
    assert tokens == sorted(set(tokens))
    assert forgotten > 0, "no crash has forgotten anything, so nothing was shown"


def test_tokens_grow_from_a_primary_to_a_standby_that_has_missed_some(own_server: Server, lock: cluster.Lock) -> None:
    follower = own_server.follower()
    try:
        follower.start()
        with lock:
            pass
        followed = "SELECT count(*) FROM mpbakery.locks WHERE token > 0 AND holder IS NULL"
        wait_until(lambda: follower.sql("SELECT to_regclass('mpbakery.locks')"), "the follower has the table")
        wait_until(lambda: follower.sql(followed) == "1", "the follower has followed")
        follower.stop()
        for _ in range(3):
            # each time in a new session, so that tokens go up by leaps
            with lock:
                missed = lock.token
            lock._sessions().idle.clear()
        own_server.stop(signal.SIGQUIT)
        follower.start()
        follower.promote()
        assert int(follower.sql("SELECT token FROM mpbakery.locks")) < missed
        heir = cluster.Lock(follower.url(), "ledger")
        with heir:
            assert heir.token > missed
            assert heir.token - missed < 1 << 41
        # also of a lock that the follower has never heard of
        unheard = cluster.Lock(follower.url(), "another")
        with unheard:
            assert unheard.token > missed
    finally:
        follower.close()


def test_no_update_is_lost_in_a_storm_of_restarts(
    crew: Crew, own_server: Server, lock: cluster.Lock, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    store = Store(tmp_path / "store", refusing=True)
    store.create()
    ours, theirs = crew.context.Pipe()
    for _ in range(4):
        crew.start(add_while_told, theirs, lock, store, tmp_path / "go")
    (tmp_path / "go").touch()
    end = time.monotonic() + float(os.environ.get("MPBAKERY_RESTART_SECONDS", "12"))
    restarts = 0
    while time.monotonic() < end:
        time.sleep(random.uniform(0.3, 0.9))
        restart(own_server, random.choice(["a restart", "a crash", *["the holder's session"] * 4]))
        restarts += 1
    (tmp_path / "go").unlink()
    done, refused, lost, errors = (sum(column) for column in zip(*(expect(ours) for _ in range(4)), strict=True))
    crew.finish()
    record_property(
        FIGURES,
        f"{restarts} restarts of the server: {done} updates, {refused} refused by the store, {lost} told of a lost "
        f"lock, {errors} attempts that failed; {max(0, done - store.read(1 << 62))} updates lost",
    )
    assert restarts >= 8
    assert refused > 0, "two have never been inside, so nothing was shown"
    assert done > 100
    # what was written and then told as lost may count or not: those who add do not count it as done
    assert done <= store.read(1 << 62) <= done + lost
