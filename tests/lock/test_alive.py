"""Who is alive: seen from other namespaces, from sandboxes, without /proc, and without a descriptor left."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from mpbakery._system import identity
from mpbakery._system.identity import Process
from mpbakery._system.record_locks import place_of
from support.namespaces import in_new_pid_namespace, meet_pid_reused_at_once
from support.sandboxes import (
    Place,
    acquire_in_thread,
    anywhere,
    chroot_without_proc,
    close_descriptor,
    fork_holder,
    lose_record_locks,
    made_up_start,
    mount_namespace_without_proc,
    other_time_namespace,
    other_time_namespace_without_descriptors_of_processes,
    pid_namespace_without_proc,
    refuse_record_locks,
    sees_alive,
    share_a_lock_made_here,
    this_process,
    try_place,
    without_a_descriptor_left,
    without_descriptors_of_processes,
    without_kill,
    without_proc_and_descriptors_of_processes,
)
from support.workers import PATIENCE, Crew, Puppet, expect, wait_for_state

#: Where the process stands that looks whether another one is alive.
PLACES: list[Place] = [
    anywhere,
    other_time_namespace,
    other_time_namespace_without_descriptors_of_processes,
    chroot_without_proc,
    mount_namespace_without_proc,
    without_kill,
    without_descriptors_of_processes,
    without_a_descriptor_left,
]
#: Where that one started, and so what it says of its start.
STARTS: list[Place] = [anywhere, without_descriptors_of_processes, made_up_start]

#: Long enough for some looks at the owner (s).
SOME_LOOKS = 0.2


@pytest.fixture
def lock(fork: BaseContext) -> mpbakery.Lock:
    return mpbakery.Lock(ctx=fork, name="ledger")


@pytest.fixture
def puppet_in(crew: Crew, lock: mpbakery.Lock) -> Callable[[Place], Puppet]:
    """Start a puppet in a place; skips the test where that is not permitted."""

    def start(place: Place) -> Puppet:
        ours, theirs = crew.context.Pipe()
        crew.start(try_place, theirs, place)
        if refusal := expect(ours):
            pytest.skip(refusal)
        return Puppet(crew, lock, place=place)

    return start


def name_of(place: Place) -> str:
    return place.__name__


@pytest.mark.parametrize(
    ("start", "descriptors"),
    # without either of the two there is nothing left to be told by
    [(start, "kept") for start in STARTS] + [(start, "closed") for start in STARTS if start is not made_up_start],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_the_living_are_alive_from_everywhere(
    lock: mpbakery.Lock, puppet_in: Callable[[Place], Puppet], place: Place, start: Place, descriptors: str
) -> None:
    holder, other = puppet_in(start), puppet_in(place)
    holder("acquire")
    if descriptors == "closed":
        holder(close_descriptor)
    assert other("acquire", True, SOME_LOOKS) is False
    assert other.warnings == []
    assert lock.owner is not None
    assert lock.owner.pid == holder.pid
    holder("release")
    assert other("acquire", True, PATIENCE) is True
    assert other.warnings == []


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
@pytest.mark.parametrize("start", STARTS, ids=name_of)
@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_the_dead_are_dead_from_everywhere(
    lock: mpbakery.Lock, puppet_in: Callable[[Place], Puppet], place: Place, start: Place, reaped: bool
) -> None:
    holder, other = puppet_in(start), puppet_in(place)
    holder("acquire")
    if reaped:
        holder.kill()
    else:
        os.kill(holder.pid, signal.SIGKILL)
        wait_for_state(holder.pid, "Z")
    assert other("acquire", True, PATIENCE) is True
    assert [type(warning) for warning in other.warnings] == [mpbakery.OwnerDiedWarning]
    assert other("recovered_from").pid == holder.pid


@pytest.mark.parametrize("place", [without_a_descriptor_left, without_proc_and_descriptors_of_processes], ids=name_of)
def test_a_parent_knows_of_its_child_s_death(
    lock: mpbakery.Lock, puppet_in: Callable[[Place], Puppet], place: Place
) -> None:
    """Which it does not reap while it sits in acquire()."""
    parent = puppet_in(place)
    child = parent(fork_holder)
    os.kill(child, signal.SIGKILL)
    assert parent("acquire", True, PATIENCE) is True
    assert [getattr(warning, "pid", None) for warning in parent.warnings] == [child]


def test_a_lock_from_another_pid_namespace_where_nothing_says_so(
    lock: mpbakery.Lock, puppet_in: Callable[[Place], Puppet]
) -> None:
    lock.acquire()
    stranger = puppet_in(pid_namespace_without_proc)
    with pytest.raises(mpbakery.ForeignNamespaceError, match="ledger") as caught:
        stranger("acquire", True, SOME_LOOKS)
    assert caught.value.made_in != caught.value.used_in
    assert lock.owner is not None
    assert lock.owner.pid == os.getpid()


def test_a_lock_made_where_nothing_says_what_namespace_that_is() -> None:
    """It works among those who are forked there, and nobody takes another namespace for that one."""
    crew = Crew(multiprocessing.get_context("spawn"))  # a forked child knows it from its parent
    try:
        ours, theirs = crew.context.Pipe()
        crew.start(try_place, theirs, pid_namespace_without_proc)
        if refusal := expect(ours):
            pytest.skip(refusal)
        maker = Puppet(crew, None, place=mount_namespace_without_proc)
        assert maker(share_a_lock_made_here) == {
            "exclusion": True,
            "elsewhere": "ForeignNamespaceError",
            "taken over": True,
        }
    finally:
        crew.close()


def test_a_pid_that_was_given_out_again_at_once(fork: BaseContext, crew: Crew, pid_namespaces: None) -> None:
    """Within the same tick of the clock that start times are told by."""
    if identity.this_process().start < identity._BY_INODE:
        pytest.skip("this kernel numbers processes by their start times only")
    ours, theirs = fork.Pipe()
    crew.start(in_new_pid_namespace, meet_pid_reused_at_once, theirs, True)
    told = expect(ours, 60)
    assert told["same tick"], f"it was never given out at once: {told}"
    assert told["acquired"] is True
    crew.finish()


# --- The record lock of the living ---------------------------------------------------------------------------------


def lives(lock: mpbakery.Lock, process: Process) -> bool:
    return lock._table._claims.lives(process)


def test_who_has_a_slot_holds_a_record_lock_for_its_life(crew: Crew, lock: mpbakery.Lock) -> None:
    puppet = Puppet(crew, lock)
    process = puppet(this_process)
    assert not lives(lock, process)
    puppet("register")
    assert lives(lock, process)
    puppet("acquire")
    puppet("release")
    assert lives(lock, process)
    os.kill(puppet.pid, signal.SIGKILL)
    wait_for_state(puppet.pid, "Z")
    assert not lives(lock, process)


def test_a_forked_child_has_none_of_its_parents(crew: Crew, lock: mpbakery.Lock) -> None:
    mpbakery.register(lock)
    assert not lives(lock, identity.this_process()), "who asks for its own is not told of it"
    puppet = Puppet(crew, lock)
    assert puppet(sees_alive, identity.this_process()) is True
    puppet("register")
    assert lives(lock, puppet(this_process))
    assert puppet(sees_alive, identity.this_process()) is True
    puppet.dismiss()
    assert Puppet(crew, lock)(sees_alive, identity.this_process()) is True, "the end of a child is not its parent's"


def test_a_record_lock_that_was_lost_is_taken_again(crew: Crew, lock: mpbakery.Lock) -> None:
    puppet = Puppet(crew, lock)
    puppet("register")
    process = puppet(this_process)
    puppet(lose_record_locks)
    assert not lives(lock, process)
    assert not lock._table._processes.is_dead(process)
    puppet(acquire_in_thread)
    assert lives(lock, process)


def test_the_record_locks_of_the_living_are_in_nobodys_way(crew: Crew, lock: mpbakery.Lock) -> None:
    """They are far from those that guard claims, in the same file."""
    puppets = [Puppet(crew, lock) for _ in range(3)]
    for puppet in puppets:
        puppet("register")
        with pytest.raises(BlockingIOError):
            fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place_of(puppet(this_process)))
    size = os.fstat(lock.fileno()).st_size
    fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, size, 0)
    fcntl.lockf(lock.fileno(), fcntl.LOCK_UN, size, 0)


# --- Record locks that are refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.ENOSYS, errno.ENOLCK], ids=errno.errorcode.get)
def test_refused_record_locks_are_an_error(crew: Crew, lock: mpbakery.Lock, error: int) -> None:
    """Not a wait: of these, EACCES is what some systems say of a record lock that another process has."""
    puppet = Puppet(crew, lock)
    if refusal := puppet(refuse_record_locks, error):
        pytest.skip(refusal)
    for arguments in ((), (True, 5), (False,)):
        with pytest.raises(mpbakery.ClaimsRefusedError, match="F_SETLK") as caught:
            puppet("acquire", *arguments)
        assert (caught.value.lock, caught.value.errno) == ("ledger", error)
    lock.acquire()
    puppet("release")
    assert not lock.locked(), "releasing for another works as well as it can without"
    assert lock.acquire(False) is True, "nobody else has lost anything"
