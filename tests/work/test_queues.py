"""Queues: what multiprocessing's do, and messages that are whole or not there."""

from __future__ import annotations

import array
import gc
import logging
import logging.handlers
import multiprocessing
import multiprocessing.pool
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import connection, queues
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final

import pytest

import mpbakery
from mpbakery._system import packets
from mpbakery._system.book import Book, Presence
from mpbakery._system.files import OwnFile, anonymous_file
from mpbakery._work.queues import feeder, messages, piped
from mpbakery._work.queues import queue as whole
from mpbakery._work.queues.item import MOST
from support.processes import descriptors, own_descriptors, resident_memory
from support.queue_children import (
    Bomb,
    Greedy,
    Unpicklable,
    add_often,
    count_puts,
    dawdle,
    descriptors_of,
    fork_while_it_waits,
    get_and_end,
    get_and_wait,
    get_for_ever,
    get_without_descriptors,
    in_background,
    interrupt_get,
    join_and_tell,
    make_queues_in,
    pass_on,
    put_and_close,
    put_and_tell,
    put_at_leisure,
    put_for_ever,
    put_numbers,
    put_until_interrupted,
    put_with_few_in_flight,
    report_descriptors,
    send_raw,
    square,
    tell_whether_held,
    use_many,
    work_in_threads,
)
from support.scripts import run
from support.workers import PATIENCE, Crew, expect, in_threads, kill, wait_for_state, wait_until

#: More items than there is room for under way, however much there is.
MANY: Final = 20_000


@pytest.fixture
def forked() -> Any:
    """Our context, for tests that are not about start methods."""
    return mpbakery.get_context("fork")


