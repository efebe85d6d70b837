"""What the lock stands on: properties of the interpreter, the kernel and the machine that nobody else tests for us.

Where one of them does not hold, the message says what that means for the lock.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import importlib
import itertools
import math
import mmap
import operator
import os
import signal
import struct
import sys
import threading
import time
import timeit
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from conftest import FIGURES
from mpbakery._system import fence, identity, layout, park
from mpbakery._system.identity import Process
from mpbakery._system.memory import create
from mpbakery._system.native import FREE_THREADED
from mpbakery._system.record_locks import LIVES, ClaimFile
from support.children import (
    hold_claims,
    live_without_main_thread,
    look_for_torn_words,
    race_stores,
    store_word_pairs,
    tell_clock,
    tell_mapping,
    tell_parent,
    tell_process,
    wait_on_futex,
)
from support.namespaces import in_new_pid_namespace
from support.workers import Crew, expect, in_thread, in_threads, wait_for_state, wait_until

WORD = 8

FREE_THREADED_ONLY = pytest.mark.skipif(not FREE_THREADED, reason="the GIL has threads take turns")


@pytest.fixture
def room() -> mmap.mmap:
    return mmap.mmap(-1, mmap.PAGESIZE)


@pytest.fixture
def file() -> Iterator[int]:
    """A file that record locks can be put on."""
    descriptor = os.memfd_create("claims")
    yield descriptor
    os.close(descriptor)


# --- Stores and loads ----------------------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize("load", ["word", "list", "comparison"])
@pytest.mark.parametrize("stored_as", ["Q", "d"])
def test_an_aligned_word_is_stored_and_loaded_in_one_piece(
    fork: BaseContext, crew: Crew, room: mmap.mmap, stored_as: str, load: str
) -> None:
    """Through a memoryview of words or of doubles: another process sees the old value or the new one."""
    writer = crew.start(store_word_pairs, room, stored_as)
    ours, theirs = fork.Pipe()
    crew.start(look_for_torn_words, theirs, room, load, 0.4)
    report = expect(ours)
    writer.kill()
    writer.join()
    assert report["torn"] == 0, (
        "words are torn on this platform: a process could take half of a ticket, or of the owner's word, for the "
        "whole, and two could be in at once"
    )
    assert report["seen"] > 10, "the writer was hardly seen at work: nothing is known about torn words"


@pytest.mark.serial
def test_a_fence_lets_one_of_two_see_the_others_store(
    fork: BaseContext, crew: Crew, room: mmap.mmap, record_property: Callable[[str, object], None]
) -> None:
    """Two processes store and then load at the same moment; what the first fence of the protocol is there for. Without
    it, some machines let neither see the other's store: how often, is a figure, since it is a matter of luck."""
    reports = {}
    for fenced in (False, True):
        room[:] = bytes(len(room))
        ours, theirs = fork.Pipe()
        for me in (0, 1):
            crew.start(race_stores, theirs, room, me, fenced, 1.0)
        reports[fenced] = expect(ours)
    crew.finish()
    record_property(
        FIGURES,
        "stores that neither of two processes saw: "
        f"{reports[False]['missed']} of {reports[False]['rounds']:,} without a fence, "
        f"{reports[True]['missed']} of {reports[True]['rounds']:,} with one",
    )
    assert reports[True]["missed"] == 0, (
        "the fence is none on this machine: two processes could both find the waiting room empty, and both be in"
    )
    assert reports[True]["rounds"] > 100, "the two hardly met: nothing is known about the fence"


def test_a_slice_sees_the_words_of_its_range(room: mmap.mmap) -> None:
    words = memoryview(room).cast("Q")
    for place in range(20):
        words[place] = (1 << 64) - 1 - place
    expected = [(1 << 64) - 1 - place for place in range(3, 10)]
    assert words[3:10].tolist() == expected, "a scan of the waiting room sees other tickets than there are"
    assert memoryview(room[3 * WORD : 10 * WORD]).cast("Q").tolist() == expected, "words and bytes are counted apart"


