"""Children that are interrupted at random moments by signal handlers that raise, acquire, or fork.

Everything here runs in a process of its own: the timer and SIGALRM of the test process belong to pytest-timeout.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import multiprocessing.synchronize
import os
import random
import signal
import statistics
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import mpbakery
from mpbakery._protocol.slots import SlotTable
from mpbakery._system import identity
from support.workers import PATIENCE, AnyLock, Crew, begin, expect

#: What is told of leaks at most.
_EXAMPLES = 3

#: A storm is bounded, and a hung one is killed after this (s).
STORM = 110.0

#: A signal comes within this time, and an operation is repeated so often that it takes longer (s).
_SOON = 100e-6
_OFTEN = 200

#: The slots that a storm among others may leave in use: those of three processes and of the test, and two more for
#: children that were forked and have ended.
_SLOTS = 6

#: Where the code lies of a kind of lock; threading's has none.
_CODE = {
    "mpbakery": os.path.dirname(mpbakery.__file__),
    "multiprocessing": multiprocessing.synchronize.__file__,
    "threading": "(none)",
}


class Interrupt(BaseException):
    """What the handlers raise."""


class Storm:
    """One SIGALRM in each of many runs of an operation, at a random moment of it or shortly before or after.

    `code` is where the code lies that is of interest, as the beginning of a file's name.
    """

    def __init__(self, seed: int, code: str = _CODE["mpbakery"]) -> None:
        self._choose = random.Random(seed)
        self._code = code
        self._action: Callable[[], None] = self.strike
        #: a signal is on its way
        self.armed = False
        #: how often the signal came while that code ran, by the place there: function, line, and offset of the bytecode
        self.places: dict[tuple[str, int, int], int] = {}
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, _number: int, frame: types.FrameType | None) -> None:
        if not self.armed:
            return  # it comes too late
        self.armed = False
        if frame is not None and frame.f_code.co_filename.startswith(self._code):
            place = (frame.f_code.co_name, frame.f_lineno, frame.f_lasti)
            self.places[place] = self.places.get(place, 0) + 1
        self._action()

    @staticmethod
    def strike() -> None:
        """The usual action: raise."""
        raise Interrupt

    def run(
        self, operation: Callable[[], object], length: float, action: Callable[[], None] | None = None
    ) -> Interrupt | None:
        """Run `operation` with a signal within `length` seconds; the exception that came through, if one did.

        When this returns, the signal has come or will do nothing any more.
        """
        self._action = action or self.strike
        delay = max(1e-6, self._choose.uniform(0, length))
        try:
            try:
                self.armed = True
                signal.setitimer(signal.ITIMER_REAL, delay)
                operation()
            finally:
                self.armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt as interrupt:
            return interrupt
        return None


def weather(crew: Crew, storm: Callable[..., None], *arguments: object) -> Any:
    """Run a storm in a child, and insist that it found nothing; what it reports beyond that."""
    ours, theirs = crew.context.Pipe()
    crew.start(storm, theirs, *arguments, seconds=STORM, storm=True)
    theirs.close()
    counts, examples, *rest = expect(ours, STORM)
    assert not counts, "\n".join([str(counts), *examples])
    return rest


def hits(places: dict[tuple[str, int, int], int]) -> int:
    """How many signals came while the lock's code ran."""
    return sum(places.values())


def comes_from_lock(error: BaseException) -> bool:
    """Whether an exception was raised while the lock's own code ran."""
    return any(is_of_lock(frame) for frame, _line in traceback.walk_tb(error.__traceback__))


def is_of_lock(frame: types.FrameType) -> bool:
    """Whether a frame runs the lock's own code."""
    return frame.f_code.co_filename.startswith(_CODE["mpbakery"])


def describe(error: BaseException | None) -> str:
    """The traceback of an example."""
    return "".join(traceback.format_exception(error)) if error is not None else "no exception"