@pytest.fixture(params=["whole", "piped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that queues are made, the second as on a system that lacks what the first needs."""
    monkeypatch.setattr(packets, "_there", request.param == "whole")
    return str(request.param)


def read_numbers(items: Any, count: int) -> None:
    """Get (0, …), (1, …) and so on."""
    for number in range(count):
        assert items.get(timeout=PATIENCE)[0] == number


# --- Which queues there are ------------------------------------------------------------------------------------------


def test_this_system_has_whole_messages() -> None:
    assert packets.are_there()


def test_which_classes(context: Any, way: str) -> None:
    module: Any = whole if way == "whole" else piped
    for name in ("Queue", "JoinableQueue", "SimpleQueue"):
        made = getattr(context, name)()
        assert type(made) is getattr(module, name)
        assert isinstance(made, getattr(queues, name))


def test_a_queue_is_used_from_afar(context: Any, context_crew: Crew, way: str) -> None:
    """Both ways, under every start method."""
    there, back = context.Queue(3), context.SimpleQueue()
    context_crew.start(pass_on, there, back)
    for item in (1, "two", [3.0] * 10_000, bytes(300_000), None):
        there.put(item, timeout=PATIENCE)
    assert [back.get() for _ in range(4)] == [1, "two", [3.0] * 10_000, bytes(300_000)]
    context_crew.finish()


def test_where_the_system_refuses_them(monkeypatch: pytest.MonkeyPatch, forked: Any) -> None:
    """A sandbox that does not allow such sockets: it is asked once, and the queues are those over pipes."""

    def refuse() -> Any:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(packets, "_there", None)
    monkeypatch.setattr(packets, "new_pair", refuse)
    assert isinstance(forked.Queue(), piped.Queue)
    assert packets._there is False


def test_a_shortage_is_no_refusal(monkeypatch: pytest.MonkeyPatch, forked: Any) -> None:
    def lack() -> Any:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(packets, "_there", None)
    monkeypatch.setattr(packets, "new_pair", lack)
    with pytest.raises(OSError, match="too many open files"):
        forked.Queue()
    assert packets._there is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")
def test_where_there_is_no_proc_any_more(tmp_path: Path, forked: Any, crew: Crew) -> None:
    assert packets.are_there()
    ours, theirs = forked.Pipe()
    crew.start(make_queues_in, str(tmp_path), forked, theirs)
    for _ in range(3):
        assert expect(ours) == (piped.__name__, "item")
    crew.finish()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
@pytest.mark.parametrize("maxsize", [2**31, 2**64])
def test_a_limit_that_nobody_can_count_to(forked: Any, kind: str, maxsize: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        getattr(forked, kind)(maxsize)


@pytest.mark.parametrize("maxsize", ["3", 2.5, None])
def test_a_limit_that_is_no_number(forked: Any, maxsize: Any) -> None:
    with pytest.raises(TypeError):
        forked.Queue(maxsize)


@pytest.mark.parametrize("maxsize", [0, -1, -(2**70)])
def test_no_limit(forked: Any, maxsize: int) -> None:
    items = forked.Queue(maxsize)
    for number in range(100):
        items.put_nowait(number)
    assert not items.full()


# --- Items -----------------------------------------------------------------------------------------------------------


SIZES: Final = [0, 1, 1000, *range(MOST - 40, MOST + 40, 7), 1 << 16, (1 << 16) + 1, 100_000, 1 << 20, 3_000_001]


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_items_of_all_sizes(forked: Any, kind: str) -> None:
    items = getattr(forked, kind)()
    before = own_descriptors()
    for size in SIZES:
        item = os.urandom(size)
        items.put(item)
        assert items.get() == item, f"of {size} bytes"
    assert descriptors() == before


@pytest.mark.serial
def test_a_huge_item(forked: Any, crew: Crew) -> None:
    items = forked.Queue()
    item = os.urandom(64 << 20)
    crew.start(put_and_tell, items, forked.Pipe()[0], item)
    assert items.get(timeout=PATIENCE) == item


class InParts(ForkingPickler):
    """Writes what is large in parts of their own, as the default protocol of CPython 3.14 does."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, 5)


@pytest.fixture(params=[ForkingPickler, InParts], ids=["default", "parts"])
def pickler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pickler of queues: that of multiprocessing, and one of the latest protocol."""
    monkeypatch.setattr("mpbakery._work.queues.item.ForkingPickler", request.param)
    monkeypatch.setattr("mpbakery._work.queues.item._writers", [])
    return request.param


def test_items_of_all_kinds(forked: Any, pickler: Any) -> None:
    items = forked.Queue()
    large = os.urandom(200_000)
    found = [None, 1, "text" * 50_000, [large, {2: (large, 3)}], bytearray(large), array.array("d", [1.5] * 40_000)]
    for item in found:
        items.put(item)
        assert items.get() == item
    if pickler is InParts:
        turned = memoryview(bytearray(large)).cast("B", (200, 1000))
        for view in (memoryview(large), memoryview(bytearray(large)), turned):
            items.put(pickle.PickleBuffer(view))
            assert bytes(items.get()) == bytes(view)


class Registered:
    """Pickled by what is registered for it."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_what_is_registered_later_counts(forked: Any) -> None:
    items = forked.Queue()
    items.put(Registered(1))
    assert items.get().number == 1
    reducers: Any = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    ForkingPickler.register(Registered, lambda one: (Registered, (one.number + 1,)))
    try:
        items.put(Registered(1))
        assert items.get().number == 2
    finally:
        del reducers[Registered]


def test_an_item_is_sent_as_it_was_when_it_was_put(forked: Any, pickler: Any) -> None:
    """Also where it has to wait, since there is no room for so many, and where a part of it is its own memory."""
    items = forked.Queue()
    item, block = [1], bytearray(b"a" * 300_000)
    for _ in range(100):
        items.put(item)
        items.put(pickle.PickleBuffer(block) if pickler is InParts else block)
        item[0] += 1
        block[0] += 1
    for number in range(100):
        assert items.get(timeout=PATIENCE) == [number + 1]
        assert bytes(items.get(timeout=PATIENCE))[:2] == bytes([ord("a") + number, ord("a")])


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_an_item_that_cannot_be_pickled_raises_in_put(forked: Any, kind: str) -> None:
    items = getattr(forked, kind)(*[1] * (kind != "SimpleQueue"))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="cannot be pickled") as caught:
            items.put(Unpicklable())
        assert "items.put(Unpicklable())" in "".join(traceback.format_exception(caught.value))
    items.put("sound")
    assert items.get() == "sound"
    if kind == "JoinableQueue":
        items.task_done()
        items.join()


@pytest.mark.parametrize("size", [0, 200_000])
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_an_item_that_cannot_be_unpickled_raises_in_that_get(forked: Any, kind: str, size: int) -> None:
    items = getattr(forked, kind)()
    before = own_descriptors()
    items.put(Bomb(size))
    items.put("sound")
    with pytest.raises(ZeroDivisionError, match="cannot be unpickled"):
        items.get()
    assert items.get() == "sound"
    assert descriptors() == before


def test_who_gets_an_item_may_get_another_one_meanwhile(forked: Any) -> None:
    items = Greedy.source = forked.Queue()
    items.put(Greedy())
    items.put(Greedy())
    items.put("innermost")
    assert items.get().next.next == "innermost"
    items.put("after that")
    assert items.get() == "after that"


# --- Put does not wait -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_put_waits_for_nobody(context: Any, context_crew: Crew, kind: str) -> None:
    """And whoever ends waits until all that it has put is sent, in order."""
    items = getattr(context, kind)()
    ours, theirs = context.Pipe()
    child = context_crew.start(put_numbers, items, MANY)
    context_crew.start(put_and_tell, getattr(context, kind)(), theirs, *[bytes(1 << 20)] * 20)
    assert expect(ours) == "put"
    ours.send("end")
    wait_until(lambda: items.qsize() == MANY, "all is put")
    read_numbers(items, MANY)
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert items.empty()
    assert items.qsize() == 0


def test_each_put_returns_soon(forked: Any) -> None:
    items = forked.Queue()
    longest = 0.0
    for number in range(MANY):
        start = time.perf_counter()
        items.put(number)
        longest = max(longest, time.perf_counter() - start)
    assert longest < 1
    assert items.qsize() == MANY
    assert [items.get() for _ in range(MANY)] == list(range(MANY))


def test_the_items_of_each_come_in_order(context: Any, context_crew: Crew) -> None:
    """Small and large ones mixed, some of which wait in each producer."""
    items = context.Queue()
    for producer in range(3):
        context_crew.start(put_mixed, items, producer, 300)
    last = dict.fromkeys(range(3), -1)
    for _ in range(900):
        producer, number, filling = items.get(timeout=PATIENCE)
        assert number == last[producer] + 1
        assert len(filling) == sizes_of(number)
        last[producer] = number
    context_crew.finish()


def sizes_of(number: int) -> int:
    """How large an item is."""
    return (0, 10, 1000, 70_000, 20, 200_000)[number % 6]


def put_mixed(items: Any, producer: int, count: int) -> None:
    """Put items of different sizes."""
    for number in range(count):
        items.put((producer, number, bytes(sizes_of(number))))


def test_a_thread_that_cannot_be_started(forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then `put` raises, and has put nothing."""
    items = forked.JoinableQueue(MANY)

    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    count = 0
    with monkeypatch.context() as patch:
        patch.setattr(feeder, "start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):  # noqa: PT012
            while True:
                items.put(count)
                count += 1
    assert items.qsize() == count
    items.put(count)
    for number in range(count + 1):
        assert items.get(timeout=PATIENCE) == number
        items.task_done()
    items.join()
    assert items.qsize() == 0


def test_a_fork_while_something_waits(forked: Any, crew: Crew) -> None:
    """The child does not send what its parent sends."""
    items = forked.Queue()
    crew.start(fork_while_it_waits, items, MANY)
    found = [items.get(timeout=PATIENCE) for _ in range(MANY + 1)]
    found.remove("from the forked child")
    assert found == list(range(MANY))
    crew.finish()
    assert items.empty()


# --- Waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.05, 0, -1])
def test_get_with_a_timeout(forked: Any, way: str, seconds: float) -> None:
    items = forked.Queue()
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        items.get(timeout=seconds)
    assert max(0, seconds) <= time.monotonic() - start < 5
    with pytest.raises(queue.Empty):
        items.get(False, 100)


@pytest.mark.parametrize("seconds", [0.25, 0.05, 0, -1])
def test_put_with_a_timeout(forked: Any, way: str, seconds: float) -> None:
    items = forked.Queue(1)
    items.put(1)
    start = time.monotonic()
    with pytest.raises(queue.Full):
        items.put(2, timeout=seconds)
    assert max(0, seconds) <= time.monotonic() - start < 5
    with pytest.raises(queue.Full):
        items.put(2, False, 100)
    assert items.get(timeout=PATIENCE) == 1


@pytest.mark.parametrize("timeout", ["1", float("nan"), b"1"], ids=repr)
def test_what_is_no_time(forked: Any, timeout: Any) -> None:
    items = forked.JoinableQueue(1)
    with pytest.raises((TypeError, ValueError)):
        items.get(timeout=timeout)
    with pytest.raises((TypeError, ValueError)):
        items.put(1, timeout=timeout)
    items.put(1)
    assert items.get() == 1


def test_a_get_that_is_interrupted(forked: Any, crew: Crew) -> None:
    """It goes on waiting when the handler returns, and raises what the handler raises; no item is lost by either."""
    items = forked.Queue()
    ours, theirs = forked.Pipe()
    child = crew.start(interrupt_get, items, theirs)
    for _ in range(2):
        assert expect(ours) == "waits"
        wait_for_state(child.pid or 0, "S")
        os.kill(child.pid or 0, signal.SIGUSR1)
        wait_for_state(child.pid or 0, "S")
        os.kill(child.pid or 0, signal.SIGUSR2)
        assert expect(ours) is True
    items.put("comes")
    assert expect(ours) == "comes"
    crew.finish()


def test_a_place_that_becomes_free(forked: Any) -> None:
    items = forked.Queue(1)
    items.put(1)
    putting = in_background(lambda: items.put(2, timeout=PATIENCE))
    assert items.get() == 1
    putting.join(PATIENCE)
    assert items.get() == 2


def test_more_places_than_numbers_are_sent_at_once(forked: Any) -> None:
    items = forked.Queue(3000)
    for rounds in range(3):
        for number in range(3000):
            items.put_nowait(number)
        with pytest.raises(queue.Full):
            items.put_nowait(0)
        assert items.full()
        assert items.qsize() == 3000
        for number in range(3000):
            assert items.get(timeout=PATIENCE) == number, rounds
        assert items.qsize() == 0


@pytest.mark.serial
@pytest.mark.parametrize(("limit", "size"), [(3, 0), (3, 100_000), (8, 3 << 20)], ids=["small", "large", "waiting"])
def test_there_are_never_more_items_than_the_limit(forked: Any, crew: Crew, limit: int, size: int) -> None:
    """Also where those who put wait for more than a second, and look for lost places, or have items that wait."""
    items = forked.Queue(limit)
    counts = mpbakery.RawArray("q", 3, ctx=crew.context)
    for place in range(3):
        crew.start(count_puts, items, counts, place, 6.0, size)
    got = 0
    wait_until(lambda: sum(counts) == limit, "the queue is full")
    for pause in (2.5, 1.3, 0.5, *[0.1] * 15, 0, 0, 0.01, 0):
        time.sleep(pause)
        assert sum(counts) - got <= limit
        assert len(items.get()) == size
        got += 1
    while True:
        try:
            items.get(timeout=2)
        except queue.Empty:
            break
        got += 1
        assert sum(counts) - got <= limit
    crew.finish()
    assert sum(counts) == got > 20


def test_a_simple_queue_takes_more_when_nobody_gets(forked: Any) -> None:
    """There is no thread that could send later: for 277 small items there is room at first, and then for more."""
    items = forked.SimpleQueue()
    putting = in_background(lambda: put_numbers(items, 500))
    putting.join(PATIENCE)
    assert not putting.is_alive()
    for number in range(500):
        assert items.get()[0] == number


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_a_large_item_among_many_small_ones(
    forked: Any, crew: Crew, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It does not wait for ever until there is little under way, though there never is."""
    monkeypatch.setattr(packets, "_ROOM", 150_000)  # so that it does not take long to come out
    items = getattr(forked, kind)()
    ours, theirs = forked.Pipe()
    for _ in range(2):
        crew.start(put_at_leisure, items)
    wait_until(lambda: packets.under_way(items._writer.end) > 200_000, "there is much under way")
    crew.start(put_and_tell, items, theirs, bytes(10 << 20))
    end = time.monotonic() + PATIENCE
    while items._reader.get() == 1:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert expect(ours) == "put"


def test_readers_are_served_in_turn(forked: Any, crew: Crew) -> None:
    """As they came to wait, those who have a limit of time apart."""
    items, answers = forked.Queue(), forked.Queue()
    readers = []
    for _ in range(3):
        readers.append(crew.start(pass_on, items, answers))
        wait_for_state(readers[-1].pid or 0, "S")
    for number in range(30):
        items.put(number)
        assert answers.get(timeout=PATIENCE) == number
    for _ in range(3):
        items.put(None)
    crew.finish()


def test_a_default_timeout_of_sockets_is_none_of_theirs(forked: Any) -> None:
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.001)
    try:
        items = forked.Queue(1)
    finally:
        socket.setdefaulttimeout(default)
    putting = in_background(lambda: [threading.Event().wait(0.1), items.put(1), items.put(2)])
    assert items.get() == 1
    assert items.get() == 2
    putting.join(PATIENCE)


def test_greenlets_do_not_come_in(forked: Any) -> None:
    """Nothing is used that a library of greenlets puts in the place of what waits; see support/greens.py."""
    program = (
        "from support.greens import change\n"
        "change('stand-in')\n"
        "import mpbakery\n"
        "items = mpbakery.get_context('fork').Queue(10000)\n"
        "for number in range(10000):\n"
        "    items.put(number)\n"
        "assert [items.get() for _ in range(10000)] == list(range(10000))\n"
        "try:\n"
        "    items.get(timeout=0.01)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    path = str(Path(__file__).parents[1])
    assert run("-c", f"import sys; sys.path.append({path!r})\n{program}") == "Empty\n"


# --- Close, join_thread, cancel_join_thread --------------------------------------------------------------------------


def test_close(forked: Any, way: str) -> None:
    """As multiprocessing has it: the ends stay open in a process that has put nothing."""
    items = forked.Queue()
    items.close()
    items.join_thread()
    assert items.empty()
    for call in (lambda: items.put(1), items.get):
        with pytest.raises(ValueError, match="is closed"):
            call()
    used = forked.Queue()
    used.put(1)
    with pytest.raises(AssertionError, match="not closed"):
        used.join_thread()
    used.close()
    used.join_thread()
    with pytest.raises(OSError, match="is closed"):
        used.empty()


@pytest.mark.parametrize("then", ["", "join_thread"])
def test_what_was_put_before_close_is_sent(context: Any, context_crew: Crew, then: str) -> None:
    items = context.Queue()
    child = context_crew.start(put_and_close, items, MANY, then)
    assert [items.get(timeout=PATIENCE) for _ in range(MANY)] == list(range(MANY))
    child.join(PATIENCE)
    assert child.exitcode == 0


def test_a_queue_that_is_dropped_sends_what_it_has(forked: Any) -> None:
    items = forked.Queue()
    reader = items._reader
    for number in range(MANY):
        items.put(number)
    del items
    for number in range(MANY):
        assert reader.recv() == number


def test_cancel_join_thread(context: Any, context_crew: Crew) -> None:
    """A process ends without waiting for what it has not sent."""
    items = context.Queue()
    child = context_crew.start(put_and_close, items, MANY, "cancel_join_thread")
    child.join(PATIENCE)
    assert child.exitcode == 0
    found = []
    while True:
        try:
            found.append(items.get(timeout=0.1))
        except queue.Empty:
            break
    assert found == list(range(len(found)))
    assert 100 < len(found) < MANY


def test_nobody_is_left_to_get(forked: Any, crew: Crew) -> None:
    for limit in (0, 3):
        items = forked.Queue(limit)
        items._reader.close()
        for _ in range(10):
            with pytest.raises(BrokenPipeError):
                items.put(1)
    simple = forked.SimpleQueue()
    simple._reader.close()
    with pytest.raises(BrokenPipeError):
        simple.put(1)


def test_nobody_is_left_to_put(forked: Any) -> None:
    """What has been put is there all the same, also where free places are under way."""
    for items in (forked.Queue(), forked.Queue(5), forked.JoinableQueue(5)):
        items.put(1)
        items.put(2)
        items._writer.close()
        assert [items.get(), items.get(timeout=PATIENCE)] == [1, 2]
        with pytest.raises(EOFError):
            items.get()
        with pytest.raises(EOFError):
            items.get(timeout=PATIENCE)


def test_nobody_can_get_what_waits(forked: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The feeder says so once, and is done; or says nothing, if nobody wants to know."""
    for ignoring in (False, True):
        items = forked.Queue()
        items._ignore_epipe = ignoring
        for number in range(MANY):
            items.put(number)
        items._reader.close()
        items.close()
        items.join_thread()
        assert capfd.readouterr().err.count("Traceback") == (not ignoring)


@pytest.mark.parametrize("limit", [0, 3])
def test_interrupted_while_it_is_full(forked: Any, crew: Crew, limit: int) -> None:
    """Ctrl-C for all who put: they end at once, and there are as many places as before."""
    items = forked.Queue(limit)
    ours, theirs = forked.Pipe()
    putters = [crew.start(put_until_interrupted, items, theirs) for _ in range(3)]
    for _ in putters:
        assert expect(ours) == "begins"
    wait_until(items.full if limit else lambda: items.qsize() > 3 * MANY, "it is full")
    for putter in putters:
        os.kill(putter.pid or 0, signal.SIGINT)
    crew.finish()
    while not items.empty():
        items.get()
    for number in range(limit):
        items.put(number, timeout=PATIENCE)
    assert items.full() == bool(limit)


# --- Deaths: more in test_queue_deaths.py ----------------------------------------------------------------------------


def test_who_is_killed_while_something_waits_in_it(context: Any, context_crew: Crew) -> None:
    items = context.Queue()
    ours, theirs = context.Pipe()
    child = context_crew.start(put_and_tell, items, theirs, *[bytes(1 << 20)] * 30)
    assert expect(ours) == "put"
    kill(child)
    found = 0
    while True:
        try:
            assert items.get(timeout=0.1) == bytes(1 << 20)
        except queue.Empty:
            break
        found += 1
    assert 1 <= found < 30
    items.put("goes on")
    assert items.get(timeout=PATIENCE) == "goes on"


def test_who_waits_is_killed(context: Any, context_crew: Crew) -> None:
    """A reader that waits costs nobody anything: with multiprocessing's queue, all others wait for ever."""
    items, answers = context.Queue(), context.SimpleQueue()
    readers = [context_crew.start(pass_on, items, answers) for _ in range(3)]
    items.put("first")
    assert answers.get() == "first"
    for reader in readers:
        wait_for_state(reader.pid or 0, "S")
    kill(readers[0])
    kill(readers[2])
    for number in range(10):
        items.put(number)
        assert answers.get() == number
    items.put(None)


@pytest.mark.parametrize("limit", [0, 2])
@pytest.mark.parametrize("size", [1, 100_000])
def test_who_puts_or_gets_is_stopped(forked: Any, crew: Crew, size: int, limit: int) -> None:
    items = forked.Queue(limit)
    ours, theirs = forked.Pipe()
    putter = crew.start(put_for_ever, items, theirs, bytes(size))
    getter = crew.start(get_for_ever, items, theirs)
    assert [expect(ours), expect(ours)] == ["begins", "begins"]
    for _ in range(20):
        for victim in (putter, getter):
            os.kill(victim.pid or 0, signal.SIGSTOP)
            wait_for_state(victim.pid or 0, "T")
        for _ in range(3):
            while items.qsize() >= (limit or 1) and not items.empty():
                items.get(timeout=PATIENCE)
            items.put(b"mine", timeout=PATIENCE)
            assert len(items.get(timeout=PATIENCE)) in {4, size}
        for victim in (putter, getter):
            os.kill(victim.pid or 0, signal.SIGCONT)


def test_a_descriptor_under_way_is_closed_with_its_reader(forked: Any, crew: Crew) -> None:
    """And so is the memory behind it."""
    items = forked.Queue()
    before = own_descriptors()
    for _ in range(20):
        ours, theirs = forked.Pipe()
        for _ in range(3):
            items.put(bytes(1 << 20))
        getter = crew.start(get_for_ever, items, theirs)
        assert expect(ours) == "begins"
        wait_until(items.empty, "all is under way in the child")
        kill(getter)
        ours.close()
        theirs.close()
    crew.close()
    assert descriptors() == before


# --- Joinable queues -------------------------------------------------------------------------------------------------


def test_join_waits_for_all_to_be_done(context: Any, context_crew: Crew) -> None:
    items = context.JoinableQueue()
    pipes = [context.Pipe() for _ in range(5)]
    for number in range(2):
        items.put(number)
    context_crew.start(join_and_tell, items, pipes[4][1])
    assert expect(pipes[4][0]) == "waits"
    assert not pipes[4][0].poll(0.7)
    workers = [context_crew.start(get_and_wait, items, pipes[place][1]) for place in range(2)]
    assert sorted(expect(pipes[place][0]) for place in range(2)) == [0, 1]
    for place in (2, 3):
        context_crew.start(join_and_tell, items, pipes[place][1])
        assert expect(pipes[place][0]) == "waits"
    pipes[0][0].send("go on")
    assert expect(pipes[0][0]) == "done"
    assert not pipes[2][0].poll(0.5)
    assert not pipes[3][0].poll(0)
    pipes[1][0].send("go on")
    for place in (1, 2, 3, 4):
        assert expect(pipes[place][0]) in {"done", "joined"}
    assert len(workers) == 2
    context_crew.finish()
    with pytest.raises(ValueError, match="called too many times"):
        items.task_done()


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_a_task_that_is_lost_with_its_process(context: Any, context_crew: Crew, how: str) -> None:
    items = context.JoinableQueue()
    items.put("task")
    ours, theirs = context.Pipe()
    if how == "killed":
        worker = context_crew.start(get_and_wait, items, theirs)
        assert expect(ours) == "task"
        kill(worker)
    else:
        context_crew.start(get_and_end, items).join(PATIENCE)
    with pytest.warns(mpbakery.TasksLostWarning, match="1 tasks of a queue are lost") as caught:
        items.join()
    assert [warning.message.tasks for warning in caught] == [1]  # type: ignore[union-attr]
    items.join()
    items.put("another")
    items.get()
    items.task_done()
    items.join()


def test_tasks_of_the_living_are_waited_for_first(context: Any, context_crew: Crew) -> None:
    items = context.JoinableQueue()
    for number in range(3):
        items.put(number)
    pipes = [context.Pipe() for _ in range(2)]
    workers = [context_crew.start(get_and_wait, items, theirs) for _, theirs in pipes]
    for ours, _ in pipes:
        expect(ours)
    kill(workers[0])
    waiting, theirs = context.Pipe()
    context_crew.start(join_quietly, items, theirs)
    assert expect(waiting) == "waits"
    assert not waiting.poll(0.7)  # one is still in the queue, and one in a living process
    items.get()
    items.task_done()
    assert not waiting.poll(0.7)
    os.kill(workers[1].pid or 0, signal.SIGSTOP)
    assert not waiting.poll(0.7)
    os.kill(workers[1].pid or 0, signal.SIGCONT)
    pipes[1][0].send("go on")
    assert expect(waiting) == 1


def join_quietly(items: Any, pipe: Any) -> None:
    """Join, and say how many tasks were lost."""
    pipe.send("waits")
    with pytest.warns(mpbakery.TasksLostWarning) as caught:
        items.join()
    pipe.send(caught[0].message.tasks)  # type: ignore[union-attr]


def test_a_lost_task_as_an_error(forked: Any, crew: Crew) -> None:
    items = forked.JoinableQueue()
    items.put("task")
    crew.start(get_and_end, items).join(PATIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mpbakery.TasksLostWarning):
            items.join()
        items.join()
    copy = pickle.loads(pickle.dumps(mpbakery.TasksLostWarning(3)))
    assert (copy.tasks, str(copy)) == (3, str(mpbakery.TasksLostWarning(3)))


# --- How many can use it, and what they see --------------------------------------------------------------------------


def test_more_threads_than_a_lock_has_slots(forked: Any) -> None:
    """Nothing is lost: there is no limit to how many use a queue."""
    items = forked.Queue()
    everybody_there = threading.Barrier(1100)

    def put() -> None:
        everybody_there.wait(PATIENCE)
        items.put(1)
        everybody_there.wait(PATIENCE)

    in_threads([put] * 1100)
    assert sum(items.get(timeout=PATIENCE) for _ in range(1100)) == 1100


def test_a_count_of_many_processes(forked: Any, crew: Crew) -> None:
    items = forked.Queue()
    for _ in range(20):
        crew.start(put_numbers, items, 3)
    crew.finish()
    assert items.qsize() == 60
    for _ in range(59):
        items.get()
    assert items.qsize() == 1
    crew.close()


def test_a_count_in_threads(forked: Any) -> None:
    items = forked.Queue()
    in_threads([lambda: put_numbers(items, 200)] * 8)
    assert items.qsize() == 1600
    in_threads([lambda: [items.get() for _ in range(100)]] * 8)
    assert items.qsize() == 800


@pytest.mark.serial
def test_processes_count_together(forked: Any, crew: Crew) -> None:
    """The kernel does not do that for every file."""
    book = Book.create(64)
    for _ in range(3):
        crew.start(add_often, book, 400_000)
    crew.finish()
    assert book.add(0) == 1_200_000


@pytest.mark.serial
@pytest.mark.parametrize("limit", [0, 3])
def test_tasks_that_are_done_in_threads(forked: Any, crew: Crew, limit: int) -> None:
    """None is taken for lost, or a warning would be raised here."""
    items = forked.JoinableQueue(limit)
    workers = [crew.start(work_in_threads, items, 4) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            in_threads([lambda: put_numbers(items, 300)] * 4)
            items.join()
    finally:
        sys.setswitchinterval(interval)
    for _ in range(4 * len(workers)):
        items.put(None)
    items.join()
    crew.finish()


class Meddler(Book):
    """A book in which something else happens just before a byte is locked, and just after it is unlocked."""

    def __init__(self) -> None:
        super().__init__(OwnFile(anonymous_file(64), owned=True), 64)
        self.before_hold: list[Callable[[], object]] = [int] * 9
        self.behind_let_go: list[Callable[[], object]] = [int] * 9

    def hold(self, place: int) -> None:
        """Lock it, afterwards."""
        self.before_hold.pop()()
        super().hold(place)

    def let_go(self, place: int) -> None:
        """Unlock it, before."""
        super().let_go(place)
        self.behind_let_go.pop()()


@pytest.mark.parametrize("inside", [0, 1, 2])
def test_whoever_is_at_it_is_seen(forked: Any, crew: Crew, inside: int) -> None:
    """Threads come and go in the middle of each other's coming and going."""
    book = Meddler()
    presence = Presence(book, 0)
    if inside == 2:
        # two come at the same time
        presence._mine = Interrupted(presence.enter)
        presence.enter()
    else:
        # one goes; another one comes when nobody is seen any more, and goes before the first one has it seen again
        presence.enter()
        book.behind_let_go.append(presence.enter)
        if not inside:
            book.before_hold[-1:] = [presence.leave, int]
        presence.leave()
    ours, theirs = forked.Pipe()
    crew.start(tell_whether_held, book, theirs)
    assert expect(ours) == bool(inside)


class Interrupted(list[None]):
    """A list to which something is added; then something else happens."""

    def __init__(self, action: Any) -> None:
        self.actions = [action]

    def append(self, item: None) -> None:
        """Add it."""
        super().append(item)
        if self.actions:
            self.actions.pop()()


# --- Descriptors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("Queue", 3), ("JoinableQueue", 3), ("SimpleQueue", 2)])
def test_descriptors(context: Any, context_crew: Crew, kind: str, count: int) -> None:
    items = getattr(context, kind)()
    assert len(descriptors_of(items)) == count
    assert not any(os.get_inheritable(number) for number in descriptors_of(items))
    ours, theirs = context.Pipe()
    context_crew.start(report_descriptors, items, theirs)
    assert expect(ours) == (count, [False] * count, False)


@pytest.mark.parametrize("limit", [0, 3])
def test_a_queue_that_is_dropped_has_none(forked: Any, limit: int) -> None:
    """At once: it is in no circle that would have to be found."""
    before = own_descriptors()
    gc.disable()
    try:
        for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
            items = getattr(forked, kind)(*[limit] * (kind != "SimpleQueue"))
            items.put(1)
            items.put(bytes(100_000))
            assert items.get() == 1
            del items
        assert descriptors() == before
    finally:
        gc.enable()


def test_many_queues_at_once(context: Any, context_crew: Crew) -> None:
    """A fork server takes some 250 descriptors at once."""
    made = [context.Queue(2) for _ in range(70)]
    ours, theirs = context.Pipe()
    context_crew.start(use_many, made, theirs)
    assert expect(ours) == 70
    assert [items.get(timeout=PATIENCE) for items in made] == list(range(70))
    context_crew.finish()


def test_a_process_without_a_descriptor_left(forked: Any, crew: Crew) -> None:
    """It loses the large item, is told so, and gets the next one."""
    items = forked.Queue()
    items.put(bytes(200_000))
    items.put(b"small")
    items.put(bytes(300_000))
    ours, theirs = forked.Pipe()
    crew.start(get_without_descriptors, items, theirs)
    assert "is lost: this process has no descriptor left" in expect(ours)
    assert expect(ours) == 5
    assert expect(ours) == 300_000
    crew.finish()


def test_a_user_without_descriptors_under_way(forked: Any, crew: Crew) -> None:
    """The kernel counts the files that are under way: then large items wait, and come all the same."""
    if os.getuid():
        pytest.skip("only root may become another user")
    items = forked.Queue()
    ours, theirs = forked.Pipe()
    crew.start(put_with_few_in_flight, items, theirs, 40, 100, MOST + 1000)
    assert expect(ours) is True
    read_numbers(items, 100)
    crew.finish()


@pytest.mark.serial
def test_memory_does_not_grow(forked: Any) -> None:
    items = forked.Queue()

    def use() -> None:
        for _ in range(100):
            items.put(bytes(1 << 20))
            items.put([1, 2, 3])
            items.get()
            items.get()

    use()
    before, memory = own_descriptors(), resident_memory()
    for _ in range(5):
        use()
    assert descriptors() == before
    assert resident_memory() < memory + (4 << 20)


# --- What arrives is looked at ---------------------------------------------------------------------------------------


def a_file(size: int) -> int:
    """The descriptor of a file that could shrink."""
    file = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    return file


@pytest.mark.parametrize(
    ("announced", "file", "message"),
    [
        (100_000, lambda: a_file(100_000), "could shrink"),
        (100_000, lambda: anonymous_file(10), "a file of 10 bytes"),
        (100_000, lambda: os.open("/dev/zero", os.O_RDONLY), "only what mpbakery itself sends"),
        (100_000, lambda: -1, "no descriptor left"),
        (2**62, lambda: anonymous_file(10), "a file of 10 bytes"),
    ],
    ids=["unsealed", "short", "device", "none", "huge"],
)
def test_what_no_queue_has_sent(forked: Any, announced: int, file: Any, message: str) -> None:
    items = forked.Queue()
    before = own_descriptors()
    number = file()
    send_raw(items, b"\1" + announced.to_bytes(8, "little") + b"head", number)
    if number >= 0:
        os.close(number)
    items.put("sound")
    with pytest.raises((mpbakery.SharingError, OSError), match=message):
        items.get()
    assert items.get() == "sound"
    assert descriptors() == before


def test_an_end_of_something_else(forked: Any) -> None:
    class Sent:
        def detach(self) -> int:
            return os.dup(forked.Pipe(duplex=True)[0].fileno())

    with pytest.raises((mpbakery.SharingError, OSError)):
        messages._sender_of(Sent())


def test_a_book_that_is_too_short(forked: Any) -> None:
    with pytest.raises(mpbakery.SharingError, match="has 64 bytes"):
        Book.attach(anonymous_file(64), 128)
    with pytest.raises(mpbakery.SharingError, match="could shrink"):
        Book.attach(a_file(128), 128)


def test_a_queue_is_for_processes_that_start(forked: Any) -> None:
    for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            pickle.dumps(getattr(forked, kind)())


# --- Who uses queues -------------------------------------------------------------------------------------------------


def test_waiting_for_one_of_many(forked: Any) -> None:
    """By the reading end, as programs do that know multiprocessing's queues."""
    first, second = forked.Queue(), forked.SimpleQueue()
    assert connection.wait([first._reader, second._reader], timeout=0) == []
    second.put(1)
    assert connection.wait([first._reader, second._reader], timeout=PATIENCE) == [second._reader]
    assert second._reader.recv() == 1
    assert not second._poll(0.01)


def test_the_ends_of_a_simple_queue(context: Any, context_crew: Crew) -> None:
    """They can be sent by themselves, and carry bytes."""
    items = context.SimpleQueue()
    context_crew.start(items._writer.send_bytes, b"some bytes")
    assert items._reader.recv_bytes() == b"some bytes"
    items._writer.send_bytes(bytes(100_000))
    with pytest.raises(OSError, match="bad message length"):
        items._reader.recv_bytes(10)


def test_logging(forked: Any, crew: Crew) -> None:
    items = forked.Queue()
    for _ in range(3):
        crew.start(log, items, 200)
    records = [items.get(timeout=PATIENCE) for _ in range(600)]
    assert {record.getMessage() for record in records} == {f"record {number}" for number in range(200)}
    crew.finish()


def log(items: Any, count: int) -> None:
    """Write records to a queue."""
    logger = logging.getLogger("test of queues")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(items))
    for number in range(count):
        logger.info("record %d", number)


def test_who_empties_a_queue_that_others_empty_as_well(forked: Any) -> None:
    """As a pool of multiprocessing does: it never waits for what one of the others has got meanwhile."""
    items = forked.SimpleQueue()
    items.put("something")
    items._rlock.acquire()
    assert items._reader.recv() == "something"
    assert items._reader.recv() is None
    items._rlock.release()
    items.put("more")
    assert items._reader.recv() == "more"


@pytest.mark.serial
def test_a_pool_of_multiprocessing_ends_in_the_middle_of_its_work(forked: Any) -> None:
    """It empties the queue of its workers, which go on getting meanwhile."""
    for _ in range(15):
        pool = multiprocessing.pool.Pool(3, context=forked)
        pool.map_async(dawdle, range(3000), chunksize=1)
        ended = in_background(pool.terminate)
        ended.join(PATIENCE)
        assert not ended.is_alive()
        pool.join()


def test_a_pool_of_multiprocessing(forked: Any) -> None:
    with multiprocessing.pool.Pool(2, context=forked) as pool:
        assert pool.map(square, range(100)) == [number * number for number in range(100)]
        assert pool.map(bytes, [1 << 20] * 4) == [bytes(1 << 20)] * 4
        pool.close()
        pool.join()
