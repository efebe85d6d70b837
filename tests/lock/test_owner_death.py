"""What happens to the lock when a process dies: the one that holds it, one that waits for it, or one at any moment."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
import warnings
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import pytest

import mpbakery
from mpbakery._system.layout import CLOSED, OWNER, PARK, PARKED_LONG, record_of
from support.children import acquire_and_exit, acquire_once, hold_in_thread_without_main_thread
from support.detectors import keep_ledger, keep_ledger_in_every_way
from support.namespaces import in_new_pid_namespace, meet_reused_pid
from support.oddities import HINDRANCES, OBJECTIONS, take_over
from support.processes import state_of
from support.sandboxes import Place, anywhere, try_place, without_descriptors_of_processes
from support.workers import (
    PATIENCE,
    Crew,
    Puppet,
    expect,
    in_thread,
    kill,
    wait_for_state,
    wait_for_waiters,
    wait_until,
)

#: The next in line is to have the lock within a quarter of a second; on a loaded machine within this (s).
HANDED_OVER = 5.0


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork, name="ledger")


@pytest.fixture
def dead_pid(crew: Crew, lock: mpbakery.Lock) -> int:
    """A child that was killed, and reaped, while it held the lock."""
    holder = Puppet(crew, lock, name="anna")
    holder("acquire")
    holder.kill()
    return holder.pid


# --- The holder dies -----------------------------------------------------------------------------------------------


def test_the_next_one_gets_the_lock_and_is_told(lock: mpbakery.Lock, dead_pid: int) -> None:
    start = time.monotonic()
    with pytest.warns(mpbakery.OwnerDiedWarning) as told:
        assert lock.acquire() is True
    assert time.monotonic() - start < HANDED_OVER
    (warning,) = (item.message for item in told)
    assert isinstance(warning, mpbakery.OwnerDiedWarning)
    assert (warning.lock, warning.pid, warning.thread, warning.process) == ("ledger", dead_pid, dead_pid, "anna")
    assert 0 <= warning.held < 60
    assert str(warning) == (
        f"process {dead_pid} (anna) died while it held lock ledger, which it took {warning.held:.3f} s ago: "
        f"what the lock protects may be half written"
    )


def test_recovered_from_tells_it_until_the_release(lock: mpbakery.Lock, dead_pid: int) -> None:
    before = lock.owner
    assert lock.recovered_from is None
    with pytest.warns(mpbakery.OwnerDiedWarning):
        lock.acquire()
    assert lock.recovered_from == before
    assert lock.recovered_from is not None
    assert (lock.recovered_from.pid, lock.recovered_from.process) == (dead_pid, "anna")
    assert in_thread(lambda: lock.recovered_from) == before, "every thread of the process may ask"
    lock.release()
    assert lock.recovered_from is None
    with lock:
        assert lock.recovered_from is None, "the next acquisition is an ordinary one"


def test_recovered_from_is_the_holders_alone(crew: Crew, lock: mpbakery.Lock, dead_pid: int) -> None:
    other = Puppet(crew, lock)
    with pytest.warns(mpbakery.OwnerDiedWarning):
        lock.acquire()
    assert other("recovered_from") is None
    other("release")
    assert lock.recovered_from is None
    other("acquire")
    assert lock.recovered_from is None
    assert other("recovered_from") is None


def test_a_lock_that_was_taken_over_is_a_lock_like_any_other(crew: Crew, lock: mpbakery.Lock, dead_pid: int) -> None:
    with pytest.warns(mpbakery.OwnerDiedWarning):
        lock.acquire()
    other = Puppet(crew, lock)
    assert other("acquire", False) is False
    assert lock.statistics().recoveries == 1
    lock.release()
    with pytest.raises(ValueError, match="nobody holds"):
        lock.release()
    assert other("acquire", False) is True
    assert other.warnings == []
    other("release")


@pytest.mark.parametrize("way", ["acquire", "with", "timeout"])
def test_the_warning_points_to_the_line_that_acquires(lock: mpbakery.Lock, dead_pid: int, way: str) -> None:
    def plain() -> None:
        lock.acquire()

    def managed() -> None:
        with lock:
            pass

    def limited() -> None:
        lock.acquire(True, timeout=20)

    function = {"acquire": plain, "with": managed, "timeout": limited}[way]
    with pytest.warns(mpbakery.OwnerDiedWarning) as told:
        function()
    assert told[0].filename == __file__
    assert told[0].lineno == function.__code__.co_firstlineno + 1


def test_trying_takes_over_too(lock: mpbakery.Lock, dead_pid: int) -> None:
    """acquire(False) may fail once or twice before it looks whether the owner is alive, not for ever."""
    with pytest.warns(mpbakery.OwnerDiedWarning):
        wait_until(lambda: lock.acquire(False), "a try that takes the lock over")


def test_a_short_timeout_takes_over_too(lock: mpbakery.Lock, dead_pid: int) -> None:
    with pytest.warns(mpbakery.OwnerDiedWarning):
        wait_until(lambda: lock.acquire(True, 0.001), "an attempt that takes the lock over")


def test_a_dead_owner_can_be_seen(lock: mpbakery.Lock, dead_pid: int) -> None:
    assert lock.locked()
    assert lock.owner is not None
    assert lock.owner.pid == dead_pid
    assert repr(lock) == "<Lock(owner=SomeOtherProcess)>"
    statistics = lock.statistics()
    assert (statistics.owner, statistics.recoveries) == (lock.owner, 0)


def test_a_dead_owner_can_be_released_by_anybody(lock: mpbakery.Lock, dead_pid: int) -> None:
    """As with multiprocessing.Lock; whoever does it knows about the death, so nobody is told."""
    lock.release()
    assert not lock.locked()
    assert lock.acquire(False) is True
    assert lock.recovered_from is None


def test_in_every_start_method(ctx: BaseContext, ctx_crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=ctx)
    holder, heir = Puppet(ctx_crew, lock, name="anna"), Puppet(ctx_crew, lock)
    holder("acquire")
    heir.begin("acquire")
    wait_for_waiters(lock, 1)
    holder.kill()
    assert heir.end() is True
    assert [type(warning) for warning in heir.warnings] == [mpbakery.OwnerDiedWarning]
    assert heir("recovered_from").pid == holder.pid
    heir("release")
    assert lock.acquire(False) is True


@pytest.mark.parametrize("count", [1, 2, 20])
def test_those_who_wait_are_served_in_their_order_and_one_is_told(crew: Crew, lock: mpbakery.Lock, count: int) -> None:
    holder = Puppet(crew, lock)
    holder("acquire")
    puppets = [Puppet(crew, lock) for _ in range(count)]
    for place, puppet in enumerate(puppets):
        puppet.begin("acquire")
        wait_for_waiters(lock, place + 1)
    start = time.monotonic()
    holder.kill()
    for place, puppet in enumerate(puppets):
        assert puppet.end() is True
        assert len(puppet.warnings) == (1 if place == 0 else 0)
        assert (puppet("recovered_from") is not None) is (place == 0)
        puppet("release")
    assert puppets[0].moment - start < HANDED_OVER
    assert lock.statistics().recoveries == 1


def test_two_deaths_in_a_row(crew: Crew, lock: mpbakery.Lock) -> None:
    """The first heir dies as well: the second one is told of the heir, not of the first owner."""
    puppets = [Puppet(crew, lock, name=f"number-{place}") for place in range(4)]
    puppets[0]("acquire")
    for place, puppet in enumerate(puppets[1:]):
        puppet.begin("acquire")
        wait_for_waiters(lock, place + 1)
    for place in range(3):
        puppets[place].kill()
        assert puppets[place + 1].end() is True
        (warning,) = puppets[place + 1].warnings
        assert isinstance(warning, mpbakery.OwnerDiedWarning)
        assert (warning.pid, warning.process) == (puppets[place].pid, f"number-{place}")
        assert puppets[place + 1]("recovered_from").pid == puppets[place].pid
    puppets[3]("release")
    assert lock.statistics().recoveries == 3
    with lock:
        assert lock.recovered_from is None


@pytest.mark.serial
def test_all_die_together_but_one_far_down_the_line(crew: Crew, lock: mpbakery.Lock) -> None:
    """It naps for a second, but it does not take as long until it notices."""
    holder, *line = [Puppet(crew, lock) for _ in range(41)]
    holder("acquire")
    for place, puppet in enumerate(line):
        puppet.begin("acquire")
        wait_for_waiters(lock, place + 1)
    survivor = line.pop()
    words, slots = lock._memory.words, lock._memory.slots
    park = next(record_of(slots, slot) + PARK for slot in range(slots) if words[record_of(slots, slot)] == survivor.pid)
    wait_until(lambda: words[park] == PARKED_LONG, "a long nap")
    start = time.monotonic()
    for puppet in (holder, *line):
        os.kill(puppet.pid, signal.SIGKILL)
    assert survivor.end() is True
    assert survivor.moment - start < 0.6  # 0.25 s on a machine that does nothing else
    survivor("release")
    survivor.dismiss()


def test_a_zombie_is_dead(fork: BaseContext, lock: mpbakery.Lock) -> None:
    """A holder that was killed, and that its parent has not reaped: nobody may wait for a parent to do so."""
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        wait_for_state(pid, "Z")
        with pytest.warns(mpbakery.OwnerDiedWarning, match=f"process {pid} "):
            assert lock.acquire(True, PATIENCE) is True
        assert state_of(pid) == "Z"
    finally:
        os.waitpid(pid, 0)


def test_a_process_that_lost_its_main_thread_only_lives(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """It looks like a zombie in /proc, and yet another thread of it holds the lock."""
    ours, theirs = fork.Pipe()
    process = crew.start(hold_in_thread_without_main_thread, theirs, lock)
    assert expect(ours) == "held"
    assert process.pid
    wait_for_state(process.pid, "Z")
    assert lock.acquire(True, 0.5) is False
    os.kill(process.pid, signal.SIGKILL)
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert lock.acquire(True, PATIENCE) is True


def test_a_process_that_ends_by_itself_with_the_lock_held(crew: Crew, lock: mpbakery.Lock) -> None:
    process = crew.start(acquire_and_exit, lock)
    crew.finish()
    with pytest.warns(mpbakery.OwnerDiedWarning, match=f"process {process.pid} "):
        assert lock.acquire() is True


def test_a_thread_that_ends_with_the_lock_held_is_no_death(lock: mpbakery.Lock) -> None:
    """Any thread may release what it acquired, as with multiprocessing.Lock."""
    in_thread(lock.acquire)
    assert lock.acquire(True, 0.3) is False
    assert lock.owner is not None
    lock.release()
    assert lock.acquire(False) is True


def test_a_lock_that_is_not_robust_stays_locked(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=fork, robust=False)
    holder, waiter = Puppet(crew, lock), Puppet(crew, lock)
    holder("acquire")
    waiter.begin("acquire")
    wait_for_waiters(lock, 1)
    holder.kill()
    assert lock.acquire(True, 0.4) is False
    assert lock.acquire(False) is False
    assert not waiter.has_answered()
    lock.release()
    assert waiter.end() is True
    assert waiter.warnings == []
    assert waiter("recovered_from") is None
    waiter("release")
    assert lock.statistics().recoveries == 0


def test_a_dead_waiter_does_not_block_a_lock_that_is_not_robust(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=fork, robust=False)
    lock.acquire()
    first, second = Puppet(crew, lock), Puppet(crew, lock)
    first.begin("acquire")
    wait_for_waiters(lock, 1)
    second.begin("acquire")
    wait_for_waiters(lock, 2)
    first.kill()
    lock.release()
    assert second.end() is True


# --- Warnings as errors --------------------------------------------------------------------------------------------


def test_a_warning_turned_into_an_error_leaves_the_lock_to_the_next(
    crew: Crew, lock: mpbakery.Lock, dead_pid: int
) -> None:
    other = Puppet(crew, lock)
    for _ in range(2):
        with pytest.raises(mpbakery.OwnerDiedWarning, match=f"process {dead_pid} "):
            lock.acquire()  # the test run turns warnings into errors
        assert lock.owner is not None
        assert lock.owner.pid == dead_pid
        assert lock.recovered_from is None
        assert lock.statistics().waiters == ()
        assert lock.statistics().recoveries == 0
    with pytest.raises(mpbakery.OwnerDiedWarning):
        other("acquire_strictly")
    assert other("acquire") is True
    assert [type(warning) for warning in other.warnings] == [mpbakery.OwnerDiedWarning]
    assert lock.acquire(False) is False
    other("release")


@pytest.mark.parametrize("kind", [mpbakery.Lock, mpbakery.RLock])
@pytest.mark.parametrize("way", HINDRANCES)
def test_a_warning_that_cannot_be_shown_is_no_error(
    crew: Crew, fork: BaseContext, kind: type[mpbakery.Lock], way: str
) -> None:
    """Where all processes are like that, nobody would ever have the lock."""
    lock = kind(ctx=fork, name="Größe")
    crew.start(acquire_and_exit, lock).join(PATIENCE)
    ours, theirs = fork.Pipe()
    crew.start(take_over, theirs, lock, way)
    assert expect(ours) == (True, True)
    crew.finish()
    assert not lock.locked()


@pytest.mark.parametrize("way", OBJECTIONS)
def test_what_else_is_raised_leaves_the_lock_to_the_next(crew: Crew, lock: mpbakery.Lock, way: str) -> None:
    crew.start(acquire_and_exit, lock).join(PATIENCE)
    ours, theirs = crew.context.Pipe()
    crew.start(take_over, theirs, lock, way)
    assert expect(ours) == (OBJECTIONS[way][1], False)
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert lock.acquire(timeout=PATIENCE)
    lock.release()
    crew.finish()


def test_an_error_in_one_waiter_lets_the_next_one_be_told(crew: Crew, lock: mpbakery.Lock) -> None:
    holder, strict, heir = (Puppet(crew, lock) for _ in range(3))
    holder("acquire")
    strict.begin("acquire_strictly")
    wait_for_waiters(lock, 1)
    heir.begin("acquire")
    wait_for_waiters(lock, 2)
    holder.kill()
    with pytest.raises(mpbakery.OwnerDiedWarning):
        strict.end()
    assert heir.end() is True
    assert len(heir.warnings) == 1
    assert heir("recovered_from").pid == holder.pid


def test_a_warning_that_is_ignored_still_shows_in_recovered_from(lock: mpbakery.Lock, dead_pid: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lock.acquire()
    assert lock.recovered_from is not None
    assert lock.recovered_from.pid == dead_pid


def test_every_death_is_told_though_warnings_are_shown_once(fork: BaseContext, crew: Crew) -> None:
    """The default filter shows a warning once per line of code and text; the text names the process."""
    lock = mpbakery.Lock(ctx=fork)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            holder = Puppet(crew, lock)
            holder("acquire")
            holder.kill()
            with lock:
                pass
    deaths = [one for one in told if one.category is mpbakery.OwnerDiedWarning]  # and not, say, of a fork with threads
    assert len(deaths) == 3


def test_showing_the_warning_may_use_the_lock(
    lock: mpbakery.Lock, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that logs under the lock, and logs warnings."""
    shown: list[str] = []

    def show(message: Warning | str, *_arguments: object, **_keywords: object) -> None:
        with lock:
            shown.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        assert lock.acquire(True, PATIENCE) is True
    assert len(shown) == 1
    assert lock.acquire(False) is False
    lock.release()
    assert lock.statistics().recoveries == 1
    assert lock.acquire(False) is True


