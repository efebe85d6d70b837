"""What is known of types to those who use mpbakery: the program beside this, which `tox run -e types` has checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import mpbakery
from mpbakery._context import Factories

PROGRAM = Path(__file__).with_name("users_program.py")


def test_it_uses_all_that_there_is() -> None:
    """What it does not use is not checked."""
    text = PROGRAM.read_text()
    made = [name for name in vars(Factories) if name[0].isupper()]
    assert len(made) >= 15
    assert [name for name in mpbakery.__all__ if not re.search(rf"mpbakery\.{name}\b", text)] == []
    assert [name for name in made if f"context.{name}(" not in text] == []


def test_it_runs() -> None:
    run = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