def test_words_and_doubles_share_their_zero(room: mmap.mmap) -> None:
    """HELD is a double, and free when its word is 0."""
    words, times = memoryview(room).cast("Q"), memoryview(room).cast("d")
    times[4] = time.monotonic()
    assert words[4] != 0, "a lock that is held since now looks free: two would be in at once"
    words[4] = 0
    assert times[4] == 0.0, "an attempt that failed takes the lock for its own, and releases another's"


class Probe:
    """Says what a range of memory holds when it is asked for its truth value."""

    def __init__(self, room: mmap.mmap, size: int) -> None:
        self.seen: list[bytes] = []
        self._room = room
        self._size = size

    def __bool__(self) -> bool:
        self.seen.append(bytes(self._room[: self._size]))
        return True


def test_pack_into_zeroes_its_range_and_then_stores_in_order(room: mmap.mmap) -> None:
    """Why the store that releases a lock must not be one into the owner register: it stores 0 more than once, and
    between the first time and the last one somebody else may have become the owner."""
    packer = struct.Struct("Q?Q?")
    room[: packer.size] = b"\xff" * packer.size
    first, second = Probe(room, packer.size), Probe(room, packer.size)
    packer.pack_into(room, 0, 5, first, 6, second)
    assert first.seen == [packer.pack(5, False, 0, False)], (
        "pack_into does not zero its whole range before the first field: the release may come later than the lock "
        "believes, after the Python code that looks for whom to wake"
    )
    assert second.seen == [packer.pack(5, True, 6, False)], (
        "pack_into does not store in the order of its fields: a release could run Python code, which a signal handler "
        "can leave by an exception, before the lock is free, and it would stay held"
    )


def test_the_release_stores_before_it_asks(room: mmap.mmap) -> None:
    """The Q and the ? of a release: when Python code runs, the word is 0, and stays 0 afterwards."""
    packer = struct.Struct("Q?")
    room[:WORD] = b"\xff" * WORD
    after = Probe(room, WORD)
    packer.pack_into(room, 0, 0, after)
    assert after.seen == [bytes(WORD)], (
        "Python code runs before the lock is free: Ctrl-C could leave it held for ever, and the next in line would be "
        "woken for nothing"
    )
    assert bytes(room[:WORD]) == bytes(WORD), "the lock is not free after a release"


def test_an_offset_is_asked_for_before_the_store(room: mmap.mmap) -> None:
    """Where a fence must come before the releasing store, the offset is what brings it."""
    room[:WORD] = b"\xff" * WORD
    seen = []

    class Offset:
        def __index__(self) -> int:
            seen.append(bytes(room[:WORD]))
            return 0

    offset: Any = Offset()
    struct.Struct("Q").pack_into(room, offset, 0)
    assert seen[-1:] == [b"\xff" * WORD], (
        "the fence of a release comes after its store: on machines that are not x86 the next owner could miss what was "
        "written under the lock; and a thread's first `with` could clear a word that is not its own"
    )
    assert bytes(room[:WORD]) == bytes(WORD), "a store by way of such an offset goes astray"


def test_a_property_that_is_a_c_function_runs_no_python() -> None:
    """`release` and `__exit__` are such properties: no place for a handler between the look-up and the store."""
    for name in ("release", "__exit__"):
        attribute = vars(mpbakery.Lock.__mro__[1])[name]
        assert isinstance(attribute, property), f"{name} is found in another way: a handler could come before the store"
        assert isinstance(attribute.fget, operator.attrgetter), (
            f"looking {name} up runs Python code: a handler that raises there leaves the lock held"
        )


@FREE_THREADED_ONLY
def test_threads_load_and_store_single_words_of_one_memoryview(room: mmap.mmap) -> None:
    """Of slices, see the next one."""
    words = memoryview(room).cast("Q")

    def use(word: int) -> None:
        for value in range(100_000):
            words[word] = value
            assert words[word] == value

    in_threads([functools.partial(use, word) for word in range(4)])


