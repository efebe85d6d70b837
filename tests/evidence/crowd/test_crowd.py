"""A short crowd, and whether one notices what is broken; the long one is `crowd.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mpbakery._system.native import FREE_THREADED
from support.scripts import finish, start

pytestmark = pytest.mark.serial

#: Makes every Python that finds it take the fences of other machines.
ELSEWHERE = Path(__file__).resolve().parents[2] / "elsewhere"
SCRIPT = Path(__file__).with_name("crowd.py")
BROKEN = """
import sys
from evidence.crowd import crowd
from mpbakery._protocol import bakery
from support import broken

{breaking}
sys.exit(crowd.main(sys.argv[1:]))
"""


def assemble(*command: str, kind: str, seconds: float) -> tuple[int, dict[str, Any]]:
    """The exit status of a crowd, and what it has come to."""
    status, out, err = finish(start(*command, "--seconds", str(seconds), "--kinds", kind, "--json", "-"))
    assert err == ""
    report = json.loads(out)
    assert report["GIL"] is not FREE_THREADED
    return status, report["rows"][kind]


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_a_short_crowd(kind: str) -> None:
    status, row = assemble(str(SCRIPT), kind=kind, seconds=2)
    assert row["wrong"] == []
    assert status == 0
    assert row["entered"] > 50


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_a_short_crowd_with_the_fences_of_other_machines(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ELSEWHERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    script = "from mpbakery._system import fence\nassert not fence.TOTAL_STORE_ORDER and fence._library is not None"
    assert finish(start("-c", script)) == (0, "", "")
    status, row = assemble(str(SCRIPT), kind=kind, seconds=2)
    assert row["wrong"] == []
    assert status == 0
    assert row["entered"] > 50


def test_a_crowd_that_is_let_in() -> None:
    status, row = assemble("-c", BROKEN.format(breaking='crowd.KINDS["Lock"] = broken.Open'), kind="Lock", seconds=1)
    assert status == 1
    assert "collisions" in row["wrong"][0]


@pytest.mark.skipif(not FREE_THREADED, reason="with the GIL it takes minutes, and is a known limit")
def test_a_crowd_in_which_a_release_is_that_of_the_thread_that_looked_it_up() -> None:
    """The slot's own thread has acquired and released once more before the other one has counted: two were in."""
    breaking = "bakery.Bakery._releaser_of = lambda self, seats: seats"
    status, row = assemble("-c", BROKEN.format(breaking=breaking), kind="Lock", seconds=20)
    assert status == 1
    assert "released too many times" in str(row["wrong"])
