"""Semaphores: as many as there are permits get in, in their order, whatever dies or raises."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import operator
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from evidence.signals.points import Outcome, Report, Tracer, strike_everywhere
from evidence.storms import family_storms
from evidence.storms.storms import hits, weather
from mpbakery._protocol.permits import PermitLine
from mpbakery._system import fence
from support.detectors import Detectors, visit_often
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, in_threads, kill, wait_until

KINDS = [mpbakery.Semaphore, mpbakery.BoundedSemaphore]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[mpbakery.Semaphore]:
    found: type[mpbakery.Semaphore] = request.param
    return found


def wait_for_line(semaphore: mpbakery.Semaphore, *puppets: Puppet) -> None:
    """Wait until exactly these stand in the line, in this order."""
    pids = [puppet.pid for puppet in puppets]
    wait_until(lambda: [waiter.pid for waiter in semaphore.statistics().waiters] == pids, f"a line of {pids}")


def line_up(crew: Crew, semaphore: Any, count: int) -> list[Puppet]:
    """Puppets that wait for a permit, in their order."""
    puppets = [Puppet(crew, semaphore) for _ in range(count)]
    for place, puppet in enumerate(puppets):
        puppet.begin("acquire")
        wait_for_line(semaphore, *puppets[: place + 1])
    return puppets


def test_one_permit_excludes(ctx: BaseContext, ctx_crew: Crew, kind: type[mpbakery.Semaphore]) -> None:
    semaphore: Any = kind(1, ctx=ctx)
    detectors = Detectors(ctx, 3)
    for worker in range(3):
        ctx_crew.start(visit_often, semaphore, detectors, worker, 300)
    ctx_crew.finish()
    detectors.assert_exclusion(900)
    assert semaphore.get_value() == 1


def crowd(semaphore: mpbakery.Semaphore, inside: Any, seen: Any, worker: int, rounds: int) -> None:
    """Stay under the semaphore again and again, and note how many were seen there.

    Each counts when it comes, and when it goes. Two looks that see the same numbers have seen a moment in between, at
    which all was so: in a single look, one could go, and the next one come, while the look was under way.
    """
    for _ in range(rounds):
        with semaphore:
            inside[worker] += 1
            time.sleep(0.0005)  # so that the others come meanwhile
            looks = list(inside), list(inside)
            if looks[0] == looks[1]:
                seen[sum(number % 2 for number in looks[0])] += 1
            inside[worker] += 1


@pytest.mark.parametrize("permits", [2, 3])
def test_never_more_than_there_are_permits(
    fork: BaseContext, crew: Crew, kind: type[mpbakery.Semaphore], permits: int
) -> None:
    semaphore = kind(permits, ctx=fork)
    workers = 5
    inside, seen = fork.RawArray("Q", workers), fork.RawArray("Q", workers + 1)
    for worker in range(workers):
        crew.start(crowd, semaphore, inside, seen, worker, 60)
    crew.finish()
    counts = list(seen)
    assert not any(counts[permits + 1 :]), counts
    assert counts[permits], f"there were never {permits} inside: this shows nothing ({counts})"
    assert semaphore.get_value() == permits


def test_more_permits_than_allowed_would_be_noticed(fork: BaseContext, crew: Crew) -> None:
    semaphore = mpbakery.Semaphore(3, ctx=fork)
    inside, seen = fork.RawArray("Q", 5), fork.RawArray("Q", 6)
    for worker in range(5):
        crew.start(crowd, semaphore, inside, seen, worker, 60)
    crew.finish()
    assert any(list(seen)[3:])


def test_served_in_the_order_of_arrival(ctx: BaseContext, ctx_crew: Crew) -> None:
    semaphore = mpbakery.Semaphore(0, ctx=ctx)
    puppets = line_up(ctx_crew, semaphore, 3)
    for place, puppet in enumerate(puppets):
        semaphore.release()
        assert puppet.end() is True
        assert not any(later.has_answered() for later in puppets[place + 1 :])


def test_several_permits_at_once_let_several_in(crew: Crew, fork: BaseContext) -> None:
    """The head that takes one wakes the next, for whom there is one more."""
    semaphore = mpbakery.Semaphore(0, ctx=fork)
    puppets = line_up(crew, semaphore, 4)
    puppets[0].stop()
    for _ in range(4):
        semaphore.release()
    puppets[0].go_on()
    for puppet in puppets:
        assert puppet.end(5.0) is True
    assert semaphore.get_value() == 0


def test_a_permit_is_given_back_by_another_process(
    crew: Crew, kind: type[mpbakery.Semaphore], fork: BaseContext
) -> None:
    semaphore = kind(1, ctx=fork)
    taker, giver = Puppet(crew, semaphore), Puppet(crew, semaphore)
    assert taker("acquire") is True
    assert semaphore.locked()
    giver("release")
    assert semaphore.get_value() == 1
    assert taker("acquire") is True


def test_time_runs_out(crew: Crew, fork: BaseContext, kind: type[mpbakery.Semaphore]) -> None:
    semaphore = kind(1, ctx=fork)
    assert semaphore.acquire() is True
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(True, 0) is False
    assert semaphore.acquire(timeout=-1) is False
    start = time.monotonic()
    assert semaphore.acquire(timeout=0.1) is False
    assert 0.1 <= time.monotonic() - start < PATIENCE
    (puppet,) = line_up(crew, semaphore, 1)
    start = time.monotonic()
    assert semaphore.acquire(True, 0.1) is False
    assert 0.1 <= time.monotonic() - start < PATIENCE
    semaphore.release()
    assert puppet.end() is True


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_waiter_keeps_nobody_waiting(crew: Crew, fork: BaseContext, victim: int) -> None:
    semaphore = mpbakery.Semaphore(0, ctx=fork)
    puppets = line_up(crew, semaphore, 3)
    dead = puppets.pop(victim)
    dead.kill()
    crew.processes.remove(dead.process)
    semaphore.release()
    assert puppets[0].end(5.0) is True
    assert not puppets[1].has_answered()
    semaphore.release()
    assert puppets[1].end(5.0) is True


def test_a_permit_given_to_a_dead_head_goes_to_the_next(crew: Crew, fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(0, ctx=fork)
    puppets = line_up(crew, semaphore, 2)
    puppets[0].stop()
    semaphore.release()
    puppets[0].kill()
    crew.processes.remove(puppets[0].process)
    assert puppets[1].end(5.0) is True


def test_a_permit_dies_with_who_took_it(crew: Crew, fork: BaseContext) -> None:
    """As in multiprocessing: a semaphore cannot know who has a permit."""
    semaphore = mpbakery.Semaphore(2, ctx=fork)
    puppet = Puppet(crew, semaphore)
    assert puppet("acquire") is True
    puppet.kill()
    crew.processes.remove(puppet.process)
    assert semaphore.acquire(timeout=0.3) is True
    assert semaphore.acquire(timeout=0.3) is False


def test_what_a_dead_process_has_given_back_counts(crew: Crew, fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(0, ctx=fork, slots=2)
    for given in range(1, 4):
        puppet = Puppet(crew, semaphore)
        puppet("release")
        puppet.kill()
        crew.processes.remove(puppet.process)
        assert semaphore.get_value() == given
    assert [semaphore.acquire(False) for _ in range(4)] == [True, True, True, False]


def give_and_take(semaphore: mpbakery.Semaphore, rounds: Any) -> None:
    """Take a permit and give it back, until killed."""
    while True:
        semaphore.acquire()
        semaphore.release()
        rounds.value += 1


def test_a_permit_is_given_back_in_one_piece(crew: Crew, fork: BaseContext) -> None:
    """What was given before must not be missing while a further one is given."""
    semaphore = mpbakery.Semaphore(10, ctx=fork)
    rounds = fork.RawValue("Q", 0)
    crew.start(give_and_take, semaphore, rounds)
    looks = low = 0
    while looks < 5_000 or rounds.value < 5_000:
        looks += 1
        low += semaphore.get_value() < 9
    assert not low, f"fewer than 9 of 10 permits in {low} of {looks} looks, and one process takes one"


def test_a_try_succeeds_while_there_are_permits(crew: Crew, fork: BaseContext) -> None:
    """Also behind others who are about to take theirs: a queue that has room is not full."""
    semaphore = mpbakery.Semaphore(10, ctx=fork)
    rounds = fork.RawValue("Q", 0)
    for _ in range(3):
        crew.start(give_and_take, semaphore, rounds)
    tries = failed = 0
    while tries < 2_000 or rounds.value < 2_000:
        tries += 1
        if semaphore.acquire(False):
            semaphore.release()
        else:
            failed += 1
    # one that is not run for so long, in the middle of an acquisition, is possible
    assert failed <= tries / 200, f"{failed} of {tries} tries failed, with at least 6 permits of 10 there"


def test_death_in_the_middle_of_a_release_costs_one_permit_at_most(crew: Crew, fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(100, ctx=fork)
    for deaths in range(1, 41):
        rounds = fork.RawValue("Q", 0)
        child = crew.start(give_and_take, semaphore, rounds)
        wait_until(lambda rounds=rounds: rounds.value > 1_000, "many permits taken and given back")  # type: ignore[misc]
        kill(child)
        assert semaphore.get_value() >= 100 - deaths


@pytest.mark.parametrize("ordered", [True, False])
def test_each_release_stores_once(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a fence has to come before the store."""
    monkeypatch.setattr(fence, "TOTAL_STORE_ORDER", ordered)
    words = memoryview(bytearray(32)).cast("Q")
    offset = fence.storing_release_offset(words.__setitem__, 2, itertools.count(7), 24)
    assert words.tolist() == [0, 0, 0, 0]
    assert (operator.index(offset), words.tolist()) == (24, [0, 0, 7, 0])
    assert (operator.index(offset), words.tolist()) == (24, [0, 0, 8, 0])


