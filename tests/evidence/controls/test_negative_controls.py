"""The tests can fail: each detector, given something broken in a known way, must report it."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

import mpbakery
from evidence.signals.points import Report
from evidence.signals.situations import strike_situation
from evidence.storms import storms
from support.broken import (
    HalfBakedMutex,
    NoLock,
    Silent,
    SlowWords,
    WordsClearedTooEarly,
    WordsWithoutChoosing,
    go_on_in_the_parents_slot,
    keep_place_in_line,
    keep_slots,
    leave_for_the_parent,
    leave_in_python,
    lock_with,
    reap_whatever_was_claimed,
)
from support.children import look_for_torn_words, store_in_halves
from support.detectors import Detectors, keep_ledger, visit_often
from support.workers import DEADLINE, AnyLock, Crew, expect, kill, wait_until

WORKERS = 5


def stress(crew: Crew, lock: AnyLock, rounds: int) -> Detectors:
    """Start the stress of test_exclusion."""
    detectors = Detectors(crew.context, WORKERS)
    for worker in range(WORKERS):
        crew.start(visit_often, lock, detectors, worker, rounds, seconds=60)
    return detectors


def wait_for_collisions(crew: Crew, lock: AnyLock) -> None:
    """Insist that the stress finds the lock broken; the workers may hang in it for ever."""
    detectors = stress(crew, lock, 2000)
    wait_until(lambda: detectors.verdict().collisions, "two who are in at once")


def test_no_lock(crew: Crew) -> None:
    detectors = stress(crew, NoLock(), 400)
    crew.finish()
    assert detectors.verdict().collisions > 0
    assert detectors.verdict().lost_updates > 0


def test_the_half_baked_mutex_with_colliding_slots(crew: Crew) -> None:
    wait_for_collisions(crew, HalfBakedMutex(2))


@pytest.mark.parametrize("words", [WordsWithoutChoosing, WordsClearedTooEarly])
def test_a_broken_protocol(fork: BaseContext, crew: Crew, words: type[SlowWords]) -> None:
    wait_for_collisions(crew, lock_with(words, fork))


def test_the_protocol_bears_the_pause_that_breaks_the_others(fork: BaseContext, crew: Crew) -> None:
    """So it is the fault that the test above sees, and not the way that it is brought in."""
    detectors = stress(crew, lock_with(SlowWords, fork), 300)
    crew.finish()
    detectors.assert_exclusion(WORKERS * 300)


def test_a_storm_leaves_multiprocessings_lock_held(crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(storms.storm_on_with_in_child, theirs, "multiprocessing", "raise", 1, 3000, seconds=60, storm=True)
    counts, *_rest = expect(ours, 60)
    crew.finish()
    assert counts.get("held", 0) > 20


@pytest.mark.parametrize(
    ("break_lock", "name", "finding"),
    [
        (leave_in_python, "With", "left held: handler raises"),
        (keep_slots, "FirstWith", "SlotsExhausted: handler raises"),
        (keep_place_in_line, "GiveUp", "ticket left: handler raises"),
        (reap_whatever_was_claimed, "ClaimOfADeadSlot", "not held by who thinks so: handler acquires"),
        (go_on_in_the_parents_slot, "ForkInWithInLine", "left held in the child: handler forks"),
        (leave_for_the_parent, "ForkInFirstWith", "taken away by the child: handler forks"),
    ],
    ids=["leave", "keep slots", "keep place", "reap", "go on", "leave for the parent"],
)
def test_a_lock_that_a_handler_breaks(crew: Crew, break_lock: Callable[[], None], name: str, finding: str) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(strike_situation, theirs, name, break_lock)
    report = expect(ours, DEADLINE)
    crew.finish()
    assert isinstance(report, Report)
    assert any(wrong.startswith(finding) for wrong in report.wrong), report


def test_a_lock_taken_over_without_a_word(fork: BaseContext, crew: Crew) -> None:
    """Torn records are seen, and blamed on whoever did not tell of the death."""
    lock = mpbakery.Lock(ctx=fork)
    ledger = fork.RawArray("Q", 8)
    choose = random.Random(1)
    process = crew.start(keep_ledger, Silent(lock), ledger)
    for _ in range(60):
        before = ledger[0]
        wait_until(lambda before=before: ledger[0] > before + 3, "progress")  # type: ignore[misc]
        time.sleep(choose.uniform(0, 0.002))
        kill(process)
        crew.processes.remove(process)
        process = crew.start(keep_ledger, Silent(lock), ledger)
    ledger[2] = 1
    crew.finish()
    assert ledger[3] == 0
    assert ledger[4] > 0


@pytest.mark.serial
@pytest.mark.parametrize("load", ["word", "list", "comparison"])
def test_words_that_are_stored_in_halves_are_seen_torn(fork: BaseContext, crew: Crew, load: str) -> None:
    room = mmap.mmap(-1, mmap.PAGESIZE)
    crew.start(store_in_halves, room)
    ours, theirs = fork.Pipe()
    crew.start(look_for_torn_words, theirs, room, load, 0.4)
    assert expect(ours)["torn"] > 0


def test_records_written_without_a_lock(fork: BaseContext, crew: Crew) -> None:
    ledger = fork.RawArray("Q", 8)
    for _ in range(3):
        crew.start(keep_ledger, NoLock(), ledger)
    wait_until(lambda: ledger[4] > 0 and ledger[5] > 0, "a torn and a disturbed record")
    ledger[2] = 1
    crew.finish()


@pytest.mark.parametrize(
    "body",
    [
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()",
        "os.fork() or time.sleep(60)",
        "os.waitpid(os.fork() or (os.fork() and os._exit(0)) or time.sleep(60) or 0, 0)",
    ],
    ids=["subprocess", "multiprocessing", "fork", "grandchild"],
)
def test_a_process_left_behind_fails_its_test(tmp_path: Path, body: str) -> None:
    tests = Path(__file__).parents[2]
    shutil.copytree(tests / "support", tmp_path / "support")
    conftest = (tests / "conftest.py").read_text()
    assert "_GRACE = 5.0" in conftest
    (tmp_path / "conftest.py").write_text(conftest.replace("_GRACE = 5.0", "_GRACE = 0.3"))
    imports = "import multiprocessing, os, subprocess, sys, time, warnings\n"
    test = tmp_path / "test_leak.py"
    test.write_text(f"{imports}def test_leak():\n    warnings.simplefilter('ignore')\n    {body}\n")
    # pytest's own capture would have the child keep its files open
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        str(test),
    ]
    package = str(Path(mpbakery.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "processes left behind" in result.stdout


def test_a_child_that_hangs_ends_at_its_deadline_and_says_where(crew: Crew, capfd: pytest.CaptureFixture[str]) -> None:
    process = crew.start(expect_nothing, seconds=1)
    process.join(20)
    assert process.exitcode == -signal.SIGALRM
    assert "in expect_nothing" in capfd.readouterr().err


def expect_nothing() -> None:
    time.sleep(60)


def test_a_child_that_fails_fails_its_test(crew: Crew) -> None:
    crew.start(fail)
    with pytest.raises(AssertionError, match="status other than 0"):
        crew.finish()


def fail() -> None:
    raise ArithmeticError("on purpose")


def test_waiting_for_what_does_not_come_fails() -> None:
    never: Callable[[], bool] = lambda: False  # noqa: E731
    with pytest.raises(AssertionError, match=r"not after 0\.01 s: the impossible"):
        wait_until(never, "the impossible", 0.01)
