"""A real job under one lock: a Pool counts words, and one of its workers is killed while it holds the lock.

The workers of a `multiprocessing.Pool` count the words of many files, and append what they counted to one ledger. One
of them is killed with SIGKILL half way through a record. A Pool replaces a killed worker, but never tells what became
of its task; so the job goes by the ledger, and by a board on which the workers note what they are doing: a task whose
worker is dead and whose record is missing is given out again.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import re
import signal
import socket
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import resource_tracker, sharedctypes
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import mpbakery
from mpbakery._programs.console import Console, duration, evenness, plural, show_evenness, table
from mpbakery._programs.ledger import Audit, Ledger, Record, Takeover
from mpbakery._system import identity, network

if TYPE_CHECKING:
    from ctypes import Array, c_int64
    from multiprocessing.pool import Pool
    from multiprocessing.synchronize import Lock as MultiprocessingLock

    from mpbakery import cluster

    AnyLock = mpbakery.Lock | cluster.Lock | MultiprocessingLock
    Board = Array[c_int64]

#: The signals that end a program from outside.
ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Which locks the job can be run with, beside one on a server, which is given by its URL.
LOCKS: Final = ("mpbakery", "multiprocessing")
SERVERS: Final = ("postgresql://", "postgres://")

_WORD: Final = re.compile(r"\w+")
#: A file is read in pieces of so many characters: it could be larger than the memory.
_CHUNK: Final = 1 << 20
#: How often to look how far the job has come (s).
_POLL: Final = 0.02
#: A pool that has not ended after this many seconds is killed: it may not end by itself when a worker died. A death
#: that nobody has written down after as many is told without its signal.
_STOP_LIMIT: Final = 0.5
#: A stall shorter than this many seconds is not worth a note.
_NOTEWORTHY: Final = 1.0
#: The job is opened after so many seconds, even if a worker is not there yet.
_START_LIMIT: Final = 5.0

# What a worker does with a task: the lower bits of the task's cell on the board, the upper ones are the worker's pid.
_COUNTING: Final = 1
_WAITING: Final = 2
_HOLDING: Final = 3


def count_words(path: str) -> int | None:
    """How many words, which are runs of letters, digits and underscores, are in a file; None if it cannot be read."""
    words = 0
    in_word = False
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            while chunk := file.read(_CHUNK):
                words += len(_WORD.findall(chunk)) - (in_word and _WORD.match(chunk) is not None)
                in_word = _WORD.match(chunk[-1]) is not None
    except OSError:
        return None
    return words


def standard_library() -> str:
    """The folder of this Python's standard library."""
    return sysconfig.get_path("stdlib")


def find_files(folder: str | None) -> list[str]:
    """Every file in `folder` and below it, in order; None for the source files of the standard library.

    Raises OSError if the folder itself cannot be read. What cannot be read below it is left out.
    """
    top = standard_library() if folder is None else folder
    os.scandir(top).close()
    found = []
    for path, folders, names in os.walk(top):
        if folder is None:
            folders[:] = [name for name in folders if name not in {"site-packages", "dist-packages", "__pycache__"}]
        for name in names:
            file = os.path.join(path, name)
            # a pipe or a device could be read for ever
            if (folder is not None or name.endswith(".py")) and os.path.isfile(file):
                found.append(file)
    return sorted(found)


def is_readable(path: str) -> bool:
    """Whether a file can be opened."""
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False


