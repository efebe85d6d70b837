"""Never two at once: stress under two independent detectors (see workers.Detectors; test_negative_controls shows that
they see a broken lock)."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from support.detectors import (
    Detectors,
    visit_and_come_again,
    visit_as_it_comes,
    visit_in_generations,
    visit_in_threads,
    visit_often,
    visit_on_one_core,
    visit_released_by_a_partner,
)
from support.workers import Crew, in_thread, wait_until


@pytest.mark.parametrize(("workers", "rounds"), [(2, 1500), (5, 400)])
def test_processes(ctx: BaseContext, ctx_crew: Crew, workers: int, rounds: int) -> None:
    lock, detectors = mpbakery.Lock(ctx=ctx), Detectors(ctx, workers)
    for worker in range(workers):
        ctx_crew.start(visit_often, lock, detectors, worker, rounds)
    ctx_crew.finish()
    detectors.assert_exclusion(workers * rounds)
    assert lock.statistics().acquisitions == workers * rounds


def test_processes_that_share_one_core(fork: BaseContext, crew: Crew) -> None:
    """Then every switch is a pre-emption in the middle of something."""
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 6)
    for worker in range(6):
        crew.start(visit_on_one_core, lock, detectors, worker, 300)
    crew.finish()
    detectors.assert_exclusion(6 * 300)


def test_threads(fork: BaseContext) -> None:
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 6)
    visit_in_threads(lock, detectors, 0, 6, 300)
    detectors.assert_exclusion(6 * 300)
    assert lock.statistics().slots_in_use <= 6


def test_processes_times_threads(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock, detectors = mpbakery.Lock(ctx=ctx), Detectors(ctx, 9)
    for process in range(3):
        ctx_crew.start(visit_in_threads, lock, detectors, 3 * process, 3, 150)
    ctx_crew.finish()
    detectors.assert_exclusion(9 * 150)


def test_children_of_children(fork: BaseContext, crew: Crew) -> None:
    """Each process forks two more in the middle of its rounds, one of them under the lock, for three generations."""
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 14)
    for worker in range(2):
        crew.start(visit_in_generations, lock, detectors, worker, 120, 3)
    crew.finish()
    detectors.assert_exclusion(14 * 120)


@pytest.mark.parametrize("blocking", [0.0, 0.5])
def test_every_way_to_acquire_in_a_mixture(fork: BaseContext, crew: Crew, blocking: float) -> None:
    """acquire(False), timeouts that run out, and waiting without limit, among the same contenders."""
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 5)
    for worker in range(5):
        crew.start(visit_as_it_comes, lock, detectors, worker, 200, blocking)
    crew.finish()
    detectors.assert_exclusion(5 * 200)
    assert lock.statistics().waiters == ()


def test_released_by_another_thread_every_time(fork: BaseContext, crew: Crew) -> None:
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 3)
    for worker in range(3):
        crew.start(visit_released_by_a_partner, lock, detectors, worker, 150)
    crew.finish()
    detectors.assert_exclusion(3 * 150)


def test_many_short_lived_processes_share_few_slots(fork: BaseContext, crew: Crew) -> None:
    lock, detectors = mpbakery.Lock(slots=10, ctx=fork), Detectors(fork, 120)
    for worker in range(120):
        crew.start(visit_and_come_again, lock, detectors, worker, 3)
        wait_until(lambda: sum(process.is_alive() for process in crew.processes) < 8, "room for one more process")
    crew.finish()
    detectors.assert_exclusion(120 * 3)
    assert lock.statistics().slots_in_use <= 10


def test_many_short_lived_threads_share_few_slots(fork: BaseContext) -> None:
    lock, detectors = mpbakery.Lock(slots=6, ctx=fork), Detectors(fork, 300)
    for first in range(0, 300, 5):
        threads = [
            threading.Thread(target=visit_and_come_again, args=(lock, detectors, worker, 3))
            for worker in range(first, first + 5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    detectors.assert_exclusion(300 * 3)
    assert lock.statistics().slots_in_use <= 6


@pytest.mark.serial
def test_workers_that_are_stopped_at_random_moments(fork: BaseContext, crew: Crew) -> None:
    """A process may stand still anywhere in the protocol, for any time."""
    lock, detectors = mpbakery.Lock(ctx=fork), Detectors(fork, 4)
    processes = [crew.start(visit_often, lock, detectors, worker, 1500) for worker in range(4)]
    choose = random.Random(20)
    stops = 0
    while any(process.is_alive() for process in processes):
        process = choose.choice(processes)
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(choose.uniform(0, 0.003))
            os.kill(process.pid, signal.SIGCONT)
            stops += 1
        time.sleep(choose.uniform(0, 0.002))
    crew.finish()
    detectors.assert_exclusion(4 * 1500)
    assert stops > 20, "the workers were through before they could be stopped"


@pytest.mark.serial
def test_two_locks_do_not_disturb_each_other(fork: BaseContext, crew: Crew) -> None:
    locks = [mpbakery.Lock(slots=3, ctx=fork) for _ in range(3)]
    detectors = [Detectors(fork, 3) for _ in locks]
    for lock, watching in zip(locks, detectors, strict=True):
        for worker in range(3):
            crew.start(visit_often, lock, watching, worker, 400)
    crew.finish()
    for watching in detectors:
        watching.assert_exclusion(3 * 400)


def test_nested_locks(fork: BaseContext, crew: Crew) -> None:
    """Two locks taken in one order: each protects its own detectors."""
    outer, inner = mpbakery.Lock(ctx=fork), mpbakery.Lock(ctx=fork)
    with outer, inner:
        assert in_thread(lambda: outer.acquire(False)) is False
        assert in_thread(lambda: inner.acquire(False)) is False
    assert in_thread(lambda: outer.acquire(False)) is True


def test_another_thread_releases_while_this_one_acquires_again(fork: BaseContext) -> None:
    """Whichever thread has looked `release` up: none of them releases twice."""
    lock = mpbakery.Lock(tenure=0.01, ctx=fork)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            lock.acquire()
            other = threading.Thread(target=lock.release)
            other.start()
            lock.acquire()
            other.join()
            lock.release()
    finally:
        sys.setswitchinterval(interval)
    assert not lock.locked()