# --- A waiter dies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [(0,), (2,), (4,), (0, 1), (1, 3), (0, 1, 2, 3), (3, 4)], ids=str)
def test_dead_waiters_are_passed_over(crew: Crew, lock: mpbakery.Lock, victims: tuple[int, ...]) -> None:
    lock.acquire()
    puppets = [Puppet(crew, lock) for _ in range(5)]
    for place, puppet in enumerate(puppets):
        puppet.begin("acquire")
        wait_for_waiters(lock, place + 1)
    for victim in victims:
        puppets[victim].kill()
    lock.release()
    for place, puppet in enumerate(puppets):
        if place not in victims:
            assert puppet.end() is True
            assert puppet.warnings == []
            puppet("release")
    assert lock.acquire(True, PATIENCE) is True
    assert lock.statistics().waiters == ()


def test_holder_and_first_waiter_die_together(crew: Crew, lock: mpbakery.Lock) -> None:
    holder, first, second = (Puppet(crew, lock) for _ in range(3))
    holder("acquire")
    first.begin("acquire")
    wait_for_waiters(lock, 1)
    second.begin("acquire")
    wait_for_waiters(lock, 2)
    first.stop()  # so that it cannot be the heir before it dies
    holder.kill()
    first.kill()
    assert second.end() is True
    (warning,) = second.warnings
    assert isinstance(warning, mpbakery.OwnerDiedWarning)
    assert warning.pid == holder.pid