class _Worker:
    """What a process of the pool needs for its tasks."""

    def __init__(self, lock: AnyLock, board: Board, ledger: str) -> None:
        self._lock = lock
        self._board = board
        self._ledger = Ledger(ledger)

    def count(self, file: int, path: str, fatal: bool) -> None:
        self._note(file, _COUNTING)
        words = count_words(path)
        self._note(file, _WAITING)
        arrived = time.monotonic()
        with self._lock:
            acquired = time.monotonic()
            self._note(file, _HOLDING)
            dead = getattr(self._lock, "recovered_from", None)
            takeover = Takeover(dead.pid, dead.process, dead.since, self._ledger.mend()) if dead else None
            balance = self._ledger.balance() + (words or 0)
            name = multiprocessing.current_process().name
            record = Record(file, words, balance, os.getpid(), name, arrived, acquired, takeover)
            self._ledger.append(record, half_way=_die if fatal else _live)
        self._note(file, _COUNTING)

    def _note(self, file: int, doing: int) -> None:
        self._board[file] = os.getpid() << 2 | doing


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _live() -> None:
    pass


_worker: _Worker | None = None


def _start_worker(lock: AnyLock, board: Board, ledger: str, machines: Sequence[str]) -> None:
    global _worker
    if machines:
        process = multiprocessing.current_process()
        machine = machines[process._identity[-1] % len(machines)]
        network.enter(machine)
        process.name += f"@{machine}"
    # the only one of the ENDINGS, which are blocked here, that is for a worker: the pool's terminate() sends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # the job tells of the death itself, by lock.recovered_from; as an error it would keep the lock from being acquired
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    if isinstance(lock, mpbakery.Lock):
        mpbakery.register(lock)
    _worker = _Worker(lock, board, ledger)


def _count(file: int, path: str, fatal: bool) -> None:
    if _worker is None:
        raise RuntimeError("this process is no worker: _start_worker() comes first")
    _worker.count(file, path, fatal)


class Casualty(NamedTuple):
    """A worker that died with a task."""

    pid: int
    process: str
    file: int
    #: whether it held the lock
    holding: bool


@dataclass(frozen=True)
class Stall:
    """The job got no further: for `seconds` there was no record, while so many workers waited for the lock."""

    seconds: float
    holder: int | None
    holder_is_dead: bool
    waiting: int
    #: the lock's own account of it
    lock: str


@dataclass(frozen=True)
class Share:
    """One worker's part of the job: its records, which are its acquisitions of the lock, and its longest wait."""

    pid: int
    process: str
    records: int
    longest_wait: float
    #: whether it was there from the start to the end
    throughout: bool
    killed: bool


@dataclass(frozen=True)
class Settings:
    """What to do: the files to count, by how many workers, under which of `LOCKS`.

    `kill` is whether one worker is to die; `limit` how many seconds without a record count as a stall; `machines` are
    the network namespaces that the workers are spread over.
    """

    files: Sequence[str]
    workers: int
    lock: str = "mpbakery"
    kill: bool = True
    limit: float = 10.0
    machines: Sequence[str] = ()

    @property
    def lock_name(self) -> str:
        """Whose lock it is: the URL of a server may have a password."""
        return "mpbakery.cluster" if self.lock.startswith(SERVERS) else self.lock

    def make_lock(self) -> AnyLock:
        """A new lock.

        Raises ValueError if it has a URL that is none, and ImportError if there is no psycopg for it.
        """
        if self.lock.startswith(SERVERS):
            # not at the top: it needs more than the standard library
            made: cluster.Lock = importlib.import_module("mpbakery.cluster").Lock(
                self.lock, f"python3 -m mpbakery, {os.getpid()} on {socket.gethostname()}"
            )
            return made
        return mpbakery.Lock(name="ledger") if self.lock == "mpbakery" else multiprocessing.Lock()


