"""Value, Array, RawValue and RawArray: multiprocessing's, in memory that needs no file system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable
from multiprocessing import sharedctypes
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

import mpbakery
from mpbakery._work import arena
from support.holders import Envelope, Point, allocate_when_told, count, fill, make_values, write_when_told
from support.namespaces import without_shared_memory
from support.processes import descriptors, mapped_memory
from support.workers import Crew, expect, in_thread


def new_values(ctx: BaseContext) -> dict[str, Any]:
    return {
        "value": mpbakery.Value("i", 1, ctx=ctx),
        "array": mpbakery.Array(ctypes.c_double, [1.0, 2.0, 3.0], ctx=ctx),
        "string": mpbakery.Array("c", 10, ctx=ctx),
        "structure": mpbakery.Value(Point, 3, 4.0, ctx=ctx),
        "raw value": mpbakery.RawValue("q", 2, ctx=ctx),
        "raw array": mpbakery.RawArray("h", 3, ctx=ctx),
    }


def test_a_child_writes_into_each_of_them(ctx: BaseContext, ctx_crew: Crew) -> None:
    values = new_values(ctx)
    assert values["array"][:] == [1.0, 2.0, 3.0]
    assert (values["structure"].x, values["structure"].y) == (3, 4.0)
    assert values["raw array"][:] == [0, 0, 0]
    ctx_crew.start(fill, values)
    ctx_crew.finish()
    assert values["value"].value == 7
    assert values["array"][:] == [1.0, 2.5, 3.0]
    assert values["string"].value == b"hello"
    assert (values["structure"].x, values["structure"].y) == (3, 0.5)
    assert values["raw value"].value == 8
    assert values["raw array"][:] == [0, 0, 9]


def test_no_addition_is_lost(ctx: BaseContext, ctx_crew: Crew) -> None:
    value = mpbakery.Value("i", ctx=ctx)
    for _ in range(3):
        ctx_crew.start(count, value, 300)
    ctx_crew.finish()
    assert value.value == 900


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["value", "structure", "raw value"])
def test_none_is_sent_as_a_copy(method: str, kind: str) -> None:
    """By the pickler of another library, which takes a ctypes object for its bytes. (It has no idea of arrays.)"""
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=print, args=(Envelope(new_values(context)[kind]),))
    with pytest.raises(mpbakery.SharingError, match="copy that nobody shares"):
        process.start()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_value_for_fork_cannot_follow_into_a_process_started_afresh(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    value = mpbakery.RawValue("i", ctx=multiprocessing.get_context("fork"))
    process = context.Process(target=fill, args=(value,))
    with pytest.raises(mpbakery.SharingError, match=r"value was made for the fork start method.*ctx="):
        process.start()


@pytest.mark.parametrize("dumps", [pickle.dumps, ForkingPickler.dumps], ids=["pickle", "ForkingPickler"])
@pytest.mark.parametrize("name", ["value", "array", "string", "structure"])
def test_pickled_for_anybody_else_it_refuses(ctx: BaseContext, name: str, dumps: Callable[[object], bytes]) -> None:
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        dumps(new_values(ctx)[name])


@pytest.mark.parametrize("name", ["raw value", "raw array"])
def test_a_raw_one_refuses_as_well(ctx: BaseContext, name: str) -> None:
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        ForkingPickler.dumps(new_values(ctx)[name])


def test_they_are_those_of_the_standard_library(fork: BaseContext) -> None:
    values = new_values(fork)
    assert isinstance(values["value"], sharedctypes.Synchronized)
    assert isinstance(values["array"], sharedctypes.SynchronizedArray)
    assert isinstance(values["string"], sharedctypes.SynchronizedString)
    assert repr(values["value"]) == "<Synchronized wrapper for c_int(1)>"
    assert isinstance(values["raw value"], ctypes.c_longlong)
    assert values["value"].get_obj().value == 1
    assert isinstance(values["value"].get_lock(), mpbakery.RLock)


def test_the_lock_may_be_given(fork: BaseContext) -> None:
    lock = mpbakery.Lock(ctx=fork)
    value: Any = mpbakery.Value("i", lock=lock, ctx=fork)
    assert value.get_lock() is lock
    with value:
        assert lock.locked()
    assert not lock.locked()
    assert isinstance(mpbakery.Value("i", lock=False), ctypes.c_int)
    assert isinstance(mpbakery.Array("i", 2, lock=None).get_lock(), mpbakery.RLock)  # type: ignore[call-overload]
    with pytest.raises(AttributeError, match="lock is 'no lock', which has no method 'acquire'"):
        mpbakery.Value("i", lock="no lock")  # type: ignore[call-overload]


def test_acquire_and_release_are_of_the_thread_that_calls_them(fork: BaseContext) -> None:
    """Kept from the thread that made the value, `release` of a lock would be that thread's."""
    lock = mpbakery.Lock(ctx=fork)
    value = mpbakery.Value("i", lock=lock, ctx=fork)

    def use() -> str:
        assert value.acquire() is True
        assert value.release == lock.release, "a release of another thread could clear what that one holds"
        held = repr(lock)
        value.release()
        with contextlib.ExitStack() as stack:
            stack.enter_context(value)
            held += repr(lock)
        return held

    with value:
        pass
    assert in_thread(use, name="other") == 2 * "<Lock(owner=MainProcess|other)>"
    assert not lock.locked()