class Findings:
    """What a child reports: how often each thing happened, with a few examples."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: list[str] = []

    def add(self, what: str, error: BaseException | None = None) -> None:
        """Something that must not happen has happened."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{what}: {describe(error)}")

    def check(self, lock: mpbakery.Lock, error: BaseException | None, *, slots: int | None = 1) -> None:
        """Insist that nothing of this process is left in a lock that nobody else uses."""
        now = lock.statistics()
        if lock.locked():
            self.add("held", error)
            lock.release()
        if now.waiters:
            self.add("ticket left", error)
        if slots is not None and now.slots_in_use > slots:
            self.add("slot lost", error)
        if not lock.acquire(False):
            self.add("not to be had", error)
        else:
            lock.release()

    def check_mine(self, lock: mpbakery.Lock, error: BaseException | None, *, slots: int = _SLOTS) -> None:
        """Insist that this thread neither holds a lock nor waits for it, whatever others do."""
        now = lock.statistics()
        me = (os.getpid(), threading.get_native_id())
        if now.owner is not None and (now.owner.pid, now.owner.thread) == me:
            self.add("held", error)
            lock.release()
        if any((waiter.pid, waiter.thread) == me for waiter in now.waiters):
            self.add("ticket left", error)
        if now.slots_in_use > slots:
            self.add("slot lost", error)


def dive(depth: int, function: Callable[[], object]) -> object:
    """Call `function()` that many calls further down."""
    return dive(depth - 1, function) if depth else function()


def meet_recursion_limit(connection: Connection) -> None:
    """Use a lock ever closer to the recursion limit: the exception comes at the entry of one function after another."""
    findings = Findings()
    fork = multiprocessing.get_context("fork")
    lock = mpbakery.Lock(ctx=fork)
    outcomes = {"through": 0, "stopped": 0}

    def use() -> None:
        with lock:
            pass

    def use_first() -> None:
        with mpbakery.Lock(ctx=fork, slots=1) as _:
            pass

    def wait() -> None:
        lock.acquire(True, 0.002)

    def attempt(function: Callable[[], None], depth: int) -> None:
        try:
            dive(depth, function)
            outcomes["through"] += 1
        except (RecursionError, ctypes.ArgumentError):
            outcomes["stopped"] += 1

    use()
    sys.setrecursionlimit(400)
    for depth in range(250, 400):
        attempt(use_first, depth)
        attempt(use, depth)
        findings.check(lock, None)
        lock.acquire()
        attempt(wait, depth)
        if lock.statistics().waiters:
            findings.add("ticket left")
        lock.release()
    sys.setrecursionlimit(1000)
    connection.send((findings.counts, findings.examples, outcomes))


def stay() -> None:
    """Be in the body of `with` for a moment: handlers run at the entry of a function."""


def write(ledger: Any) -> bool:
    """Write the two cells of a ledger, which differ only under the lock; whether somebody else was seen at it."""
    disturbed = ledger[0] != ledger[1]
    number = ledger[0] + 1
    ledger[0] = number
    os.sched_yield()
    disturbed |= ledger[0] != number
    ledger[1] = number
    return bool(disturbed)


def contend(lock: AnyLock, ledger: Any, pause: float) -> None:
    """Keep a ledger of two equal cells until ledger[2] is set; ledger[3] counts what must not happen."""
    while not ledger[2]:
        with lock:
            ledger[3] += write(ledger)
        ledger[4] += 1
        if pause:
            time.sleep(pause)


