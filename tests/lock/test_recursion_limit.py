"""Whoever had room on the stack to acquire has room to release."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

import mpbakery
from support.oddities import WAYS, use_near_the_recursion_limit
from support.workers import Crew, expect


@pytest.mark.parametrize("first", [True, False], ids=["first use", "used before"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "kind",
    [
        mpbakery.Lock,
        mpbakery.RLock,
        mpbakery.Semaphore,
        mpbakery.BoundedSemaphore,
        mpbakery.Condition,
        lambda: mpbakery.Value("i"),
    ],
    ids=["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Value"],
)
def test_nothing_stays_held(crew: Crew, fork: BaseContext, kind: Callable[[], Any], way: str, first: bool) -> None:
    ours, theirs = fork.Pipe()
    crew.start(use_near_the_recursion_limit, theirs, kind, way, first)
    failed, held = expect(ours)
    assert failed, "there was room enough at every depth"
    assert not held
    crew.finish()
