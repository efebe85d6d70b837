"""multiprocessing's queues, over messages that are whole or not there: no killed process leaves half an item behind.

Where the system has no such messages, `piped.py` has the queues.
"""

from __future__ import annotations

import operator
import os
import select
import time
import weakref
from collections.abc import Callable
from multiprocessing import context, queues, util
from multiprocessing.context import BaseContext
from queue import Empty, Full
from typing import Any, Final

from mpbakery._errors import SharingError, reraise_handlers
from mpbakery._primitives.semaphore import MOST_PERMITS
from mpbakery._protocol.bakery import deadline_of
from mpbakery._system import packets
from mpbakery._system.book import Book, Presence
from mpbakery._system.starting import send_descriptor, starting_process
from mpbakery._work.queues.endless import Endless
from mpbakery._work.queues.feeder import Calls, Feeder, Parcel
from mpbakery._work.queues.item import pickled
from mpbakery._work.queues.messages import Receiver, Sender
from mpbakery._work.queues.places import Places
from mpbakery._work.queues.room import BIAS, BUSY, FEEDING, Room
from mpbakery._work.queues.unfinished import Unfinished

#: All queues of this process that have something to do when it forks.
_queues: Final[weakref.WeakSet[Queue]] = weakref.WeakSet()


class Parts:
    """What a queue is made of in one process, without the queue: its feeder goes on when it is dropped."""

    __slots__ = ("book", "busy", "ignore_epipe", "putting", "receiver", "report", "room", "sender", "unfinished")

    def __init__(
        self,
        limit: int,
        sender: Sender,
        receiver: Receiver,
        book: Book,
        report: Callable[[Exception, object], object],
    ) -> None:
        self.report = report
        self.sender = sender
        self.receiver = receiver
        self.book = book
        #: this process is putting, or has put what it has not sent yet
        self.putting = Presence(book, FEEDING)
        #: this process has tasks that are not done
        self.busy = Presence(book, BUSY)
        self.room: Room = Places(book, sender, receiver, limit) if limit else Endless(book, receiver, self.putting)
        #: the tasks that are not done, if they are counted
        self.unfinished: Unfinished | None = None
        self.ignore_epipe = False

    def renew(self) -> None:
        """In a forked child: what was under way in the parent is the parent's."""
        self.putting.renew()
        self.busy.renew()
        self.room.renew()

    def drop(self, parcels: list[Parcel], error: Exception) -> None:
        """Something that was put cannot be sent."""
        for parcel in parcels:
            self.take_back(parcel.label)
        if self.ignore_epipe and isinstance(error, BrokenPipeError):
            return
        if util.is_exiting():
            util.info("error in queue thread: %s", error)
        else:
            self.report(error, None)

    def take_back(self, label: bytes) -> None:
        """An item that has a place was not put."""
        self.room.give(label)
        if self.unfinished is not None:
            self.unfinished.cancel()

    def close(self) -> None:
        """Close the ends."""
        self.receiver.close()
        self.sender.close()