@FREE_THREADED_ONLY
@pytest.mark.serial
@pytest.mark.xfail(raises=ValueError, strict=True, reason="python/cpython#155606, open in CPython 3.13.15 and 3.14.7")
def test_threads_take_slices_of_one_memoryview(room: mmap.mmap) -> None:
    """Once they can, `Memory.spans` can be `Memory.words` there as well."""
    words = memoryview(room).cast("Q")

    def use() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            deque(map(words.__getitem__, itertools.repeat(slice(2, 5), 1000)), maxlen=0)

    in_threads([use] * 4)


# --- Atomic operations of the interpreter --------------------------------------------------------------------------


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.serial
def test_setdefault_has_one_winner(hasty_switches: None) -> None:
    """It decides which thread of a process claims, and which of them gets a slot that another one has left."""

    def race() -> None:
        table: dict[str, object] = {}
        mine = [object() for _ in range(4)]
        standing: list[object] = []

        def claim(one: object) -> None:
            standing.append(table.setdefault("turn", one))

        in_threads([functools.partial(claim, one) for one in mine])
        assert len(set(map(id, standing))) == 1, (
            "dict.setdefault is not atomic here: two threads could claim at once, and get the same slot"
        )
        assert standing[0] in mine, "dict.setdefault returned what nobody has put in"

    for _ in range(300):
        race()


@pytest.mark.serial
def test_a_dictionary_is_copied_in_one_step(hasty_switches: None) -> None:
    """A thread looks through its process's slots while others come and go."""
    table: dict[int, int] = dict.fromkeys(range(50), 0)
    enough = threading.Event()
    copies = 0

    def come_and_go() -> None:
        for turn in itertools.count():
            if enough.is_set():
                break
            table[100 + turn % 7] = turn
            table.pop(100 + (turn + 3) % 7, None)

    def copy() -> None:
        nonlocal copies
        try:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                list(table)
                list(table.items())
                max(table)
                copies += 1
        finally:
            enough.set()

    try:
        in_threads([come_and_go, come_and_go, copy])
    except RuntimeError as error:
        pytest.fail(f"a copy of a dictionary is not one step here ({error}): a claim fails when another thread ends")
    assert copies > 100, "there was hardly a copy: nothing is known about them"


@pytest.mark.serial
def test_pop_and_append_lose_nothing(hasty_switches: None) -> None:
    stock = list(range(50))

    def take_and_give_back() -> None:
        for _ in range(2000):
            try:
                stock.append(stock.pop())
            except IndexError:
                pass

    in_threads([take_and_give_back] * 4)
    assert sorted(stock) == list(range(50)), (
        "list.pop is not atomic here: two threads could pop the same thing. Slots are kept in a dictionary, so the "
        "lock does not fall with this alone; but an interpreter like that was never looked at"
    )


@pytest.mark.serial
def test_a_private_lock_changes_hands_in_one_call(hasty_switches: None) -> None:
    """acquire(False) has one winner, release raises RuntimeError where it is free: what the fence relies on."""
    lock = threading.Lock()
    taken: list[int] = []
    freed: list[int] = []
    failed: list[int] = []

    def work() -> None:
        for _ in range(2000):
            if lock.acquire(False):
                taken.append(1)
            try:
                lock.release()
                freed.append(1)
            except RuntimeError:
                failed.append(1)

    in_threads([work] * 3)
    assert len(taken) == len(freed), (
        "threading.Lock was taken or freed twice at once: it need not be a locked instruction, and the fence none"
    )


def test_thread_locals_are_made_anew_in_every_thread() -> None:
    made = []

    class Local(threading.local):
        def __init__(self, argument: str) -> None:
            made.append((argument, threading.get_ident()))

    local = Local("once")
    in_threads([lambda: local.__dict__, lambda: local.__dict__])
    assert [argument for argument, _thread in made] == ["once"] * 3, (
        "threads share what is to be each one's own: two of them would stand in the line with one slot, and both be in"
    )


