"""First come, first served."""

from __future__ import annotations

import threading
import time
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from support.detectors import Detectors, visit_for_a_while
from support.workers import Crew, Puppet, in_threads, wait_for_waiters, wait_until


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork)


def line_up(crew: Crew, lock: mpbakery.Lock, count: int, *arguments: object) -> list[Puppet]:
    """Puppets that wait for a held lock, in their order."""
    puppets = [Puppet(crew, lock, name=f"number-{place}") for place in range(count)]
    before = len(lock.statistics().waiters)
    for place, puppet in enumerate(puppets):
        puppet.begin("acquire", *arguments)
        wait_for_waiters(lock, before + place + 1)
    return puppets


def serve(lock: mpbakery.Lock, puppets: list[Puppet]) -> None:
    """Let go of the lock, and insist that the puppets get it one after the other, in their order."""
    lock.release()
    for place, puppet in enumerate(puppets):
        assert puppet.end() is True
        for later in puppets[place + 1 :]:
            assert not later.has_answered()
        assert lock.owner is not None
        assert lock.owner.pid == puppet.pid
        puppet("release")
    moments = [puppet.moment for puppet in puppets]
    assert moments == sorted(moments)
    assert not lock.locked()


@pytest.mark.parametrize("count", [1, 2, 12])
def test_served_in_the_order_of_arrival(crew: Crew, lock: mpbakery.Lock, count: int) -> None:
    lock.acquire()
    puppets = line_up(crew, lock, count)
    assert [waiter.pid for waiter in lock.statistics().waiters] == [puppet.pid for puppet in puppets]
    serve(lock, puppets)


def test_the_order_does_not_follow_the_slots(crew: Crew, lock: mpbakery.Lock) -> None:
    """Those who used the lock first have the first slots; they come last here."""
    puppets = [Puppet(crew, lock) for _ in range(5)]
    for puppet in puppets:
        puppet("acquire")
        puppet("release")
    lock.acquire()
    for place, puppet in enumerate(reversed(puppets)):
        puppet.begin("acquire")
        wait_for_waiters(lock, place + 1)
    serve(lock, puppets[::-1])


def test_in_every_start_method(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=ctx)
    lock.acquire()
    serve(lock, line_up(ctx_crew, lock, 3))


def test_threads_are_contenders_like_processes(crew: Crew, lock: mpbakery.Lock) -> None:
    """Thread, process, thread, process: served in turn."""
    served: list[str] = []
    lock.acquire()

    def wait_in_line(name: str) -> None:
        with lock:
            served.append(name)

    threads = []
    puppets = []
    for place in range(3):
        thread = threading.Thread(target=wait_in_line, args=(f"thread-{place}",))
        thread.start()
        threads.append(thread)
        wait_for_waiters(lock, 2 * place + 1)
        puppets += line_up(crew, lock, 1)
    lock.release()
    for place, puppet in enumerate(puppets):
        assert puppet.end() is True
        wait_until(lambda: not threads[place].is_alive(), "the thread ahead is through")  # noqa: B023
        assert served == [f"thread-{earlier}" for earlier in range(place + 1)]
        puppet("release")
    for thread in threads:
        thread.join()


def test_a_newcomer_does_not_barge_in(fork: BaseContext, crew: Crew) -> None:
    """Where there is no tenure, who releases and comes again at once stands behind those who wait."""
    lock = mpbakery.Lock(tenure=0, ctx=fork)
    lock.acquire()
    puppets = line_up(crew, lock, 2)
    lock.release()
    assert lock.acquire(False) is False, "the lock was free for a moment, but somebody waits"
    assert puppets[0].end() is True
    puppets[0]("release")
    assert puppets[1].end() is True
    puppets[1].begin("release")
    assert lock.acquire() is True


