"""Between a pool and one of its workers: a pipe each way, and whole messages in them.

Nothing is shared with other workers, so there is no lock that could die with one of them. The protocol: the worker says
that it is ready, with an empty message; from then on every task is answered by one result; an empty task sends it home.
So there is never more than one message under way in one direction, and none comes that is not due: only the worker
itself writes, none of the processes that its tasks fork, and it begins one result for each task.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
import threading
import weakref
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from mpbakery._system.identity import exists

#: The length of the message that follows (bytes).
_HEADER: Final = struct.Struct("!Q")
#: A message without content.
EMPTY: Final = _HEADER.pack(0)
#: What a pipe holds on Linux, unless it was told otherwise (bytes).
PIPE_SIZE: Final = 1 << 16
#: What counts as the exit code of a process whose own cannot be known.
_UNKNOWN_END: Final = 255
#: How long to wait for the exit code of a process that is gone (s): a fork server may be about to tell it.
_LAST_WORD: Final = 0.25
#: Shorter messages are put together with their header, to write both at once (bytes).
_SHORT: Final = 1 << 14

#: The ends that belong to this process alone.
_ours: weakref.WeakSet[Connection] = weakref.WeakSet()


def message_of(content: Any) -> bytes:
    """The message that carries an object; raises what pickling raises."""
    pickled = ForkingPickler.dumps(content)
    return b"".join((_HEADER.pack(len(pickled)), pickled))


def content_of(message: bytearray | memoryview | int, what: str) -> Any:
    """The object that a message carries, which is its size if there was no memory for it.

    Raises MemoryError, also for such a one, and what unpickling raises.
    """
    if isinstance(message, int):
        size, cause = message, None
    else:
        try:
            return ForkingPickler.loads(message)
        except MemoryError as error:
            size, cause = len(message), error.with_traceback(None)  # which would keep the message alive
    raise MemoryError(
        f"process {os.getpid()} has no memory for {what} of {size} bytes: hand over less, such as the name of a file, "
        f"or give it more memory"
    ) from cause


def private_pipe() -> tuple[Connection, Connection]:
    """A pipe that no forked child keeps open: its reading and its writing end, which do not block."""
    reader, writer = Pipe(duplex=False)
    for end in (reader, writer):
        _keep(end)
    return reader, writer


def _keep(end: Connection) -> None:
    os.set_blocking(end.fileno(), False)
    _ours.add(end)


def close(end: Connection) -> None:
    """Close an end that is private."""
    _ours.discard(end)  # first, or a fork in between would close whatever has got the number of the descriptor
    end.close()


def _after_fork_in_child() -> None:
    """Close the parent's ends: a worker that holds those of another would keep it from seeing that the parent died."""
    for end in list(_ours):
        close(end)


os.register_at_fork(after_in_child=_after_fork_in_child)


class WorkerEnd:
    """The worker's ends: what `multiprocessing.pool.worker` takes for its two queues."""

    _tasks: Connection
    _results: Connection

    def __init__(self) -> None:
        self._pid = 0
        self._is_ready = False
        self._has_answered = False

    def run(self, work: Callable[..., object], *arguments: Any) -> None:
        """What the process of the worker does: call `multiprocessing.pool.worker` with its queues, and the rest."""
        self._pid = os.getpid()
        work(self, self, *arguments)

    def open(self) -> tuple[Connection, Connection]:
        """Make the pipes; returns the parent's ends, for tasks and for results."""
        self._tasks, tasks = Pipe(duplex=False)
        results, self._results = Pipe(duplex=False)
        for end in (tasks, results):
            _keep(end)
        return tasks, results

    def close(self) -> None:
        """Close the parent's copies of the worker's ends."""
        self._tasks.close()
        self._results.close()

    def get(self) -> Any:
        """The next task, None if there are no more. Raises EOFError if the parent is gone."""
        if not self._is_ready:
            self._is_ready = True
            self._write(EMPTY)
        self._has_answered = False
        # The length is read first and alone: whoever is killed while it waits has then not taken a task, even if the
        # kernel has still given it what it asked for.
        tasks = self._tasks.fileno()
        (size,) = _HEADER.unpack(_fill(bytearray(_HEADER.size), tasks))
        if size == 0:
            return None
        message: bytearray | int
        try:
            message = bytearray(size)
        except MemoryError:
            message = size
            _drop(size, tasks)  # or it would be taken for the next task
        else:
            _fill(message, tasks)
        try:
            function, arguments, keywords = content_of(message, "a task")
        except Exception as error:  # that of the task, instead of the end of its worker
            function, arguments, keywords = _raise, (error,), {}
        # The pool knows which task this worker has, so what would say that is left out.
        return None, None, function, arguments, keywords

    def put(self, answer: tuple[Any, Any, tuple[bool, Any]]) -> None:
        """Send the result of the last task; raises what pickling raises, and has then sent nothing."""
        pickled = ForkingPickler.dumps(answer[2])
        if self._has_answered:
            # A signal handler has raised while the result was written: what follows would be taken for the rest of it,
            # or for the result of the next task.
            raise SystemExit(1)
        self._has_answered = True
        header = _HEADER.pack(len(pickled))
        if len(pickled) < _SHORT:
            self._write(b"".join((header, pickled)))
        else:
            self._write(header)
            self._write(pickled)

    def _write(self, message: bytes | memoryview) -> None:
        if os.getpid() != self._pid:
            # A copy that a task, or the initializer, has forked and let return. What it writes would be taken for the
            # result of whatever task the worker has, and it would eat what is written for the worker. It cleans up
            # nothing: the worker's children are not its own.
            util._flush_std_streams()  # type: ignore[attr-defined]
            os._exit(0)
        view = memoryview(message)
        try:
            while view:
                view = view[os.write(self._results.fileno(), view) :]
        except BrokenPipeError:
            raise SystemExit(1) from None  # the parent is gone, and nobody wants to read a traceback


