"""What children do with queues, and items that are hard to send."""

from __future__ import annotations

import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from support.workers import PATIENCE, expect, in_threads


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("cannot be pickled")


def explode(*_arguments: object) -> None:
    """What a `Bomb` is made by when it is unpickled."""
    raise ZeroDivisionError("cannot be unpickled")


class Bomb:
    """Cannot be unpickled; of a size."""

    def __init__(self, size: int = 0) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        return explode, (bytes(self.size),)


class Greedy:
    """Gets the next item from a queue while it is unpickled."""

    source: Any = None

    def __init__(self) -> None:
        self.next: Any = None

    def __getstate__(self) -> str:
        return "state"

    def __setstate__(self, _state: str) -> None:
        self.next = self.source.get(timeout=PATIENCE)


def put_numbers(items: Any, count: int, size: int = 0) -> None:
    """Put (number, bytes of that size)."""
    for number in range(count):
        items.put((number, bytes(size)))


def put_and_close(items: Any, count: int, then: str = "") -> None:
    """Put numbers, close the queue, and do something more with it by its name."""
    for number in range(count):
        items.put(number)
    items.close()
    if then:
        getattr(items, then)()


def put_and_tell(items: Any, connection: Connection, *what: object) -> None:
    """Put what is given, say so, and wait for the parent."""
    for item in what:
        items.put(item)
    connection.send("put")
    expect(connection)


def get_and_tell(items: Any, connection: Connection, count: int) -> None:
    """Get so many items, and say how long they are, or what was raised instead."""
    for _ in range(count):
        try:
            item = items.get(timeout=PATIENCE)
        except Exception as error:  # it is what the test wants to see
            connection.send(f"{type(error).__name__}: {error}")
        else:
            connection.send(len(item))


def get_without_descriptors(items: Any, connection: Connection) -> None:
    """Get two items with no descriptor left, and then one with some."""
    kept = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    items.empty()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True:
            kept.append(os.dup(0))
    except OSError:
        pass
    get_and_tell(items, connection, 2)
    for number in kept:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    get_and_tell(items, connection, 1)


def put_at_leisure(items: Any) -> None:
    """Put a number again and again, twice as fast as it is got."""
    while True:
        items.put(1)
        time.sleep(0.0005)


def put_until_interrupted(items: Any, connection: Connection) -> None:
    """Put numbers until Ctrl-C, and do not wait until they are sent."""
    items.cancel_join_thread()
    try:
        connection.send("begins")
        while True:
            items.put(1)
    except KeyboardInterrupt:
        pass


def make_queues_in(folder: str, context: Any, connection: Connection) -> None:
    """Go where there is nothing but a folder, and make and use queues there."""
    os.chroot(folder)
    os.chdir("/")
    for items in (context.Queue(), context.JoinableQueue(2), context.SimpleQueue()):
        items.put("item")
        connection.send((type(items).__module__, items.get()))


def add_often(book: Any, count: int) -> None:
    """Add one to a book's number, again and again."""
    for _ in range(count):
        book.add(1)


def work_in_threads(items: Any, count: int) -> None:
    """Do tasks in so many threads, each until it gets None."""

    def work() -> None:
        while items.get() is not None:
            items.task_done()
        items.task_done()

    sys.setswitchinterval(1e-6)
    in_threads([work] * count)


def tell_whether_held(book: Any, connection: Connection) -> None:
    """Say whether another process is seen in a book."""
    connection.send(book.is_held(0))


def put_for_ever(items: Any, connection: Connection, item: object = 1) -> None:
    """Put an item again and again."""
    connection.send("begins")
    while True:
        items.put(item)


def get_for_ever(items: Any, connection: Connection) -> None:
    """Get items and do nothing with them."""
    connection.send("begins")
    while True:
        items.get()