@dataclass
class Result:
    """What came of it. Times are in seconds."""

    settings: Settings
    records: list[Record] = field(default_factory=list)
    casualties: list[Casualty] = field(default_factory=list)
    team: dict[int, str] = field(default_factory=dict)
    #: when the first worker could start (monotonic), and how long it took from there to the last record
    opened: float = 0.0
    seconds: float = 0.0
    stall: Stall | None = None
    statistics: mpbakery.Statistics | cluster.Statistics | None = None
    audit: Audit | None = None
    serial: list[int | None] = field(default_factory=list)
    serial_seconds: float = 0.0

    @property
    def takeovers(self) -> list[Record]:
        """The records whose writers took the lock over from a dead process."""
        return [record for record in self.records if record.takeover]

    @property
    def serial_words(self) -> int:
        """What one process alone counts."""
        return sum(words or 0 for words in self.serial)

    @property
    def differing(self) -> list[str]:
        """The files in which the workers and the serial count have found different numbers of words."""
        counted = {record.file: record.words for record in self.records}
        return [path for file, path in enumerate(self.settings.files) if counted.get(file) != self.serial[file]]

    @property
    def is_right(self) -> bool:
        """Whether the ledger is whole and agrees with the serial count."""
        audit = self.audit
        return audit is not None and not any(audit.faults.values()) and not self.differing

    @property
    def waits(self) -> list[float]:
        """How long each record's writer waited for the lock, once the job had been opened."""
        return [self._wait(record) for record in self.records]

    @property
    def waits_undisturbed(self) -> list[float]:
        """The same without the waits during which the lock's holder was dead."""
        deaths = [(record.takeover.since, record.acquired) for record in self.records if record.takeover]
        return [
            self._wait(record)
            for record in self.records
            if not any(record.arrived <= end and record.acquired >= start for start, end in deaths)
        ]

    @property
    def shares(self) -> list[Share]:
        """Every worker's part, in the order in which they came."""
        dead = {casualty.pid: casualty.process for casualty in self.casualties}
        names = self.team | dead | {record.pid: record.process for record in self.records}
        shares = []
        for pid, name in names.items():
            waits = [self._wait(record) for record in self.records if record.pid == pid]
            throughout = pid in self.team and pid not in dead
            shares.append(Share(pid, name, len(waits), max(waits, default=0.0), throughout, pid in dead))
        return shares

    @property
    def evenness(self) -> float | None:
        """Jain's index over the acquisitions of the workers that were there throughout; None if they are too few."""
        return evenness([share.records for share in self.shares if share.throughout])

    def _wait(self, record: Record) -> float:
        return max(0.0, record.acquired - max(record.arrived, self.opened))


def run(settings: Settings, console: Console) -> Result:
    """Do the job, and tell of it while it goes on.

    Raises OSError if there is no place for the ledger, or the system gives no processes.
    """
    result = Result(settings)
    # Where files and processes are made and removed, a signal waits: it would leave behind what nobody knows of yet.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        if multiprocessing.get_start_method() != "fork":
            # else it starts by itself in the middle of all, and unblocks signals
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        with (
            tempfile.NamedTemporaryFile(prefix="mpbakery-ledger-") as file,
            contextlib.closing(Ledger(file.name)) as ledger,
        ):
            _Job(settings, result, console, file.name, ledger).run(before)
            if result.stall is None:
                result.audit = ledger.audit(len(settings.files))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if result.stall is None:
        _count_serially(result, console)
    return result


def _count_serially(result: Result, console: Console) -> None:
    files = result.settings.files
    start = time.monotonic()
    for done, path in enumerate(files):
        console.progress("Checking", done, len(files))
        result.serial.append(count_words(path))
    console.progress("Checking", len(files), len(files))
    console.clear()
    result.serial_seconds = time.monotonic() - start


