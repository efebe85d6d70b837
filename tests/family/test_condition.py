"""Conditions: whoever is notified goes on, in the order of coming, and no wake-up is lost with a dead process."""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

import pytest

import mpbakery
from evidence.storms import family_storms
from evidence.storms.storms import hits, weather
from mpbakery._protocol.slots import SlotTable
from support.workers import DEADLINE, PATIENCE, Crew, Puppet, expect, in_thread, wait_until


@pytest.fixture
def condition(fork: BaseContext) -> mpbakery.Condition:
    return mpbakery.Condition(ctx=fork)


def wait_once(condition: mpbakery.Condition, connection: Connection, timeout: float | None) -> None:
    """Wait, and tell what became of it."""
    with condition:
        result = condition.wait(timeout)
        connection.send((result, condition._lock._is_mine()))


class Waiter:
    """A child that waits under a condition."""

    def __init__(self, crew: Crew, condition: mpbakery.Condition, timeout: float | None = None) -> None:
        self._crew = crew
        before = len(condition._room.waiting())
        self.connection, theirs = crew.context.Pipe(duplex=False)
        self.process = crew.start(wait_once, condition, theirs, timeout)
        theirs.close()
        wait_until(lambda: len(condition._room.waiting()) == before + 1, "one more who waits")

    def woke(self, seconds: float = PATIENCE) -> bool:
        """Whether it was notified; it must hold the lock then."""
        result, mine = expect(self.connection, seconds)
        assert mine
        return bool(result)

    def sleeps(self) -> bool:
        """Whether nothing has come from it yet."""
        return not self.connection.poll(0)

    def kill(self) -> None:
        """Kill and reap it."""
        self.process.kill()
        self.process.join(PATIENCE)
        self._crew.processes.remove(self.process)


def notify(condition: mpbakery.Condition, n: int = 1) -> None:
    with condition:
        condition.notify(n)


def test_in_every_start_method(ctx: BaseContext, ctx_crew: Crew) -> None:
    condition = mpbakery.Condition(ctx=ctx)
    waiters = [Waiter(ctx_crew, condition) for _ in range(2)]
    for waiter in waiters:
        assert waiter.sleeps()
        notify(condition)
        assert waiter.woke() is True
    ctx_crew.finish()


def test_whoever_waits_longest_is_notified_first(crew: Crew, condition: mpbakery.Condition) -> None:
    waiters = [Waiter(crew, condition) for _ in range(5)]
    notify(condition, 2)
    assert [waiter.woke() for waiter in waiters[:2]] == [True, True]
    assert all(waiter.sleeps() for waiter in waiters[2:])
    with condition:
        condition.notify_all()
    assert [waiter.woke() for waiter in waiters[2:]] == [True, True, True]
    notify(condition)
    assert condition.acquire(False) is True


def test_time_runs_out(condition: mpbakery.Condition) -> None:
    with condition:
        start = time.monotonic()
        assert condition.wait(0.1) is False
        assert 0.1 <= time.monotonic() - start < PATIENCE
        assert condition.wait(0) is False
        assert condition.wait(-1) is False
        assert condition._lock._is_mine()
    assert condition._room.waiting() == []


def test_the_lock_is_released_wholly_and_taken_as_often_again(crew: Crew, fork: BaseContext) -> None:
    lock = mpbakery.RLock(ctx=fork)
    condition = mpbakery.Condition(lock, ctx=fork)
    with lock, condition:
        crew.start(notify_soon, condition)
        assert condition.wait(PATIENCE) is True
        assert lock._depth() == 2
    assert not lock.locked()


def notify_soon(condition: mpbakery.Condition) -> None:
    notify(condition)