@pytest.mark.parametrize("kind", ["x", 5, int, None], ids=repr)
def test_what_is_no_type(kind: object) -> None:
    with pytest.raises(TypeError, match=r"bad typecode .*typecodes"):
        mpbakery.Value(kind)  # type: ignore[call-overload]


def test_a_length_that_is_none() -> None:
    with pytest.raises(ValueError, match="length"):
        mpbakery.Array("i", -1)
    assert mpbakery.Array("i", 0)[:] == []
    assert mpbakery.Array("i", [])[:] == []


# --- Memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sendable", [False, True])
def test_pieces_do_not_overlap(sendable: bool) -> None:
    """Of any size, also above that of a mapping."""
    sizes = [1, 3, 8, 17, 4096, 0, 40_000, 40_000, 70_000, 5, 1 << 20, 2]
    pieces = [arena.allocate(size, sendable=sendable).create_memoryview() for size in sizes]
    assert [len(piece) for piece in pieces] == sizes
    for number, piece in enumerate(pieces, 1):
        assert bytes(piece) == bytes(len(piece)), "new memory is not all zero"
        piece[:] = bytes([number]) * len(piece)
    for number, piece in enumerate(pieces, 1):
        assert bytes(piece) == bytes([number]) * len(piece)


def test_what_a_child_has_is_not_given_out_again(ctx: BaseContext, ctx_crew: Crew) -> None:
    """The standard library gives the memory of a value that its maker has dropped to the next one, into which a child
    that still has the first one then writes."""
    values = [mpbakery.RawValue("i", number, ctx=ctx) for number in range(10)]
    ours, theirs = ctx.Pipe()
    ctx_crew.start(write_when_told, theirs, values, 77)
    del values
    gc.collect()
    fresh = [mpbakery.RawValue("i", 5, ctx=ctx) for _ in range(50)]
    ours.send("go on")
    assert expect(ours) == "written"
    assert {value.value for value in fresh} == {5}
    ctx_crew.finish()


def test_parent_and_child_allocate_apart(fork: BaseContext, crew: Crew) -> None:
    """A forked child must not give out the rest of a mapping that its parent gives out as well."""
    mpbakery.RawValue("q", ctx=fork)
    ours, theirs = fork.Pipe()
    crew.start(allocate_when_told, theirs, 1)
    assert expect(ours) == "made"
    values = [mpbakery.RawValue("q", 2, ctx=fork) for _ in range(20)]
    ours.send("go on")
    assert expect(ours) == 1
    assert {value.value for value in values} == {2}
    crew.finish()


def test_memory_goes_with_the_last_value_in_it() -> None:
    def mapped() -> int:
        gc.collect()
        return mapped_memory()

    before = mapped()
    big = mpbakery.RawArray("b", 1 << 28, ctx=multiprocessing.get_context("spawn"))
    assert mapped() - before >= 1 << 28
    del big
    assert mapped() - before < 1 << 27


def test_descriptors(fork: BaseContext) -> None:
    """None for fork, and one for many values otherwise, which is closed in the end."""

    def left_open() -> int:
        gc.collect()
        return descriptors()

    before = left_open()
    values = [mpbakery.RawValue("i", ctx=fork) for _ in range(5000)]
    assert left_open() == before
    values = [mpbakery.RawValue("i", ctx=multiprocessing.get_context("spawn")) for _ in range(5000)]
    assert left_open() <= before + 4  # CPython before 3.13 has one more for every mmap
    del values
    arena._spare[True].clear()
    assert left_open() <= before


def test_a_descriptor_that_was_replaced_is_not_sent() -> None:
    piece = arena.create(100, sendable=True)
    assert piece._file is not None
    os.close(piece._file.descriptor)
    context: Any = multiprocessing.get_context("spawn")
    process = context.Process(target=fill, args=(piece,))
    with pytest.raises(mpbakery.SharingError, match="was closed or replaced"):
        process.start()


@pytest.mark.parametrize("size", [0, 100, 8191])
def test_memory_that_arrives_too_small_is_refused(size: int) -> None:
    file = os.memfd_create("small", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)

    class Sent:
        def detach(self) -> int:
            return file

    with pytest.raises(mpbakery.SharingError, match=f"has {size} bytes"):
        arena._attach(Sent(), 8192)


def test_memory_that_can_shrink_is_refused() -> None:
    """Reading behind the new end of a file kills the process that does."""
    file = os.memfd_create("loose", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 8192)

    class Sent:
        def detach(self) -> int:
            return file

    with pytest.raises(mpbakery.SharingError, match="could shrink"):
        arena._attach(Sent(), 8192)


def test_where_nothing_can_be_made_in_shared_memory(fork: BaseContext, crew: Crew, mount_namespaces: None) -> None:
    ours, theirs = fork.Pipe()
    crew.start(without_shared_memory, make_values, theirs)
    theirs.close()
    refused, found, left = expect(ours)
    assert refused == 2, "the standard library can make its locks and values here: nothing is shown"
    assert found == [(10, [0.0, 0.0, 0.0])] * 2
    assert left == []
    crew.finish()
