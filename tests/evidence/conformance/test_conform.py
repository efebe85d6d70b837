"""Whether conform.py would notice something, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evidence.conformance.exclusions import EXCLUSIONS, Exclusion
from evidence.conformance.reports import FAILED, KNOWN, MISSING, PASSED, SKIPPED, STARTED, Row, judge
from evidence.conformance.running import run_all
from evidence.conformance.units import CLASSES, LOCK_TESTS, MULTIPROCESSING, NO_SEMLOCK, NO_SHM, THEIRS, Unit
from support.processes import children_of
from support.scripts import finish, start
from support.workers import wait_until

SCRIPT = str(Path(__file__).with_name("conform.py"))


def run_class(name: str, suite: str = "wrong_classes", limit: float = 30.0) -> Row:
    """What comes of one class."""
    rows: list[Row] = []
    run_all([Unit(suite, name, "fork")], 1, limit, rows.append, lambda _running: None)
    (row,) = rows
    return row


# --- Classes -------------------------------------------------------------------------------------------------------


def test_a_sound_class() -> None:
    row = run_class("Sound")
    assert (row.ran, row.passed, row.failed, row.excluded, row.skipped) == (2, 2, 0, 0, 2)
    assert (row.problems, row.lack) == ([], "")


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("NoLocks", "test_try_acquire_contended"),
        ("UnboundedSemaphores", "test_release_unacquired"),
        ("ForgetfulEvents", "test_set_and_clear"),
        ("BarriersWithoutAction", "test_action"),
    ],
)
def test_what_is_broken_is_noticed(name: str, test: str) -> None:
    pytest.importorskip(LOCK_TESTS)
    row = run_class(name, "wrong_locks")
    assert f"{test} fails" in row.problems
    assert any(text.startswith(f"{test}: ") and "Traceback" in text for text in row.details)


def test_a_part_that_fails_is_noticed() -> None:
    row = run_class("FailingPart")
    assert (row.ran, row.passed, row.problems) == (2, 1, ["test_in_parts fails"])


def test_a_class_that_hangs_is_ended_with_its_child_and_says_where_it_hangs() -> None:
    row = run_class("Hanging", limit=3.0)
    hanging, status, left = sorted(row.problems, key=lambda text: ["test", "it e", "proc"].index(text[:4]))
    assert hanging == "test_the_lock_of_somebody_who_sleeps hangs, or ended its process"
    assert status == "it ended with status 1"
    assert "time.sleep(600)" in left
    assert " in test_the_lock_of_somebody_who_sleeps" in row.details[-1]
    assert row.passed == 1


def test_a_deadlock_is_noticed() -> None:
    row = run_class("Deadlocked")
    assert row.problems == ["test_two_locks fails"]
    assert "DeadlockWarning: deadlock: " in row.details[0]


def test_a_test_that_ends_its_process_is_noticed() -> None:
    assert "test_exit hangs, or ended its process" in run_class("Ending").problems


def test_a_process_that_is_left_is_noticed_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("running.GRACE", 0.5)
    (problem,) = run_class("Leaving").problems
    assert problem.startswith("processes were left: ")
    pid = int(problem.split(": ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("name", ["Skipping", "Unprepared"])
def test_a_class_of_which_nothing_is_run_is_noticed(name: str) -> None:
    assert "no test passed" in run_class(name).problems


def test_a_class_that_is_not_there_is_noticed() -> None:
    row = run_class("NoSuchTests", LOCK_TESTS)
    assert row.problems == ["it ended with status 1", "no test passed"]


# --- Exclusions ----------------------------------------------------------------------------------------------------


def report(*outcomes: tuple[str, str]) -> str:
    """What a unit says whose tests have these outcomes."""
    names = {name for name, _outcome in outcomes}
    lines = [(name, outcome, "") for outcome in (KNOWN, STARTED) for name in names]
    return "\n".join(json.dumps(line) for line in [*lines, *((*pair, "") for pair in outcomes)])


def problems(exclusion: Exclusion, *outcomes: tuple[str, str], whose: str = "mpbakery") -> list[str]:
    """What is wrong with these outcomes, if that is excluded."""
    row = Row(Unit(MULTIPROCESSING, "_TestLock", "fork", whose=whose), "3.11")
    judge(row, report(("test_good", PASSED), *outcomes), [exclusion])
    return row.problems


def excluded(**changes: bool | tuple[int, int]) -> Exclusion:
    """An exclusion."""
    return Exclusion(MULTIPROCESSING, "_TestLock", "test_bad", "why", **changes)  # type: ignore[arg-type]


def test_what_is_excluded_may_fail_and_nothing_else() -> None:
    assert problems(excluded(), ("test_bad", FAILED)) == []
    assert problems(excluded(), ("test_bad", FAILED), ("test_other", FAILED)) == ["test_other fails"]


def test_what_is_excluded_must_not_pass() -> None:
    assert problems(excluded(), ("test_bad", PASSED)) == ["test_bad is excluded, but passes"]
    assert problems(excluded(), ("test_bad", SKIPPED)) == ["test_bad is excluded, but skips itself"]
    assert problems(excluded(varies=True), ("test_bad", PASSED)) == []


def test_what_is_excluded_must_exist() -> None:
    assert problems(excluded()) == ["test_bad is excluded, and there is no such test"]


def test_an_exclusion_is_for_some_versions_only() -> None:
    past, future = (sys.version_info[0], sys.version_info[1] - 1), (sys.version_info[0], sys.version_info[1] + 1)
    for changes in ({"since": future}, {"until": past}):
        assert problems(excluded(**changes), ("test_bad", FAILED)) == ["test_bad fails"]
    assert problems(excluded(since=past, until=future), ("test_bad", FAILED)) == []


@pytest.mark.parametrize(("theirs", "outcome"), [(True, PASSED), (False, FAILED)])
def test_what_is_said_of_multiprocessing_must_be_true(theirs: bool, outcome: str) -> None:
    other = FAILED if outcome == PASSED else PASSED
    assert problems(excluded(theirs=theirs), ("test_bad", outcome), whose=THEIRS) != []
    assert problems(excluded(theirs=theirs), ("test_bad", other), ("test_other", FAILED), whose=THEIRS) == []


def test_a_python_without_the_tests_is_not_wrong() -> None:
    row = Row(Unit(MULTIPROCESSING, "_TestLock", "fork"), "3.11")
    judge(row, json.dumps(["", MISSING, "No module named 'test'"]))
    assert (row.lack, row.problems) == ("No module named 'test'", [])


def test_the_list_of_exclusions() -> None:
    page = Path(__file__).resolve().parents[3].joinpath("docs", "conformance.md").read_text()
    for exclusion in EXCLUSIONS:
        assert exclusion.name in CLASSES[exclusion.suite]
        assert len(exclusion.reason.split()) > 5
        assert exclusion.reason.endswith(".")
        assert f"`{exclusion.test}`" in page
    assert len({(one.suite, one.name, one.test, one.since) for one in EXCLUSIONS}) == len(EXCLUSIONS)


# --- The command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [NO_SHM, NO_SEMLOCK])
def test_the_results_for_programs_from_other_places(place: str) -> None:
    status, out, err = finish(start(SCRIPT, "fork", "--place", place, "--only", "TestLock", "--json", "-"))
    (row,) = json.loads(out)
    assert (status, err) == (0, "") or row["lack"]
    assert row["unit"]["place"] == place
    assert row["passed"] > 0 or row["lack"]


def test_a_run_of_which_nothing_is_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, out, err = finish(start(SCRIPT, "fork", "--place", "here", "--only", "TestLock"))
    assert status == 1
    assert "NOT RUN: No module named 'test." in out
    assert err == "conform: nothing was run\n"


@pytest.mark.parametrize(
    "arguments",
    [["nofork"], ["--only", "no such class"], ["--jobs", "0"], ["--of", "multiprocessing", "--place", NO_SHM]],
)
def test_mistakes_in_the_arguments(arguments: list[str]) -> None:
    status, out, err = finish(start(SCRIPT, *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("conform: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_everything(number: signal.Signals) -> None:
    process = start(SCRIPT, "fork", "--place", "here", "--only", "TestBarrier", "--jobs", "1")
    wait_until(lambda: len(list(descendants(process.pid))) > 2, "the children of a test")
    units = list(descendants(process.pid))
    process.send_signal(number)
    status, _out, err = finish(process)
    assert status == 128 + number
    assert "conform: interrupted" in err
    assert "Traceback" not in err
    for pid in units:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def descendants(pid: int) -> Iterator[int]:
    """The pids of children, and of their children."""
    for child in children_of(pid):
        yield child
        yield from descendants(child)
