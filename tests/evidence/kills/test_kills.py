"""A short run of the script that kills users of queues, and whether it notices something; see `tox run -e kills`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from support.processes import children_of
from support.scripts import finish, start
from support.workers import PATIENCE, wait_until

pytestmark = pytest.mark.tools

SCRIPT = Path(__file__).with_name("kills.py")


def kills(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """The exit status, the figures of each queue, and what it wrote to stderr."""
    status, out, err = finish(start(str(SCRIPT), "--json", "-", *arguments))
    return status, json.loads(out), err


def test_a_short_run() -> None:
    status, found, err = kills("--seed", "5", "--seconds", "16")
    assert [figures["wrong"] for figures in found] == [[]] * 4
    assert status == 0, err
    assert [figures["queue"] for figures in found] == ["queue", "limited", "joinable", "simple"]
    for figures in found:
        assert (figures["torn"], figures["twice"]) == (0, 0)
        assert figures["got"] > 300
        assert figures["stops"] > 1
        assert set(figures["memory"]) == {"writer", "reader"}
    # and something has happened
    assert sum(figures["killed_readers"] for figures in found) > 10
    assert sum(figures["killed_writers"] for figures in found) > 10
    assert sum(figures["lost_in_hand"] for figures in found) > 3


def test_queues_that_do_not_stand_it() -> None:
    status, (figures,), _err = kills("--seed", "1", "--seconds", "10", "--patience", "3", "--queue", "multiprocessing")
    assert status == 1
    assert any("does not" in what for what in figures["wrong"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_the_figures_so_far(number: int) -> None:
    process = start(str(SCRIPT), "--seed", "1")
    try:
        wait_until(lambda: len(children_of(process.pid)) >= 7, "all are at it")
    finally:
        process.send_signal(number)
        status, out, err = finish(process, PATIENCE)
    assert status == 128 + number
    assert "Traceback" not in err
    assert "items put" in out
    assert "WRONG" not in out


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--queue", "wooden"), ("--fast",)], ids=" ".join)
def test_a_mistake_in_the_arguments_gets_one_line(arguments: tuple[str, ...]) -> None:
    status, out, err = finish(start(str(SCRIPT), *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("kills: ")
    assert err.count("\n") == 1
