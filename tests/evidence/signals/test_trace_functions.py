"""A debugger or a tracing log that uses the lock which it traces, at every line of the lock's code."""

from __future__ import annotations

from typing import Any

import pytest

import mpbakery
from evidence.signals.tracers import acquire_at_every_line
from support.workers import Crew, Puppet, expect


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
@pytest.mark.parametrize(
    ("kind", "keeps"),
    # a trace function that keeps a permit may get one too many: docs/signals.md
    [(mpbakery.Lock, False), (mpbakery.Lock, True), (mpbakery.Semaphore, False)],
    ids=["Lock, releases", "Lock, keeps", "Semaphore, releases"],
)
def test_a_trace_function_acquires(crew: Crew, kind: Any, held: bool, keeps: bool) -> None:
    lock = kind(ctx=crew.context)
    if held:
        Puppet(crew, lock)("acquire")
    ours, theirs = crew.context.Pipe()
    crew.start(acquire_at_every_line, theirs, lock, keeps)
    lines, wrong = expect(ours)
    assert wrong == []
    assert lines > (40 if held else 20)
