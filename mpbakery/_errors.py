"""What can go wrong, as types with fields; all of them survive pickling, because they cross processes."""

from __future__ import annotations

import os
import re
import signal
from typing import Final, NamedTuple

#: what a thing is called that was given no name: it begins with its kind
_MADE_UP: Final = re.compile(r"\w+ (.*:\w+ )?[0-9a-f]{4}", re.DOTALL)
#: inspect.CO_VARARGS: the function takes any number of arguments, as a tuple
_VARIABLE_ARGUMENTS: Final = 4


def reraise_handlers(error: OSError) -> None:
    """Raise `error` again if no system call has failed with it.

    Then a signal handler has raised it in our midst: TimeoutError is an OSError, and what handlers of SIGALRM raise.
    """
    if error.errno is None:
        raise error


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised `error` in our midst, rather than what was called there.

    A handler is given the frame that it interrupts, and that is the frame that it is called from: nothing else is
    called with that of its caller.
    """
    trace = error.__traceback__
    while trace is not None:
        frame, code = trace.tb_frame, trace.tb_frame.f_code
        caller, count = frame.f_back, code.co_argcount + code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
        if code.co_flags & _VARIABLE_ARGUMENTS:
            given += frame.f_locals.get(code.co_varnames[count], ())
        if caller is not None and any(one is caller for one in given):
            return True
        trace = trace.tb_next
    return False


def called(name: str, kind: str = "lock") -> str:
    """What a message calls a thing."""
    return name if _MADE_UP.fullmatch(name) else f"{kind} {name}"


class MpbakeryError(RuntimeError):
    """Base of every error that only mpbakery raises."""


class NotOwnedError(MpbakeryError, AssertionError):
    """A thread released, waited or notified under a lock that it does not hold.

    It is an AssertionError as in multiprocessing, and a RuntimeError as in threading.
    """


class SlotsExhausted(MpbakeryError):
    """Every slot of a lock belongs to a living thread, and one more thread wants to use it.

    `lock` is the lock's name, `slots` how many slots it was made with, `most` how many it could have had, and `kind`
    the name of its class: every primitive has slots.
    """

    def __init__(self, lock: str, slots: int, most: int, kind: str = "Lock") -> None:
        self.lock = lock
        self.slots = slots
        self.most = most
        self.kind = kind
        remedy = (
            f"make it with more, as in {kind}(slots={min(slots * 4, most)})"
            if slots < most
            else "there cannot be more, so let fewer threads use it"
        )
        super().__init__(
            f"all {slots} slots of {called(lock, kind)} belong to living threads: every thread that uses it needs a "
            f"slot of its own; {remedy}"
        )

    def __reduce__(self) -> tuple[type[SlotsExhausted], tuple[str, int, int, str]]:
        return type(self), (self.lock, self.slots, self.most, self.kind)


class UnknownLockError(MpbakeryError):
    """A pickled lock arrived in a process that does not have that lock.

    `lock` is the lock's name, `identity` the hexadecimal identity that the pickle carried.
    """

    def __init__(self, lock: str, identity: str) -> None:
        self.lock = lock
        self.identity = identity
        super().__init__(
            f"{called(lock)} ({identity}) is not known in this process: hand it over when the process starts, as an "
            f"argument of Process, or with initializer=mpbakery.register, initargs=(lock,) of a pool; or fork the "
            f"process after the lock was made"
        )

    def __reduce__(self) -> tuple[type[UnknownLockError], tuple[str, str]]:
        return type(self), (self.lock, self.identity)


class SharingError(MpbakeryError):
    """A lock was handed to a process in a way that its memory cannot follow, or a pool was used in a forked child."""


class ForeignNamespaceError(MpbakeryError):
    """A lock was used in a PID namespace other than the one that it was made in.

    `lock` is the lock's name, `made_in` and `used_in` are the inode numbers of the two namespaces, or, from 2^63 on,
    numbers that mpbakery has made up where it could not read them.
    """

    def __init__(self, lock: str, made_in: int, used_in: int) -> None:
        self.lock = lock
        self.made_in = made_in
        self.used_in = used_in
        super().__init__(
            f"{called(lock)} was made in PID namespace {made_in} and is used in {used_in}, where its process numbers "
            f"mean other processes: make a lock inside that namespace, after unshare() or in the container"
        )

    def __reduce__(self) -> tuple[type[ForeignNamespaceError], tuple[str, int, int]]:
        return type(self), (self.lock, self.made_in, self.used_in)


class ClaimFileLostError(MpbakeryError):
    """The descriptor that guards the claiming of slots was closed, or now is another file.

    `lock` is the lock's name, `descriptor` the number that the file had.
    """

    def __init__(self, lock: str, descriptor: int) -> None:
        self.lock = lock
        self.descriptor = descriptor
        super().__init__(
            f"descriptor {descriptor}, which guards the slots of {called(lock)}, was closed or replaced: this thread "
            f"has no slot and cannot claim one; leave that descriptor open (a daemon that closes descriptors can "
            f"keep it by its number, lock.fileno())"
        )

    def __reduce__(self) -> tuple[type[ClaimFileLostError], tuple[str, int]]:
        return type(self), (self.lock, self.descriptor)


class InspectionError(MpbakeryError):
    """A program cannot be looked into: it is not there, uses nothing of mpbakery, or may not be looked into."""


class ClaimsRefusedError(MpbakeryError):
    """The system refuses the record locks that guard the claiming of slots.

    `lock` is the lock's name, `errno` the number of the system's error.
    """

    def __init__(self, lock: str, errno: int) -> None:
        self.lock = lock
        self.errno = errno
        super().__init__(
            f"fcntl.lockf() fails with errno {errno} ({os.strerror(errno)}): this thread cannot claim a slot of lock "
            f"{lock}, which takes a record lock; let the sandbox or the security module permit fcntl() with F_SETLK"
        )

    def __reduce__(self) -> tuple[type[ClaimsRefusedError], tuple[str, int]]:
        return type(self), (self.lock, self.errno)


class WorkerDiedError(MpbakeryError):
    """A task of a `Pool` has no result, because a worker died.

    `function` is the name of the task's function, `index` its number among the tasks of its job, counted from 0. If the
    task is a chunk of a map, `items` says how many items of the iterable it stands for; else it is None. `tries` is how
    many workers died while they ran it, `pid` and `exitcode` are the last one's, as `multiprocessing.Process` has them;
    `exitcode` is None if it could not be known, because somebody else has reaped the process.

    If `given_up` is true, the pool has no workers any more, because one after another died before it could take a task.
    Then `pid` and `exitcode` are those of the last of these; 0 and None if it could not even be started, and the cause
    of the error says why.

    If one worker after another died in the middle of reading the task, `unread` is its size in bytes; else it is None.
    """

    def __init__(
        self,
        function: str,
        index: int,
        items: int | None,
        pid: int,
        exitcode: int | None,
        tries: int,
        given_up: bool = False,
        unread: int | None = None,
    ) -> None:
        self.function = function
        self.index = index
        self.items = items
        self.pid = pid
        self.exitcode = exitcode
        self.tries = tries
        self.given_up = given_up
        self.unread = unread
        task = f"task {index} of {function}" if items is None else f"chunk {index} of {function} ({items} items)"
        if unread is not None:
            message = (
                f"one worker after another dies in the middle of reading {task}, which has {unread} bytes; the last "
                f"one, {pid}, {_end_of_process(exitcode)}; if that is for want of memory, give the task less, such as "
                f"the name of a file, or give the workers more memory"
            )
        elif not given_up:
            often = "" if tries == 1 else f", as {tries - 1} before it"
            message = (
                f"worker {pid} {_end_of_process(exitcode)} while it ran {task}{often}: the result is lost, and what "
                f"the task has done so far stays done; if it may run again, make the pool with more retries, as in "
                f"Pool(..., retries={tries})"
            )
        elif pid:
            message = (
                f"{task} is not run: one worker after another dies before it can take a task, the last one, {pid}, "
                f"{_end_of_process(exitcode)}; look at the pool's initializer, and at what the workers print"
            )
        else:
            message = (
                f"{task} is not run: there are no workers any more, and the system refuses to start new ones; let "
                f"fewer processes run, and make another pool"
            )
        super().__init__(message)

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed the worker, None if it ended otherwise."""
        return -self.exitcode if self.exitcode is not None and self.exitcode < 0 else None

    def __reduce__(self) -> tuple[type[WorkerDiedError], tuple[object, ...]]:
        fields = self.function, self.index, self.items, self.pid, self.exitcode, self.tries
        return type(self), (*fields, self.given_up, self.unread)