class _Job:
    """One run of the pool."""

    def __init__(self, settings: Settings, result: Result, console: Console, path: str, ledger: Ledger) -> None:
        files = settings.files
        self._settings = settings
        self._result = result
        self._console = console
        self._ledger = ledger
        self._lock = settings.make_lock()
        self._board: Board = sharedctypes.RawArray("q", len(files))
        self._initargs = (self._lock, self._board, path, settings.machines)
        self._pending = set(range(len(files)))
        #: neither the first task nor the last, where there are others: the job goes on before and after the death
        self._fatal = len(files) * 2 // 5 if settings.kill else -1
        self._team: dict[int, BaseProcess] = {}
        self._failures: list[BaseException] = []

    def run(self, mask: set[int]) -> None:
        """Do it, with signals blocked but while the pool works, when they are as `mask` says."""
        result, settings = self._result, self._settings
        before = self._statistics()
        with _pool(settings.workers, self._initargs, mask) as pool:
            self._team = {process.pid or 0: process for process in _processes()}
            result.team = {pid: process.name for pid, process in self._team.items()}
            # No worker gets a start over the others: the lock is given to them when all of them wait for it.
            with self._lock:
                for file in range(len(settings.files)):
                    self._hand_out(pool, file, fatal=file == self._fatal)
                self._await_workers(min(settings.workers, len(settings.files)))
                result.opened = time.monotonic()
            self._follow(pool)
        self._console.clear()
        if result.records:
            result.seconds = result.records[-1].acquired - result.opened
        statistics = self._statistics()
        if statistics is not None and before is not None:
            # a server also knows of others who had the name before us
            result.statistics = replace(
                statistics,
                acquisitions=statistics.acquisitions - before.acquisitions,
                recoveries=statistics.recoveries - before.recoveries,
            )

    def _await_workers(self, workers: int) -> None:
        deadline = time.monotonic() + _START_LIMIT
        while len(self._doing(_WAITING)) < workers and time.monotonic() < deadline and not self._failures:
            self._console.progress("Counting", 0, len(self._settings.files), "the workers are starting")
            time.sleep(_POLL)

    def _follow(self, pool: Pool) -> None:
        """Watch the ledger until every file has its record, or until nothing more comes."""
        files = len(self._settings.files)
        progressed = time.monotonic()
        while self._pending:
            if self._failures:
                raise self._failures[0]
            time.sleep(_POLL)
            now = time.monotonic()
            if self._read_news():
                progressed = now
            elif now - progressed > self._settings.limit:
                self._result.stall = self._stall(now - progressed)
                return
            self._replace_casualties(pool)
            quiet = now - progressed
            note = f"nothing for {quiet:.0f} s" if quiet > _NOTEWORTHY else ""
            self._console.progress("Counting", files - len(self._pending), files, note)

    def _hand_out(self, pool: Pool, file: int, *, fatal: bool) -> None:
        pool.apply_async(_count, (file, self._settings.files[file], fatal), error_callback=self._failures.append)

    def _read_news(self) -> bool:
        news = self._ledger.news()
        for record in news:
            self._pending.discard(record.file)
            self._result.records.append(record)
            if record.takeover:
                self._tell_of_takeover(record, record.takeover)
        return bool(news)

    def _tell_of_takeover(self, record: Record, dead: Takeover) -> None:
        wrote = f"wrote {plural(dead.cut, 'byte')} of its record, " if dead.cut else ""
        mended = "cut the torn record off, " if dead.cut else ""
        heir = f"{record.process} (pid {record.pid})"
        later = duration(record.acquired - dead.since)
        self._console.tell(
            f"{dead.process} (pid {dead.pid}) got the lock, {wrote}and {self._fate(dead.pid)}.", good=False
        )
        self._console.tell(
            f"{heir} was handed the lock {later} after that, {mended}and went on.",
            good=True,
        )

    def _replace_casualties(self, pool: Pool) -> None:
        """Give the tasks of dead workers out again."""
        workers = {cell >> 2 for cell in self._board[:]} - {0}
        dead = {pid for pid in workers if _is_dead(pid)}
        if not dead:
            return
        # what a worker wrote before its death can be read by now
        self._read_news()
        cells = self._board[:]
        for file in self._pending:
            pid, doing = cells[file] >> 2, cells[file] & 3
            if pid in dead:
                casualty = Casualty(pid, self._result.team.get(pid, "A worker"), file, doing == _HOLDING)
                self._result.casualties.append(casualty)
                self._tell_of_casualty(casualty)
                self._board[file] = 0
                self._hand_out(pool, file, fatal=False)

    def _tell_of_casualty(self, dead: Casualty) -> None:
        if dead.holding and self._settings.lock != "multiprocessing":
            return  # that is told as soon as the lock is handed over
        doing = "got the lock, wrote half of its record, and " if dead.holding else ""
        after = "" if dead.holding else "; another does its task"
        who = f"{dead.process} (pid {dead.pid})"
        self._console.tell(f"{who} {doing}{self._fate(dead.pid)}{after}.", good=False)

    def _fate(self, pid: int) -> str:
        process = self._team.get(pid)
        killed = process is not None and _exit_code(process) == -signal.SIGKILL
        return "was killed with SIGKILL" if killed else "died"

    def _doing(self, what: int) -> set[int]:
        """The workers that do it at this moment."""
        return {cell >> 2 for cell in self._board[:] if cell & 3 == what}

    def _statistics(self) -> mpbakery.Statistics | cluster.Statistics | None:
        """What the lock tells of itself."""
        tell = getattr(self._lock, "statistics", None)
        return tell() if tell is not None else None

    def _stall(self, seconds: float) -> Stall:
        waiting = len(self._doing(_WAITING))
        statistics = self._statistics()
        if statistics is not None:
            owner = statistics.owner
            holder = owner.pid if owner else None
            account = f"held by {owner.process} (pid {owner.pid})" if owner else "held by nobody"
        else:
            # it cannot tell, but the board can
            dead = [casualty.pid for casualty in self._result.casualties if casualty.holding]
            holder = next(iter([*dead, *self._doing(_HOLDING)]), None)
            account = repr(self._lock)
        return Stall(seconds, holder, holder is not None and _is_dead(holder), waiting, account)


