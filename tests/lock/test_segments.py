"""How many locks there can be: the segments in which they lie, their descriptors, and their memory."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._system import segments
from mpbakery._system.layout import FIRST_PLACE, LOCK, PLACE_UNIT, RECURSIVE_LOCK, SEGMENT_IDENTITY_AT, WORD
from mpbakery._system.memory import attach
from support.children import make_locks_after_a_fork_in_the_middle, make_one, make_one_where_files_are_small, use_many
from support.processes import descriptors
from support.workers import Crew, expect

PAGE = 4096


def mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def bytes_in_use(lock: mpbakery.Lock) -> int:
    """The memory that the segment of a lock takes."""
    return os.fstat(lock.fileno()).st_blocks * 512


@pytest.fixture
def fresh() -> None:
    """Locks are made in a segment of their own."""
    segments._spare.clear()


# --- How many ------------------------------------------------------------------------------------------------------


@pytest.mark.serial
def test_ten_thousand_locks_are_arguments_of_one_process(ctx: BaseContext, ctx_crew: Crew) -> None:
    before = descriptors()
    locks = [mpbakery.Lock(ctx=ctx) for _ in range(10_000)]
    assert descriptors() < before + 60
    locks[4_999].acquire()
    ours, theirs = ctx.Pipe()
    ctx_crew.start(use_many, theirs, locks)
    theirs.close()
    assert expect(ours) == [4_999], "the one that is held here is the one that is not to be had there"
    assert sum(lock.locked() for lock in locks) == 10_000
    ours.send("release")
    ctx_crew.finish()
    assert not any(lock.locked() for lock in locks[::97])


@pytest.mark.serial
def test_a_hundred_thousand_locks_in_one_process() -> None:
    """The kernel gives a process 65,530 mappings."""
    locks = [mpbakery.Lock() for _ in range(100_000)]
    assert mappings() < 1_000
    for lock in locks[::1_000]:
        assert lock.acquire(False) is True
        assert lock.acquire(False) is False


# --- What they cost ------------------------------------------------------------------------------------------------


def test_a_lock_takes_the_pages_that_are_used(fresh: None) -> None:
    locks = [mpbakery.Lock() for _ in range(20)]
    made = bytes_in_use(locks[0])
    assert made <= PAGE + 20 * PAGE, "a page each, and that of the segment"
    with locks[7]:
        assert bytes_in_use(locks[0]) <= made + PAGE, "the page of the first slot's record"
        assert len(locks[7].statistics().waiters) == 0
    large = mpbakery.Lock(slots=65536)
    with large:
        assert bytes_in_use(large) <= made + 5 * PAGE


def test_descriptors_and_memory_are_given_back(fresh: None) -> None:
    gc.collect()
    before = descriptors(), mappings()
    locks = [mpbakery.Lock() for _ in range(500)]
    assert descriptors() > before[0]
    for lock in locks:
        with lock:
            pass
    del locks, lock
    segments._spare.clear()
    gc.collect()
    assert descriptors() <= before[0]
    assert mappings() <= before[1] + 2


def test_one_that_stays_keeps_little(fresh: None) -> None:
    """Segments are small where few are in use, and go one by one."""
    before = mappings()
    kept = mpbakery.Lock()
    for _ in range(2_000):
        with mpbakery.Lock():
            pass
    assert mappings() <= before + 10
    assert bytes_in_use(kept) <= 1 << 20


# --- Never twice ---------------------------------------------------------------------------------------------------


def test_parent_and_child_give_out_different_places(fork: BaseContext, crew: Crew, fresh: None) -> None:
    inherited = mpbakery.Lock()

    ours, theirs = fork.Pipe()
    crew.start(make_one, theirs)
    child = expect(ours)
    mine = mpbakery.Lock()
    assert (mine._memory.segment.identity, mine._memory.place) != child
    assert mine.acquire(False) is True, "the child's lock and this one are the same memory"
    assert inherited.acquire(False) is True


def test_a_fork_in_the_middle_of_making_a_lock(fork: BaseContext, crew: Crew) -> None:
    """What the child makes afterwards is not in its parent's segment."""
    ours, theirs = fork.Pipe()
    crew.start(make_locks_after_a_fork_in_the_middle, theirs)
    child, parent = expect(ours), expect(ours)
    assert child[0] == parent[0], "the lock that was being made is the same one on both sides"
    assert set(child[1:]).isdisjoint(parent[1:]), "parent and child use the same memory for different locks"


