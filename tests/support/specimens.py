"""Programs to look into: each gets into a plight, says so, and stays there until it is killed.

`python -m support.specimens PLIGHT METHOD` is one of them. `exhibit` starts it, and ends all of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import multiprocessing
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import mpbakery
from mpbakery._system import layout
from mpbakery._work.queues import piped
from support import scripts
from support.namespaces import system_call
from support.processes import all_processes, children_of, state_of, status_of
from support.workers import PATIENCE, begin, wait_until

#: More locks than anybody has.
MANY = 20_000
#: prctl(2), capset(2): keep capabilities as another user; the layout of what they are given in.
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION = 0x20080522
_CLONE_NEWUSER = 0x10000000
#: So many segments are forged, with such words.
FORGED = 300
ODD_WORDS = (0, 1, 2, 7, 44, 60, 200, 65536, 1 << 31, 1 << 62, (1 << 63) + 5, (1 << 64) - 1, 0x7FF8 << 48)


class Exhibit:
    """A program in its plight."""

    def __init__(self, process: subprocess.Popen[str], told: list[int]) -> None:
        self.pid: int = process.pid
        self.process = process
        #: the pids that it has told
        self.told = told


@contextlib.contextmanager
def exhibit(plight: str, method: str = "fork") -> Iterator[Exhibit]:
    """A program that is in that plight, and killed with all of its processes in the end."""
    process = scripts.start("-m", "support.specimens", plight, method)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready"), process.stderr.read()
        yield Exhibit(process, [int(word) for word in line.split()[1:]])
    finally:
        group = _belonging_to(process.pid)
        for pid in group:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE)
        wait_until(lambda: not [pid for pid in group if _runs(pid)], "the end of all processes")
        process.stdout.close()
        process.stderr.close()


def _belonging_to(leader: int) -> list[int]:
    """The processes of a session, orphans among them, and all their descendants."""
    found = [pid for pid in all_processes() if status_of(pid)[3:4] == [b"%d" % leader]]
    for pid in found:
        found += [child for child in children_of(pid) if child not in found]
    return found


def _runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # orphans come to the process of the tests
    return state_of(pid) not in {"", "Z", "X"}


def _ready(*pids: int) -> None:
    print("ready", *pids, flush=True)
    time.sleep(PATIENCE * 2)


def _children(ctx: Any, target: Callable[..., object], *rows: tuple[object, ...]) -> list[Any]:
    children = [ctx.Process(target=_run, args=(target, *row), name=f"Child-{n}") for n, row in enumerate(rows, 1)]
    for child in children:
        child.start()
    return children


def _run(target: Callable[..., object], *arguments: object) -> None:
    begin()
    warnings.simplefilter("ignore")
    target(*arguments)


def _await_waiters(lock: Any, count: int) -> None:
    wait_until(lambda: len(lock.statistics().waiters) >= count, f"{count} waiters")


# --- What children do -----------------------------------------------------------------------------------------------


def hold(lock: Any, held: Any) -> None:
    with lock:
        held.set()
        time.sleep(PATIENCE * 2)


def hold_elsewhere(lock: Any, held: Any) -> None:
    os.setsid()
    hold(lock, held)


def want(lock: Any, held: Any, seconds: float | None = None) -> None:
    held.wait()
    lock.acquire(True, seconds)


def receive(lock: Any, end: socket.socket) -> None:
    with lock:
        end.recv(1)


def take_two(first: Any, second: Any, barrier: Any, seconds: float | None = None) -> None:
    with first:
        barrier.wait()
        second.acquire(True, seconds)


def take_both(first: Any, second: Any) -> None:
    while True:
        with first:
            second.acquire()
        # whoever has the first one now may wait for the second one, whose holder wants the first one next
        second.release()


def hammer(lock: Any) -> None:
    while True:
        with lock:
            time.sleep(0.002)


def count(lock: Any) -> None:
    while True:
        with lock:
            pass
        time.sleep(0.0005)


def queue_get(queue: Any) -> None:
    queue.get()


def hold_and_die(lock: Any) -> None:
    lock.acquire()
    os._exit(1)


def leave_orphan(lock: Any, held: Any) -> None:
    child = os.fork()
    if child == 0:
        _run(hold, lock, held)
    held.wait()
    os._exit(0)


def wait_at_all(things: list[Any]) -> None:
    """Each in a thread of its own."""
    for thing in things:
        threading.Thread(target=thing.wait if hasattr(thing, "wait") else thing.acquire, daemon=True).start()
    time.sleep(PATIENCE * 2)


def wait_under(condition: Any) -> None:
    with condition:
        condition.wait(PATIENCE * 2)


class Pair:
    """Two locks, for a puppet."""

    def __init__(self, first: mpbakery.Lock, second: mpbakery.Lock) -> None:
        self.first, self.second = first, second

    def take(self, which: str) -> bool:
        lock: mpbakery.Lock = getattr(self, which)
        return lock.acquire()

    def give(self, which: str) -> None:
        getattr(self, which).release()


def release(lock: Any) -> None:
    lock.release()  # looked up in the thread that calls it: else it would be the release of the one that has looked


# --- Others who look ------------------------------------------------------------------------------------------------


def look_as(connection: Connection, user: int, capabilities: int, pid: int) -> None:
    """Look into a program as another user, who has these capabilities; send what there is to see, or the error."""
    mpbakery.inspect(os.getpid() if mpbakery.Lock(name="here").name else None)  # import all that is needed
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(user, user, user)
    header, data = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(capabilities, capabilities)
    assert library.capset(header, data) == 0, os.strerror(ctypes.get_errno())
    try:
        connection.send(mpbakery.inspect(pid))
    except mpbakery.InspectionError as error:
        connection.send(error)


def hold_as(connection: Connection, user: int, lock: Any) -> None:
    """Hold a lock as another user, without any capability, in a process like those of that user."""
    lock.acquire()
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else it counts as one that root has given its rights
    connection.send("held")
    time.sleep(PATIENCE * 2)


def hold_in_namespace(connection: Connection) -> None:
    """The first process of a PID namespace waits for a lock that a child of it holds."""
    ctx: Any = multiprocessing.get_context("fork")
    lock, held = mpbakery.Lock(name="inside", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    (child,) = _children(ctx, hold, (lock, held))
    held.wait()
    connection.send(child.pid)
    lock.acquire()  # with a warning, when the child is killed
    connection.recv()


def look_in_namespace(connection: Connection) -> None:
    """The first process of a PID namespace looks at its own program, from a process that has nothing to do with it."""
    ctx: Any = multiprocessing.get_context("fork")
    lock, held = mpbakery.Lock(name="inside", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    children = _children(ctx, hold, (lock, held)) + _children(ctx, want, (lock, held))
    _await_waiters(lock, 1)
    # the status is also about what the process of the tests has, and this one has inherited
    _, seen, _ = scripts.finish(scripts.start("-m", "mpbakery", "inspect", "--json", str(children[0].pid)))
    connection.send(([child.pid for child in children], json.loads(seen)))
    for child in children:
        child.kill()
        child.join()


def hold_in_user_namespace(connection: Connection, lock: Any) -> None:
    """Hold a lock in a user namespace, and say whether there can be one."""
    try:
        system_call("unshare", _CLONE_NEWUSER)
    except OSError as error:
        connection.send(str(error))
        return
    lock.acquire()
    connection.send("")
    time.sleep(PATIENCE * 2)


def look_from_user_namespace(connection: Connection, pid: int) -> None:
    """Look from a user namespace at a program outside of it; what there is to see, or the error."""
    system_call("unshare", _CLONE_NEWUSER)
    try:
        connection.send(mpbakery.inspect(pid))
    except mpbakery.InspectionError as error:
        connection.send(error)


# --- The plights ----------------------------------------------------------------------------------------------------


def stuck_pool(ctx: Any) -> None:
    lock = mpbakery.Lock(name="ledger", ctx=ctx)
    ours, theirs = socket.socketpair()
    _children(ctx, receive, *[(lock, theirs)] * 4)
    _await_waiters(lock, 3)
    _ready(ours.fileno())


def _ring(ctx: Any, locks: list[Any], seconds: float | None = None) -> None:
    barrier = mpbakery.Barrier(len(locks), name="start", ctx=ctx)
    _children(ctx, take_two, *[(lock, locks[n - len(locks) + 1], barrier, seconds) for n, lock in enumerate(locks)])
    for lock in locks:
        _await_waiters(lock, 1)
    _ready()


def ring_of_two(ctx: Any) -> None:
    _ring(ctx, [mpbakery.Lock(name="accounts", ctx=ctx), mpbakery.RLock(name="audit log", ctx=ctx)])


def ring_of_three(ctx: Any) -> None:
    _ring(ctx, [mpbakery.Lock(name=name, ctx=ctx) for name in ("one", "two", "three")])


def ring_with_time_out(ctx: Any) -> None:
    _ring(ctx, [mpbakery.Lock(name="accounts", ctx=ctx), mpbakery.Lock(name="audit log", ctx=ctx)], PATIENCE)


def ring_of_signals(ctx: Any) -> None:
    """A ring that ends as soon as a thread outside of it releases a lock, as it has done before."""
    locks = [mpbakery.Lock(name="accounts", ctx=ctx), mpbakery.Lock(name="audit log", ctx=ctx)]
    for lock in locks:
        lock.acquire()
        thread = threading.Thread(target=release, args=(lock,))
        thread.start()
        thread.join()
    _ring(ctx, locks)


def join_of_waiter(ctx: Any) -> None:
    lock = mpbakery.Lock(name="results", ctx=ctx)
    with lock:
        (child,) = _children(ctx, want, (lock, _set(ctx)))
        _await_waiters(lock, 1)
        threading.Thread(target=_ready, args=(child.pid,), daemon=True).start()
        child.join()


def _set(ctx: Any) -> Any:
    event = mpbakery.Event(name="go", ctx=ctx)
    event.set()
    return event


def lost(ctx: Any, robust: bool = True) -> None:
    lock = mpbakery.Lock(name="ledger", robust=robust, ctx=ctx)
    (child,) = _children(ctx, hold_and_die, (lock,))
    pid = child.pid
    child.join()
    _ready(pid)


def lost_for_ever(ctx: Any) -> None:
    lost(ctx, robust=False)


def holder(ctx: Any) -> None:
    """A holder, and one who waits for it."""
    lock, held = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    one, other = [_children(ctx, what, (lock, held))[0] for what in (hold, want)]
    _await_waiters(lock, 1)
    _ready(one.pid, other.pid)


def ended_thread(ctx: Any) -> None:
    lock = mpbakery.Lock(name="ledger", ctx=ctx)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    _children(ctx, want, (lock, _set(ctx)))
    _await_waiters(lock, 1)
    _ready()


def convoy(ctx: Any) -> None:
    lock = mpbakery.Lock(name="ledger", ctx=ctx)
    _children(ctx, hammer, *[(lock,)] * 6)
    _await_waiters(lock, 4)
    _ready()


def orphan(ctx: Any) -> None:
    """A holder whose parent is dead, so that it is no descendant of the program any more."""
    lock, held = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    (child,) = _children(ctx, leave_orphan, (lock, held))
    child.join()
    owner = lock.owner
    assert owner is not None
    _ready(owner.pid)


def daemon(ctx: Any) -> None:
    """A holder in a session of its own, whose parent has never used the lock."""
    lock, held = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    (child,) = _children(ctx, hold_elsewhere, (lock, held))
    while not held.is_set():
        time.sleep(0.01)
    _ready(child.pid)


def many(ctx: Any) -> None:
    locks = [mpbakery.Lock(name=f"lock {n}", ctx=ctx) for n in range(MANY)]
    with locks[MANY // 2]:
        _ready()


def fourteen(ctx: Any) -> None:
    """As many processes and locks as a larger program has."""
    locks = [mpbakery.Lock(name=f"lock {n}", ctx=ctx) for n in range(4)]
    held = mpbakery.Event(name="held", ctx=ctx)
    _children(ctx, hold, (locks[0], held))
    _children(ctx, want, *[(locks[0], held)] * 12)
    _await_waiters(locks[0], 12)
    _ready()


def idle_readers(ctx: Any) -> None:
    """Readers of a queue over a pipe: the first one sleeps with the lock of that end, and the others wait for it."""
    queue = piped.SimpleQueue(ctx=ctx)
    _children(ctx, queue_get, *[(queue,)] * 3)
    _await_waiters(queue._rlock, 2)  # type: ignore[attr-defined]
    _ready()


def in_order(ctx: Any) -> None:
    """Nobody here can ever be in a deadlock."""
    locks = [mpbakery.Lock(name="first", ctx=ctx), mpbakery.RLock(name="second", ctx=ctx)]
    _children(ctx, take_both, *[tuple(locks)] * 2)
    wait_until(lambda: locks[0].statistics().acquisitions > 100, "some turns")
    _ready()


def everything(ctx: Any) -> None:
    """Somebody waits at each kind of thing."""
    semaphore = mpbakery.Semaphore(0, name="permits", ctx=ctx)
    event = mpbakery.Event(name="bell", ctx=ctx)
    barrier = mpbakery.Barrier(3, name="gate", ctx=ctx)
    condition = mpbakery.Condition(mpbakery.Lock(name="door", ctx=ctx), name="news", ctx=ctx)
    bounded = mpbakery.BoundedSemaphore(2, name="places", ctx=ctx)
    bounded.acquire()
    _children(ctx, wait_at_all, ([semaphore, event, barrier],))
    _children(ctx, wait_under, (condition,))
    wait_until(
        lambda: (
            len(semaphore.statistics().waiters) == barrier.n_waiting == len(condition._room.waiting()) == 1
            and event._room.waiting()
        ),
        "all of them to wait",
    )
    _ready()


def limited(ctx: Any) -> None:
    """Where no file can be made, a segment is in none, and inherited by fork alone."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, resource.RLIM_INFINITY))
    lock, held = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    (child,) = _children(ctx, hold, (lock, held))
    held.wait()
    _ready(child.pid)