def test_what_a_thread_has_for_itself_ends_with_it() -> None:
    """A weak reference to it calls back by the time that the thread is joined: that gives a slot back."""
    gone: list[object] = []
    kept: list[object] = []
    local = threading.local()

    class Claim:
        pass

    def claim() -> None:
        local.claim = Claim()
        kept.append(weakref.ref(local.claim, gone.append))

    gc.disable()
    try:
        in_thread(claim)
        assert gone == kept, "slots of threads that have ended are not given back: a lock would run out of them"
    finally:
        gc.enable()


def test_with_asks_for_exit_before_it_enters() -> None:
    """Why the releasing call of a thread without a slot must find its word later."""
    order = []

    class Manager:
        def __enter__(self) -> None:
            order.append("enter runs")

        def look_up(self) -> Any:
            order.append("exit is looked up")
            return lambda *_exception: None

        __exit__ = property(look_up)

    with Manager():
        pass
    assert order == ["exit is looked up", "enter runs"], (
        "`with` looks __exit__ up after it has entered: a handler that comes in between leaves the lock held"
    )


def test_a_forked_child_runs_the_hooks_first() -> None:
    """Before anything else, os.register_at_fork tells the lock in the child that its slots are the parent's."""
    ours, theirs = os.pipe()
    told: list[int] = []
    os.register_at_fork(after_in_child=lambda: told.append(os.getpid()))
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"told" if told == [os.getpid()] else b"not told")
        os._exit(0)
    os.waitpid(pid, 0)
    answer = os.read(ours, 10)
    os.close(ours)
    os.close(theirs)
    assert answer == b"told", "a forked child goes on with its parent's slots: both would be in at once"
    assert not told, "a parent is told that it is the child: it would give up its slots"


# --- The kernel: memory and record locks ---------------------------------------------------------------------------


def test_a_forked_child_shares_the_mapping(fork: BaseContext, crew: Crew, room: mmap.mmap) -> None:
    memoryview(room).cast("Q")[7] = 42
    ours, theirs = fork.Pipe()
    crew.start(tell_mapping, theirs, room)
    message = "a forked child has memory of its own: a lock would exclude nobody in other processes"
    assert expect(ours) == 42, message
    wait_until(lambda: memoryview(room).cast("Q")[7] == 43, f"the child's store; {message}")
    crew.finish()


def lock_record(file: int, place: int = 0) -> None:
    """Lock one byte of a file, or raise BlockingIOError."""
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)


def is_locked_for_a_child(file: int, place: int = 0) -> bool:
    """Whether a forked child cannot lock that byte."""
    pid = os.fork()
    if pid == 0:
        status = 8
        try:
            lock_record(file, place)
            status = 0
        except BlockingIOError:
            status = 7
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, 7}, f"a child could neither lock a record nor find it locked, and ended with {status}"
    return status == 7


def test_a_record_lock_dies_with_its_process(fork: BaseContext, crew: Crew, file: int) -> None:
    ours, theirs = fork.Pipe()
    holder = crew.start(hold_claims, theirs, file)
    assert expect(ours) == "held"
    assert is_locked_for_a_child(file, 5), (
        "a record lock keeps nobody out: two processes could claim the same slot, and both be in"
    )
    holder.kill()
    holder.join()
    assert not is_locked_for_a_child(file, 5), (
        "a record lock outlives its process: after a kill in mid-claim, nobody could claim a slot any more"
    )


def test_a_zombie_has_no_record_locks(file: int) -> None:
    """The kernel frees them when the process ends, not when somebody reaps it."""
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        lock_record(file)
    except BlockingIOError:
        pytest.fail("a zombie keeps its record lock: nobody could claim a slot before its parent reaps it")
    finally:
        os.waitpid(pid, 0)