def test_who_has_gone_is_not_found_by_its_pickle(fresh: None) -> None:
    lock = mpbakery.Lock()
    place = lock._memory.place
    pickled = pickle.dumps(lock)
    del lock
    gc.collect()
    assert mpbakery.Lock()._memory.place != place
    with pytest.raises(mpbakery.UnknownLockError):
        pickle.loads(pickled).acquire()


def test_a_new_segment_where_the_descriptor_was_closed(fresh: None) -> None:
    old = mpbakery.Lock()
    os.close(old.fileno())
    new = mpbakery.Lock()
    assert new.acquire(False) is True
    with pytest.raises(mpbakery.ClaimFileLostError):
        old.acquire()


def test_where_files_may_not_be_large(fork: BaseContext, crew: Crew) -> None:
    """Locks are not meant by such a limit, which is for what is written to disk; fork needs no file for them."""
    ours, theirs = fork.Pipe()
    crew.start(make_one_where_files_are_small, theirs)
    told = expect(ours)
    assert told["child sees it held"]
    assert "ulimit -f" in told["error under spawn"]


# --- What arrives --------------------------------------------------------------------------------------------------


class Sent:
    """A descriptor on its way."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def detach(self) -> int:
        return self._descriptor


def test_a_second_descriptor_of_a_segment_stays_open(fork: BaseContext, crew: Crew, fresh: None) -> None:
    """To close it would free the record locks that this process has in it."""
    lock = mpbakery.Lock()
    segment = lock._memory.segment
    again = os.dup(lock.fileno())
    assert segments._attach(Sent(again), segment.identity) is segment
    assert os.fstat(again).st_ino == os.fstat(lock.fileno()).st_ino
    del lock, segment
    segments._spare.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(again)


def spoil_magic(file: int, size: int) -> None:
    os.pwrite(file, b"nonsense", 0)


def spoil_identity(file: int, size: int) -> None:
    os.pwrite(file, b"12345678", SEGMENT_IDENTITY_AT * WORD)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_magic, "is no mpbakery segment of layout 2"), (spoil_identity, "are not those of segment")],
)
def test_a_segment_that_is_none_is_refused(spoil: Callable[[int, int], None], words: str, fresh: None) -> None:
    lock = mpbakery.Lock()
    segment = lock._memory.segment
    copy = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
    os.ftruncate(copy, segment.size)
    os.pwrite(copy, bytes(segment.mapping[:PAGE]), 0)
    spoil(copy, segment.size)
    with pytest.raises(mpbakery.SharingError, match=words):
        segments._attach(Sent(copy), segment.identity)


@pytest.mark.parametrize("size", [0, 39, 40, PAGE - 1])
def test_a_segment_that_is_too_small_is_refused(size: int, fresh: None) -> None:
    lock = mpbakery.Lock()
    segment = lock._memory.segment
    copy = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
    os.pwrite(copy, bytes(segment.mapping[:size]), 0)
    with pytest.raises(mpbakery.SharingError):
        segments._attach(Sent(copy), segment.identity)


def test_a_segment_that_could_shrink_is_refused(fresh: None) -> None:
    """Its end could be cut off, which would kill whoever reads there."""
    lock = mpbakery.Lock()
    segment = lock._memory.segment
    copy = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
    os.ftruncate(copy, segment.size)
    os.pwrite(copy, bytes(segment.mapping[:PAGE]), 0)
    with pytest.raises(mpbakery.SharingError, match="could shrink"):
        segments._attach(Sent(copy), segment.identity)


@pytest.mark.parametrize("place", [-PLACE_UNIT, 0, FIRST_PLACE + 8, 1 << 40])
def test_a_place_that_is_none_is_refused(place: int) -> None:
    with pytest.raises(mpbakery.SharingError, match=f"no place {place} "):
        attach(mpbakery.Lock()._memory.segment, place, LOCK)


def test_a_place_with_nothing_in_it_is_refused(fresh: None) -> None:
    memory = mpbakery.Lock()._memory
    with pytest.raises(mpbakery.SharingError, match="is no primitive of layout 2"):
        attach(memory.segment, memory.place + len(memory.mapping) // PAGE * PAGE + PAGE, LOCK)


def test_another_kind_than_announced_is_refused() -> None:
    memory = mpbakery.Lock()._memory
    with pytest.raises(mpbakery.SharingError, match="is of kind 1, not of kind 2"):
        attach(memory.segment, memory.place, RECURSIVE_LOCK)


def test_a_condition_tells_which_lock_is_its_own() -> None:
    lock: Any = mpbakery.Lock()
    condition = mpbakery.Condition(lock)
    assert condition._memory.link == lock._memory.identity
    assert lock._memory.link == bytes(16)
