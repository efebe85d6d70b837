"""What processes and locks are called: a process may have any object for a name, and a lock tells where it was made."""

from __future__ import annotations

import _thread
import functools
import itertools
import multiprocessing
import re
import sys
from multiprocessing import queues
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from mpbakery._system.layout import NAME_BYTES
from support.oddities import (
    HANDLERS,
    Anonymous,
    Slow,
    Unspeakable,
    Vicious,
    acquire_when_a_handler_raises,
    hold_and_put,
)
from support.workers import PATIENCE, Crew, expect, wait_until

FILE = Path(__file__).name


# --- Processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (5, "5"),
        (2.5, "2.5"),
        (b"anna", "b'anna'"),
        (("worker", 3), "('worker', 3)"),
        ("caf\udce9", "caf?"),
        ("a" * 200, "a" * 48),
        ("é" * 200, "é" * 24),
        (Unspeakable(), "?"),
        (Vicious("bella"), "bella"),
    ],
    ids=["int", "float", "bytes", "tuple", "surrogate", "long", "long in bytes", "unspeakable", "vicious"],
)
def test_a_process_may_be_called_anything(crew: Crew, fork: BaseContext, name: Any, told: str) -> None:
    lock, items = mpbakery.Lock(ctx=fork), mpbakery.get_context("fork").Queue()
    ours, theirs = fork.Pipe()
    crew.start(hold_and_put, theirs, lock, items, name=name)
    shown = items.get(timeout=PATIENCE)
    assert shown.encode(errors="replace").decode().startswith(f"<Lock(owner={told}")
    assert lock.owner is not None
    assert lock.owner.process == told
    ours.send("end")
    crew.finish()


def test_a_process_that_does_not_tell_its_name(crew: Crew, fork: BaseContext) -> None:
    lock, items = mpbakery.Lock(ctx=fork), mpbakery.get_context("fork").Queue()
    ours, theirs = fork.Pipe()
    process = Anonymous(target=hold_and_put, args=(theirs, lock, items))
    process.start()
    crew.processes.append(process)
    assert items.get(timeout=PATIENCE) == "<Lock(owner=?)>"
    ours.send("end")
    crew.finish()


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_handler_raises_is_not_taken_for_a_name_that_fails(crew: Crew, fork: BaseContext, handler: str) -> None:
    lock = mpbakery.Lock(ctx=fork)
    ours, theirs = fork.Pipe()
    name: Any = Slow()
    crew.start(acquire_when_a_handler_raises, theirs, lock, handler, name=name)
    assert expect(ours) == "OutOfTime"
    crew.finish()
    assert not lock.locked()


# --- Locks ---------------------------------------------------------------------------------------------------------


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def test_a_made_up_name_says_where_it_was_made(fork: BaseContext) -> None:
    made: list[tuple[Any, str, int]] = [
        (mpbakery.Lock(ctx=fork), "Lock", here()),
        (mpbakery.RLock(ctx=fork), "RLock", here()),
        (mpbakery.Semaphore(ctx=fork), "Semaphore", here()),
        (mpbakery.BoundedSemaphore(ctx=fork), "BoundedSemaphore", here()),
        (mpbakery.Condition(ctx=fork), "Condition", here()),
        (mpbakery.Condition(ctx=fork)._lock, "RLock", here()),
        (mpbakery.Event(ctx=fork), "Event", here()),
        (mpbakery.Barrier(2, ctx=fork), "Barrier", here()),
        (mpbakery.Value("i", ctx=fork).get_lock(), "RLock", here()),
        (mpbakery.get_context("fork").Lock(), "Lock", here()),
    ]
    for one, kind, line in made:
        assert re.fullmatch(rf"{kind} {FILE}:{line} [0-9a-f]{{4}}", one.name), one.name


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
@pytest.mark.usefixtures("queues_over_pipes")
def test_the_locks_of_a_queue_are_called_after_it(kind: str) -> None:
    made, line = getattr(mpbakery.get_context("fork"), kind)(), here()
    assert re.fullmatch(rf"Queue {FILE}:{line} [0-9a-f]{{4}}", made._rlock.name)
    assert made._wlock.name == made._rlock.name
    assert made._rlock._memory.kind == "Queue"
    made.close()


def test_the_place_is_outside_of_multiprocessing() -> None:
    with mpbakery.installed():
        lock: Any
        lock, line = multiprocessing.Lock(), here()
        made: Any
        made, other_line = queues.SimpleQueue(ctx=multiprocessing.get_context("fork")), here()
    assert f" {FILE}:{line} " in lock.name
    made.close()
    assert f" {FILE}:{other_line} " in made._rlock.name


def make_at(file: str, line: int = 1) -> str:
    """The name of a lock that is made at a place of one's choice."""
    space: dict[str, Any] = {"Lock": mpbakery.Lock}
    exec(compile("\n" * (line - 1) + "name = Lock().name", file, "exec"), space)
    return str(space["name"])


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("/srv/app.py", "app.py"),
        ("<stdin>", "<stdin>"),
        ("/srv/grüße.py", "grüße.py"),
        ("/srv/a\n\x1b[31mb.py", r"a\n\x1b[31mb.py"),
        ("/srv/\u202eevil.py", r"\u202eevil.py"),
        ("/srv/\udcff.py", r"\udcff.py"),
        ("/srv/" + "long" * 30, None),
        ("/srv/" + "läng" * 30, None),
        ("", ""),
    ],
    ids=["path", "stdin", "umlaut", "control", "right to left", "surrogate", "long", "long in bytes", "none"],
)
def test_no_file_name_is_too_much(file: str, shown: str | None) -> None:
    name = make_at(file, 123456)
    assert name.isprintable()
    assert len(name.encode()) <= NAME_BYTES
    assert re.fullmatch(r"Lock .*:123456 [0-9a-f]{4}", name)
    if shown is not None:
        assert name[5:-12] == shown


@pytest.mark.parametrize("space", [{}, {"__name__": None}, {"__name__": 7}], ids=repr)
def test_a_place_in_no_module(space: dict[str, Any]) -> None:
    space = {"Lock": mpbakery.Lock, **space}
    exec(compile("name = Lock().name", "app.py", "exec"), space)
    assert space["name"].startswith("Lock app.py:1 ")


def test_a_lock_that_no_python_code_has_made(fork: BaseContext) -> None:
    made: list[mpbakery.Lock] = []
    make = functools.partial(mpbakery.Lock, ctx=fork)
    _thread.start_new_thread(made.extend, (itertools.starmap(make, [()]),))
    wait_until(lambda: made, "a lock")
    assert re.fullmatch(r"Lock [0-9a-f]{4}", made[0].name)


def test_no_two_in_a_row_are_called_the_same() -> None:
    assert len({make_at("app.py") for _ in range(2000)}) == 2000


def test_messages_do_not_say_twice_what_it_is(fork: BaseContext) -> None:
    lock, named = mpbakery.Lock(ctx=fork), mpbakery.Lock(name="ledger", ctx=fork)
    with pytest.raises(ValueError, match=f"nobody holds {re.escape(lock.name)};"):
        lock.release()
    with pytest.raises(ValueError, match="nobody holds lock ledger;"):
        named.release()