def storm_on_with(kind: str, handlers: str, threads: int, signals: int, progress: Any = None) -> tuple[Any, ...]:
    """`with lock` again and again in the main thread, with a signal each time, while the other threads contend.

    `kind` names the module that the lock is from, `handlers` what they do: raise, acquire, or both; `progress` is a
    shared number.
    """
    fork = multiprocessing.get_context("fork")
    kinds: dict[str, Any] = {"mpbakery": mpbakery.Lock, "multiprocessing": fork.Lock, "threading": threading.Lock}
    lock = kinds[kind]()
    storm, findings = Storm(1, _CODE[kind]), Findings()
    choose = random.Random(2)
    got = [0, 0]
    ledger = [0] * 5

    def acquire() -> None:
        acquired = lock.acquire(True, choose.choice((0, _SOON, 5 * _SOON)))
        got[acquired] += 1
        if acquired:
            ledger[3] += write(ledger)
            lock.release()

    def acquire_and_strike() -> None:
        acquire()
        storm.strike()

    def in_and_out() -> None:
        for _ in range(_OFTEN):
            with lock:
                pass
            if not storm.armed:
                break

    def with_a_stay() -> None:
        for _ in range(_OFTEN):
            with lock:
                before = ledger[0]
                stay()
                if not ledger[0] == ledger[1] == before:
                    findings.add("two were in")
            if not storm.armed:
                break

    action = {"raise": storm.strike, "acquire": acquire, "both": acquire_and_strike}[handlers]
    operations = (in_and_out, with_a_stay)
    lengths = (_SOON,) if threads == 1 else (_SOON, 3 * _SOON, 9 * _SOON)
    with lock:
        pass  # a slot is claimed
    if threads > 1:
        sys.setswitchinterval(_SOON)
    others = [threading.Thread(target=contend, args=(lock, ledger, 5 * _SOON), daemon=True) for _ in range(threads - 1)]
    for other in others:
        other.start()
    for number in range(signals):
        error = storm.run(operations[number % 2], lengths[number % len(lengths)], action)
        if threads > 1:
            findings.check_mine(lock, error, slots=threads)
        elif kind == "mpbakery":
            findings.check(lock, error)
        else:
            if not lock.acquire(False):
                findings.add("held", error)
            lock.release()
        if progress is not None:
            progress.value = number + 1
    served, ledger[2] = ledger[4], 1
    for other in others:
        other.join(PATIENCE)
        if other.is_alive():
            findings.add("a thread waits for ever")
            break
    for _ in range(ledger[3]):
        findings.add("two were in")
    return findings.counts, findings.examples, storm.places, got, served


def storm_on_with_in_child(connection: Connection, kind: str, handlers: str, threads: int, signals: int) -> None:
    """`storm_on_with`, and what it has found is sent through a pipe."""
    connection.send(storm_on_with(kind, handlers, threads, signals))


def storm_on_calls(connection: Connection, iterations: int) -> None:
    """acquire and release as calls. Whether an exception between them leaves the lock held is the caller's affair;
    one that comes out of acquire, or out of release, leaves it free."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(2), Findings()

    def operation() -> None:
        for _ in range(_OFTEN):
            lock.acquire()
            lock.release()

    for _ in range(iterations):
        error = storm.run(operation, _SOON)
        if lock.locked() and error is not None and not comes_from_lock(error):
            lock.release()
        findings.check(lock, error)
    connection.send((findings.counts, findings.examples, storm.places))


def storm_of_timeout_errors(connection: Connection, iterations: int) -> None:
    """A handler raises TimeoutError, which is an OSError, while the lock asks the system who is alive: it comes out."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(12), Findings()
    struck: list[str] = []

    def time_is_up() -> None:
        struck[:] = ["".join(traceback.format_stack())]
        raise TimeoutError

    def look() -> None:
        for _ in range(_OFTEN):
            identity.is_dead(parent)
            claims.is_intact()
            claims.lives(parent)

    claims = lock._table._claims
    parent = identity.Process(os.getppid(), identity.UNKNOWN_START)
    for _ in range(iterations):
        struck.clear()
        try:
            storm.run(look, 10 * _SOON, time_is_up)
        except TimeoutError:
            continue
        if struck:
            findings.add(f"an exception of a handler was lost, which ran here:\n{struck[0]}")
    connection.send((findings.counts, findings.examples, storm.places))


