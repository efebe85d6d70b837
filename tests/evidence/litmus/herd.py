"""herd7, which knows in how many ways a few instructions can come out on a machine.

Jade Alglave, Luc Maranget, Michael Tautschnig: Herding Cats (TOPLAS 36(2), 2014). Debian has it as herdtools7.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from typing import Final

#: The command, if it is not on the PATH: for one in a root tree, say.
VARIABLE: Final = "MPBAKERY_HERD7"
SECONDS: Final = 60.0


class HerdError(Exception):
    """herd7 did not answer."""


def command() -> list[str] | None:
    """How it is run, None where it is not installed."""
    named = os.environ.get(VARIABLE)
    if named:
        return shlex.split(named)
    found = shutil.which("herd7")
    return [found] if found else None


def allows(test: str) -> bool:
    """Whether the outcome that a litmus test asks for can come about."""
    herd = command()
    if herd is None:
        raise HerdError("herd7 is not installed: it is in Debian's package herdtools7")
    with tempfile.NamedTemporaryFile("w", suffix=".litmus") as file:
        file.write(test)
        file.flush()
        found = subprocess.run([*herd, file.name], capture_output=True, text=True, timeout=SECONDS)
    observations = [line.split()[-3] for line in found.stdout.splitlines() if line.startswith("Observation ")]
    if found.returncode or len(observations) != 1:
        raise HerdError(f"{found.stderr}{found.stdout}\n{test}")
    return observations[0] != "Never"
