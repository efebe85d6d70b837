"""Deadlocks: who waits for ever is told so, and nobody else ever is."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import signal
import sys
import threading
import time
import warnings
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._primitives import deadlocks
from mpbakery._protocol import waiter
from support import rings
from support.rings import Things, give, take
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, wait_for_waiters, wait_until

#: For so long those wait who are in no deadlock (s): they look for one some times.
WHILE = 0.7


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits, here and in forked children, looks for deadlocks soon."""
    monkeypatch.setattr(waiter, "DOUBT", 0.02)


def used(lock: Any) -> Any:
    """A lock that was one before."""
    with lock:
        pass
    return lock


def pair(ctx: BaseContext) -> tuple[Any, Any]:
    return used(mpbakery.Lock(name="first", ctx=ctx)), mpbakery.RLock(name="second", ctx=ctx)


class Couple:
    """Two puppets: one has the first lock and waits for the second one, which the other has."""

    def __init__(self, crew: Crew, first: Any, second: Any, timeout: float | None = None, **others: Any) -> None:
        self.first, self.second = first, second
        things = Things(first=first, second=second, **others)
        self.one, self.other = Puppet(crew, things, name="one"), Puppet(crew, things, name="other")
        self.one(take, "first")
        self.other(take, "second")
        self.one.begin(take, "second", timeout)
        wait_for_waiters(second, 1)

    def close_the_ring(self) -> None:
        """Have the other one wait for the first one."""
        self.other.begin(take, "first")
        wait_for_waiters(self.first, 1)

    def is_told(self) -> bool:
        """Whether one of them is told of a deadlock after a while."""
        time.sleep(WHILE)
        return self.one.has_answered() or self.other.has_answered()

    def dissolve(self) -> None:
        """End the wait of the one that was not told."""
        self.other(give, "second")
        assert self.one.end() is True
        self.one(give, "second")
        self.one(give, "first")
        self.end()

    def end(self) -> None:
        """Let both go."""
        for puppet in (self.one, self.other):
            puppet.kill()


# --- Who is told ----------------------------------------------------------------------------------------------------


def test_the_last_one_is_told_and_the_other_goes_on(ctx_crew: Crew) -> None:
    start = time.monotonic()
    couple = Couple(ctx_crew, *pair(ctx_crew.context))
    couple.close_the_ring()
    with pytest.raises(mpbakery.DeadlockWarning) as caught:
        couple.other.end()
    assert time.monotonic() - start >= 1
    assert caught.value.ring == (
        mpbakery.DeadlockedThread(couple.other.pid, couple.other.pid, "other", "second", "first"),
        mpbakery.DeadlockedThread(couple.one.pid, couple.one.pid, "one", "first", "second"),
    )
    assert str(caught.value).startswith(
        f"deadlock: other ({couple.other.pid}) holds lock second and waits for lock first; "
        f"one ({couple.one.pid}) holds lock first and waits for lock second: they wait for ever"
    )
    assert couple.first.statistics().waiters == ()
    assert not couple.one.has_answered()
    couple.dissolve()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_ring_of_three(crew: Crew, order: tuple[int, ...]) -> None:
    locks = {str(n): used(mpbakery.Lock(name=f"lock {n}", ctx=crew.context)) for n in range(3)}
    puppets = [Puppet(crew, Things(**locks)) for _ in locks]
    for number, puppet in enumerate(puppets):
        puppet(take, str(number))
    for number in order:
        assert not any(puppet.has_answered() for puppet in puppets)
        wanted = str((number + 1) % 3)
        puppets[number].begin(take, wanted)
        if number != order[-1]:
            wait_for_waiters(locks[wanted], 1)
    with pytest.raises(mpbakery.DeadlockWarning) as caught:
        puppets[order[-1]].end()
    assert [step.pid for step in caught.value.ring] == [puppets[(order[-1] + n) % 3].pid for n in range(3)]
    assert not any(puppet.has_answered() for puppet in puppets)