def storm_on_first_use(connection: Connection, what: str, iterations: int) -> None:
    """The first `with` of a lock, where a slot is claimed, and a handler that does `what`: raise, acquire or fork."""
    fork = multiprocessing.get_context("fork")
    storm, findings = Storm(3), Findings()
    choose = random.Random(4)
    locks: list[mpbakery.Lock] = []
    parent = os.getpid()
    children: list[int] = []

    def acquire() -> None:
        if locks[-1].acquire(True, choose.choice((0, 0.0003))):
            locks[-1].release()
        if choose.random() < 0.3:
            raise Interrupt

    def fork_there() -> None:
        if locks[-1].owner is None:  # else the child would find itself in the body of `with`
            child = os.fork()
            if child:
                children.append(child)
            else:
                begin(20)

    def operation() -> None:
        for _ in range(3):
            with locks[-1]:
                stay()

    action = {"raise": storm.strike, "acquire": acquire, "fork": fork_there}[what]
    # a handler in the middle of a claim needs a second slot for a moment, and a child one of its own
    slots = {"raise": 1, "acquire": 2, "fork": 3}[what]
    lengths = []
    for _ in range(101):
        locks.append(mpbakery.Lock(ctx=fork, slots=slots))
        start = time.perf_counter()
        operation()
        lengths.append(time.perf_counter() - start)
    length = statistics.median(lengths) * 1.5
    for number in range(iterations):
        if number % 20 == 0:
            locks.clear()  # not in the middle of a storm: what a weak reference calls swallows exceptions
        locks.append(mpbakery.Lock(ctx=fork, slots=slots))
        try:
            error = storm.run(operation, length, action)
            if os.getpid() != parent:
                findings.check_mine(locks[-1], error)
                os._exit(1 if findings.counts else 0)
            while children:
                _pid, status = os.waitpid(children.pop(), 0)
                if status:
                    findings.add(f"a child ended with {os.waitstatus_to_exitcode(status)}", error)
            if error is not None:
                error.__traceback__ = None  # it would keep what the interrupted call has claimed
            findings.check(locks[-1], error, slots=slots)
        except mpbakery.SlotsExhausted as error:
            findings.add("slot lost", error)
    connection.send((findings.counts, findings.examples, storm.places))


