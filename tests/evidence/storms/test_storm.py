"""A short run of the script with the storms, and whether it notices a leak; the long one is `tox run -e storm`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from support.scripts import finish, start
from support.workers import PATIENCE

pytestmark = pytest.mark.tools

SCRIPT = Path(__file__).with_name("storm.py")
BROKEN = """\
import sys
from evidence.storms import storm
from support import broken

broken.leave_in_python()
sys.exit(storm.main(sys.argv[1:]))
"""


def rows_of(kind: str, out: str) -> list[Any]:
    """The rows of one kind of lock."""
    return [row for row in json.loads(out)["rows"] if row["lock"] == kind]


def test_a_short_storm() -> None:
    status, out, err = finish(start(str(SCRIPT), "--signals", "1000", "--json", "-"))
    assert status == 0, out + err
    assert "Traceback" not in err
    ours = rows_of("mpbakery", out)
    assert [(row["handlers"], row["threads"]) for row in ours] == [
        (handlers, threads) for threads in (1, 8) for handlers in ("raise", "acquire", "both")
    ]
    assert all(row["wrong"] == {} and row["hits"] > 200 and row["places"] > 4 for row in ours)
    (theirs,) = rows_of("multiprocessing", out)
    assert theirs["wrong"]["held"] > 20


def test_a_lock_that_is_left_held_is_noticed() -> None:
    status, out, err = finish(start("-c", BROKEN, "--signals", "500", "--json", "-"))
    assert status == 1, out + err
    assert rows_of("mpbakery", out)[0]["wrong"]["held"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_the_rows_so_far(number: int) -> None:
    process = start(str(SCRIPT), "--signals", "1000000")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("mpbakery.Lock, raise, 1 thread: ")
    process.send_signal(number)
    status, out, err = finish(process, PATIENCE)
    assert status == 128 + number
    assert "left held" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [("--signals", "0"), ("--signals", "many"), ("--fast",)], ids=" ".join)
def test_a_mistake_in_the_arguments(arguments: tuple[str, ...]) -> None:
    status, out, err = finish(start(str(SCRIPT), *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("storm: ")
    assert err.count("\n") == 1
