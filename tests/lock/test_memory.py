"""One allocation that fails, wherever it is, leaves nothing held."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from mpbakery._system.native import FREE_THREADED
from support.oddities import use_without_memory
from support.workers import Crew, expect

#: Calling what releases at the end of a `with` block takes memory itself; see "What remains" in docs/signals.md.
with_needs_memory = pytest.mark.xfail(sys.version_info < (3, 15), reason="a call with so many arguments needs memory")
#: A list for which there is no memory is taken apart before it is put together: those of semaphores come in the way.
#: The interpreter mostly crashes, or hangs. It has also gone on with a permit that was not given back, when it had run
#: other tests before, and never in a program of its own: that is not understood.
list_crashes = pytest.mark.xfail(
    FREE_THREADED, reason="python/cpython#152125, open in CPython 3.13.15 and 3.14.7", strict=False
)


@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="this Python cannot have allocations fail")
@pytest.mark.parametrize("way", ["pair", "kept", "in time", pytest.param("with", marks=with_needs_memory)])
@pytest.mark.parametrize(
    "kind",
    [
        mpbakery.Lock,
        pytest.param(mpbakery.Semaphore, marks=list_crashes),
        pytest.param(mpbakery.BoundedSemaphore, marks=list_crashes),
    ],
    ids=lambda kind: kind.__name__,
)
def test_nothing_is_left_held(crew: Crew, fork: BaseContext, kind: Callable[[], Any], way: str) -> None:
    ours, theirs = fork.Pipe()
    crew.start(use_without_memory, theirs, kind, way)
    assert expect(ours) == []
    crew.finish()