def storm_on_timeouts(connection: Connection, iterations: int) -> None:
    """Attempts on a lock that is held and stays held: they raise or give up, and leave no place in the line."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(4), Findings()
    with lock:
        held = lock.owner
        for number in range(iterations):
            timeout = (0.0, 0.0001, 0.0005, 0.002)[number % 4]
            error = storm.run(lambda timeout=timeout: lock.acquire(True, timeout), timeout + 0.0003)  # type: ignore[misc]
            if lock.owner != held:
                findings.add("the holder was changed", error)
            if lock.statistics().waiters:
                findings.add("ticket left", error)
    findings.check(lock, None)
    connection.send((findings.counts, findings.examples, storm.places))


def storm_among_others(connection: Connection, lock: mpbakery.Lock, ledger: Any, iterations: int) -> None:
    """`with lock` while two other processes contend; they keep a ledger whose two cells differ only under the lock."""
    storm, findings = Storm(5), Findings()

    def operation() -> None:
        for _ in range(_OFTEN):
            with lock:
                if ledger[0] != ledger[1]:
                    findings.add("two were in")

    for number in range(iterations):
        findings.check_mine(lock, storm.run(operation, _SOON if number % 2 else 5 * _SOON))
    connection.send((findings.counts, findings.examples, storm.places))


def storm_of_acquiring_handlers(connection: Connection, lock: mpbakery.Lock, ledger: Any, iterations: int) -> None:
    """The handler acquires the lock itself, for a while, in the middle of `with lock` of the main flow, and writes the
    ledger if it gets it; some of them raise afterwards."""
    storm, findings = Storm(6), Findings()
    choose = random.Random(7)
    got = [0, 0]

    def handle() -> None:
        acquired = lock.acquire(True, choose.choice((0, 0.0002, 0.003)))
        got[acquired] += 1
        if acquired:
            ledger[3] += write(ledger)
            lock.release()
        if choose.random() < 0.3:
            raise Interrupt

    def operation() -> None:
        for _ in range(_OFTEN):
            with lock:
                before = ledger[0]
                stay()
                if not ledger[0] == ledger[1] == before:
                    findings.add("two were in")

    for _ in range(iterations):
        findings.check_mine(lock, storm.run(operation, 5 * _SOON, handle))
    connection.send((findings.counts, findings.examples, storm.places, got))


def storm_of_nested_handlers(connection: Connection, iterations: int) -> None:
    """Two signals, whose handlers both acquire, the second one often in the middle of the first."""
    lock = mpbakery.Lock(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(8), Findings()
    got = [0, 0]
    depth = [0]

    def attempt() -> None:
        acquired = lock.acquire(True, 0.0005)
        got[acquired] += 1
        if acquired:
            lock.release()

    def second(_number: int, _frame: object) -> None:
        attempt()

    def handle() -> None:
        depth[0] += 1
        threading.Timer(random.uniform(0, 1e-4), os.kill, (os.getpid(), signal.SIGUSR1)).start()
        attempt()
        attempt()

    signal.signal(signal.SIGUSR1, second)

    def operation() -> None:
        for _ in range(_OFTEN):
            with lock:
                stay()

    for _ in range(iterations):
        findings.check(lock, storm.run(operation, _SOON, handle))
    connection.send((findings.counts, findings.examples, storm.places, got))


def storm_of_forking_handlers(connection: Connection, lock: mpbakery.Lock, ledger: Any, iterations: int) -> None:
    """The handler forks in the middle of acquire; parent and child both go on with what they were doing."""
    storm, findings = Storm(9), Findings()
    parent = os.getpid()
    children: list[int] = []

    def handle() -> None:
        owner = lock.owner
        if owner is not None and owner.pid == parent:
            return  # the child would find itself in the body of `with`, and release what its parent holds
        child = os.fork()
        if child:
            children.append(child)
        else:
            begin(20)

    def operation() -> None:
        for _ in range(20):
            with lock:
                before = ledger[0]
                stay()
                if not ledger[0] == ledger[1] == before:
                    findings.add("two were in")

    for _ in range(iterations):
        error = storm.run(operation, _SOON, handle)
        if os.getpid() != parent:
            findings.check_mine(lock, error)
            if findings.counts:
                print(findings.counts, *findings.examples, file=sys.stderr, flush=True)
            os._exit(1 if findings.counts else 0)
        while children:
            _pid, status = os.waitpid(children.pop(), 0)
            if status:
                findings.add(f"a child ended with {os.waitstatus_to_exitcode(status)}", error)
        findings.check_mine(lock, error)
    connection.send((findings.counts, findings.examples, storm.places))


def storm_of_finalizers(connection: Connection, lock: mpbakery.Lock, ledger: Any, iterations: int) -> None:
    """Garbage whose finalizer acquires the lock, collected in the middle of `with lock`: whenever the collector likes,
    which differs from version to version, and also at a random moment at which handlers run."""
    storm, findings = Storm(10), Findings()
    finalized = [0, 0]
    inside = 0

    class Cycle:
        def __init__(self) -> None:
            self.myself = self
            weakref.finalize(self, finalize).atexit = False

    def finalize() -> None:
        nonlocal inside
        inside += in_operation()
        acquired = lock.acquire(True, 0.0003)
        finalized[acquired] += 1
        if acquired:
            if ledger[0] != ledger[1]:
                findings.add("two were in")
            lock.release()

    def in_operation() -> bool:
        frames = [frame for frame, _line in traceback.walk_stack(None)]
        callers = [frame.f_code for frame in frames]
        return operation.__code__ in callers and any(
            is_of_lock(frame) for frame in frames[: callers.index(operation.__code__)]
        )

    def operation() -> None:
        for _ in range(_OFTEN // 4):
            with lock:
                if ledger[0] != ledger[1]:
                    findings.add("two were in")

    def collect() -> None:
        gc.collect()

    gc.collect()
    gc.freeze()
    gc.set_threshold(3, 2, 2)  # a collection every few objects
    try:
        for _ in range(iterations):
            Cycle()
            storm.run(operation, _SOON, collect)
            findings.check_mine(lock, None)
    finally:
        gc.set_threshold(700, 10, 10)
    gc.collect()
    connection.send((findings.counts, findings.examples, finalized, inside))


# --- Children with handlers of their own ---------------------------------------------------------------------------


def wait_with_handler(connection: Connection, lock: mpbakery.Lock, what: str) -> None:
    """Acquire a held lock, with a handler of SIGUSR1 that does `what` in the meantime; report each step."""

    def handle(_number: int, _frame: object) -> None:
        connection.send("handler")
        if what == "acquire":
            with lock:
                connection.send("handler holds")
        elif what == "acquire and look":
            warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
            with lock:
                connection.send(("handler holds", lock.recovered_from and lock.recovered_from.pid))
        elif what == "acquire and raise":
            lock.acquire()
            connection.send("handler holds")
            raise Interrupt
        elif what == "raise":
            raise Interrupt
        elif what == "try":
            connection.send(lock.acquire(False))
        elif what == "timeout":
            start = time.monotonic()
            connection.send((lock.acquire(True, 0.2), time.monotonic() - start))
        elif what == "fork":
            if os.fork() == 0:
                begin()
                connection.send(("child", os.getpid()))
            else:
                connection.send(("parent", os.getpid()))

    signal.signal(signal.SIGUSR1, handle)
    connection.send("ready")
    try:
        got = lock.acquire(True, PATIENCE)
    except Interrupt:
        connection.send("interrupted")
    else:
        connection.send(("main", got, os.getpid()))
    while (order := expect(connection)) == "look":
        connection.send(lock.recovered_from)
    if order == "release":
        lock.release()
    connection.send("done")


def hold_with_handler(connection: Connection, lock: mpbakery.Lock) -> None:
    """Hold the lock while handlers of SIGUSR1 try to get it; report what each of them got, and how long it took."""
    reports: list[tuple[bool, float]] = []

    def handle(_number: int, _frame: object) -> None:
        for timeout in (0.0, 0.1, -1.0):
            start = time.monotonic()
            reports.append((lock.acquire(True, timeout), time.monotonic() - start))
        start = time.monotonic()
        reports.append((lock.acquire(False), time.monotonic() - start))

    signal.signal(signal.SIGUSR1, handle)
    with lock:
        os.kill(os.getpid(), signal.SIGUSR1)
        end = time.monotonic() + PATIENCE
        while len(reports) < 4 and time.monotonic() < end:
            time.sleep(0.001)
        connection.send((reports, lock.owner is not None and lock.owner.pid == os.getpid(), lock.statistics().waiters))
    connection.send(lock.locked())


def claim_with_handler(connection: Connection, lock: mpbakery.Lock) -> None:
    """Acquire the lock for the first time, and in the middle of that in a handler of SIGUSR1."""

    over = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal over
        with lock:
            over = True

    signal.signal(signal.SIGUSR1, handle)
    take = SlotTable._take_one

    def wait_and_take(table: SlotTable, *arguments: Any) -> int:
        SlotTable._take_one = take  # type: ignore[method-assign]
        connection.send("ready")
        while not over:
            time.sleep(0.001)
        return take(table, *arguments)

    SlotTable._take_one = wait_and_take  # type: ignore[method-assign, assignment]
    with lock:
        pass
    connection.send(True)


#: The signals of `be_struck_twice`.
BOTH = (signal.SIGUSR1, signal.SIGUSR2)


def be_struck_twice(connection: Connection, lock: mpbakery.Lock) -> None:
    """Wait for the lock until handlers of both signals have raised; tell how many did, and live on."""
    struck = []

    def strike(number: int, _frame: types.FrameType | None) -> None:
        struck.append(number)
        raise Interrupt

    for number in BOTH:
        signal.signal(number, strike)
    try:
        try:
            lock.acquire()
        finally:
            while len(struck) < len(BOTH):
                time.sleep(0.01)
    except Interrupt:
        pass
    connection.send(len(struck))
    connection.recv()


def main() -> None:
    """For `python -m evidence.storms.storms NAME [ARGUMENT]...` in tests/: one by itself, as `storm_on_calls 20000`."""
    ours, theirs = multiprocessing.Pipe()
    begin(300, storm=True)
    globals()[sys.argv[1]](theirs, *(int(word) if word.isdigit() else word for word in sys.argv[2:]))
    counts, examples, places, *rest = ours.recv()
    print(counts, *examples, sum(places.values()) if isinstance(places, dict) else places, len(places), *rest)


if __name__ == "__main__":
    main()