def test_threads_have_slots_of_their_own(fork: BaseContext, kind: type[mpbakery.Semaphore]) -> None:
    semaphore = kind(2, ctx=fork)
    most, now = [0], [0]

    def work() -> None:
        for _ in range(200):
            with semaphore:
                now[0] += 1
                most[0] = max(most[0], now[0])
                time.sleep(1e-4)  # on CPython 3.10, 0 does not let the others run
                now[0] -= 1

    in_threads([work] * 4)
    assert most[0] == 2
    assert semaphore.get_value() == 2


def test_a_thread_that_only_releases(fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(0, ctx=fork)
    in_thread(semaphore.release)
    in_thread(lambda: semaphore.release())
    assert semaphore.get_value() == 2


def leave_in_child(semaphore: mpbakery.Semaphore, connection: Connection) -> None:
    """Leave a `with` in a forked child: the permit is the parent's. Then take one and give it back."""
    with semaphore:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    if not pid:
        connection.send(semaphore.get_value())
        with semaphore:
            connection.send(semaphore.get_value())
        semaphore.release()
        os._exit(0)
    connection.send(semaphore.get_value())


def test_a_forked_child_does_not_give_back_its_parents_permit(crew: Crew, fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(2, ctx=fork)
    ours, theirs = fork.Pipe()
    crew.start(leave_in_child, semaphore, theirs)
    assert [expect(ours) for _ in range(3)] == [1, 0, 3]


def fork_while_waiting(semaphore: mpbakery.Semaphore, connection: Connection) -> None:
    """A handler forks in the middle of a wait; parent and child both get a permit and give it back."""

    def fork(_number: int, _frame: object) -> None:
        os.fork()

    signal.signal(signal.SIGUSR1, fork)
    pid = os.getpid()
    with semaphore:
        pass
    connection.send(os.getpid() == pid)
    if os.getpid() != pid:
        os._exit(0)
    os.wait()


def test_a_child_forked_in_the_middle_gives_back_what_it_got(
    crew: Crew, fork: BaseContext, kind: type[mpbakery.Semaphore]
) -> None:
    semaphore = kind(1, ctx=fork)
    ours, theirs = crew.context.Pipe()
    with semaphore:
        child = crew.start(fork_while_waiting, semaphore, theirs)
        wait_until(lambda: len(semaphore.statistics().waiters) == 1, "one who waits")
        os.kill(child.pid or 0, signal.SIGUSR1)
        wait_until(lambda: len(semaphore.statistics().waiters) == 2, "two who wait")
    assert sorted(expect(ours) for _ in range(2)) == [False, True]
    crew.finish()
    assert semaphore.get_value() == 1


def test_is_freed_as_soon_as_nobody_refers_to_it(fork: BaseContext, kind: type[mpbakery.Semaphore]) -> None:
    semaphore = kind(1, ctx=fork)
    with semaphore:
        semaphore.release()
        semaphore.acquire()
    mapping = weakref.ref(semaphore._memory.mapping)
    gc.disable()
    try:
        del semaphore
        assert mapping() is None
    finally:
        gc.enable()


def test_bounded(fork: BaseContext) -> None:
    semaphore = mpbakery.BoundedSemaphore(1, ctx=fork)
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 1
    with pytest.raises(ValueError, match="released too many times"), semaphore:
        semaphore.release()
    assert semaphore.get_value() == 1
    assert [semaphore.acquire(False) for _ in range(2)] == [True, False]


def test_too_many_given_meanwhile_do_not_hide_an_interruption(
    fork: BaseContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken is given back, which is one more than allowed if somebody else has given too many."""
    semaphore = mpbakery.BoundedSemaphore(1, ctx=fork)
    semaphore.acquire()
    wake = PermitLine.wake_if_free

    def interrupt(line: PermitLine) -> None:
        wake(line)
        if threading.current_thread() is threading.main_thread():
            monkeypatch.undo()
            semaphore.release()
            with pytest.raises(ValueError, match="too many"):
                semaphore.release()
            raise KeyboardInterrupt

    def give_to_a_waiter() -> None:
        wait_until(lambda: semaphore.statistics().waiters, "a waiter")
        monkeypatch.setattr(PermitLine, "wake_if_free", interrupt)
        semaphore.release()

    giver = threading.Thread(target=give_to_a_waiter, daemon=True)
    giver.start()
    with pytest.raises(KeyboardInterrupt):
        semaphore.acquire(timeout=PATIENCE)
    giver.join(PATIENCE)
    assert semaphore.get_value() == 1
    assert semaphore.acquire(False)


def test_unbounded(fork: BaseContext) -> None:
    semaphore = mpbakery.Semaphore(ctx=fork)
    semaphore.release()
    assert semaphore.get_value() == 2
    assert not semaphore.locked()


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, "value is -1"),
        (2**31, ValueError, "value is 2147483648"),
        ("1", TypeError, "value is '1'"),
        (1.0, TypeError, "value is 1.0"),
        (None, TypeError, "value is None"),
    ],
)
def test_bad_values(kind: type[mpbakery.Semaphore], value: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        kind(value)


def test_repr(fork: BaseContext) -> None:
    assert repr(mpbakery.Semaphore(3, ctx=fork)) == "<Semaphore(value=3)>"
    assert repr(mpbakery.BoundedSemaphore(3, ctx=fork)) == "<BoundedSemaphore(value=3, maxvalue=3)>"


class GiveBack:
    """A permit is given back; see points.Subject."""

    visits = None
    functions = None
    handling = "acquires"
    handlers_acquire = False
    bears_two = sys.version_info >= (3, 11)

    def __init__(self, kind: type[mpbakery.Semaphore]) -> None:
        self._semaphore = kind(1, ctx=multiprocessing.get_context("fork"))

    def prepare(self) -> Callable[[], None]:
        """Take it."""
        assert self._semaphore.acquire(timeout=PATIENCE)
        return self._semaphore.release

    def examine(self, _outcome: Outcome) -> list[str]:
        """What is wrong afterwards."""
        if self._semaphore.get_value() == 1:
            return []
        self._semaphore.release()
        return ["the permit is lost"]

    def handle(self) -> None:
        """What a handler does that acquires."""
        if self._semaphore.acquire(False):
            self._semaphore.release()


def strike_release(connection: Connection, kind: type[mpbakery.Semaphore]) -> None:
    connection.send(strike_everywhere(Tracer(), GiveBack(kind)))


def test_a_permit_is_given_back_whatever_strikes(crew: Crew, kind: type[mpbakery.Semaphore]) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(strike_release, theirs, kind)
    report: Report = expect(ours)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.handled > 0
    assert not report.elsewhere, report


@pytest.mark.serial
@pytest.mark.parametrize("handlers", ["raise", "acquire", "both"])
def test_a_storm_around_with(crew: Crew, handlers: str) -> None:
    places, served = weather(crew, family_storms.storm_on_semaphore, False, handlers, 6_000)
    assert hits(places) > 1_500, places
    assert handlers == "raise" or served > 500


@pytest.mark.serial
def test_a_storm_around_a_bounded_one(crew: Crew) -> None:
    places, _served = weather(crew, family_storms.storm_on_semaphore, True, "raise", 4_000)
    assert hits(places) > 1_000, places


@pytest.mark.serial
def test_a_storm_with_a_contender(crew: Crew) -> None:
    (places,) = weather(crew, family_storms.storm_on_contended_semaphore, 3_000)
    assert hits(places) > 750, places
    assert len(places) > 10, places
