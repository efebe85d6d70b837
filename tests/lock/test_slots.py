"""Whose is which slot: shortage, reuse, fork, lost descriptors, other PID namespaces."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import threading
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._system.layout import HIGH
from mpbakery._system.record_locks import place_of
from support.children import (
    claim_while_another_thread_forks,
    close_descriptors_and_acquire,
    fork_at_all_depths,
    fork_in_the_body,
    fork_without_memory,
    hold_claims,
    make_locks_with_few_descriptors,
    register_in_ended_threads,
)
from support.detectors import Detectors, visit_in_forked_threads
from support.namespaces import (
    in_new_pid_namespace,
    meet_zombie_of_other_namespace,
    use_foreign_lock,
    use_lock_made_here,
)
from support.sandboxes import hold_record, this_process
from support.workers import PATIENCE, Crew, Puppet, expect, in_thread, kill, wait_for_waiters


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork, name="ledger")


class Threads:
    """Threads that have used a lock, and live on until they are dismissed."""

    def __init__(self) -> None:
        self._leave = threading.Event()
        self._threads: list[threading.Thread] = []

    def use(self, lock: mpbakery.Lock, count: int) -> None:
        """Have `count` new threads use the lock, one after the other."""
        for _ in range(count):
            used = threading.Event()
            thread = threading.Thread(target=self._work, args=(lock, used), daemon=True)
            thread.start()
            self._threads.append(thread)
            assert used.wait(PATIENCE)

    def _work(self, lock: mpbakery.Lock, used: threading.Event) -> None:
        with lock:
            pass
        used.set()
        self._leave.wait(PATIENCE)

    def dismiss(self) -> None:
        """Let them end."""
        self._leave.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


# --- Shortage ------------------------------------------------------------------------------------------------------


def test_one_thread_too_many(fork: BaseContext) -> None:
    lock = mpbakery.Lock(slots=3, ctx=fork, name="ledger")
    threads = Threads()
    threads.use(lock, 3)
    try:
        with pytest.raises(mpbakery.SlotsExhausted, match=r"all 3 slots of Lock ledger.*Lock\(slots=12\)") as caught:
            lock.acquire()
        assert (caught.value.lock, caught.value.slots) == ("ledger", 3)
        with pytest.raises(mpbakery.SlotsExhausted):
            lock.acquire(True, 0.1)
        with pytest.raises(mpbakery.SlotsExhausted):
            lock.acquire(False)
        with pytest.raises(mpbakery.SlotsExhausted):
            mpbakery.register(lock)
        assert lock.statistics().slots_in_use == 3
    finally:
        threads.dismiss()
    assert lock.acquire(True, PATIENCE) is True, "the slots of threads that have ended are free"


def test_one_thread_too_many_in_a_test_that_expects_it(fork: BaseContext) -> None:
    """unittest's assertRaises clears the frames of the error, and so collects what the slot was wanted for."""
    lock = mpbakery.Lock(slots=1, ctx=fork)
    threads = Threads()
    threads.use(lock, 1)
    try:
        with pytest.raises(mpbakery.SlotsExhausted) as caught:
            lock.acquire()
        traceback.clear_frames(caught.tb)
        assert lock.statistics().slots_in_use == 1
    finally:
        threads.dismiss()