class Queue(queues.Queue):  # type: ignore[type-arg]
    """A queue between processes, as `multiprocessing.Queue`.

    `put` pickles the item itself and sends it at once if there is room; if not, a thread sends it later. A process that
    is killed in the middle of `put` or `get` costs at most its own item.
    """

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        limit = max(0, operator.index(maxsize))
        if limit > MOST_PERMITS:
            raise ValueError(f"maxsize is {maxsize}: give at most {MOST_PERMITS}, or 0 for no limit")
        book = Book.create(_book_size(limit))
        book.add(BIAS)
        first, second = packets.new_pair()
        label_size = Places.label_size if limit else Endless.label_size
        self._assemble(limit, Sender(first), Receiver(second, label_size), book)
        if isinstance(self._room, Places):
            self._room.fill()

    def _assemble(self, limit: int, sender: Sender, receiver: Receiver, book: Book) -> None:
        """Make it of what it shares with other processes."""
        report = self._on_queue_feeder_error  # type: ignore[attr-defined]
        parts = self._parts = Parts(limit, sender, receiver, book, report)
        calls = Calls(parts.room.refresh, parts.putting.enter, parts.putting.leave, parts.drop, parts.close)
        self._feeder = Feeder(sender, calls)
        self._limit = limit
        self._room = parts.room
        # the names that these have in the standard library, whose users look at them
        self._maxsize = limit or MOST_PERMITS
        self._writer, self._reader, self._poll = sender, receiver, receiver.poll
        self._closed = False
        #: whether this process has put something
        self._is_used = False
        _queues.add(self)

    def _renew(self) -> None:
        """In a forked child: what was under way in the parent is the parent's."""
        self._parts.renew()
        self._feeder.renew()
        self._closed = False
        self._is_used = False

    def __getstate__(self) -> tuple[Any, ...]:  # type: ignore[override]
        popen = _starting_process(self)
        parts = self._parts
        if not parts.book.is_intact():
            raise SharingError(
                f"descriptor {parts.book.descriptor} of a queue was closed or replaced: the queue cannot be sent to "
                f"another process any more"
            )
        book = send_descriptor(parts.book.descriptor, popen)
        return self._limit, self._writer, self._reader, book, parts.ignore_epipe

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # type: ignore[override]
        limit, sender, receiver, book, ignore_epipe = state
        self._assemble(limit, sender, receiver, Book.attach(book.detach(), _book_size(limit)))
        self._ignore_epipe = ignore_epipe

    @property
    def _ignore_epipe(self) -> bool:
        """Whether nobody has to know that nobody can get what was put; the name is the standard library's."""
        return self._parts.ignore_epipe

    @_ignore_epipe.setter
    def _ignore_epipe(self, ignore: bool) -> None:
        self._parts.ignore_epipe = ignore

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item into the queue, as it is now.

        Args:
            obj: what is to be put; it is pickled before this returns.
            block: whether to wait for a place, if the queue has a limit.
            timeout: the seconds to wait at most, None for no limit.

        Raises:
            queue.Full: there was no place.
            ValueError: this process has closed the queue.
            BrokenPipeError: nobody can get the item, since all ends at which items come out are closed.
            OSError: the system has no memory or no descriptor left for a large item.

        What pickling raises is raised here. Whatever is raised, the item is not put; but if a signal handler raises, it
        may be.
        """
        self._put(obj, None if block and timeout is None else _deadline(block, timeout))

    def _put(self, obj: Any, deadline: float | None) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        room = self._room
        if deadline == 0 and room.is_full():
            raise Full  # else it would be pickled in vain
        # Before there is a place for it: whoever has a place goes on at once, or counts as dead.
        content = pickled(obj)
        label = room.take(deadline)
        if label is None:
            raise Full
        self._is_used = True
        if self._parts.unfinished is not None:
            self._parts.unfinished.add()  # before it can be got, and be done
        try:
            feeder = self._feeder
            if feeder.waiting or not self._writer.try_at_once(content, label):
                feeder.send_later(content, label)
        except (OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, OSError):
                reraise_handlers(error)
            self._parts.take_back(label)
            if not (self._ignore_epipe and isinstance(error, BrokenPipeError)):
                raise

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Get the item that was put first.

        Args:
            block: whether to wait for an item.
            timeout: the seconds to wait at most, None for no limit.

        Raises:
            queue.Empty: there was none.
            ValueError: this process has closed the queue.
            EOFError: nobody can put one any more, since all ends at which items go in are closed.
            MemoryError, OSError: there is no memory, or no descriptor, for a large item.

        What unpickling raises is raised here. In this and the last two cases the item is lost, and the next call gets
        the next one.
        """
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        return self._reader.get(None if block and timeout is None else _deadline(block, timeout), self._room.leave)

    def qsize(self) -> int:
        """About how many items there are, those included that are not sent yet."""
        return self._room.taken()

    def full(self) -> bool:
        """Whether there is no place for another item."""
        return self._room.is_full()

    def close(self) -> None:
        """Put no more in this process; what was put is still sent."""
        self._closed = True
        if self._is_used:
            self._feeder.close()

    def join_thread(self) -> None:
        """After `close`, wait until all is sent that this process has put."""
        if not self._closed:
            raise AssertionError(f"Queue {self!r} not closed")
        self._feeder.join()

    def cancel_join_thread(self) -> None:
        """Do not wait for that when this process ends: what is not sent then is lost."""
        self._feeder.cancel_join()