def count_puts(items: Any, counts: Any, place: int, seconds: float, size: int) -> None:
    """Put for a time, counting in shared memory how often `put` has returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            items.put(bytes(size), timeout=0.01)
        except queue.Full:
            continue
        counts[place] += 1


def report_descriptors(items: Any, connection: Connection) -> None:
    """Say which descriptors are those of a queue, and whether a program that is started would inherit one."""
    numbers = descriptors_of(items)
    listing = subprocess.run(
        [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"],
        capture_output=True,
        text=True,
        close_fds=False,
        check=True,
    )
    inherited = set(map(int, listing.stdout.split())) - {0, 1, 2}
    connection.send((len(numbers), [os.get_inheritable(number) for number in numbers], bool(inherited & numbers)))


def descriptors_of(items: Any) -> set[int]:
    """The descriptors that a queue has."""
    numbers = {items._reader.fileno(), items._writer.fileno()}
    return numbers | ({items._parts.book.descriptor} if hasattr(items, "_parts") else set())


def use_many(queues: list[Any], connection: Connection) -> None:
    """Send something back through each of many queues."""
    for number, items in enumerate(queues):
        items.put(number)
    connection.send(len(queues))


def fork_while_it_waits(items: Any, count: int) -> None:
    """Put more than there is room for, fork, and have the child put one more; all end as they should."""
    for number in range(count):
        items.put(number)
    pid = os.fork()
    if pid == 0:
        items.put("from the forked child")
        items.close()
        items.join_thread()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def interrupt_get(items: Any, connection: Connection) -> None:
    """Wait for an item while signals come: first one whose handler returns, then one whose handler raises."""
    handled: list[int] = []

    class Enough(Exception):
        pass

    def handle(number: int, _frame: object) -> None:
        handled.append(number)
        if number == signal.SIGUSR2:
            raise Enough

    signal.signal(signal.SIGUSR1, handle)
    signal.signal(signal.SIGUSR2, handle)
    for arguments in ((), (True, PATIENCE)):
        handled.clear()
        connection.send("waits")
        try:
            items.get(*arguments)
        except Enough:
            connection.send(handled[-1] == signal.SIGUSR2 and signal.SIGUSR1 in handled)
    connection.send(items.get(timeout=PATIENCE))


def join_and_tell(items: Any, connection: Connection) -> None:
    """Wait until all is done, and say so."""
    connection.send("waits")
    items.join()
    connection.send("joined")


def get_and_wait(items: Any, connection: Connection) -> None:
    """Get an item, and finish it when the parent says so."""
    connection.send(items.get())
    expect(connection)
    items.task_done()
    connection.send("done")


def get_and_end(items: Any) -> None:
    """Get an item, and end without a word."""
    items.get()


def send_raw(items: Any, message: bytes, file: int = -1) -> None:
    """Put something into a queue that no queue puts there."""
    end = socket.socket(fileno=os.dup(items._writer.fileno()))
    attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, file.to_bytes(4, sys.byteorder))] if file >= 0 else []
    with end:
        end.sendmsg([message], attached)


def put_with_few_in_flight(items: Any, connection: Connection, limit: int, count: int, size: int) -> None:
    """Put large items as a user who may not have many descriptors under way."""
    for number in set(range(3, 1024)) - descriptors_of(items) - {connection.fileno()}:
        try:
            os.close(number)  # what was inherited, or there could be more than the limit already
        except OSError:
            pass
    os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for number in range(count):
        items.put((number, bytes(size)))
    connection.send(bool(items._feeder.waiting))


def in_background(function: Callable[[], object]) -> threading.Thread:
    """Run it in a thread of its own."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def pass_on(source: Any, sink: Any) -> None:
    """Get until None comes, and pass it on."""
    while (item := source.get()) is not None:
        sink.put(item)


def square(number: int) -> int:
    """A task."""
    return number * number


def dawdle(number: int) -> int:
    """A task that takes a moment."""
    time.sleep(0.001)
    return number
