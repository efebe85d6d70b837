"""Places where the system tells less, or something else: namespaces, sandboxes, no /proc, no descriptor left.

Each place is a function that has the process that calls it be there. Some go on in a child of that process.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import multiprocessing
import os
import platform
import resource
import signal
import struct
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import mpbakery
from mpbakery._system import identity
from mpbakery._system.identity import Process
from support.namespaces import sleep_for_ever, system_call
from support.workers import PATIENCE, Crew, Puppet, begin, in_thread, wait_for_waiters, wait_until

Place = Callable[[], object]

_CLONE_NEWTIME: Final = 0x80
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWPID: Final = 0x20000000
_MS_PRIVATE: Final = 1 << 18
_MS_REC: Final = 1 << 14

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_LOAD_WORD: Final = 0x20  # of struct seccomp_data: the number of the system call first, then the arguments from 16 on
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000

#: The numbers of system calls, by machine.
_NUMBERS: Final = {
    "x86_64": {
        "sched_yield": 24,
        "kill": 62,
        "fcntl": 72,
        "prctl": 157,
        "futex": 202,
        "eventfd2": 290,
        "openat": 257,
        "memfd_create": 319,
        "pidfd_open": 434,
    },
    "aarch64": {
        "sched_yield": 124,
        "kill": 129,
        "fcntl": 25,
        "prctl": 167,
        "futex": 98,
        "eventfd2": 19,
        "openat": 56,
        "memfd_create": 279,
        "pidfd_open": 434,
    },
}


def anywhere() -> None:
    """No particular place."""


def other_time_namespace() -> None:
    """Where the machine has been up for longer."""
    system_call("unshare", _CLONE_NEWTIME)
    Path("/proc/self/timens_offsets").write_text("monotonic 1000 0\nboottime 1000 0\n")
    go_on_in_child()


def chroot_without_proc() -> None:
    """As a daemon that drops its privileges."""
    os.chroot(Path(__file__).parent)
    os.chdir("/")


def mount_namespace_without_proc() -> None:
    """Where there is nothing in /proc."""
    system_call("unshare", _CLONE_NEWNS)
    system_call("mount", None, b"/proc", None, _MS_REC | _MS_PRIVATE, None)
    system_call("mount", b"tmpfs", b"/proc", b"tmpfs", 0, None)


def pid_namespace_without_proc() -> None:
    """The first process of a PID namespace, where nothing says so."""
    mount_namespace_without_proc()
    system_call("unshare", _CLONE_NEWPID)
    go_on_in_child()


def without_kill() -> None:
    """Where kill() is forbidden."""
    deny("kill", errno.EPERM)


def without_descriptors_of_processes() -> None:
    """As before Linux 5.3."""
    deny("pidfd_open", errno.ENOSYS)


def without_a_descriptor_left() -> None:
    """Where nothing can be opened."""
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def other_time_namespace_without_descriptors_of_processes() -> None:
    """Both."""
    other_time_namespace()
    without_descriptors_of_processes()


def without_proc_and_descriptors_of_processes() -> None:
    """Both."""
    mount_namespace_without_proc()
    without_descriptors_of_processes()


def made_up_start() -> None:
    """Under qemu-user, which answers for itself what its process asks of its own start, and not what others do."""
    status = identity._read_status(os.getpid())
    assert status is not None
    start = status.start + 1
    identity._own_start = lambda _pid: start  # type: ignore[assignment]
    identity.forget()


def go_on_in_child() -> None:
    """Return in a child, whose parent waits for it; neither outlives the other."""
    child = os.fork()
    if child:
        _pid, status = os.waitpid(child, 0)
        os._exit(min(abs(os.waitstatus_to_exitcode(status)), 255))
    _die_with_parent()
    begin()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def deny(name: str, error: int, second: int | None = None) -> None:
    """From now on a system call fails in this process and its children; with `second`, only with that argument.

    Raises PermissionError where that is not possible.
    """
    number = _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        raise PermissionError(f"the number of {name} on {platform.machine()} is not known")
    program = [(_LOAD_WORD, 0, 0, 0), (_JUMP_IF_EQUAL, 0, 1 if second is None else 3, number)]
    if second is not None:
        program += [(_LOAD_WORD, 0, 0, 24), (_JUMP_IF_EQUAL, 0, 1, second)]
    program += [(_RETURN, 0, 0, _FAIL | error), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filters = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    system_call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters, 0, 0)


def try_place(connection: Connection, place: Place) -> None:
    """Report why this process cannot be in a place, "" if it can."""
    try:
        place()
    except OSError as error:
        connection.send(f"{place.__name__}: {error}")
    else:
        connection.send("")


#: A system call that is refused, with which error; and, if only then, with which second argument.
Refusal = tuple[str, int, int | None]

#: futex(2) on a word that processes share. The other operations are the C library's, for threads.
FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1


def share_lock_where_refused(connection: Connection, refusals: Sequence[Refusal], method: str) -> None:
    """Use a lock with a process of a start method where system calls are refused; what comes of it, or why not."""
    try:
        for name, error, second in refusals:
            deny(name, error, second)
    except OSError as refusal:
        connection.send(str(refusal))
        return
    children = Crew(multiprocessing.get_context(method))
    lock = mpbakery.Lock(ctx=children.context)
    puppet = Puppet(children, lock)
    puppet("acquire")
    exclusion = lock.acquire(True, 0.2) is False
    puppet.begin("release")
    handed_over = lock.acquire(True, PATIENCE)
    puppet.end()
    puppet.begin("acquire")
    wait_for_waiters(lock, 1)
    lock.release()
    puppet.end()
    puppet.kill()
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    connection.send(
        {
            "has a name": os.fstat(lock.fileno()).st_nlink > 0,
            "exclusion": exclusion,
            "handed over": handed_over,
            "taken over": lock.acquire(True, PATIENCE),
        }
    )
    children.close()


def limit_processes(connection: Connection) -> None:
    """Use a lock in a control group in which no process can be started any more; what comes of it, or why not."""
    group = Path("/sys/fs/cgroup/pids", f"mpbakery-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        connection.send(str(error))
        return
    try:
        outside = os.fork()
        if outside == 0:
            _die_with_parent()
            (group / "cgroup.procs").write_text(str(os.getpid()))
            (group / "pids.max").write_text("1")
            lock = mpbakery.Lock()
            try:
                os.fork()
                refused = False
            except BlockingIOError:
                refused = True
            with lock:
                again = lock.acquire(True, 0.2)
            connection.send({"refused": refused, "again": again, "free": not lock.locked()})
            os._exit(0)
        os.waitpid(outside, 0)
    finally:
        group.rmdir()


# --- What puppets do there -------------------------------------------------------------------------------------------


def close_descriptor(lock: mpbakery.Lock) -> None:
    """As a daemon that closes everything."""
    os.close(lock.fileno())


def lose_record_locks(lock: mpbakery.Lock) -> None:
    """Close another descriptor of the file that they are on."""
    os.close(os.dup(lock.fileno()))


def refuse_record_locks(_lock: mpbakery.Lock, error: int) -> str:
    """From now on they fail with that error; why that cannot be had, "" if it can."""
    try:
        deny("fcntl", error, fcntl.F_SETLK)
    except OSError as refusal:
        return str(refusal)
    return ""


def fork_holder(lock: mpbakery.Lock) -> int:
    """Fork a child that holds the lock and dies with this process; its pid."""
    child = os.fork()
    if child == 0:
        _die_with_parent()
        lock.acquire()
        sleep_for_ever()
    wait_until(lock.locked, "the child has the lock")
    return child


def share_a_lock_made_here(_lock: object) -> dict[str, object]:
    """Make a lock and have forked children use it, here and in another PID namespace; what comes of it."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    child = fork_holder(lock)
    exclusion = lock.acquire(True, 0.2) is False
    ours, theirs = os.pipe()
    if os.fork() == 0:
        system_call("unshare", _CLONE_NEWPID)
        go_on_in_child()
        try:
            lock.acquire(True, 0.2)
        except mpbakery.MpbakeryError as error:
            os.write(theirs, type(error).__name__.encode())
        os._exit(0)
    os.wait()
    os.close(theirs)
    elsewhere = os.read(ours, 100).decode()
    os.kill(child, signal.SIGKILL)
    taken_over = lock.acquire(True, PATIENCE)
    return {"exclusion": exclusion, "elsewhere": elsewhere, "taken over": taken_over}


def this_process(_lock: object) -> Process:
    """Who this is."""
    return identity.this_process()


def sees_alive(lock: mpbakery.Lock, process: Process) -> bool:
    """Whether a process holds the record lock that says that it lives."""
    return lock._table._claims.lives(process)


def acquire_in_thread(lock: mpbakery.Lock) -> None:
    """In a thread that has no slot yet."""
    in_thread(lock.acquire)
    lock.release()


def hold_record(lock: mpbakery.Lock, place: int) -> None:
    """Hold the record lock of a byte of the lock's file."""
    fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