def test_one_process_too_many(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(slots=2, ctx=fork)
    puppets = [Puppet(crew, lock) for _ in range(3)]
    for puppet in puppets[:2]:
        assert puppet("acquire", False) is True
        puppet("release")
    with pytest.raises(mpbakery.SlotsExhausted, match="all 2 slots"):
        puppets[2]("acquire")
    puppets[0].kill()
    assert puppets[2]("acquire", True, PATIENCE) is True
    puppets[2]("release")
    puppets[1].dismiss()
    assert lock.acquire(True, PATIENCE) is True


def test_who_has_no_slot_may_still_look_and_release(fork: BaseContext) -> None:
    lock = mpbakery.Lock(slots=1, ctx=fork)
    threads = Threads()
    threads.use(lock, 1)
    try:
        assert lock.locked() is False
        assert lock.acquire is not None
        assert lock.statistics().slots_in_use == 1
        with pytest.raises(ValueError, match="nobody holds"):
            lock.release()
    finally:
        threads.dismiss()


def test_a_shortage_shows_when_a_worker_starts(fork: BaseContext) -> None:
    """register in the initializer: the pool breaks at once, instead of hanging somewhere in the work."""
    lock = mpbakery.Lock(slots=1, ctx=fork)
    lock.acquire()
    executor = concurrent.futures.ProcessPoolExecutor(
        1, mp_context=fork, initializer=mpbakery.register, initargs=(lock,)
    )
    with executor, pytest.raises(BrokenProcessPool):
        executor.submit(os.getpid).result(PATIENCE)


def test_a_lock_with_one_slot_whose_holder_died(fork: BaseContext, crew: Crew) -> None:
    """The only slot is that of the dead; whoever comes must be able to take the lock over all the same."""
    lock = mpbakery.Lock(slots=1, ctx=fork)
    holder = Puppet(crew, lock)
    holder("acquire")
    holder.kill()
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert lock.acquire(True, PATIENCE) is True
    lock.release()


def test_a_newcomer_when_the_living_and_a_dead_holder_have_all_slots(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(slots=3, ctx=fork)
    idle, holder = [Puppet(crew, lock) for _ in range(2)], Puppet(crew, lock)
    for puppet in idle:
        puppet("acquire")
        puppet("release")
    holder("acquire")
    holder.kill()
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert lock.acquire(True, PATIENCE) is True
    lock.release()


# --- Reuse ---------------------------------------------------------------------------------------------------------


def test_the_slots_of_dead_processes_are_used_again(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(slots=3, ctx=fork)
    lock.acquire()
    lock.release()
    for turn in range(12):
        puppet = Puppet(crew, lock)
        assert puppet("acquire", True, PATIENCE) is True
        puppet("release")
        if turn % 2:
            puppet.kill()
        else:
            puppet.dismiss()
    assert lock.statistics().slots_in_use <= 3
    assert lock.statistics().acquisitions == 13


def test_the_slots_of_zombies_are_used_again(fork: BaseContext) -> None:
    lock = mpbakery.Lock(slots=1, ctx=fork)
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        lock.release()
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert lock.acquire(True, PATIENCE) is True
    finally:
        os.waitpid(pid, 0)


def test_the_slots_of_ended_threads_are_used_again(fork: BaseContext) -> None:
    lock = mpbakery.Lock(slots=2, ctx=fork)
    for _ in range(30):
        assert in_thread(lambda: lock.acquire(True, PATIENCE)) is True
        lock.release()
    assert lock.statistics().slots_in_use <= 2


@pytest.mark.parametrize("used", [True, False], ids=["used before", "unused before"])
def test_the_slots_of_ended_threads_of_a_forked_child_are_free(fork: BaseContext, crew: Crew, used: bool) -> None:
    """To other processes, too, while the child lives."""
    lock = mpbakery.Lock(slots=2, ctx=fork)
    if used:
        mpbakery.register(lock)
    ours, theirs = fork.Pipe()
    crew.start(register_in_ended_threads, theirs, lock)
    assert expect(ours) == used
    crew.finish()


def test_the_slot_of_a_thread_that_ended_with_the_lock_is_not(fork: BaseContext) -> None:
    """It still says who holds the lock."""
    lock = mpbakery.Lock(slots=2, ctx=fork)
    in_thread(lock.acquire)
    owner = lock.owner
    for _ in range(5):
        assert in_thread(lambda: lock.acquire(False)) is False
    assert in_thread(lambda: lock.acquire(True, 0.05)) is False
    assert lock.owner == owner
    lock.release()
    assert lock.acquire(True, PATIENCE) is True


def test_the_slots_of_threads_that_end_while_another_process_claims(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(slots=4, ctx=fork)
    threads = Threads()
    threads.use(lock, 3)
    ours, theirs = fork.Pipe()
    claims = crew.start(hold_claims, theirs, lock.fileno())
    assert expect(ours) == "held"
    assert lock.statistics().slots_in_use == 3
    threads.dismiss()
    assert lock.statistics().slots_in_use == 0
    kill(claims)
    puppets = [Puppet(crew, lock) for _ in range(4)]
    for puppet in puppets:
        puppet("register")
    assert lock.statistics().slots_in_use == 4


def test_the_slot_of_a_thread_that_ended_with_the_lock_is_free_when_another_process_has_released_it(
    fork: BaseContext, crew: Crew
) -> None:
    lock = mpbakery.Lock(slots=1, ctx=fork)
    in_thread(lock.acquire)
    puppet = Puppet(crew, lock)
    puppet("release")
    assert lock.statistics().slots_in_use == 0
    assert puppet("acquire", True, PATIENCE) is True
    assert lock.statistics().slots_in_use == 1


def test_the_dead_do_not_make_the_line_longer(fork: BaseContext, crew: Crew) -> None:
    """What is looked at in each acquisition goes up to the last slot that was ever used."""
    lock = mpbakery.Lock(ctx=fork)
    Puppet(crew, lock)("register")
    for _ in range(40):
        puppet = Puppet(crew, lock)
        puppet("register")
        puppet.kill()
    assert lock._memory.words[HIGH] <= 3


def claim_cost(lock: mpbakery.Lock) -> float:
    """The processor time of a first use (s)."""

    def use() -> float:
        begin = time.thread_time()
        lock.acquire()
        lock.release()
        return time.thread_time() - begin

    return statistics.median(in_thread(use) for _ in range(15))


@pytest.mark.serial
def test_a_claim_does_not_look_at_all_others(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    threads = Threads()
    threads.use(lock, 600)
    try:
        assert claim_cost(lock) < 1.5e-3
    finally:
        threads.dismiss()


# --- Fork ----------------------------------------------------------------------------------------------------------


def test_a_forked_child_starts_without_a_slot(crew: Crew, lock: mpbakery.Lock) -> None:
    with lock:
        pass
    puppet = Puppet(crew, lock)
    assert puppet("statistics").slots_in_use == 1
    puppet("acquire")
    assert puppet("statistics").slots_in_use == 2
    puppet("release")


def test_what_a_parent_holds_stays_held_in_the_child(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    puppet = Puppet(crew, lock)
    assert puppet("acquire", False) is False
    assert puppet("acquire", True, 0.1) is False
    owner = puppet("owner")
    assert owner == lock.owner
    assert owner.pid == os.getpid()
    puppet("release")
    assert not lock.locked()
    with pytest.raises(ValueError, match="nobody holds"):
        lock.release()
    assert puppet("acquire", False) is True


@pytest.mark.parametrize("kind", [mpbakery.Lock, mpbakery.Semaphore], ids=lambda kind: kind.__name__)
def test_a_release_that_was_looked_up_before_the_fork(kind: Any) -> None:
    """As in Process(target=lock.release): it releases in the child as well."""
    fork = multiprocessing.get_context("fork")
    lock = kind(ctx=fork)
    lock.acquire()
    child = fork.Process(target=lock.release)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert lock.acquire(timeout=PATIENCE) is True


def test_a_fork_near_the_recursion_limit(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """The child has no stack left to begin anew with; it must not go on with its parent's slot."""
    ours, theirs = fork.Pipe()
    crew.start(fork_at_all_depths, theirs, lock)
    exits: list[int | None] = expect(ours)
    assert len(exits) > 20
    assert set(exits) <= {0, 8, os.EX_OSERR}
    one = int(sys.version_info < (3, 12))
    assert exits.count(os.EX_OSERR) <= one, "these had to end"
    assert exits.count(8) <= one, "these would use their parent's slot: a documented limit"


def test_a_fork_without_memory(fork: BaseContext, crew: Crew) -> None:
    """A child that cannot begin anew must neither go on with its parent's slots, nor try it for ever."""
    ours, theirs = fork.Pipe()
    crew.start(fork_without_memory, theirs, [mpbakery.Lock(ctx=fork, slots=4) for _ in range(2000)])
    exits: list[int | None] = expect(ours)
    assert set(exits) <= {0, os.EX_OSERR}
    assert os.EX_OSERR in exits, "there was memory left"


def test_the_end_of_a_child_does_not_release_what_its_parent_holds(crew: Crew, lock: mpbakery.Lock) -> None:
    with lock:
        Puppet(crew, lock).dismiss()
        Puppet(crew, lock).kill()
        assert lock.owner is not None
        assert lock.owner.pid == os.getpid()


def test_a_child_forked_in_the_body_of_with_leaves_it(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """The child gives nothing back that it did not get; with multiprocessing.Lock its exit releases for the parent."""
    reference: Any = fork.Lock()
    outcomes = []
    for which in (reference, lock):
        ours, theirs = fork.Pipe()
        crew.start(fork_in_the_body, theirs, which)
        outcomes.append(expect(ours))
    crew.finish()
    assert outcomes == [
        {"free after the child's exit": True, "error at the parent's exit": "ValueError"},
        {"free after the child's exit": False, "error at the parent's exit": ""},
    ]


def test_fork_in_a_thread_while_another_one_waits(crew: Crew, lock: mpbakery.Lock) -> None:
    lock.acquire()
    got = []
    waiting = threading.Thread(target=lambda: got.append(lock.acquire(True, PATIENCE)), daemon=True)
    waiting.start()
    wait_for_waiters(lock, 1)
    puppet = in_thread(lambda: Puppet(crew, lock))
    assert puppet("acquire", False) is False
    puppet.begin("acquire")
    wait_for_waiters(lock, 2)
    lock.release()
    waiting.join(PATIENCE)
    assert got == [True]
    assert not puppet.has_answered()
    lock.release()
    assert puppet.end() is True


@pytest.mark.serial
def test_fork_in_threads_at_random_moments(fork: BaseContext, crew: Crew) -> None:
    """One thread works with the lock all the time, another one forks children that do so as well."""
    lock, detectors = mpbakery.Lock(ctx=fork, slots=16), Detectors(fork, 64)
    crew.start(visit_in_forked_threads, lock, detectors, 60)
    crew.finish()
    verdict = detectors.verdict()
    assert (verdict.collisions, verdict.lost_updates) == (0, 0)
    assert verdict.entered > 60 * 3


@pytest.mark.serial
def test_fork_while_another_thread_claims(fork: BaseContext, crew: Crew) -> None:
    """The child has a copy of a claim that is never finished; it must be able to claim, and so must the parent."""
    ours, theirs = fork.Pipe()
    crew.start(claim_while_another_thread_forks, theirs, 150)
    assert expect(ours, 60) == {"children": 150, "failed": []}
    crew.finish()


# --- Descriptors ---------------------------------------------------------------------------------------------------


def test_no_descriptor_left_for_a_lock(fork: BaseContext, crew: Crew) -> None:
    """A clear error of the system, and nothing broken."""
    ours, theirs = fork.Pipe()
    crew.start(make_locks_with_few_descriptors, theirs)
    assert expect(ours) == {"error": "OSError 24", "works": True, "afterwards": True}
    crew.finish()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemon_that_closed_all_descriptors_before_it_used_the_lock(
    crew: Crew, fork: BaseContext, method: str
) -> None:
    lock = mpbakery.Lock(ctx=multiprocessing.get_context(method), name="ledger")
    ours, theirs = fork.Pipe()
    crew.start(close_descriptors_and_acquire, theirs, lock, "close")
    told = expect(ours)
    assert told["error"] == "ClaimFileLostError"
    assert "ledger" in told["text"]
    assert "lock.fileno()" in told["text"]
    crew.finish()
    assert lock.acquire(False) is True, "nobody else has lost anything"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemon_that_opened_other_files_in_their_place(crew: Crew, fork: BaseContext, method: str) -> None:
    lock = mpbakery.Lock(ctx=multiprocessing.get_context(method), name="ledger")
    ours, theirs = fork.Pipe()
    crew.start(close_descriptors_and_acquire, theirs, lock, "replace")
    assert expect(ours)["error"] == "ClaimFileLostError"
    crew.finish()


@pytest.mark.parametrize("how", ["keep", "after use"])
def test_a_daemon_for_which_it_works(crew: Crew, fork: BaseContext, lock: mpbakery.Lock, how: str) -> None:
    """It kept the descriptor, or its thread had its slot before."""
    ours, theirs = fork.Pipe()
    crew.start(close_descriptors_and_acquire, theirs, lock, how)
    assert expect(ours) == {"error": None, "got": True}
    assert lock.acquire(False) is False
    ours.send("end")
    crew.finish()
    with pytest.warns(mpbakery.OwnerDiedWarning):
        assert lock.acquire(True, PATIENCE) is True


def test_new_locks_after_all_descriptors_were_closed(crew: Crew, fork: BaseContext, lock: mpbakery.Lock) -> None:
    ours, theirs = fork.Pipe()
    crew.start(close_descriptors_and_acquire, theirs, lock, "make anew")
    assert expect(ours) == {"error": None, "got": True}
    ours.send("end")
    crew.finish()


def test_a_process_whose_record_lock_another_one_holds(fork: BaseContext, crew: Crew, lock: mpbakery.Lock) -> None:
    """It is not who it takes itself for: two of that pid and start can only be of two PID namespaces."""
    stranger, other = Puppet(crew, lock), Puppet(crew, lock)
    other(hold_record, place_of(stranger(this_process)))
    with pytest.raises(mpbakery.ForeignNamespaceError, match="ledger"):
        stranger("acquire", True, PATIENCE)
    assert lock.acquire(False) is True


# --- PID namespaces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_proc", [True, False], ids=["own /proc", "old /proc"])
def test_a_lock_from_another_pid_namespace(
    fork: BaseContext, crew: Crew, lock: mpbakery.Lock, pid_namespaces: None, new_proc: bool
) -> None:
    """Its pids mean other processes here."""
    lock.acquire()
    ours, theirs = fork.Pipe()
    crew.start(in_new_pid_namespace, use_foreign_lock, theirs, new_proc, lock)
    error = expect(ours)
    assert isinstance(error, mpbakery.ForeignNamespaceError)
    assert error.lock == "ledger"
    assert error.made_in == os.stat("/proc/self/ns/pid").st_ino
    assert error.used_in not in {0, error.made_in}
    crew.finish()
    assert lock.owner is not None
    assert lock.owner.pid == os.getpid()


@pytest.mark.parametrize("new_proc", [True, False], ids=["own /proc", "old /proc"])
def test_a_lock_made_in_a_new_pid_namespace(
    fork: BaseContext, crew: Crew, pid_namespaces: None, new_proc: bool
) -> None:
    """Among the processes there it works, deaths included."""
    ours, theirs = fork.Pipe()
    crew.start(in_new_pid_namespace, use_lock_made_here, theirs, new_proc)
    assert expect(ours) == {"exclusion": True, "taken over": True}
    crew.finish()


def test_a_process_is_not_taken_for_one_of_another_namespace(
    fork: BaseContext, crew: Crew, pid_namespaces: None
) -> None:
    """With /proc still that of the namespace outside, /proc/<pid> is somebody else: here a zombie, with the pid of a
    living holder. Nobody may conclude that the holder is dead."""
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    try:
        ours, theirs = fork.Pipe()
        crew.start(in_new_pid_namespace, meet_zombie_of_other_namespace, theirs, False, zombie)
        told = expect(ours, 60)
        assert told["pid"] == zombie, f"the kernel gave another pid: {told}"
        assert told["two are in"] is False
        crew.finish()
    finally:
        os.waitpid(zombie, 0)


def test_what_runs_under_the_claim_lock_runs_once_whatever_a_handler_raises(lock: mpbakery.Lock) -> None:
    """TimeoutError is an OSError, but says nothing about the claim lock."""
    runs = []

    def run() -> bool:
        runs.append(1)
        raise TimeoutError  # as a handler of SIGALRM that comes now

    with pytest.raises(TimeoutError):
        lock._table.exclusively(run, 1.0)
    assert len(runs) == 1
