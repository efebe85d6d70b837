"""Instances take attributes, and other methods in the place of their own, as multiprocessing's do."""

from __future__ import annotations

import multiprocessing
import weakref
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any
from unittest import mock

import pytest

import mpbakery
from conftest import START_METHODS
from support.attributes import KINDS, make, tell_attributes
from support.workers import PATIENCE, Crew, expect, in_thread


def ours(method: str) -> BaseContext:
    context: BaseContext = mpbakery.get_context(method)
    return context


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest) -> Any:
    """One of each kind."""
    return make(request.param, ours("fork"))


def methods(one: Any) -> list[str]:
    """The names of its public methods."""
    return [name for name in dir(type(one)) if not name.startswith("_") and callable(getattr(type(one), name))]


def test_an_attribute(one: Any) -> None:
    one.label = "ledger"
    assert one.label == "ledger"
    assert vars(one)["label"] == "ledger"
    del one.label
    assert not hasattr(one, "label")
    assert weakref.ref(one)() is one
    assert hash(one) == hash(one)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"])
def test_an_attribute_with_a_name_that_we_use(kind: str) -> None:
    """Programs call the locks of multiprocessing as they like."""
    one = make(kind, ours("fork"))
    tells = [name for name in ("name", "owner", "recovered_from") if hasattr(one, name)]
    for name in tells:
        before = getattr(one, name)
        with mock.patch.object(one, name, "something else"):
            assert getattr(one, name) == "something else"
        assert getattr(one, name) == before
        assert name not in vars(one)
    if hasattr(one, "acquire"):
        one.name, one.owner = 7, 8
        with one:
            assert one.locked() or kind == "BoundedSemaphore"
        assert repr(one)


def test_every_method_can_be_replaced_and_comes_back(one: Any) -> None:
    assert len(methods(one)) > 1
    for name in methods(one):
        with mock.patch.object(one, name, return_value="replaced") as replaced:
            assert getattr(one, name)(1, two=2) == "replaced"
            assert in_thread(lambda name=name: getattr(one, name)()) == "replaced"  # type: ignore[misc]
            assert replaced.call_args_list == [mock.call(1, two=2), mock.call()]
            assert name in vars(one)
        assert name not in vars(one)
    for name in ("release", "acquire"):
        if name in methods(one):
            with pytest.raises(AttributeError, match=name):
                delattr(one, name)


LOCKS = [kind for kind in KINDS if "Queue" not in kind and kind not in {"Event", "Barrier"}]


@pytest.mark.parametrize("kind", LOCKS)
def test_what_is_replaced_twice_comes_back_in_turn(kind: str) -> None:
    one = make(kind, ours("fork"))
    one.acquire()
    one.release = lambda: "first"
    with mock.patch.object(one, "release", return_value="second"):
        assert one.release() == "second"
    assert one.release() == "first"
    del one.release
    assert one.release() is None
    assert in_thread(lambda: one.acquire(timeout=PATIENCE)) is True


@pytest.mark.parametrize("kind", LOCKS)
def test_with_does_not_use_what_is_in_their_place(kind: str) -> None:
    """As the `with` of multiprocessing's does not."""
    for context in (multiprocessing.get_context("fork"), ours("fork")):
        one = make(kind, context)
        with (
            mock.patch.object(one, "acquire", side_effect=ZeroDivisionError),
            mock.patch.object(one, "release", side_effect=ZeroDivisionError),
            one,
        ):
            pass
        assert one.acquire(timeout=PATIENCE)
        one.release()


def release_what_the_child_has(connection: Connection, one: Any) -> None:
    """Undo in a forked child what the parent has put in the place of `release`, and use it."""
    one.release()
    del one.release
    # multiprocessing's release is bound, and a forked child has it as it was; here it is found anew
    connection.send(one.acquire(timeout=0.05))
    assert expect(connection) == "it is free"
    got = one.acquire(timeout=PATIENCE)
    one.release()
    connection.send(got)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition", "Value"])
def test_a_child_that_is_forked_meanwhile_gives_back_what_it_has_itself(crew: Crew, kind: str) -> None:
    one = make(kind, ours("fork"))
    with one:
        pass
    connection, theirs = crew.context.Pipe()
    with mock.patch.object(one, "release"), one:
        crew.start(release_what_the_child_has, theirs, one)
        assert expect(connection) is False
    connection.send("it is free")
    assert expect(connection) is True
    crew.finish()
    assert one.acquire(timeout=PATIENCE)
    one.release()


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_arrives_of_attributes_in_children_is_as_in_multiprocessing(method: str, kind: str) -> None:
    arrived = []
    for context in (multiprocessing.get_context(method), ours(method)):
        children = Crew(context)
        try:
            connection, theirs = context.Pipe()
            one = make(kind, context)
            one.label = "ledger"
            children.start(tell_attributes, theirs, one)
            arrived.append(expect(connection))
            children.finish()
        finally:
            children.close()
    assert arrived[0] == arrived[1]
    assert arrived[0] == (method == "fork" or kind == "Event")
