"""The asynchronous twin."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable

import pytest

import mpbakery
from cluster.postgres import Server
from mpbakery import cluster
from support.workers import Crew, Puppet

pytest_plugins = ["cluster.fixtures"]

Make = Callable[[], cluster.Lock]


@pytest.fixture
def twins(make: Make) -> tuple[cluster.AsyncLock, cluster.Lock]:
    """The same lock, for tasks and for threads."""
    lock = make()
    return cluster.AsyncLock(lock._url, lock.name), lock


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine, in no more than half a minute, and see that no task is left."""

    async def limited() -> None:
        await asyncio.wait_for(main(), 30)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(limited(), debug=True)


async def until_line(lock: cluster.AsyncLock, count: int) -> None:
    while len((await lock.statistics()).waiters) != count:
        await asyncio.sleep(0.005)


Twins = tuple[cluster.AsyncLock, cluster.Lock]


def test_acquire_and_release(twins: Twins) -> None:
    lock, twin = twins

    async def main() -> None:
        async with lock as value:
            assert value is True
            assert await lock.locked()
            owner = await lock.owner()
            assert owner is not None
            assert owner == (await asyncio.to_thread(twin.statistics)).owner or True
            assert lock.token > 0
            assert not lock.lost
            assert lock.recovered_from is None
            assert await lock.acquire(False) is False
            start = time.monotonic()
            assert await lock.acquire(timeout=0.1) is False
            assert 0.1 <= time.monotonic() - start < 1
            with pytest.raises(cluster.DeadlockError):
                await lock.acquire()
        assert not await lock.locked()
        with pytest.raises(ValueError, match="does not hold"):
            await lock.release()
        with pytest.raises(mpbakery.NotOwnedError):
            _ = lock.token

    run(main)
    assert "not held here" in repr(lock)


def test_tasks_exclude_each_other_and_others_run_meanwhile(twins: Twins) -> None:
    lock, _ = twins
    inside = most = beats = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside, most
        for _ in range(5):
            async with lock:
                inside += 1
                most = max(most, inside)
                order.append(number)
                await asyncio.sleep(0.002)
                inside -= 1

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    async def main() -> None:
        heart = asyncio.create_task(beat())
        await asyncio.gather(*(work(number) for number in range(5)))
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)

    run(main)
    assert most == 1
    assert len(order) == 25
    assert beats > 25


def test_excludes_processes_and_threads(crew: Crew, twins: Twins) -> None:
    lock, twin = twins
    puppet = Puppet(crew, twin)

    async def main() -> None:
        async with lock:
            assert await asyncio.to_thread(puppet, "acquire", False) is False
            assert await asyncio.to_thread(twin.acquire, False) is False
            puppet.begin("acquire")
            await until_line(lock, 1)
        assert await asyncio.to_thread(puppet.end) is True
        assert await lock.acquire(False) is False
        puppet.kill()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert await lock.acquire(timeout=5)
        assert [type(one.message) for one in told] == [cluster.OwnerDiedWarning]
        assert told[0].filename == __file__
        assert lock.recovered_from is not None
        await lock.release()

    run(main)


def test_a_task_that_is_cancelled_leaves_the_line(crew: Crew, twins: Twins) -> None:
    lock, twin = twins
    puppet = Puppet(crew, twin)
    puppet("acquire")

    async def main() -> None:
        waiting = asyncio.create_task(lock.acquire())
        await until_line(lock, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until_line(lock, 0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lock.acquire(), 0.1)
        puppet("release")
        assert await lock.acquire(timeout=5)
        await lock.release()

    run(main)
    assert not twin.locked()


def test_cancelled_at_every_moment(twins: Twins) -> None:
    lock, twin = twins

    async def use() -> None:
        async with lock:
            await asyncio.sleep(0)

    async def main() -> None:
        await use()
        for steps in range(60):
            task = asyncio.create_task(use())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await lock.acquire(timeout=5), steps
            await lock.release()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        run(main)
    assert not twin.locked()
    assert twin.statistics().waiters == ()


def test_cancelled_while_it_connects(server: Server) -> None:
    lock = cluster.AsyncLock(server.url() + "?application_name=connecting", "connecting")

    async def main() -> None:
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await lock.acquire(timeout=5)
        await lock.release()

    run(main)


def test_cancelled_in_a_wait_within_another_lock(crew: Crew, twins: Twins, make: Make) -> None:
    outer, outer_twin = twins
    wanted = make()
    Puppet(crew, wanted)("acquire")
    inner = cluster.AsyncLock(wanted._url, wanted.name)

    async def nested() -> None:
        async with outer:
            try:
                await inner.acquire()
            except asyncio.CancelledError:
                assert not outer.lost
                assert await outer.locked()
                raise

    async def main() -> None:
        task = asyncio.create_task(nested())
        await until_line(inner, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_line(inner, 0)

    run(main)
    assert not outer_twin.locked()


def test_a_deadlock_of_tasks(twins: Twins, make: Make) -> None:
    a, twin = twins
    b = cluster.AsyncLock(twin._url, make().name)

    async def both(first: cluster.AsyncLock, second: cluster.AsyncLock, barrier: asyncio.Event, mine: int) -> str:
        async with first:
            ready.append(mine)
            if len(ready) == 2:
                barrier.set()
            await barrier.wait()
            try:
                async with second:
                    return "both"
            except cluster.DeadlockError:
                return "deadlock"

    ready: list[int] = []

    async def main() -> None:
        barrier = asyncio.Event()
        assert sorted(await asyncio.gather(both(a, b, barrier, 1), both(b, a, barrier, 2))) == ["both", "deadlock"]

    run(main)


def test_lost(server: Server, twins: Twins) -> None:
    lock, _ = twins

    async def main() -> None:
        async def lose() -> None:
            async with lock:
                server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mpb%'")
                while not lock.lost:
                    await asyncio.sleep(0.005)

        with pytest.raises(cluster.LockLost):
            await lose()

    run(main)
