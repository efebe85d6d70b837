"""Children in which signal handlers raise around semaphores, recursive locks, conditions and events."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import mpbakery
from evidence.storms.storms import Findings, Storm
from support.workers import PATIENCE

#: A signal comes within this time, and an operation is repeated so often that it takes longer (s).
_SOON = 100e-6
_OFTEN = 200


def report(connection: Connection, storm: Storm, findings: Findings, *rest: Any) -> None:
    """What a storm has found."""
    connection.send((findings.counts, findings.examples, storm.places, *rest))


def storm_on_semaphore(connection: Connection, bounded: bool, handlers: str, iterations: int) -> None:
    """`with semaphore` again and again, with a signal each time, whose handler raises, acquires, or both."""
    kind = mpbakery.BoundedSemaphore if bounded else mpbakery.Semaphore
    semaphore = kind(2, ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(21), Findings()
    served = [0]

    def use() -> None:
        """Take all permits, or the one of two that the interrupted `with` has not."""
        taken = 0
        while semaphore.acquire(False):
            taken += 1
        served[0] += taken > 0
        for _ in range(taken):
            semaphore.release()

    def use_and_strike() -> None:
        use()
        storm.strike()

    def operation() -> None:
        for _ in range(_OFTEN):
            with semaphore:
                pass
            if not storm.armed:
                break

    action = {"raise": storm.strike, "acquire": use, "both": use_and_strike}[handlers]
    with semaphore:
        pass
    for _ in range(iterations):
        error = storm.run(operation, _SOON, action)
        now = semaphore.statistics()
        if now.value != 2:
            findings.add(f"{now.value} permits instead of 2", error)
            break
        if now.waiters:
            findings.add("ticket left", error)
        if now.slots_in_use != 1:
            findings.add("slot lost", error)
    admitted = sum(semaphore.acquire(timeout=0.01) for _ in range(5))
    if admitted != 2:
        findings.add(f"{admitted} got in at once, instead of 2")
    report(connection, storm, findings, served[0])


def storm_on_contended_semaphore(connection: Connection, iterations: int) -> None:
    """`with semaphore` with a signal each time, while another thread has its only permit half of the time."""
    semaphore = mpbakery.Semaphore(1, ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(22), Findings()
    over = threading.Event()

    def contend() -> None:
        while not over.is_set():
            with semaphore:
                over.wait(_SOON)

    other = threading.Thread(target=contend, daemon=True)
    other.start()

    def operation() -> None:
        while storm.armed:
            with semaphore:
                pass

    for _ in range(iterations):
        storm.run(operation, 10 * _SOON)
    over.set()
    other.join(PATIENCE)
    now = semaphore.statistics()
    if other.is_alive() or now.value != 1 or now.waiters:
        findings.add(f"the other thread lives: {other.is_alive()}; {now}")
    report(connection, storm, findings)


def storm_on_rlock(connection: Connection, handlers: str, iterations: int) -> None:
    """Nested `with rlock` again and again, with a signal each time whose handler raises, acquires, or both."""
    lock = mpbakery.RLock(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(23), Findings()

    def use() -> None:
        with lock, lock:
            pass

    def use_and_strike() -> None:
        use()
        storm.strike()

    action = {"raise": storm.strike, "acquire": use, "both": use_and_strike}[handlers]

    def operation() -> None:
        for _ in range(_OFTEN):
            with lock, lock, lock:
                pass
            if not storm.armed:
                break

    with lock:
        pass
    for _ in range(iterations):
        error = storm.run(operation, _SOON, action)
        if lock.locked():
            findings.add(f"held: {lock!r}", error)
            break
        with lock:
            if lock._depth() != 1:
                findings.add(f"depth {lock._depth()}", error)
    report(connection, storm, findings)


def storm_on_condition(connection: Connection, iterations: int) -> None:
    """Waits that time out, with a signal each time whose handler raises: the lock is held when `wait` has raised."""
    condition = mpbakery.Condition(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(24), Findings()
    raised = [0]

    def wait() -> None:
        try:
            condition.wait(0.0003)
        except BaseException:
            raised[0] += 1
            if not condition._lock._is_mine():
                findings.add("the lock is not held after wait()")
            raise

    def operation() -> None:
        while storm.armed:
            with condition:
                wait()

    for _ in range(iterations):
        error = storm.run(operation, 10 * _SOON)
        if condition.locked():
            findings.add("held", error)
            break
        if condition._room.waiting():
            findings.add("still waiting", error)
            break
    report(connection, storm, findings, raised[0])


def storm_on_event(connection: Connection, iterations: int) -> None:
    """Waits whose handler sets the event, in the middle of which another handler may raise."""
    event = mpbakery.Event(ctx=multiprocessing.get_context("fork"))
    storm, findings = Storm(25), Findings()
    woken = [0]

    def wait() -> None:
        if not event.wait(5.0):
            findings.add("not woken by its own handler")
        woken[0] += 1

    def set_and_strike() -> None:
        event.set()
        storm.strike()

    actions: tuple[Callable[[], None], ...] = (event.set, set_and_strike)
    for number in range(iterations):
        event.clear()
        error = storm.run(wait, 3 * _SOON, actions[number % 2])
        if any(event._room.numbers()):
            findings.add("still waiting", error)
            break
    report(connection, storm, findings, woken[0])