@pytest.mark.usefixtures("soon")
def test_threads_of_one_process(crew: Crew) -> None:
    first, second = pair(crew.context)
    held = threading.Event()
    ids = []

    def want_second() -> None:
        ids.append(threading.get_native_id())
        with first:
            held.set()
            with second:
                pass

    with warnings.catch_warnings():
        warnings.simplefilter("error", mpbakery.DeadlockWarning)
        with second:
            thread = threading.Thread(target=want_second, daemon=True)
            thread.start()
            held.wait(PATIENCE)
            wait_for_waiters(second, 1)
            with pytest.raises(mpbakery.DeadlockWarning, match=r"thread \d+\) holds") as caught:
                first.acquire()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [(step.pid, step.thread) for step in caught.value.ring] == [
        (os.getpid(), threading.get_native_id()),
        (os.getpid(), ids[0]),
    ]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", [mpbakery.Lock, mpbakery.RLock])
def test_one_warning_of_a_ring_in_which_all_wait_on(crew: Crew, kind: type[mpbakery.Lock]) -> None:
    ours, theirs = crew.context.Pipe()
    couple = Couple(crew, used(kind(name="first", ctx=crew.context)), mpbakery.RLock(name="second", ctx=crew.context))
    couple.other(rings.show_through, theirs)
    couple.other.begin(rings.take_and_show, "first")
    warning, line = expect(ours)
    assert isinstance(warning, mpbakery.DeadlockWarning)
    assert [step.process for step in warning.ring] == ["other", "one"]
    assert line == "return bool(things.things[name].acquire())"
    assert not couple.is_told()
    assert not ours.poll(0)
    couple.one.kill()
    assert isinstance(expect(ours)[0], mpbakery.OwnerDiedWarning)
    assert couple.other.end() is True
    couple.other.dismiss()


@pytest.mark.usefixtures("soon")
def test_it_is_told_once_by_who_comes_to_the_lock_when_told(crew: Crew) -> None:
    first = used(mpbakery.Lock(name="first", ctx=crew.context))
    ours, theirs = crew.context.Pipe()
    couple = Couple(crew, first, mpbakery.RLock(name="second", ctx=crew.context))
    couple.other(rings.show_through, theirs, "first")
    couple.other.begin(rings.take_and_show, "first")
    assert isinstance(expect(ours)[0], mpbakery.DeadlockWarning)
    assert not couple.is_told()
    assert not ours.poll(0)
    first.release()  # a third one ends it
    assert couple.other.end() is True
    couple.end()