class JoinableQueue(Queue, queues.JoinableQueue):  # type: ignore[type-arg, misc]
    """A queue that can be waited for until all is done that was put into it, as `multiprocessing.JoinableQueue`.

    A task that is lost with a process that was killed, or has ended without `task_done`, is not waited for.
    """

    def _assemble(self, limit: int, sender: Sender, receiver: Receiver, book: Book) -> None:
        super()._assemble(limit, sender, receiver, book)
        parts = self._parts
        self._unfinished = parts.unfinished = Unfinished(book, receiver, parts.putting, parts.busy)

    def _put(self, obj: Any, deadline: float | None) -> None:
        putting = self._parts.putting
        putting.enter()
        try:
            super()._put(obj, deadline)
        finally:
            putting.leave()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Get the item that was put first; to be followed by `task_done`. As `Queue.get`."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        deadline = None if block and timeout is None else _deadline(block, timeout)
        busy = self._parts.busy
        while True:
            # seen to be busy before the item is this process's, or nobody would know who has it; but not while it waits
            packets.wait_for(self._reader.end, select.POLLIN, None if deadline is None else deadline - time.monotonic())
            busy.enter()
            try:
                return self._reader.get(0, self._room.leave)
            except BaseException as error:
                busy.leave()
                if not isinstance(error, Empty) or (deadline is not None and time.monotonic() >= deadline):
                    raise

    def task_done(self) -> None:
        """One task that was got is done.

        Raises:
            ValueError: there is none that is not done.
        """
        self._unfinished.done()

    def join(self) -> None:
        """Wait until all tasks are done.

        Tasks that nobody is left to do, because the process that had them is dead, are not waited for: when there is
        nothing else left to wait for, this returns, with a `TasksLostWarning` that says how many there are.
        """
        self._unfinished.wait()


class SimpleQueue(queues.SimpleQueue[Any]):
    """A queue between processes without a feeder, as `multiprocessing.SimpleQueue`: `put` waits until it has sent."""

    def __init__(self, *, ctx: BaseContext) -> None:
        first, second = packets.new_pair()
        self._assemble(Sender(first), Receiver(second))

    def _assemble(self, sender: Sender, receiver: Receiver) -> None:
        # the names that these have in the standard library, whose Pool and ProcessPoolExecutor look at them
        self._writer, self._reader, self._poll = sender, receiver, receiver.poll
        self._rlock = _Drain(receiver)

    def __getstate__(self) -> tuple[Sender, Receiver]:  # type: ignore[override]
        _starting_process(self)
        return self._writer, self._reader

    def __setstate__(self, state: tuple[Sender, Receiver]) -> None:  # type: ignore[override]
        self._assemble(*state)

    def put(self, obj: Any) -> None:
        """Put an item into the queue, as soon as there is room for it.

        Raises:
            BrokenPipeError: nobody can get the item, since all ends at which items come out are closed.
            OSError: this end is closed, or the system has no memory or no descriptor left for a large item.

        What pickling raises is raised here.
        """
        self._writer.send_patiently(pickled(obj))

    def get(self) -> Any:
        """Get the item that was put first, as soon as there is one.

        Raises:
            EOFError: nobody can put one any more, since all ends at which items go in are closed.
            MemoryError, OSError: there is no memory, or no descriptor, for a large item; or this end is closed.

        What unpickling raises is raised here.
        """
        return self._reader.get()


class _Drain:
    """Stands for the lock of a reader, which `multiprocessing.pool.Pool` acquires before it drains a queue.

    It receives what it sees that there is, and could wait for ever for what one of its workers takes meanwhile: nobody
    can be kept from that. So whoever has acquired this receives None instead of waiting.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def acquire(self, _block: bool = True, _timeout: float | None = None) -> bool:
        """Never wait from now on."""
        self._receiver.waits = False
        return True

    def release(self) -> None:
        """Wait again."""
        self._receiver.waits = True


def _starting_process(queue: Any) -> Any:
    """What starts the process that a queue is pickled for. Raises RuntimeError if it is pickled for anybody else."""
    popen = starting_process()
    if popen is None:
        context.assert_spawning(queue)
    return popen


def _book_size(limit: int) -> int:
    return Places.size(limit) if limit else Endless.size


def _deadline(block: bool, timeout: float | None) -> float | None:
    return deadline_of(block, timeout, None, time.monotonic)


def _after_fork_in_child() -> None:
    for queue in list(_queues):
        queue._renew()


os.register_at_fork(after_in_child=_after_fork_in_child)