def test_over_a_plain_lock(crew: Crew, fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    first, second = mpbakery.Condition(lock), mpbakery.Condition(lock)
    waiters = [Waiter(crew, first), Waiter(crew, second)]
    notify(second)
    assert waiters[1].woke() is True
    assert waiters[0].sleeps()
    with lock:
        first.notify()
    assert waiters[0].woke() is True


def test_needs_the_lock(condition: mpbakery.Condition) -> None:
    calls: list[Callable[[], object]] = [condition.wait, condition.notify, condition.notify_all]
    for call in calls:
        for error in (AssertionError, RuntimeError):
            with pytest.raises(error, match="must acquire"):
                call()
    with condition, pytest.raises(mpbakery.NotOwnedError):
        in_thread(condition.notify)


def test_bad_lock(fork: BaseContext) -> None:
    for lock in (fork.Lock(), mpbakery.Event(ctx=fork), 7):
        with pytest.raises(TypeError, match="give an mpbakery"):
            mpbakery.Condition(lock)  # type: ignore[arg-type]


def count_up(condition: mpbakery.Condition, number: Any) -> None:
    for _ in range(3):
        with condition:
            number.value += 1
            condition.notify_all()


def test_wait_for(crew: Crew, fork: BaseContext, condition: mpbakery.Condition) -> None:
    number = fork.RawValue("i", 0)
    with condition:
        assert condition.wait_for(lambda: number.value >= 3, 0.05) is False
        crew.start(count_up, condition, number)
        assert condition.wait_for(lambda: number.value >= 3 and "three", PATIENCE) == "three"
        assert number.value == 3


@pytest.mark.parametrize("victim", [0, 1])
def test_the_dead_are_passed_over(crew: Crew, condition: mpbakery.Condition, victim: int) -> None:
    waiters = [Waiter(crew, condition) for _ in range(3)]
    waiters.pop(victim).kill()
    notify(condition)
    assert waiters[0].woke() is True
    assert waiters[1].sleeps()
    notify(condition)
    assert waiters[1].woke() is True


def test_a_wake_up_is_not_lost_with_who_was_notified(crew: Crew, condition: mpbakery.Condition) -> None:
    """It is stopped before it can wake up, and never goes on."""
    waiters = [Waiter(crew, condition) for _ in range(3)]
    pid = waiters[0].process.pid or 0
    condition.acquire()
    condition.notify()
    # it needs the lock before it can know
    waiters[0].kill()
    condition.release()
    assert waiters[1].woke(5.0) is True
    assert waiters[2].sleeps()
    assert pid not in {waiter.process.pid for waiter in waiters[1:]}
    notify(condition)
    assert waiters[2].woke() is True


def test_two_who_are_notified_by_a_handler_in_the_middle_of_notify(
    crew: Crew, condition: mpbakery.Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler lets the one go that was just found, and that must not count for both."""
    waiters = [Waiter(crew, condition) for _ in range(2)]
    room = type(condition._room)
    look = room.is_lost

    def look_and_be_interrupted(self: Any, slot: int) -> bool:
        monkeypatch.undo()
        lost = look(self, slot)
        notify(condition)
        return lost

    monkeypatch.setattr(room, "is_lost", look_and_be_interrupted)
    notify(condition)
    assert [waiter.woke(5.0) for waiter in waiters] == [True] * 2


def test_a_wake_up_is_not_lost_with_who_passes_it_on(
    crew: Crew, condition: mpbakery.Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted as soon as it has cleared away the one that died."""
    waiters = [Waiter(crew, condition) for _ in range(2)]
    reap = SlotTable.reap

    def reap_and_be_interrupted(table: SlotTable, slot: int, deadline: float | None) -> bool:
        reap(table, slot, deadline)
        raise InterruptedError

    monkeypatch.setattr(SlotTable, "reap", reap_and_be_interrupted)
    with condition:
        condition.notify()
        waiters[0].kill()
        # what wait() does when it has the lock again; the other one would find the dead if this released it before
        with pytest.raises(InterruptedError):
            condition._was_notified(condition._room.enter(), 0)
    assert waiters[1].woke(5.0) is True


def test_a_wake_up_is_not_lost_with_a_slot_that_is_needed(crew: Crew, fork: BaseContext) -> None:
    condition = mpbakery.Condition(mpbakery.RLock(ctx=fork), slots=2)
    waiters = [Waiter(crew, condition) for _ in range(2)]
    with condition:
        condition.notify()
        waiters[0].kill()
        assert condition.wait(0.1) is False
    assert waiters[1].woke(5.0) is True


@pytest.mark.xfail(raises=AssertionError, reason="who claims the last slot takes what a dead one was notified of along")
def test_a_wake_up_is_not_lost_with_a_slot_that_is_registered(crew: Crew, fork: BaseContext) -> None:
    condition = mpbakery.Condition(mpbakery.RLock(ctx=fork), slots=2)
    waiters = [Waiter(crew, condition) for _ in range(2)]
    with condition:
        condition.notify()
        waiters[0].kill()
        mpbakery.register(condition)
    assert waiters[1].woke(2.0) is True


def test_the_owner_of_the_lock_dies_while_others_wait(crew: Crew, condition: mpbakery.Condition) -> None:
    waiter = Waiter(crew, condition)
    ours, theirs = crew.context.Pipe()
    holder = crew.start(notify_and_hold, condition, theirs)
    expect(ours)
    holder.kill()
    holder.join()
    crew.processes.remove(holder)
    assert waiter.woke(5.0) is True


def notify_and_hold(condition: mpbakery.Condition, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    condition.acquire()
    condition.notify()
    connection.send("notified")
    expect(connection, DEADLINE)


def hand_over(condition: mpbakery.Condition, turn: Any, me: int, players: int, rounds: int) -> None:
    for _ in range(rounds):
        with condition:
            assert condition.wait_for(lambda: turn.value % players == me, PATIENCE)
            turn.value += 1
            condition.notify_all()


def test_no_wake_up_is_lost_in_a_long_game(ctx: BaseContext, ctx_crew: Crew) -> None:
    condition = mpbakery.Condition(ctx=ctx)
    turn = ctx.RawValue("i", 0)
    for player in range(3):
        ctx_crew.start(hand_over, condition, turn, player, 3, 100)
    ctx_crew.finish()
    assert turn.value == 300


def wait_near_the_recursion_limit(connection: Connection, condition: mpbakery.Condition) -> None:
    """Wait as many calls deep as there can be; send what came of it, and how often."""

    def wait(depth: int) -> bool:
        if depth:
            return wait(depth - 1)
        with condition:
            return condition.wait(0.001)

    outcomes = dict.fromkeys([False, RecursionError, mpbakery.NotOwnedError], 0)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(150)
    for depth in range(60, 150):
        try:
            outcomes[wait(depth)] += 1
        except Exception as error:
            # ctypes has errors of its own in the place of this
            outcomes[type(error) if type(error) in outcomes else RecursionError] += 1
    sys.setrecursionlimit(usual)
    connection.send((outcomes, condition.locked()))


def test_waiting_near_the_recursion_limit(crew: Crew, condition: mpbakery.Condition) -> None:
    """It cannot get the lock again, however often it tries."""
    ours, theirs = crew.context.Pipe()
    crew.start(wait_near_the_recursion_limit, theirs, condition)
    outcomes, locked = expect(ours)
    assert outcomes[False] > 0
    assert outcomes[RecursionError] > 0
    assert not locked
    with condition:
        assert condition.wait(0.001) is False


class Stop(Exception):
    """What a handler raises."""


def stop(_number: int, _frame: object) -> None:
    raise Stop


def wait_and_be_stopped(
    connection: Connection, condition: mpbakery.Condition, orphan: mpbakery.Lock, action: Any
) -> None:
    """Wait in the main thread, and be stopped twice when somebody else has the lock, until it insists on having it.

    Tell how another thread fares then with the lock of somebody dead, and in the end what `wait` has raised.
    """
    warnings.simplefilter(action, mpbakery.OwnerDiedWarning)
    signal.signal(signal.SIGUSR1, stop)
    told: list[object] = []
    warnings.showwarning = lambda message, *_where: told.append(message)
    main = threading.main_thread().ident or 0

    def stop_twice() -> None:
        assert expect(connection) == "the lock is taken"
        for function in ("_acquire_again", "_insist"):
            signal.pthread_kill(main, signal.SIGUSR1)
            wait_until(lambda function=function: is_waiting_in(function, main), f"in {function}")  # type: ignore[misc]
        try:
            orphan.acquire(timeout=PATIENCE)
        except mpbakery.OwnerDiedWarning:
            told.append("raised")
        connection.send(len(told))

    thread = threading.Thread(target=stop_twice)
    thread.start()
    raised = None
    condition.acquire()
    try:
        condition.wait()
    except Exception as error:  # it is what the test wants to see
        raised = type(error).__name__
    thread.join()
    # before the lock is released
    connection.send((raised, condition._lock._is_mine(), condition._lock.recovered_from is not None, len(told)))
    assert [entry[0] for entry in warnings.filters if entry[2] is mpbakery.OwnerDiedWarning] == [action]


def is_waiting_in(function: str, thread: int) -> bool:
    """Whether a thread waits for a lock, somewhere beneath a function."""
    frame: FrameType | None = sys._current_frames()[thread]
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "await_turn" in names and function in names


@pytest.mark.parametrize("kind", [mpbakery.Lock, mpbakery.RLock])
@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("action", ["error", "always"])
def test_who_insists_on_the_lock_keeps_nobody_from_being_told(
    crew: Crew, fork: BaseContext, kind: type[mpbakery.Lock], dies: bool, action: str
) -> None:
    condition, orphan = mpbakery.Condition(kind(ctx=fork)), mpbakery.Lock(ctx=fork)
    crew.start(orphan.acquire).join(PATIENCE)
    ours, theirs = fork.Pipe()
    crew.start(wait_and_be_stopped, theirs, condition, orphan, action)
    wait_until(lambda: condition._room.waiting(), "one who waits")
    holder = Puppet(crew, condition)
    holder("acquire")
    ours.send("the lock is taken")
    assert expect(ours) == 1, "another thread was not told of another death"
    if dies:
        holder.kill()
        crew.processes.remove(holder.process)
    else:
        holder("release")
    assert expect(ours) == ("Stop", True, dies, 1 + (dies and action == "always"))
    if not dies:
        holder.dismiss()
    crew.finish()


@pytest.mark.serial
def test_a_storm_around_wait(crew: Crew) -> None:
    places, raised = weather(crew, family_storms.storm_on_condition, 4_000)
    assert hits(places) > 1_000, places
    assert raised > 300