def _raise(error: Exception) -> None:
    raise error


def _fill(content: bytearray, descriptor: int) -> bytearray:
    view = memoryview(content)
    while view:
        count = os.readv(descriptor, [view])
        if count == 0:
            raise EOFError
        view = view[count:]
    return content


def _drop(size: int, descriptor: int) -> None:
    while size:
        count = len(os.read(descriptor, min(size, PIPE_SIZE)))
        if count == 0:
            raise EOFError
        size -= count


class Worker:
    """A worker as its pool sees it: the process, and the parent's ends of the pipes.

    It stands for the process in the standard library's Pool, which starts it, joins it and terminates it.
    """

    _tasks: Connection
    _results: Connection

    def __init__(self, make_process: Callable[..., BaseProcess], target: Any, arguments: tuple[Any, ...]) -> None:
        self._end = WorkerEnd()
        self.process: BaseProcess | NoProcess = make_process(target=self._end.run, args=(target, *arguments))
        self._asking = threading.Lock()
        #: Whether its exit code cannot be known.
        self.has_vanished = False
        self._incoming = bytearray()
        #: How much of the message that comes in was dropped, for want of memory (bytes).
        self._dropped = 0
        self.outgoing = memoryview(b"")

    def __repr__(self) -> str:
        return repr(self.process)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    @property
    def name(self) -> str:
        """The name of the process."""
        return self.process.name

    @name.setter
    def name(self, name: str) -> None:
        self.process.name = name

    @property
    def daemon(self) -> bool:
        """Whether the process ends with its parent."""
        return self.process.daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        self.process.daemon = daemon

    @property
    def exitcode(self) -> int | None:
        """The exit code, None while the process lives."""
        # Two threads of a pool ask; of two that ask at once, one would get another answer under forkserver.
        with self._asking:
            if self.process.exitcode is None and self.process.pid is not None and not exists(self.process.pid):
                self._look_for_exitcode()
            return self.process.exitcode

    def _look_for_exitcode(self) -> None:
        popen = self.process._popen  # type: ignore[union-attr]
        if popen.wait(_LAST_WORD) is None:
            # Somebody else has reaped it, or SIGCHLD is ignored. The standard library would take it for alive for
            # ever, and at the end send a signal to whoever has got its pid.
            self.has_vanished = True
            popen.returncode = _UNKNOWN_END

    def open(self) -> None:
        """Make the pipes and start the process."""
        self._tasks, self._results = self._end.open()
        try:
            self.process.start()
        except BaseException:
            self.close()
            raise
        finally:
            self._end.close()

    def close(self) -> None:
        """Close the parent's ends."""
        close(self._tasks)
        close(self._results)

    @property
    def descriptors(self) -> tuple[int, int]:
        """The parent's ends, for tasks and for results."""
        return self._tasks.fileno(), self._results.fileno()

    def send(self, message: bytes) -> None:
        """Write a message, or as much of it as the pipe takes; the rest of it is `outgoing`."""
        self.outgoing = memoryview(message)
        self.flush()

    def flush(self) -> None:
        """Write what is outgoing, as much as the pipe takes. Raises BrokenPipeError if there is no reader any more."""
        descriptor = self.descriptors[0]
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[os.write(descriptor, self.outgoing) :]
        except BlockingIOError:
            pass

    def receive(self) -> memoryview | int | None:
        """The message that comes in, None if it is not complete, its size if there is no memory for it.

        Raises EOFError if there is no writer any more, BlockingIOError if there is nothing to read.
        """
        data = os.read(self.descriptors[1], PIPE_SIZE)
        if not data:
            raise EOFError
        if self._dropped:
            self._dropped += len(data)
        else:
            try:
                self._incoming += data
            except MemoryError:
                # The rest of the message is read all the same, or the worker would never be rid of it.
                self._dropped = len(self._incoming) - _HEADER.size + len(data)
                del self._incoming[_HEADER.size :]
        if len(self._incoming) < _HEADER.size:
            return None
        (size,) = _HEADER.unpack_from(self._incoming)
        if len(self._incoming) + self._dropped < _HEADER.size + size:
            return None
        message = size if self._dropped else memoryview(self._incoming)[_HEADER.size :]
        self._incoming = bytearray()
        self._dropped = 0
        return message

    def receive_last(self) -> memoryview | int | None:
        """The message that a dead worker has sent completely, None if there is none."""
        try:
            while (message := self.receive()) is None:
                pass
        except (EOFError, BlockingIOError):
            return None
        return message

    def unread(self) -> int:
        """How much of the last message a dead worker has not read (bytes)."""
        try:
            in_pipe = fcntl.ioctl(self.descriptors[0], termios.FIONREAD, bytes(4))
        except OSError:
            in_pipe = bytes(4)  # where the system does not tell: then it may have read it
        return len(self.outgoing) + int.from_bytes(in_pipe, sys.byteorder)


class NoProcess:
    """Stands in a pool's list of workers where there is no process, because it could not be started.

    With an exit code it will be replaced; without one it stays, until it is given one.
    """

    name = "nobody"
    daemon = True
    pid = None

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode

    def is_alive(self) -> bool:
        """Never."""
        return False

    def start(self, timeout: float | None = None) -> None:
        """Do nothing, as all of these."""

    join = terminate = kill = close = start