def test_a_record_lock_is_not_inherited_by_a_forked_child(file: int) -> None:
    """And the child, when it ends, does not take its parent's with it."""
    lock_record(file)
    assert is_locked_for_a_child(file), (
        "a forked child has its parent's record lock: both could claim the same slot, and both be in"
    )
    assert is_locked_for_a_child(file), (
        "a child that ends takes its parent's record lock with it: two could claim the same slot, and both be in"
    )


def test_a_record_lock_is_lost_with_any_descriptor_of_its_file(file: int) -> None:
    """Why a second descriptor of the claim file is closed only under the claim lock."""
    lock_record(file)
    os.close(os.dup(file))
    assert not is_locked_for_a_child(file), "a record lock outlives its descriptor: the lock need not be so careful"


def test_bytes_of_a_file_are_locked_one_by_one_and_beyond_its_end(file: int) -> None:
    """One file serves many locks: each has a byte, that need not exist."""
    last = (1 << 63) - 1
    for place in (0, 1, LIVES - 1, LIVES, last):
        lock_record(file, place)
    assert not is_locked_for_a_child(file, 2), "claims of one lock hold up those of others"
    assert not is_locked_for_a_child(file, LIVES + 1), "nobody can say that he lives while another one does"
    for place in (LIVES - 1, LIVES, last):
        assert is_locked_for_a_child(file, place), (
            "a byte behind the end of a file cannot be locked: two processes could claim the same slot, and both be in"
        )


def test_an_unlocked_record_is_free(file: int) -> None:
    lock_record(file)
    functools.partial(fcntl.lockf, file, fcntl.LOCK_UN, 1)(0)
    assert not is_locked_for_a_child(file), "a claim does not end: nobody else could claim a slot any more"


@pytest.mark.parametrize("ask", [ClaimFile._is_locked, ClaimFile._cannot_be_locked], ids=lambda ask: ask.__name__)
def test_it_can_be_asked_whether_somebody_holds_a_record(file: int, ask: Callable[[ClaimFile, int], bool]) -> None:
    """By a look, which nobody notices; or, on other systems, by trying to lock it."""
    claims = ClaimFile(file, owned=False)
    wrong = "the dead are waited for, or the lock is taken from the living"
    ours, theirs = os.pipe()
    holder = os.fork()
    if holder == 0:
        lock_record(file, LIVES + 7)
        os.write(theirs, b"held")
        signal.pause()
    try:
        assert os.read(ours, 4) == b"held"
        assert ask(claims, LIVES + 7), wrong
        assert ask(claims, LIVES + 7), "who looks takes the record lock away"
        assert not ask(claims, LIVES + 6), wrong
        os.kill(holder, signal.SIGKILL)
        os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
        assert not ask(claims, LIVES + 7), "a zombie counts as alive until somebody reaps it"
        assert not ask(claims, LIVES + 7)
        assert not is_locked_for_a_child(file, LIVES + 7), "who looks keeps the record lock: the dead would live on"
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(ours)
        os.close(theirs)