def test_waiters_in_the_middle_whose_time_is_up(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    first = line_up(crew, lock, 2)
    hasty = line_up(crew, lock, 2, True, 1.5)
    last = line_up(crew, lock, 2)
    assert [puppet.end() for puppet in hasty] == [False, False]
    wait_for_waiters(lock, 4)
    serve(lock, first + last)


def test_the_first_waiter_whose_time_is_up(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    hasty = line_up(crew, lock, 1, True, 1.5)
    rest = line_up(crew, lock, 3)
    assert hasty[0].end() is False
    serve(lock, rest)


def test_a_waiter_who_gave_up_comes_again_at_the_end(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    hasty = line_up(crew, lock, 1, True, 1.5)
    rest = line_up(crew, lock, 2)
    assert hasty[0].end() is False
    hasty[0].begin("acquire")
    wait_for_waiters(lock, 3)
    serve(lock, rest + hasty)


def test_a_stopped_waiter_holds_its_place(crew: Crew, lock: mpbakery.Lock) -> None:
    """The price of the order: those behind a stopped waiter wait for it; when it goes on, all are served in turn."""
    lock.acquire()
    puppets = line_up(crew, lock, 4)
    puppets[1].stop()
    lock.release()
    assert puppets[0].end() is True
    puppets[0]("release")
    assert lock.acquire(True, 0.3) is False, "nobody may pass the one that is stopped"
    assert not puppets[2].has_answered()
    puppets[1].go_on()
    for puppet in puppets[1:]:
        assert puppet.end() is True
        puppet("release")
    assert lock.acquire(False) is True


def test_a_stopped_holder_keeps_the_lock(crew: Crew, lock: mpbakery.Lock) -> None:
    holder = Puppet(crew, lock)
    holder("acquire")
    holder.stop()
    assert lock.acquire(True, 0.4) is False
    holder.go_on()
    holder("release")
    assert lock.acquire(True, 10) is True


@pytest.mark.serial
@pytest.mark.parametrize("workers", [2, 8])
def test_fairness(fork: BaseContext, crew: Crew, workers: int) -> None:
    """Processes that come again at once are served in turn: about the same number of times, none waits long."""
    lock, detectors = mpbakery.Lock(tenure=0, ctx=fork), Detectors(fork, workers)
    reports = []
    for worker in range(workers):
        ours, theirs = fork.Pipe()
        crew.start(visit_for_a_while, theirs, lock, detectors, worker, 1.5, 0.001)
        reports.append(ours)
    crew.finish()
    counts, waits = zip(*(report.recv() for report in reports), strict=True)
    detectors.assert_exclusion(sum(counts))
    index = sum(counts) ** 2 / (workers * sum(count**2 for count in counts))  # Jain's fairness index: 1 is best
    assert index > 0.98, counts
    assert max(waits) < 1, f"{waits}: a turn of all of them takes {workers} ms"
    assert min(counts) > 10


@pytest.mark.serial
def test_fairness_among_threads(lock: mpbakery.Lock) -> None:
    counts = [0] * 4
    end = time.monotonic() + 1

    def work(place: int) -> None:
        while time.monotonic() < end:
            with lock:
                counts[place] += 1
                time.sleep(0.0005)

    in_threads([lambda place=place: work(place) for place in range(4)])  # type: ignore[misc]
    index = sum(counts) ** 2 / (4 * sum(count**2 for count in counts))
    assert index > 0.95, counts


@pytest.mark.serial
def test_a_long_line(crew: Crew, lock: mpbakery.Lock) -> None:
    """Far down the line, waiters look rarely; nobody may be forgotten there."""
    served: list[int] = []
    lock.acquire()

    def wait_in_line(place: int) -> None:
        with lock:
            served.append(place)

    threads = []
    for place in range(100):
        thread = threading.Thread(target=wait_in_line, args=(place,), daemon=True)
        thread.start()
        threads.append(thread)
        wait_for_waiters(lock, place + 1)
    # until those at the end are asleep
    wait_until(lambda: lock.statistics().waiters[-1].seconds > 0.5, "the last one has waited a while")
    start = time.monotonic()
    lock.release()
    for thread in threads:
        thread.join(30)
    assert served == list(range(100))
    assert time.monotonic() - start < 15
