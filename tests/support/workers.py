"""Child processes for the tests: what they run, and how a test starts, steers and ends them.

The functions are entry points for processes of every start method; a spawned child imports this module by its name,
which it could not do with a test module of another import mode. Every child sets itself a deadline, so that none
outlives a test run that was killed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

import mpbakery
from support.processes import state_of

_T = TypeVar("_T")

#: After this many seconds a child is taken for hung: far more than any test needs on a loaded machine.
DEADLINE = 90.0
#: How long a test waits for one thing to happen (s).
PATIENCE = 30.0
#: Servers that a test has started and will end, by their pids: their own children come and go.
SERVICES: set[int] = set()


class AnyLock(Protocol):
    """What the tests need of a lock, mpbakery's or another one."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


# --- The life of a child -------------------------------------------------------------------------------------------


def begin(seconds: float = DEADLINE, *, storm: bool = False) -> None:
    """The first thing that a child does: signals and warnings as in a new program, and a deadline.

    A child that comes to its deadline prints where it hangs and dies, which its parent sees from its exit status. With
    `storm`, SIGALRM is left to the test, and a watchdog thread keeps the deadline.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    if hasattr(faulthandler, "unregister"):
        faulthandler.unregister(signal.SIGALRM)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    warnings.simplefilter("error", mpbakery.DeadlockWarning)  # no test has a deadlock, but those of deadlocks
    if storm:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    else:
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.alarm(math.ceil(seconds))


def run(target: Callable[..., object], seconds: float, storm: bool, *arguments: object) -> None:
    """A child's main function: `target(*arguments)` under a deadline."""
    begin(seconds, storm=storm)
    target(*arguments)
    if storm:
        faulthandler.cancel_dump_traceback_later()


class Crew:
    """The child processes of one test; none of them outlives it."""

    def __init__(self, context: BaseContext) -> None:
        self.context = context
        self.processes: list[BaseProcess] = []

    def start(
        self,
        target: Callable[..., object],
        *arguments: object,
        name: str | None = None,
        seconds: float = DEADLINE,
        storm: bool = False,
    ) -> BaseProcess:
        """Start a child that runs `target(*arguments)`."""
        process: BaseProcess = self.context.Process(  # type: ignore[attr-defined]
            target=run, args=(target, seconds, storm, *arguments), name=name
        )
        process.start()
        self.processes.append(process)
        return process

    def finish(self, seconds: float = DEADLINE) -> None:
        """Wait until all children have ended, and insist that each of them ended well."""
        self.join(seconds)
        failed = {process.name: process.exitcode for process in self.processes if process.exitcode != 0}
        assert not failed, f"children ended with a status other than 0: {failed}"

    def join(self, seconds: float = DEADLINE) -> None:
        """Wait until all children have ended, however they did."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hung = [process.name for process in self.processes if process.exitcode is None]
        assert not hung, f"children still running after {seconds} s: {hung}"

    def close(self) -> None:
        """Kill and reap whoever still runs."""
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
        for process in self.processes:
            process.join()
            process.close()
        self.processes.clear()


def kill(process: BaseProcess) -> None:
    """Kill a child with SIGKILL, and reap it."""
    process.kill()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Look again and again until `condition()` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds} s: {what}"
        time.sleep(0.001)


def wait_for_waiters(lock: mpbakery.Lock, count: int) -> None:
    """Wait until exactly `count` attempts stand in the lock's queue."""
    wait_until(
        lambda: len(lock.statistics().waiters) == count, f"{count} waiters, instead of {lock.statistics().waiters}"
    )


def wait_for_state(pid: int, states: str) -> None:
    """Wait until a process is in one of these states, such as T (stopped) or Z (zombie)."""
    wait_until(lambda: state_of(pid) in states, f"process {pid} in state {states}")


def expect(connection: Connection, seconds: float = PATIENCE) -> Any:
    """What comes next through a pipe."""
    assert connection.poll(seconds), f"nothing came through the pipe for {seconds} s"
    return connection.recv()


# --- A child that does with its lock what it is told to ------------------------------------------------------------


class Answer(NamedTuple):
    """What became of one order to a puppet."""

    value: Any
    failed: bool
    warnings: list[Warning]
    moment: float


