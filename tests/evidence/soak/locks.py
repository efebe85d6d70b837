"""The locks that a soak is about, and some that are broken in a known way, to see that it would notice."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any, Final

import mpbakery
from support.broken import NoLock, WordsClearedTooEarly, lock_with

#: Makes a lock with that many slots for a start method; it goes into spawned processes, so it has to be a function.
Maker = Callable[[int, str], Any]


class _Untold(mpbakery.Lock):
    """A lock that is taken over from the dead without a word (where it was not sent to a spawned process)."""

    recovered_from = None


def sound(slots: int, method: str) -> mpbakery.Lock:
    """The lock as it is."""
    return mpbakery.Lock(slots=slots, ctx=multiprocessing.get_context(method))


def none(slots: int, method: str) -> NoLock:
    """No lock at all: two are in at once."""
    return NoLock()


def abandoned(slots: int, method: str) -> mpbakery.Lock:
    """A lock that nobody gets any more when its holder has died: all of its users are stuck."""
    return mpbakery.Lock(slots=slots, robust=False, ctx=multiprocessing.get_context(method))


def untold(slots: int, method: str) -> mpbakery.Lock:
    """A lock that does not tell that its last holder died."""
    return _Untold(slots=slots, ctx=multiprocessing.get_context(method))


def racy(slots: int, method: str) -> mpbakery.Lock:
    """A lock that two get now and then (where it was not sent to a spawned process)."""
    return lock_with(WordsClearedTooEarly, multiprocessing.get_context(method))


def leaked(slots: int, method: str) -> mpbakery.Lock:
    """A lock that leaves a descriptor open."""
    lock = sound(slots, method)
    os.dup(lock.fileno())
    return lock


MAKERS: Final[dict[str, Maker]] = {make.__name__: make for make in (sound, none, racy, abandoned, untold, leaked)}