def test_a_sealed_file_cannot_shrink() -> None:
    """A mapping behind the end of its file would kill whoever reads it."""
    descriptor = create(layout.LOCK, 4, name="sealed", robust=True, namespace=0).segment.claims.descriptor
    size = os.fstat(descriptor).st_size
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    attempts: dict[str, Callable[[], object]] = {
        "shrinks": lambda: os.ftruncate(descriptor, 0),
        "grows": lambda: os.ftruncate(descriptor, size * 2),
        "is sealed further": lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        "shrinks, opened anew": lambda: os.ftruncate(again, 0),
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        pytest.fail(f"a sealed file {what}: any process that was sent a lock could kill all others that use it")
    os.close(again)
    assert os.fstat(descriptor).st_size == size
    assert not os.get_inheritable(descriptor), "programs that are started by exec inherit the lock's memory"


# --- The kernel: time and processes --------------------------------------------------------------------------------


def test_the_monotonic_clock_is_one_for_all_processes(fork: BaseContext, crew: Crew) -> None:
    """And for all processors: two processes on different ones, and this one, are asked in turn."""
    pipes = []
    for processor in range(2):
        ours, theirs = fork.Pipe()
        crew.start(tell_clock, theirs, processor)
        pipes.append(ours)
    times = [time.monotonic()]
    for _ in range(200):
        for ours in pipes:
            ours.send("now")
            times += [expect(ours), time.monotonic()]
    for ours in pipes:
        ours.send("end")
    crew.finish()
    assert times == sorted(times), (
        "processes do not share a monotonic clock here: how long others hold the lock or wait for it is told wrongly, "
        "and an attempt that is undone could take another's acquisition for its own"
    )


def test_the_monotonic_clock_is_fine_enough_to_tell_acquisitions_apart() -> None:
    """The time of an acquisition is its token: two of one thread are never at the same moment."""
    times = [time.monotonic() for _ in range(10_000)]
    message = "two acquisitions could have the same time: undoing one of them could release the other"
    assert len(set(times)) > 9_000, message
    assert times == sorted(times), message


def test_a_start_time_is_in_proc() -> None:
    mine = identity.this_process()
    assert mine.pid == os.getpid()
    assert mine.start > 0, "start times are unknown here: the lock of a dead holder whose pid was used again stays held"
    assert not identity.is_dead(mine), "the living are taken for dead: the lock would be taken from its holder"
    assert identity.is_dead(mine._replace(start=mine.start + 1)), (
        "another start time makes no difference: the lock of a dead holder whose pid was used again stays held"
    )
    unknown = "without a start time the living are taken for dead: the lock would be taken from its holder"
    assert not identity.is_dead(mine._replace(start=identity.UNKNOWN_START)), unknown
    assert not identity.is_dead(identity.Process(1, identity.UNKNOWN_START)), unknown


def test_all_see_the_same_start_of_a_process(fork: BaseContext, crew: Crew) -> None:
    """Its parent, its child, and another process."""
    mine = identity.this_process()
    ours, theirs = fork.Pipe()
    crew.start(tell_process, theirs, mine)
    child, parent_is_dead, another_would_be = expect(ours)
    assert child.pid != mine.pid
    assert child.start >> 62 == mine.start >> 62 != 0, "starts are of several kinds here, and cannot be compared"
    assert not parent_is_dead, "a parent seems to be another process: the lock would be taken from its holder"
    assert another_would_be, "a parent seems to be its own successor: the lock of the dead stays held"
    assert not identity.is_dead(child), "a child seems to be another process: the lock would be taken from its holder"


@pytest.mark.parametrize(
    "has_proof",
    [identity._by_descriptor, identity._by_status, identity._by_links, identity._by_parenthood],
    ids=lambda has_proof: has_proof.__name__,
)
def test_each_way_to_be_told_of_a_death(crew: Crew, has_proof: Callable[[Process], bool]) -> None:
    """Of a zombie, which has its pid still. Of the living there is no proof, and of one without its main thread."""
    unknown = identity.UNKNOWN_START
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        assert not has_proof(Process(child, unknown)), "the living are taken for dead: two would be in"
        assert not has_proof(Process(1, unknown))
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert has_proof(Process(child, unknown)), "a zombie counts as alive: its lock stays held until it is reaped"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    ours, theirs = crew.context.Pipe()
    half = crew.start(live_without_main_thread, theirs)
    expect(ours)
    assert half.pid
    wait_for_state(half.pid, "Z")
    assert not has_proof(Process(half.pid, unknown)), "a process without its main thread is taken for dead: two are in"


def test_the_number_of_a_thread_is_no_process() -> None:
    """A dead owner's pid may be given to a thread of somebody else."""
    number: list[int] = []
    begun, enough = threading.Event(), threading.Event()

    def live() -> None:
        number.append(threading.get_native_id())
        begun.set()
        enough.wait()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        begun.wait()
        assert identity.is_dead(Process(number[0], identity.this_process().start)), "it is waited for as for a process"
    finally:
        enough.set()
        thread.join()


def test_a_process_sees_no_parent_from_within_a_pid_namespace(
    fork: BaseContext, crew: Crew, pid_namespaces: None
) -> None:
    """By this a forked child knows, without /proc, that it is in another one than its parent."""
    ours, theirs = fork.Pipe()
    crew.start(in_new_pid_namespace, tell_parent, theirs, False)
    assert expect(ours) == (0, 1), "a child takes its parent's pids for pids of its own namespace: two could be in"
    crew.finish()


def test_a_program_name_cannot_confuse_the_start_time() -> None:
    """The name in /proc/<pid>/stat stands in parentheses, and may hold parentheses and spaces itself."""
    before = identity.this_process()
    name = Path("/proc/self/comm").read_text()
    message = "a process that names itself so is taken for dead, and the lock from it while it holds it"
    status = identity._read_status(os.getpid())
    try:
        Path("/proc/self/comm").write_text(") Z 1 1 (x")
        identity.forget()  # else nothing is read again
        assert identity.this_process() == before, message
        assert identity._read_status(os.getpid()) == status, message
        assert not identity.is_dead(before), message
    finally:
        Path("/proc/self/comm").write_text(name.strip())


# --- Parking -------------------------------------------------------------------------------------------------------


def test_the_futex_wakes_another_process(fork: BaseContext, crew: Crew, room: mmap.mmap) -> None:
    words = memoryview(room).cast("Q")
    words[3] = 1
    ours, theirs = fork.Pipe()
    child = crew.start(wait_on_futex, theirs, room, 3, 1, 20.0)
    assert expect(ours) == "parking"
    wait_for_state(child.pid or 0, "S")
    assert not ours.poll(0.1), "the futex does not sleep: every waiter would keep a processor busy"
    words[3] = 0
    park.Parker(room).unpark(3)
    assert expect(ours) < 15, (
        "the futex does not wake another process: each hand-over would take until the end of a nap, 50 ms or more"
    )
    crew.finish()


def test_the_futex_looks_before_it_sleeps(room: mmap.mmap) -> None:
    memoryview(room).cast("Q")[3] = 2
    start = time.monotonic()
    park.Parker(room).park(3, 1, 20.0, 100)
    assert time.monotonic() - start < 10, (
        "the futex sleeps though the word has changed: a waiter that was let go on just before would sleep on"
    )


def test_the_futex_sleeps_no_longer_than_it_is_told(room: mmap.mmap) -> None:
    memoryview(room).cast("Q")[3] = 1
    start = time.monotonic()
    park.Parker(room).park(3, 1, 0.2, 100)
    took = time.monotonic() - start
    assert took >= 0.19, "the futex returns too early: waiters would keep processors busy"
    assert took < 5, "the futex sleeps on: timeouts would be missed, and nobody would notice that the holder is dead"


def test_the_futex_is_there() -> None:
    assert park._get_futex() is not None, (
        "there is no futex here: waiters nap instead, up to 5 ms, and the tests above are of these naps"
    )


def test_an_import_under_way_can_be_seen() -> None:
    """Whoever imports the same waits for it: for ever, where the thread that is at it does not exist."""
    name = "module_that_takes_its_time"
    seen: list[bool] = []

    class Finder:
        @staticmethod
        def find_spec(module: str, path: object = None, target: object = None) -> None:
            if module == name:
                seen.append(park._is_being_imported(name))
                seen.append(in_thread(lambda: park._is_being_imported(name)))

    sys.meta_path.insert(0, Finder())
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    finally:
        del sys.meta_path[0]
    assert seen == [True, True], (
        "an import under way is not seen: a first wait does not keep its time limit where another thread, or what a "
        "signal handler has interrupted, is importing ctypes; in a child that was forked meanwhile it never ends"
    )
    assert not park._is_being_imported(name), "an import that is over is taken for one under way: waiters only nap"


def test_without_a_futex_a_park_is_a_nap(room: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(park, "_futex", None)
    monkeypatch.setattr(park, "_look_again", math.inf)
    memoryview(room).cast("Q")[3] = 1
    start = time.monotonic()
    for turn in range(20):
        park.Parker(room).park(3, 1, 20.0, turn)
    assert time.monotonic() - start < 5, "naps are not short: without a futex, nobody would notice that it is his turn"
    park.Parker(room).unpark(3)


def test_the_machine_is_little_or_big_endian_as_the_park_word_expects(room: mmap.mmap) -> None:
    memoryview(room).cast("Q")[0] = 1
    half = struct.unpack_from("=I", room, park._HALF)[0]
    assert half == 1, "the futex looks at the wrong half of its word: waiters would not sleep, or not be woken"


# --- Fences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fence.Fence, fence.KernelFence])
def test_a_fence_can_be_used_in_every_order(kind: type[fence.Fence]) -> None:
    """As a whole, and in halves that do not match, as a handler in between leaves them."""
    fence = kind()
    for _ in range(3):
        fence()
        if not fence.take():
            fence.refence()
        fence()
        fence.refence()
        fence.refence()
        fence()


def test_yielding_can_be_afforded() -> None:
    """The fence of machines that are not x86, if the kernel has no other: a trip through the scheduler."""
    # of the processor, since on a busy machine the others use the time that is yielded to them
    start = time.thread_time()
    for _ in range(1000):
        os.sched_yield()
    assert time.thread_time() - start < 1, "a yield takes a millisecond: machines that are not x86 want another fence"


def test_the_fenced_offset_runs_no_python_and_gives_the_offset(
    monkeypatch: pytest.MonkeyPatch, room: mmap.mmap
) -> None:
    """On machines that are not x86, the release makes what was written under the lock visible first."""
    monkeypatch.setattr(fence, "TOTAL_STORE_ORDER", False)
    offset: Any = fence.fenced(16)
    message = "on machines that are not x86, a release goes astray: the lock would stay held"
    assert offset.__index__() == 16, message
    room[16:24] = b"\xff" * WORD
    struct.Struct("Q").pack_into(room, offset, 0)
    assert bytes(room[16:24]) == bytes(WORD), message


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_the_fence_of_other_machines_keeps_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "TOTAL_STORE_ORDER", False)
    monkeypatch.setattr(fence, "_library", fence._find_library())
    assert fence._library is not None, "ctypes or FUTEX_WAKE is missing: each fence gives the processor away"
    monkeypatch.setattr(fence, "yield_", None)
    kernel = fence.KernelFence()
    assert kernel.take() is True
    assert kernel.free() is None
    kernel()
    fastest = min(timeit.repeat(kernel.free, number=100, repeat=20)) / 100
    assert fastest < 20e-6, "a fence takes so long that an acquisition does, on machines that are not x86"


@pytest.mark.parametrize("gives_way", [False, True], ids=["kernel", "scheduler"])
def test_a_fenced_value_is_stored_behind_the_fence(
    monkeypatch: pytest.MonkeyPatch, gives_way: bool, room: mmap.mmap
) -> None:
    """On machines that are not x86: an attempt that is undone leaves the line when all that it did can be seen."""
    words = memoryview(room).cast("Q")
    before: list[int] = []
    monkeypatch.setattr(fence, "TOTAL_STORE_ORDER", False)
    monkeypatch.setattr(fence, "_library", None if gives_way else Recorder(lambda: before.append(words[2])))
    monkeypatch.setattr(fence, "yield_", lambda: before.append(words[2]))
    words[2] = 5
    words[2] = fence.fenced(0)  # type: ignore[call-overload]
    assert (before, words[2]) == ([5], 0)
    words[2] = 6
    pop = fence.pop_release_offset([8, 16])
    assert (pop(), pop(), before) == (16, 8, [5, 6, 6])


class Recorder(dict[str, Any]):
    """Stands for the C library, and tells when it is called."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def __missing__(self, name: str) -> Any:
        def call(*_arguments: object) -> object:
            self._tell()
            return call.restype(0)  # type: ignore[attr-defined]

        return call
