"""What Spin makes of the model of tenure and of wake-ups: no fault as it is, and one with each thing taken away.

`tox run -e litmus`; Spin and gcc are Debian's packages of these names.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("tenure.pml")

#: What each of the model's macros leaves out breaks with two processes that acquire twice, or else with three.
MUTANTS = (
    "CLOSED_IGNORED",
    "NOT_CLOSED",
    "NO_LOOK_AFTER_CLOSING",
    "NO_FENCE_CLOSING",
    "NO_FENCE_COMING_AGAIN",
    "NO_FENCE_BEFORE_LOOKING",
    "NO_FENCE_RELEASING",
    "NO_FENCE_PARKING",
    "NO_ATTENTION_PARKING",
    "NO_ATTENTION_ENTERING",
    "NO_LAST_LOOK",
    "NO_LAST_LOOK_IN_LINE",
    "NO_WAKE_COMING",
    "NO_WAKE_GIVING_UP",
    "NO_WAKE_RELEASING",
    "ANOTHER_VALUE",
)
WITH_THREE = ("NO_FENCE_ATTENDING",)

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None, reason="Spin or gcc is not installed"
)


def check(folder: Path, *macros: str, deaths: bool = False) -> str:
    """Whatever can happen in the model, tried: what is wrong, empty if nothing is."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("spin", "-a", *(f"-D{macro}" for macro in macros), str(MODEL))
    run("gcc", "-O2", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", "-w", "-o", "pan", "pan.c")
    # who was killed stands still for ever, which is no fault: then only exclusion is asked for
    said = run("./pan", "-m3000000", "-w26", *(["-E"] if deaths else []))
    assert "max search depth too small" not in said
    faults = [line for line in said.splitlines() if line.startswith("pan:1:")]
    assert ("errors: 0" in said) is not bool(faults), said
    return " ".join(faults)


@pytest.mark.parametrize("size", [("N=2", "ROUNDS=2"), ("N=2", "ROUNDS=3"), ("N=3", "ROUNDS=1")], ids="-".join)
def test_two_are_never_in_and_no_wake_up_is_lost(tmp_path: Path, size: tuple[str, ...]) -> None:
    assert not check(tmp_path, *size)


def test_two_are_never_in_though_one_dies(tmp_path: Path) -> None:
    assert not check(tmp_path, "N=2", "ROUNDS=2", "KILLS=1", deaths=True)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_part_is_needed(tmp_path: Path, mutant: str) -> None:
    assert check(tmp_path, "N=2", "ROUNDS=2", mutant)


@pytest.mark.parametrize("mutant", WITH_THREE)
def test_each_part_is_needed_by_three(tmp_path: Path, mutant: str) -> None:
    assert check(tmp_path, "N=3", "ROUNDS=1", mutant)