def forged(ctx: Any) -> None:
    """Copies of a segment in which some words are other ones."""
    lock = mpbakery.Lock(name="ledger", slots=4, ctx=ctx)
    lock.acquire()
    random.seed(20)
    place = lock._memory.place
    size = place + 4096
    start = bytearray(lock._memory.segment.mapping[:size])
    mappings = []
    for number in range(FORGED):
        data = bytearray(start)
        struct.pack_into("Q", data, layout.SEGMENT_SIZE_AT * 8, size)
        struct.pack_into("Q", data, layout.SEGMENT_IDENTITY_AT * 8, number + 1)
        for _ in range(random.randint(1, 8)):
            struct.pack_into("Q", data, place + 8 * random.randint(2, 120), random.choice(ODD_WORDS))
        file = os.memfd_create("mpbakery")
        os.ftruncate(file, size)
        os.pwrite(file, data, 0)
        mappings.append(mmap.mmap(file, size))
        os.close(file)
    _ready(len(mappings))


def unnamed(ctx: Any) -> None:
    """A name full of what must not reach a terminal."""
    lock = mpbakery.Lock(name="-" * layout.NAME_BYTES, ctx=ctx)
    name = layout.padded("red \x1b[31m alert\n\u202e", layout.NAME_BYTES)
    lock._memory.mapping[layout.span_of(layout.NAME_AT, layout.NAME_BYTES)] = name
    lock.acquire()
    _ready()


