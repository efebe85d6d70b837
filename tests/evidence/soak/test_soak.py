"""A short soak, and whether a soak notices what is broken; the long one is `tox run -e soak`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from evidence.soak.plan import Plan, Size
from support.processes import children_of
from support.scripts import finish, start
from support.workers import PATIENCE, wait_until

pytestmark = pytest.mark.tools

SCRIPT = Path(__file__).with_name("soak.py")


def soak(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit status of a soak, its figures, and what it wrote to stderr."""
    status, out, err = finish(start(str(SCRIPT), "--json", "-", *arguments))
    return status, json.loads(out), err


def test_a_short_soak() -> None:
    status, figures, err = soak("--seed", "5", "--minutes", "0.2", "--workers", "6", "--locks", "8")
    assert figures["wrong"] == []
    assert status == 0, err
    assert "Traceback" not in err
    assert (figures["lost_updates"], figures["collisions"]) == (0, 0)
    assert (figures["untold"], figures["told_wrongly"]) == (0, 0)
    assert figures["unfinished"] == figures["mended"]
    assert figures["kills"] == sum(figures[f"killed_{who}"] for who in ("holders", "waiters", "idle"))
    # and something has happened
    assert figures["rounds"] == figures["rounds_planned"] > 1
    assert figures["kills"] > 30
    assert figures["stops"] > 5
    assert min(figures["killed_holders"], figures["recoveries"], figures["mended"], figures["timeouts"]) > 5
    assert figures["own_recoveries"] == figures["own_locks"] > 5
    assert figures["slots_reclaimed"] > 100
    assert set(figures["descriptors"]) == {"conductor", "veteran 1", "veteran 2"}
    assert figures["plan"] == Plan(5, Size(12, 6, 8)).digest()


def test_the_seed_makes_the_plan() -> None:
    plan, same, other = (Plan(seed, Size(60, 4, 6)) for seed in (1, 1, 2))
    assert plan.lives == same.lives
    assert list(plan.rounds()) == list(same.rounds())
    assert plan.digest() == same.digest() != other.digest()


@pytest.mark.parametrize("lock", ["none", "racy"])
def test_two_at_once_are_noticed(lock: str) -> None:
    status, figures, _err = soak("--seed", "1", "--minutes", "0.03", "--lock", lock)
    assert status == 1
    assert figures["collisions"] > 0
    assert figures["lost_updates"] > 0
    assert f"{figures['collisions']} times two were in at once" in figures["wrong"]


def test_a_death_that_nobody_is_told_of_is_noticed() -> None:
    status, figures, _err = soak("--seed", "1", "--minutes", "0.03", "--lock", "untold")
    assert status == 1
    assert figures["untold"] > 0
    assert any("nobody was told" in what for what in figures["wrong"])


def test_who_does_not_get_on_is_noticed_and_says_where_it_hangs() -> None:
    status, figures, err = soak("--seed", "1", "--minutes", "0.5", "--patience", "2", "--lock", "abandoned")
    assert status == 1
    assert any("does not get on" in what for what in figures["wrong"])
    assert " in acquire\n" in err


def test_descriptors_that_are_not_given_back_are_noticed() -> None:
    status, figures, _err = soak("--seed", "1", "--minutes", "0.1", "--lock", "leaked")
    assert status == 1
    assert [what for what in figures["wrong"] if "descriptors, and has" in what]
    assert len(figures["wrong"]) <= 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_the_figures_so_far(number: int) -> None:
    process = start(str(SCRIPT), "--seed", "1")
    try:
        wait_until(lambda: len(children_of(process.pid)) > 7, "a soak in full swing")
    finally:
        process.send_signal(number)
        status, out, err = finish(process, PATIENCE)
    assert status == 128 + number
    assert "Traceback" not in err
    assert "acquisitions" in out
    assert "WRONG" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--minutes", "nan"),
        ("--seed", "-1"),
        ("--workers", "0"),
        ("--locks", "many"),
        ("--lock", "wooden"),
        ("--json", "/nowhere/x"),
        ("--fast",),
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_arguments_gets_one_line(arguments: tuple[str, ...]) -> None:
    status, out, err = finish(start(str(SCRIPT), *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("soak: ")
    assert err.count("\n") == 1
