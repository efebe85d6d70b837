"""Processes in namespaces of their own, and what else a place can lack."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mpbakery
from support.processes import status_of
from support.workers import PATIENCE, Crew, Puppet, begin

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_PRIVATE = 1 << 18
_MS_REC = 1 << 14
_MS_RDONLY = 1

#: A sitecustomize, for all processes of a test: Python as it is built where there is no `sem_open`.
WITHOUT_SEMAPHORES = """
import _multiprocessing
for name in ("SemLock", "sem_unlink"):
    vars(_multiprocessing).pop(name)
"""


def system_call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError if it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def in_new_pid_namespace(
    function: Callable[..., object], connection: Connection, new_proc: bool, *arguments: Any
) -> None:
    """Run `function(connection, *arguments)` as the first process of a PID namespace, with or without its own /proc.

    Raises PermissionError where that is not permitted.
    """
    system_call("unshare", _CLONE_NEWPID | _CLONE_NEWNS)
    pid = os.fork()
    if pid == 0:
        try:
            begin()
            if new_proc:
                system_call("mount", None, b"/proc", None, _MS_REC | _MS_PRIVATE, None)
                system_call("mount", b"proc", b"/proc", b"proc", 0, None)
            function(connection, *arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0


def try_pid_namespace(connection: Connection) -> None:
    """Report why a PID namespace cannot be made here, "" if it can."""
    try:
        in_new_pid_namespace(lambda _connection: None, connection, True)
    except PermissionError as error:
        connection.send(str(error))
    else:
        connection.send("")


def fork_with_pid(pid: int, function: Callable[[], object]) -> int:
    """Fork a child that runs `function()` and has that pid, if the kernel gives it to this one; the pid that it got."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    child = os.fork()
    if child == 0:
        try:
            begin()
            function()
        finally:
            os._exit(0)
    return child


def sleep_for_ever() -> None:
    """Until somebody kills this process, or its deadline does."""
    while True:
        time.sleep(1)


def fork_holder(pid: int, lock: mpbakery.Lock) -> int:
    """Fork a child with that pid that holds the lock until it is killed; the pid that it got."""
    held, told = os.pipe()

    def hold() -> None:
        lock.acquire()
        os.write(told, b"!")
        sleep_for_ever()

    child = fork_with_pid(pid, hold)
    os.read(held, 1)
    return child


def meet_reused_pid(connection: Connection, place: Callable[[], object]) -> None:
    """The first process of a namespace, whose child dies with the lock held, and another one gets its pid."""
    place()
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    pid = fork_holder(100, lock)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(0.05)  # the kernel tells start times in hundredths of a second
    reused = fork_with_pid(pid, sleep_for_ever)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        acquired = lock.acquire(True, 20)
    connection.send(
        {
            "pid": pid,
            "reused": reused,
            "acquired": acquired,
            "warnings": [(type(item.message).__name__, getattr(item.message, "pid", None)) for item in caught],
        }
    )


def meet_pid_reused_at_once(connection: Connection) -> None:
    """The same, and the other process starts in the tick of the clock in which the owner did: some tries are made."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    told = {"same tick": False, "acquired": False}
    for _ in range(100):
        lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
        owner = fork_holder(100, lock)
        start = status_of(owner)[19]
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        stranger = fork_with_pid(100, sleep_for_ever)
        if stranger == owner and status_of(stranger)[19] == start:
            told = {"same tick": True, "acquired": lock.acquire(True, 20)}
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)
        if told["same tick"]:
            break
    connection.send(told)


def use_foreign_lock(connection: Connection, lock: mpbakery.Lock) -> None:
    """Try to acquire a lock that was made in another namespace; report the error."""
    try:
        lock.acquire(True, 5)
    except mpbakery.MpbakeryError as error:
        connection.send(error)
    else:
        connection.send(None)


def use_lock_made_here(connection: Connection) -> None:
    """Two processes of a namespace and a lock; report whether they exclude each other, and the death of one."""
    children = Crew(multiprocessing.get_context("fork"))
    lock = mpbakery.Lock(ctx=children.context)
    puppet = Puppet(children, lock)
    puppet("acquire")
    exclusion = lock.acquire(True, 0.2) is False
    puppet.kill()
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    connection.send({"exclusion": exclusion, "taken over": lock.acquire(True, PATIENCE)})
    children.close()


def meet_zombie_of_other_namespace(connection: Connection, pid: int) -> None:
    """Have a process with that pid hold a lock, and try to get it: it lives, whatever the old /proc says about it."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    holder = fork_holder(pid, lock)
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    connection.send({"pid": holder, "two are in": lock.acquire(True, 0.5)})


def without_shared_memory(function: Callable[..., object], connection: Connection, *arguments: Any) -> None:
    """Run `function(connection, *arguments)` where nothing can be made in /dev/shm."""
    leave_shared_memory()
    function(connection, *arguments)


def leave_shared_memory() -> None:
    """Have this process, and its children to come, be where nothing can be made in /dev/shm: in a mount namespace.

    Raises PermissionError where that is not permitted.
    """
    system_call("unshare", _CLONE_NEWNS)
    for place in (b"/dev/shm", b"/dev", b"/"):
        try:
            # whatever is mounted there: else the machine would see what is mounted here
            system_call("mount", None, place, None, _MS_REC | _MS_PRIVATE, None)
            break
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    else:
        raise PermissionError("no mount can be made private")
    system_call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", _MS_RDONLY, b"size=4k")


def try_mount_namespace(connection: Connection) -> None:
    """Report why there cannot be a place without shared memory here, "" if there can."""
    try:
        without_shared_memory(lambda _connection: None, connection)
    except PermissionError as error:
        connection.send(str(error))
    else:
        connection.send("")