def garbage(ctx: Any) -> None:
    """Mappings that look like segments, and one good one."""
    kept = [mpbakery.Lock(name="the only one", ctx=ctx)]
    mappings = []
    for size in (1, 100, 4096, 1 << 20):
        file = os.memfd_create("mpbakery")
        os.ftruncate(file, size)
        os.pwrite(file, b"mpbakseg" * (min(size, 4096) // 8), 0)
        mappings.append(mmap.mmap(file, size))
    file = os.memfd_create("mpbakery")
    os.ftruncate(file, 4096)
    os.pwrite(file, struct.pack("5Q", layout.SEGMENT_MAGIC, layout.VERSION + 1, 4096, 1, 4096), 0)
    mappings.append(mmap.mmap(file, 4096))
    file = os.memfd_create("mpbakery")
    os.ftruncate(file, 1 << 20)
    mappings.append(mmap.mmap(file, 1 << 20))
    os.ftruncate(file, 0)  # whoever reads this mapping from memory fails
    with kept[0]:
        _ready(len(mappings))


def bank(ctx: Any) -> None:
    """Some of everything."""
    ledger, counter = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.RLock(name="counter", ctx=ctx)
    desks, bell = mpbakery.Semaphore(0, name="desks", ctx=ctx), mpbakery.Event(name="closing time", ctx=ctx)
    _children(ctx, hammer, *[(ledger,)] * 8)
    _children(ctx, count, *[(counter,)] * 2)
    _children(ctx, wait_at_all, ([desks, bell],))
    _ring(ctx, [mpbakery.Lock(name="accounts", ctx=ctx), mpbakery.RLock(name="audit log", ctx=ctx)])


def dumping(ctx: Any) -> None:
    """It tells by itself, when it is asked with a signal."""
    mpbakery.dump_on_signal(signal.SIGUSR1)
    lock, held = mpbakery.Lock(name="ledger", ctx=ctx), mpbakery.Event(name="held", ctx=ctx)
    (child,) = _children(ctx, hold, (lock, held))
    held.wait()
    print("ready", child.pid, flush=True)
    lock.acquire()


PLIGHTS: dict[str, Callable[[Any], None]] = {
    plight.__name__: plight
    for plight in (
        bank,
        convoy,
        daemon,
        dumping,
        ended_thread,
        everything,
        fourteen,
        garbage,
        holder,
        forged,
        idle_readers,
        in_order,
        join_of_waiter,
        limited,
        lost,
        lost_for_ever,
        many,
        orphan,
        ring_of_signals,
        ring_of_three,
        ring_of_two,
        ring_with_time_out,
        stuck_pool,
        unnamed,
    )
}


def main(plight: str, method: str) -> None:
    """Get into that plight."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    begin()
    warnings.simplefilter("ignore")
    context: BaseContext = multiprocessing.get_context(method)
    PLIGHTS[plight](context)


if __name__ == "__main__":
    # spawned children import the functions by the name of the module, not as those of __main__
    from support import specimens

    specimens.main(*sys.argv[1:])