def test_a_newcomer_after_a_dead_waiter(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    waiter = Puppet(crew, lock)
    waiter.begin("acquire")
    wait_for_waiters(lock, 1)
    waiter.kill()
    lock.release()
    assert Puppet(crew, lock)("acquire", True, PATIENCE) is True


@pytest.mark.parametrize("arguments", [(False,), (True, 0), (True, 0.005)], ids=str)
def test_trying_after_a_dead_waiter(crew: Crew, lock: mpbakery.Lock, arguments: tuple[bool, float]) -> None:
    """Nobody holds the lock, and nobody living waits: a try must succeed sooner or later."""
    lock.acquire()
    waiter = Puppet(crew, lock)
    waiter.begin("acquire")
    wait_for_waiters(lock, 1)
    waiter.kill()
    lock.release()
    wait_until(lambda: lock.acquire(*arguments), "a try that succeeds", 10)


def test_a_process_killed_while_it_waits_leaves_its_slot_to_others(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(slots=2, ctx=fork)
    lock.acquire()
    for _ in range(10):
        waiter = Puppet(crew, lock)
        waiter.begin("acquire")
        wait_until(
            lambda pid=waiter.pid: [one.pid for one in lock.statistics().waiters] == [pid],  # type: ignore[misc]
            "the newcomer alone in the line",
        )
        waiter.kill()
    lock.release()


# --- A pid is not a process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [anywhere, without_descriptors_of_processes], ids=lambda place: place.__name__)
def test_a_pid_that_was_given_to_another_process(
    fork: BaseContext, crew: Crew, pid_namespaces: None, place: Place
) -> None:
    """The owner is dead, though a process with its pid lives: the kernel is asked for that pid in a new namespace."""
    ours, theirs = fork.Pipe()
    crew.start(try_place, theirs, place)
    if refusal := expect(ours):
        pytest.skip(refusal)
    crew.start(in_new_pid_namespace, meet_reused_pid, theirs, True, place)
    told = expect(ours, 60)
    assert told["reused"] == told["pid"], f"the kernel gave another pid: {told}"
    assert told["acquired"] is True
    assert told["warnings"] == [("OwnerDiedWarning", told["pid"])]
    crew.finish()


# --- At random moments ---------------------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize("workers", [1, 4])
def test_kills_at_random_moments(fork: BaseContext, crew: Crew, workers: int) -> None:
    """A record of two numbers, written one after the other under the lock, may be found torn only by whoever is told
    of a death; and somebody always goes on."""
    lock = mpbakery.Lock(ctx=fork, slots=64)
    ledger = fork.RawArray("Q", 8)
    choose = random.Random(workers)
    running = [crew.start(keep_ledger, lock, ledger) for _ in range(workers)]
    kills = 0
    for _ in range(120):
        before = ledger[0]
        wait_until(lambda before=before: ledger[0] > before + 3, "progress")  # type: ignore[misc]
        time.sleep(choose.uniform(0, 0.002))
        victim = choose.choice(running)
        kill(victim)
        kills += 1
        running.remove(victim)
        crew.processes.remove(victim)
        running.append(crew.start(keep_ledger, lock, ledger))
    ledger[2] = 1  # enough
    crew.finish()
    torn_after_death, torn, disturbed = ledger[3], ledger[4], ledger[5]
    assert (torn, disturbed) == (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        assert lock.acquire(True, PATIENCE) is True
    assert ledger[0] == ledger[1] or lock.recovered_from is not None
    assert 0 < lock.statistics().recoveries <= kills
    assert torn_after_death > 0, "no kill has hit the middle of a record: the test has shown nothing"
    assert lock.statistics().waiters == ()


@pytest.mark.serial
def test_newcomers_killed_at_random_moments(fork: BaseContext, crew: Crew) -> None:
    """In the middle of claiming a slot, of the first acquire, of the exit: no slot is lost, no lock left behind."""
    lock = mpbakery.Lock(ctx=fork, slots=8)
    choose = random.Random(8)
    outcomes: dict[int | None, int] = {}
    for _ in range(250):
        process = crew.start(acquire_once, lock)
        time.sleep(choose.uniform(0, 0.006))
        process.kill()
        process.join(PATIENCE)
        outcomes[process.exitcode] = outcomes.get(process.exitcode, 0) + 1
        crew.processes.remove(process)
    assert set(outcomes) <= {0, -signal.SIGKILL}, outcomes
    assert outcomes.get(-signal.SIGKILL, 0) > 20, "hardly anybody was killed in time"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
        assert lock.acquire(True, PATIENCE) is True
    lock.release()
    # all slots are to be had: as many threads as there are slots, all at once
    in_use: list[int] = []
    everybody = threading.Barrier(8, action=lambda: in_use.append(lock.statistics().slots_in_use))

    def use() -> None:
        with lock:
            pass
        everybody.wait(PATIENCE)

    threads = [threading.Thread(target=use, daemon=True) for _ in range(7)]
    for thread in threads:
        thread.start()
    use()
    for thread in threads:
        thread.join(PATIENCE)
    assert not everybody.broken
    assert in_use == [8]


@pytest.mark.serial
def test_waiters_killed_at_random_moments(fork: BaseContext, crew: Crew) -> None:
    """Spinning, going to sleep, asleep, waking up: those behind a waiter that dies are served all the same."""
    lock = mpbakery.Lock(ctx=fork)
    choose = random.Random(3)
    last = Puppet(crew, lock)
    for _ in range(40):
        lock.acquire()
        victims = [Puppet(crew, lock) for _ in range(2)]
        for victim in victims:
            victim.begin("acquire")
        wait_for_waiters(lock, 2)
        last.begin("acquire")
        wait_for_waiters(lock, 3)
        moment = choose.uniform(0, 0.001)
        if choose.random() < 0.5:
            lock.release()
            time.sleep(moment)
            victims[0].kill()
        else:
            victims[0].kill()
            time.sleep(moment)
            lock.release()
        victims[1].kill()
        assert last.end() is True
        last("release")
        for victim in victims:
            crew.processes.remove(victim.process)
    assert lock.statistics().waiters == ()


@pytest.mark.serial
def test_everything_at_once(fork: BaseContext, crew: Crew) -> None:
    """Processes, threads and forks, every way to acquire and to release, kills and stops."""
    lock = mpbakery.Lock(ctx=fork, slots=128)
    ledger = fork.RawArray("Q", 8)
    choose = random.Random(11)
    running: list[BaseProcess] = []
    kills = 0
    end = time.monotonic() + 8
    while time.monotonic() < end:
        while len(running) < 5:
            running.append(crew.start(keep_ledger_in_every_way, lock, ledger, choose.randrange(1000)))
        before = ledger[0]
        wait_until(lambda before=before: ledger[0] > before, "progress")  # type: ignore[misc]
        time.sleep(choose.uniform(0, 0.01))
        victim = choose.choice(running)
        if choose.random() < 0.4:
            kill(victim)
            kills += 1
            running.remove(victim)
            crew.processes.remove(victim)
        else:
            os.kill(victim.pid or 0, signal.SIGSTOP)
            time.sleep(choose.uniform(0, 0.004))
            os.kill(victim.pid or 0, signal.SIGCONT)
    ledger[2] = 1
    crew.finish()
    assert (ledger[4], ledger[5]) == (0, 0), "torn without a death, disturbed under the lock"
    assert kills > 20
    assert lock.statistics().recoveries > 0


def test_who_dies_in_the_tenure_while_the_head_closes_it_is_taken_as_told(fork: BaseContext, crew: Crew) -> None:
    """What a condition's wait does with a death that it has told of already."""
    lock = mpbakery.Lock(tenure=math.inf, ctx=fork)
    holder = Puppet(crew, lock)
    holder("acquire")
    holder.kill()
    lock._memory.words[OWNER] |= CLOSED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mpbakery.OwnerDiedWarning) as caught:
            lock.acquire()
        lock._take_as_told(caught.value)
        assert lock.acquire() is True