class PoolTerminatedError(MpbakeryError):
    """A result does not come any more, because its `Pool` was terminated."""

    def __init__(self) -> None:
        super().__init__(
            "the pool was terminated, at the end of its `with` block perhaps, before this was done: ask for results "
            "before that, or call close() and join(), which wait until all tasks are done"
        )

    def __reduce__(self) -> tuple[type[PoolTerminatedError], tuple[()]]:
        return type(self), ()


def _end_of_process(exitcode: int | None) -> str:
    if exitcode is None:
        return "came to an unknown end"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


class OwnerDiedWarning(RuntimeWarning):
    """The process that held the lock is gone, and the lock was handed over to this one.

    `lock` is the lock's name, `pid`, `thread` and `process` say who died (the native thread id, the name of the
    process), `held` how many seconds passed between its acquire and this warning.
    """

    def __init__(self, lock: str, pid: int, thread: int, process: str, held: float) -> None:
        self.lock = lock
        self.pid = pid
        self.thread = thread
        self.process = process
        self.held = held
        super().__init__(
            f"process {pid} ({process}) died while it held {called(lock)}, which it took {held:.3f} s ago: what the "
            f"lock protects may be half written"
        )

    def __reduce__(self) -> tuple[type[OwnerDiedWarning], tuple[str, int, int, str, float]]:
        return type(self), (self.lock, self.pid, self.thread, self.process, self.held)


