"""Running the scripts for long runs as a person would, with the package that the tests use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mpbakery
from support.workers import DEADLINE


def start(*command: str, in_group: bool = False) -> subprocess.Popen[str]:
    """Start a command of the interpreter, with the package that the tests use; in a process group of its own or not."""
    package = str(Path(mpbakery.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=Path(__file__).parents[1],  # `-m` looks there first, and in the project's folder there is a package as well
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=in_group,
    )


def finish(process: subprocess.Popen[str], seconds: float = DEADLINE) -> tuple[int, str, str]:
    """Wait until a command has ended; its exit status, and what it wrote to stdout and stderr."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return process.returncode, out, err


def run(*command: str, seconds: float = DEADLINE) -> str:
    """What a command prints, which must end well and complain of nothing."""
    status, out, err = finish(start(*command), seconds)
    assert (status, err) == (0, "")
    return out