class Puppet:
    """A child process that does with a lock what the test tells it, one order at a time."""

    def __init__(
        self,
        crew: Crew,
        lock: Any,
        *,
        name: str | None = None,
        seconds: float = DEADLINE,
        place: Callable[[], object] | None = None,
    ) -> None:
        """`place` is what the child does first, see `sandboxes`."""
        self._ours, theirs = crew.context.Pipe()
        self.process = crew.start(obey, theirs, lock, place, name=name, seconds=seconds)
        theirs.close()
        self.pid: int = self.process.pid or 0
        self.warnings: list[Warning] = []
        self.moment = 0.0

    def begin(self, what: str | Callable[..., object], *arguments: object, **keywords: object) -> None:
        """Give an order and do not wait for its answer.

        `what` is a method or an attribute of the lock, a function below, or another one, which is given the lock.
        """
        self._ours.send((what, arguments, keywords))

    def end(self, seconds: float = PATIENCE) -> Any:
        """The result of the last order; raises what it raised."""
        answer: Answer = expect(self._ours, seconds)
        self.warnings = answer.warnings
        self.moment = answer.moment
        if answer.failed:
            raise answer.value
        return answer.value

    def __call__(self, what: str | Callable[..., object], *arguments: object, **keywords: object) -> Any:
        """Give an order and wait for its result."""
        self.begin(what, *arguments, **keywords)
        return self.end()

    def has_answered(self) -> bool:
        """Whether the last order has been carried out."""
        return self._ours.poll(0)

    def kill(self) -> None:
        """Kill the child, and reap it."""
        kill(self.process)

    def stop(self) -> None:
        """Stop the child with SIGSTOP, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for_state(self.pid, "T")

    def go_on(self) -> None:
        """Let a stopped child run on."""
        os.kill(self.pid, signal.SIGCONT)

    def dismiss(self) -> None:
        """Let the child end by itself."""
        self._ours.send(None)
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


def obey(connection: Connection, lock: mpbakery.Lock, place: Callable[[], object] | None = None) -> None:
    """The main function of a puppet."""
    if place is not None:
        place()
    while (order := expect(connection, DEADLINE)) is not None:
        what, arguments, keywords = order
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("error", mpbakery.DeadlockWarning)
            try:
                if what in ORDERS or callable(what):
                    value, failed = ORDERS.get(what, what)(lock, *arguments, **keywords), False
                else:
                    attribute = getattr(lock, what)
                    value, failed = attribute(*arguments, **keywords) if callable(attribute) else attribute, False
            except (Exception, KeyboardInterrupt) as error:  # it is what the test wants to see
                value, failed = error, True
        told = [item.message for item in caught if isinstance(item.message, Warning)]
        connection.send(Answer(value, failed, told, time.monotonic()))


def acquire_strictly(lock: mpbakery.Lock, *arguments: Any) -> bool:
    """Acquire with warnings turned into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lock.acquire(*arguments)


def take_time(lock: mpbakery.Lock, *arguments: Any, **keywords: Any) -> tuple[bool, float]:
    """Acquire; the result, and the seconds that it took."""
    start = time.monotonic()
    result = lock.acquire(*arguments, **keywords)
    return result, time.monotonic() - start


def represent(lock: mpbakery.Lock) -> str:
    """The lock's repr in this process."""
    return repr(lock)


def is_this(lock: mpbakery.Lock, other: mpbakery.Lock) -> bool:
    """Whether a lock that came through a pipe is this object."""
    return lock is other


def become_another_program(_lock: mpbakery.Lock) -> None:
    """Replace this process's program by one that ends at once."""
    os.execv(sys.executable, [sys.executable, "-c", ""])


def handle_quietly(_lock: mpbakery.Lock, number: int) -> None:
    """From now on, the signal runs a handler that does nothing."""
    signal.signal(number, lambda _number, _frame: None)


def wait_under(condition: mpbakery.Condition, timeout: float | None = None) -> bool:
    """Acquire the condition's lock, wait, and release it."""
    with condition:
        return condition.wait(timeout)


def gets_record_lock(lock: mpbakery.Lock, place: int) -> bool:
    """Whether nobody else has the record lock of a byte of the file behind the lock."""
    try:
        fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except BlockingIOError:
        return False
    return True


ORDERS: dict[str, Callable[..., Any]] = {
    "acquire_strictly": acquire_strictly,
    "become_another_program": become_another_program,
    "gets_record_lock": gets_record_lock,
    "handle_quietly": handle_quietly,
    "is_this": is_this,
    "register": mpbakery.register,
    "take_time": take_time,
    "represent": represent,
    "wait_under": wait_under,
}


# --- Threads -------------------------------------------------------------------------------------------------------


def in_thread(function: Callable[[], _T], *, name: str | None = None) -> _T:
    """The result of `function()` in a thread of its own, which has ended; raises what it raised."""
    results: list[_T] = []
    in_threads([lambda: results.append(function())], name=name)
    return results[0]


def in_threads(functions: Sequence[Callable[[], object]], *, name: str | None = None) -> None:
    """Run functions in threads of their own, all at once, and wait until they have ended; raises what one raised."""
    errors: list[BaseException] = []

    def work(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(function,), name=name, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"a thread is not through after {DEADLINE} s"
    if errors:
        raise errors[0]