@contextlib.contextmanager
def _pool(workers: int, initargs: tuple[Any, ...], mask: set[int]) -> Iterator[Pool]:
    """A pool that has ended for certain when the block has; signals come through in the block alone, as `mask` says.

    Its processes inherit that they are blocked: Ctrl-C goes to all of them, and is for the parent alone.
    """
    pool = multiprocessing.Pool(workers, _start_worker, initargs)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield pool
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        _stop(pool)


def _stop(pool: Pool) -> None:
    """End a pool, also one whose queue is held by a dead worker, where its own terminate() would wait for ever."""
    stopper = threading.Thread(target=pool.terminate, daemon=True)
    stopper.start()
    stopper.join(_STOP_LIMIT)
    if stopper.is_alive():
        for process in _processes():
            process.kill()
            process.join(_STOP_LIMIT)


def _exit_code(process: BaseProcess) -> int | None:
    """How a process that is dead ended."""
    # None for a moment, where the pool's own thread has reaped it and not written that down yet
    deadline = time.monotonic() + _STOP_LIMIT
    while (code := process.exitcode) is None and time.monotonic() < deadline:
        time.sleep(_POLL)
    return code


def _is_dead(pid: int) -> bool:
    return identity.is_dead(identity.Process(pid, identity.UNKNOWN_START))


def _processes() -> list[BaseProcess]:
    return sorted(multiprocessing.active_children(), key=lambda process: process.pid or 0)


def report(result: Result, console: Console) -> None:
    """Say what came of it: a table, or where it got stuck."""
    console.gap()
    if result.stall is not None:
        _report_stall(result, result.stall, console)
    elif result.audit is not None:
        _report_totals(result, result.audit, console)
        console.gap()
        _report_shares(result, console)


def _report_stall(result: Result, stall: Stall, console: Console) -> None:
    counted = f"{len(result.records):,} of {plural(len(result.settings.files), 'file')} counted"
    waiting = f"{plural(stall.waiting, 'worker')} {'waits' if stall.waiting == 1 else 'wait'} for a lock"
    if stall.holder is not None and stall.holder_is_dead:
        why = f"{waiting} whose holder, pid {stall.holder}, is dead."
    elif stall.holder is not None:
        why = f"{waiting} whose holder, pid {stall.holder}, lives but writes nothing."
    elif stall.waiting:
        why = f"{waiting} that nobody holds."
    else:
        why = (
            "Nobody holds the lock or waits for it: either the files are large, and --limit is low, or a worker was "
            "killed while it held the Pool's own lock."
        )
    console.tell(f"Stuck: no record in the last {duration(stall.seconds)}; {counted}. {why}", good=False)
    console.say(f"    What the lock itself can tell: {stall.lock}")
    if result.settings.lock == "multiprocessing" and stall.holder_is_dead:
        console.say("    So it would stay for ever. With mpbakery.Lock, the job goes on.")


