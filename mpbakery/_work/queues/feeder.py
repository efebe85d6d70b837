"""Sends what there was no room for when it was put, in the order in which it was put.

A thread does it that lives as long as something waits. Threads and signal handlers come in at any moment, so there is
no lock here, which a handler could find taken by its own thread: what must be one step is one call of a list or a
deque.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import util
from typing import Final, NamedTuple

from mpbakery._system.native import new_lock, start_new_thread
from mpbakery._work.queues.item import Content
from mpbakery._work.queues.messages import Sender

#: When a process ends, it waits for what waits here after it has seen to all else, as multiprocessing does.
_LAST: Final = -5


class Parcel:
    """An item that waits, and its place in the queue."""

    __slots__ = ("content", "label")

    def __init__(self, content: Content, label: bytes) -> None:
        self.content = content
        self.label = label


class Calls(NamedTuple):
    """What a feeder calls."""

    #: before it tries to send, again and again, with all that waits: this process is alive, and they are still its
    refresh: Callable[[deque[Parcel]], object]
    #: for each item when it begins to wait, and when that is over
    begin: Callable[[], object]
    end: Callable[[], object]
    #: with what can never be sent, and why
    drop: Callable[[list[Parcel], Exception], object]
    #: when everything is sent and no more will come
    close: Callable[[], object]


class Feeder:
    """What waits to be sent in one process, and the thread that sends it."""

    def __init__(self, sender: Sender, calls: Calls) -> None:
        self._sender = sender
        self._calls = calls
        self._joins = True
        self.renew()

    def renew(self) -> None:
        """In a forked child: what waits is its parent's to send."""
        #: what waits; who finds it empty may send by itself, and comes before nobody who was first
        self.waiting: deque[Parcel] = deque()
        #: the right to send, while nobody has it
        self._turn: list[None] = [None]
        self._threads: list[_Thread] = []
        self._closing = False

    def send_later(self, content: Content, label: bytes) -> None:
        """Have it sent. Raises RuntimeError, and has not sent it, if no thread can be started."""
        if not isinstance(content, bytes):
            content.keep()
        parcel = Parcel(content, label)
        self._calls.begin()
        try:
            self.waiting.append(parcel)
            # Looked at behind the append: whoever gives the turn back looks behind that whether something waits.
            if self._turn:
                self._start()
        except BaseException:
            with contextlib.suppress(ValueError):  # it was sent meanwhile
                self.waiting.remove(parcel)
                self._calls.end()
            raise

    def close(self) -> None:
        """No more will come: when all is sent, say so."""
        self._closing = True
        if not self.waiting and self._turn:
            self._calls.close()

    def join(self) -> None:
        """Wait until all is sent."""
        while threads := list(self._threads):
            for thread in threads:
                thread.join()

    def cancel_join(self) -> None:
        """Do not wait for it when the process ends."""
        self._joins = False
        for thread in list(self._threads):
            thread.cancel_join()

    def _start(self) -> None:
        thread = _Thread(self._joins)
        try:
            self._threads.append(thread)
            start_new_thread(self._run, (thread,))
        except BaseException:
            if thread.begin():  # a handler may have raised when it was started already
                self._end(thread)
            raise

    def _run(self, thread: _Thread) -> None:
        if thread.begin():
            try:
                self._feed()
            finally:
                self._end(thread)

    def _end(self, thread: _Thread) -> None:
        self._threads.remove(thread)
        thread.over.release()

    def _feed(self) -> None:
        while self.waiting:
            try:
                self._turn.pop()
            except IndexError:
                return  # another one is at it
            try:
                while self.waiting:
                    self._send_first()
            finally:
                self._turn.append(None)
        if self._closing:
            self._calls.close()

    def _send_first(self) -> None:
        """Send what has waited longest; it waits until it is sent, or others would send something before it."""
        parcel = self.waiting[0]
        refusals = 0
        done = [parcel]
        try:
            self._calls.refresh(self.waiting)
            while not self._sender.try_send(parcel.content, parcel.label):
                refusals = self._sender.wait_for_room(refusals)
                self._calls.refresh(self.waiting)
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                done = list(self.waiting)  # nor can the others be sent
            self._calls.drop(done, error)
        for parcel in done:
            try:
                self.waiting.remove(parcel)
            except ValueError:
                continue  # a handler has raised in the one who put it
            self._calls.end()


class _Thread:
    """A thread that sends; not one of the module `threading`, which would be a greenlet where there are any."""

    __slots__ = ("__weakref__", "_finalizer", "_right", "over")

    def __init__(self, joins: bool) -> None:
        """`joins`: whether the process waits for it when it ends."""
        #: taken until the thread ends
        self.over = new_lock()
        self.over.acquire()
        #: the right to begin, or to have it never begin
        self._right: list[None] = [None]
        self._finalizer = util.Finalize(self, _join, [weakref.ref(self)], exitpriority=_LAST) if joins else None

    def begin(self) -> bool:
        """Take the right to begin; whether it was still there."""
        try:
            self._right.pop()
        except IndexError:
            return False
        return True

    def join(self) -> None:
        """Wait until the thread ends."""
        with self.over:
            pass

    def cancel_join(self) -> None:
        """Do not wait for it when the process ends."""
        if self._finalizer is not None:
            self._finalizer.cancel()


def _join(thread: weakref.ref[_Thread]) -> None:
    found = thread()
    if found is not None:
        found.join()
