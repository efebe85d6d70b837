"""What children do with locks that wait for each other."""

from __future__ import annotations

import itertools
import linecache
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import mpbakery
from mpbakery._primitives import deadlocks
from mpbakery._protocol import waiter
from mpbakery._system.machine import ThisMachine
from support.workers import in_thread


class Things:
    """Some things by their names, for a puppet."""

    def __init__(self, **things: Any) -> None:
        self.things = things


def take(things: Things, name: str, timeout: float | None = None) -> bool:
    """Acquire one of them, warnings of deadlocks being errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", mpbakery.DeadlockWarning)
        return bool(things.things[name].acquire(True, timeout))


def take_and_go_on(things: Things, name: str) -> bool:
    """Acquire one of them, and only be warned."""
    return bool(things.things[name].acquire())


def give(things: Things, name: str) -> None:
    """Release one of them."""
    things.things[name].release()


def take_and_have_it_given(things: Things, name: str, seconds: float) -> None:
    """Acquire one of them, and have another thread release it after a while, by the release of this one."""
    lock = things.things[name]
    lock.acquire()
    timer = threading.Timer(seconds, lock.release)
    timer.daemon = True
    timer.start()


def hold_in_a_handler(things: Things, name: str, connection: Connection) -> None:
    """From now on, SIGUSR1 has this process acquire one of them, and release it when something comes through a pipe."""

    def handle(_number: int, _frame: object) -> None:
        with things.things[name]:
            connection.send("held")
            connection.recv()

    signal.signal(signal.SIGUSR1, handle)


def want_in_a_handler(things: Things, name: str, connection: Connection) -> None:
    """From now on, SIGUSR1 has this process wait for one of them without a limit, until SIGUSR2 comes."""

    def end(_number: int, _frame: object) -> None:
        raise InterruptedError

    def handle(_number: int, _frame: object) -> None:
        connection.send("about to wait")
        try:
            things.things[name].acquire()
        except InterruptedError:
            connection.send("gave up")

    signal.signal(signal.SIGUSR1, handle)
    signal.signal(signal.SIGUSR2, end)


def show_through(things: Things, connection: Connection, name: str = "") -> None:
    """From now on, warnings are shown through a pipe, and one of the things is acquired and released each time."""

    def show(message: Any, _category: type[Warning], file: str, line: int, *_arguments: object) -> None:
        connection.send((message, linecache.getline(file, line).strip()))
        if name:
            with things.things[name]:
                pass

    # not warnings.showwarning: a puppet has put its own there for the order
    things.things["show"] = show


def take_and_show(things: Things, name: str) -> bool:
    """Acquire one of them, with warnings shown as was agreed."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = things.things["show"]
        return bool(things.things[name].acquire())


def fail_to_show(things: Things, name: str, connection: Connection) -> bool:
    """Acquire one of them where no warning can be shown."""

    def show(*_arguments: object, **_keywords: object) -> None:
        connection.send("tried")
        raise OSError(5, "stderr is closed")

    things.things["show"] = show
    return take_and_show(things, name)


def take_while_it_is_given(things: Things, name: str) -> bool:
    """Acquire one of them, which another thread releases between the first look at a ring and the second one."""
    is_dead: Callable[[Any], bool] = deadlocks._is_dead
    looks = itertools.count()

    def give_it(edge: Any) -> bool:
        if next(looks) == 0:
            in_thread(lambda: give(things, name))
        return is_dead(edge)

    vars(deadlocks).update(_is_dead=give_it)
    return take(things, name)


def wait_at(things: Things, name: str, timeout: float) -> bool:
    """Wait at a condition with its lock, warnings of deadlocks being errors, and shown through a pipe if not raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", mpbakery.DeadlockWarning)
        warnings.showwarning = things.things["show"]
        condition = things.things[name]
        with condition:
            return bool(condition.wait(timeout))


def take_both_again_and_again(seconds: float, connection: Connection, first: Any, second: Any) -> None:
    """Nobody who does this can be in a deadlock. Tells how often one looked whether it is."""
    warnings.simplefilter("error", mpbakery.DeadlockWarning)
    vars(waiter).update(DOUBT=0.0)
    ThisMachine.spins = ThisMachine.yields = 0
    looks = 0
    find: Callable[[Any], Any] = deadlocks._find
    holder: Callable[[Any], Any] = deadlocks._holder

    def count(slot: Any) -> Any:
        nonlocal looks
        looks += 1
        return find(slot)

    def look_slowly(lock: Any) -> Any:
        time.sleep(random.choice((0, 0, 0.0002)))  # much happens between one load and the next
        return holder(lock)

    vars(deadlocks).update(_find=count, _holder=look_slowly)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with first:
            second.acquire()
        # whoever has the first one now may wait for the second one, whose holder wants the first one next
        second.release()
    connection.send(looks)