class DeadlockedThread(NamedTuple):
    """A thread of a deadlock.

    `pid`, `thread` and `process` say who it is (the native thread id, the name of the process), `holds` is the name of
    a lock that it holds, and `wants` the name of the one that it waits for.
    """

    pid: int
    thread: int
    process: str
    holds: str
    wants: str


class DeadlockWarning(RuntimeWarning):
    """Threads wait for each other, each without a limit of time for a lock that the next one holds.

    `ring` has them in this order; the first one is the one that is warned, which came last. Turned into an error, this
    ends that one's wait: it does not get the lock, and the others go on when it has released what it holds.
    """

    def __init__(self, ring: tuple[DeadlockedThread, ...]) -> None:
        self.ring = ring
        told = "; ".join(
            f"{one.process} ({one.pid}{'' if one.thread == one.pid else f', thread {one.thread}'}) holds "
            f"{called(one.holds)} and waits for {called(one.wants)}"
            for one in ring
        )
        super().__init__(
            f"deadlock: {told}: they wait for ever, unless one is killed; acquire locks in the same order everywhere, "
            f"or with a timeout"
        )

    def __reduce__(self) -> tuple[type[DeadlockWarning], tuple[tuple[DeadlockedThread, ...]]]:
        return type(self), (self.ring,)


class TasksLostWarning(RuntimeWarning):
    """`JoinableQueue.join` did not wait for some tasks, because nobody is left who could do them.

    The processes that had them are dead, or have ended without `task_done`. `tasks` is how many tasks there are.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        super().__init__(
            f"{tasks} tasks of a queue are lost, and join() does not wait for them: the processes that had them ended "
            f"before they called task_done()"
        )

    def __reduce__(self) -> tuple[type[TasksLostWarning], tuple[int]]:
        return type(self), (self.tasks,)