@pytest.mark.usefixtures("soon")
def test_a_warning_that_cannot_be_shown(crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    first = used(mpbakery.Lock(name="first", ctx=crew.context))
    couple = Couple(crew, first, mpbakery.RLock(name="second", ctx=crew.context))
    couple.other.begin(rings.fail_to_show, "first", theirs)
    assert expect(ours) == "tried"
    assert not couple.is_told()
    first.release()
    assert couple.other.end() is True
    couple.end()


@pytest.mark.usefixtures("soon")
def test_a_condition_has_its_lock_after_waiting_in_any_case(crew: Crew) -> None:
    # Nobody could do anything with an error: the lock would not be held at the end of the `with`. So it is shown.
    ours, theirs = crew.context.Pipe()
    guard, other = mpbakery.RLock(name="guard", ctx=crew.context), mpbakery.RLock(name="other", ctx=crew.context)
    condition = mpbakery.Condition(guard, ctx=crew.context)
    things = Things(condition=condition, guard=guard, other=other)
    sleeper, rival = Puppet(crew, things, name="sleeper"), Puppet(crew, things, name="rival")
    sleeper(rings.show_through, theirs)
    sleeper(take, "other")
    sleeper.begin(rings.wait_at, "condition", 1.0)
    wait_until(lambda: condition._room.waiting(), "the sleeper")
    rival(take, "guard")
    rival.begin(take, "other")
    wait_for_waiters(other, 1)
    warning, _ = expect(ours)
    assert isinstance(warning, mpbakery.DeadlockWarning)
    assert [step.process for step in warning.ring] == ["sleeper", "rival"]
    time.sleep(WHILE)
    assert not sleeper.has_answered()
    assert not ours.poll(0)
    rival.kill()
    assert sleeper.end() is False
    sleeper.dismiss()


def test_the_warning_can_be_pickled() -> None:
    ring = (
        mpbakery.DeadlockedThread(1, 1, "one", "first", "second"),
        mpbakery.DeadlockedThread(2, 3, "other", "second", "first"),
    )
    warning = mpbakery.DeadlockWarning(ring)
    again = pickle.loads(pickle.dumps(warning))
    assert (type(again), again.ring, str(again)) == (type(warning), ring, str(warning))


# --- Who is not -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("soon")
def test_a_ring_with_a_limit_of_time(crew: Crew) -> None:
    couple = Couple(crew, *pair(crew.context), timeout=PATIENCE)
    couple.close_the_ring()
    assert not couple.is_told()
    couple.end()


@pytest.mark.usefixtures("soon")
def test_who_has_a_limit_of_time(crew: Crew) -> None:
    couple = Couple(crew, *pair(crew.context))
    couple.other.begin(take, "first", PATIENCE)
    assert not couple.is_told()
    couple.end()


@pytest.mark.usefixtures("soon")
def test_locks_of_which_nobody_knows_yet_whether_they_are_signals(crew: Crew) -> None:
    # One of the two may be given by somebody who does not hold it.
    couple = Couple(crew, mpbakery.Lock(ctx=crew.context), mpbakery.RLock(ctx=crew.context))
    couple.close_the_ring()
    assert not couple.is_told()
    couple.first.release()
    assert couple.other.end() is True
    couple.end()


@pytest.mark.usefixtures("soon")
def test_a_lock_whose_first_owner_died_is_as_new(crew: Crew) -> None:
    first = mpbakery.Lock(name="first", ctx=crew.context)
    dying = Puppet(crew, first)
    dying("acquire")
    dying.kill()
    couple = Couple(crew, first, mpbakery.RLock(ctx=crew.context))
    couple.close_the_ring()
    assert not couple.is_told()
    couple.end()


@pytest.mark.usefixtures("soon")
def test_locks_that_others_release(crew: Crew) -> None:
    first, second = pair(crew.context)
    first.acquire()
    in_thread(lambda: first.release())
    couple = Couple(crew, first, second)
    couple.close_the_ring()
    assert not couple.is_told()
    couple.end()


@pytest.mark.usefixtures("soon")
def test_locks_that_others_release_with_the_release_of_the_holder(crew: Crew) -> None:
    first, second = pair(crew.context)
    puppet = Puppet(crew, Things(first=first))
    puppet(rings.take_and_have_it_given, "first", 0.2)
    assert first.acquire(True, PATIENCE)  # it is seen by whoever waits for it
    first.release()
    couple = Couple(crew, first, second)
    couple.close_the_ring()
    assert not couple.is_told()
    couple.end()


@pytest.mark.usefixtures("soon")
def test_a_ring_that_another_thread_opens_while_it_is_looked_at(crew: Crew) -> None:
    couple = Couple(crew, *pair(crew.context))
    assert couple.other(rings.take_while_it_is_given, "first") is True
    couple.end()


@pytest.mark.usefixtures("soon")
def test_who_waits_for_itself(crew: Crew) -> None:
    lock = used(mpbakery.Lock(ctx=crew.context))
    puppet = Puppet(crew, Things(lock=lock))
    puppet(take, "lock")
    puppet.begin(take, "lock")
    time.sleep(WHILE)
    assert not puppet.has_answered()
    lock.release()
    assert puppet.end() is True
    puppet.kill()


@pytest.mark.usefixtures("soon")
def test_semaphores(crew: Crew) -> None:
    first = used(mpbakery.Semaphore(1, name="first", ctx=crew.context))
    couple = Couple(crew, first, mpbakery.RLock(name="second", ctx=crew.context))
    couple.other.begin(take, "first")
    wait_until(lambda: first.statistics().waiters, "the other one to wait")
    assert not couple.is_told()
    first.release()
    assert couple.other.end() is True
    couple.end()


@pytest.mark.usefixtures("soon")
def test_who_holds_a_lock_in_a_handler_for_a_moment(crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    wanted, brief = pair(crew.context)
    things = Things(wanted=wanted, brief=brief)
    one, other = Puppet(crew, things), Puppet(crew, things)
    one(rings.hold_in_a_handler, "brief", theirs)
    other(take, "wanted")
    one.begin(take, "wanted")
    wait_for_waiters(wanted, 1)
    os.kill(one.pid, signal.SIGUSR1)
    assert expect(ours) == "held"
    other.begin(take, "brief")
    wait_for_waiters(brief, 1)
    time.sleep(WHILE)
    assert not other.has_answered()
    threads = {step.thread.pid for ring in mpbakery.inspect(one.pid).deadlocks for step in ring.steps}
    assert not threads & {one.pid, other.pid}
    ours.send("go on")
    assert other.end() is True
    for puppet in (one, other):
        puppet.kill()


@pytest.mark.usefixtures("soon")
def test_a_limit_of_time_holds_after_a_handler_that_had_none(crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    first, second = pair(crew.context)
    things = Things(first=first, second=second)
    one, other = Puppet(crew, things), Puppet(crew, things)
    one(rings.want_in_a_handler, "second", theirs)
    one(take, "first")
    other(take, "second")
    one.begin(take, "second", PATIENCE)
    wait_for_waiters(second, 1)

    def came() -> list[float]:
        return [time.monotonic() - waiting.seconds for waiting in second.statistics().waiters]

    before = time.monotonic()
    os.kill(one.pid, signal.SIGUSR1)
    assert expect(ours) == "about to wait"
    wait_until(lambda: [moment > before for moment in came()] == [True], "the handler to wait")
    os.kill(one.pid, signal.SIGUSR2)
    assert expect(ours) == "gave up"
    wait_for_waiters(second, 1)
    (seen,) = [
        found for found in mpbakery.inspect(one.pid).primitives if found.identity == second._memory.identity.hex()
    ]
    assert [waiting.gives_up_in is not None for waiting in seen.waiters] == [True]
    other.begin(take, "first")
    time.sleep(WHILE)
    assert not other.has_answered()
    for puppet in (one, other):
        puppet.kill()


def test_the_dead_wait_for_nobody(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "DOUBT", 0.0)  # before it is noticed that the holder is dead
    couple = Couple(crew, *pair(crew.context))
    couple.one.kill()
    assert couple.other(take, "first") is True
    assert [type(one) for one in couple.other.warnings] == [mpbakery.OwnerDiedWarning]
    couple.other.dismiss()


def test_others_may_make_locks_while_one_looks(crew: Crew) -> None:
    couple = Couple(crew, *pair(crew.context))  # one of them waits
    kept = [mpbakery.RLock(ctx=crew.context) for _ in range(300)]
    end = threading.Event()

    def make_locks() -> None:
        while not end.is_set():
            kept[random.randrange(len(kept))] = mpbakery.RLock(ctx=crew.context)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    maker = threading.Thread(target=make_locks)
    maker.start()
    try:
        waits = [len(deadlocks._innermost_waits(kept[0]._memory.namespace)) for _ in range(300)]
    finally:
        end.set()
        maker.join()
        sys.setswitchinterval(before)
    assert min(waits) >= 1
    couple.end()


@pytest.mark.serial
def test_nobody_is_told_who_takes_two_locks_in_one_order(crew: Crew) -> None:
    looks = _look_often(crew, 5.0)
    assert looks > 1_000


@pytest.mark.tools
def test_nobody_is_told_in_ten_thousand_looks(crew: Crew) -> None:
    assert _look_often(crew, 20.0) > 10_000


def _look_often(crew: Crew, seconds: float) -> int:
    ours, theirs = crew.context.Pipe()
    first, second = pair(crew.context)
    for _ in range(3):
        crew.start(rings.take_both_again_and_again, seconds, theirs, first, second)
    looks: int = sum(expect(ours, seconds + PATIENCE) for _ in range(3))
    crew.finish()
    return looks