def _report_totals(result: Result, audit: Audit, console: Console) -> None:
    agree = "the same" if result.serial_words == audit.words else "NOT the same"
    faults = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in audit.faults.items())
    unreadable = sum(words is None for words in result.serial)
    always = sum(share.throughout for share in result.shares)
    undisturbed = max(result.waits_undisturbed, default=None)
    but = f"{duration(undisturbed)} apart from the hand-over" if result.takeovers and undisturbed is not None else ""
    rows = [
        ("words", f"{audit.words:,}", f"in {duration(result.seconds)} by {plural(result.settings.workers, 'worker')}"),
        ("words, serial count", f"{result.serial_words:,}", f"{agree}, in {duration(result.serial_seconds)}"),
        ("records", f"{len(result.records):,}", faults),
        ("longest wait", duration(max(result.waits)), but),
        ("evenness", show_evenness(result.evenness), f"Jain's index of the {plural(always, 'worker')} always there"),
        ("throughput", f"{len(result.records) / max(result.seconds, 1e-9):,.0f}", "records a second"),
    ]
    if unreadable:
        rows.insert(3, ("unreadable files", f"{unreadable:,}", "counted as no words"))
    if result.statistics is not None:
        recoveries = f"one for opening the ledger; {result.statistics.recoveries:,} from a dead worker"
        rows.append(("acquisitions", f"{result.statistics.acquisitions:,}", recoveries))
    for line in table(rows, "<><"):
        console.say(line)
    for path in result.differing[:3]:
        console.tell(f"The counts of {path!r} differ: did it change in the meantime?", good=False)


def _report_shares(result: Result, console: Console) -> None:
    most = max((share.records for share in result.shares), default=0)
    rows = [("worker", "pid", "records", "", "longest wait", "")]
    for share in result.shares:
        remark = "killed" if share.killed else "" if share.throughout else "new"
        bar = console.bar(share.records / max(most, 1), 16)
        rows.append((share.process, str(share.pid), f"{share.records:,}", bar, duration(share.longest_wait), remark))
    for line in table(rows, "<>><><"):
        console.say(line)


def as_json(result: Result) -> dict[str, Any]:
    """Everything for a machine; times in seconds."""
    audit, stall, statistics = result.audit, result.stall, result.statistics
    return {
        "lock": result.settings.lock_name,
        "start_method": multiprocessing.get_start_method(),
        "files": len(result.settings.files),
        "records": len(result.records),
        "words": audit.words if audit else None,
        "words_serial": result.serial_words if audit else None,
        "right": result.is_right,
        **(audit.faults if audit else {}),
        "killed": [casualty._asdict() for casualty in result.casualties],
        "handovers": [
            {
                "from_pid": record.takeover.pid,
                "to_pid": record.pid,
                "seconds": record.acquired - record.takeover.since,
                "bytes_cut": record.takeover.cut,
            }
            for record in result.records
            if record.takeover
        ],
        "workers": [asdict(share) for share in result.shares],
        "evenness": result.evenness,
        "longest_wait": max(result.waits, default=None),
        "longest_wait_undisturbed": max(result.waits_undisturbed, default=None),
        "seconds": result.seconds,
        "seconds_serial": result.serial_seconds,
        "acquisitions": statistics.acquisitions if statistics else None,
        "recoveries": statistics.recoveries if statistics else None,
        "stall": asdict(stall) if stall else None,
    }
