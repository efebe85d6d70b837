"""Programs of greenlets, whose libraries have put other things in the place of what the standard library waits with."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from support import greens
from support.greens import GREENLETS, PROCESSES, TURNS


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("library", ["stand-in", "gevent", "eventlet"])
def test_greenlets_of_two_processes_take_turns(library: str, moment: str) -> None:
    if library != "stand-in" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed here")
    command = [sys.executable, "-W", "ignore", greens.__file__, library, moment]
    program = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (program.returncode, program.stderr) == (0, "")
    *turns, counted, slots = map(int, program.stdout.split())
    assert turns == [GREENLETS * TURNS] * PROCESSES
    assert counted == sum(turns)
    assert slots <= PROCESSES, "greenlets of one thread had slots of their own"
