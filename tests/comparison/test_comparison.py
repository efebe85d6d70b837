"""What the comparison must see of our own pool, that it notices one that hangs, and that its page tells the truth."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from support.scripts import finish, start

PROGRAM = str(Path(__file__).parent)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "comparison.md"
#: For a busy machine: a scene takes 10 s at most where all goes well.
SECONDS = 100.0


def compare(*arguments: str) -> dict[str, dict[str, Any]]:
    """The outcomes by scene and library."""
    status, out, err = finish(start(PROGRAM, "--json", "-", *arguments), SECONDS)
    assert (status, err) == (0, "")
    found: dict[str, dict[str, Any]] = json.loads(out)["scenes"]
    return found


def test_our_pool_gives_all_that_can_be_given_and_works_afterwards() -> None:
    scenes = {scene: found["mpbakery"] for scene, found in compare("--library", "mpbakery").items()}
    assert scenes.pop("owner_killed")["left"] == 0
    assert {name: one["afterwards"] for name, one in scenes.items()} == dict.fromkeys(scenes, "works")
    assert {name: one["missing"] for name, one in scenes.items()} == dict.fromkeys(scenes, 0)
    one_lost = {"WorkerDiedError": 1}
    assert {name: (one["results"], one["errors"]) for name, one in scenes.items()} == {
        "killed_at_work": (7, one_lost),
        "killed_idle": (8, {}),
        "killed_sending": (7, one_lost),
    }


@pytest.mark.skipif(platform.python_version_tuple()[:2] > ("3", "15"), reason="it may be mended by then")
def test_a_pool_that_hangs_is_seen_to_hang() -> None:
    outcome = compare("--library", "multiprocessing", "killed_idle")["killed_idle"]["multiprocessing"]
    assert (outcome["results"], outcome["missing"], outcome["afterwards"]) == (0, 8, "no answer")


@pytest.mark.parametrize("arguments", [("killed",), ("--json", "/nowhere/x"), ("--library", "threading")], ids=" ".join)
def test_a_mistake_in_the_arguments_gets_one_line(arguments: tuple[str, ...]) -> None:
    status, out, err = finish(start(PROGRAM, *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("comparison: ")
    assert err.count("\n") == 1


def kinds(block: str) -> list[tuple[str, list[str]]]:
    """Of a report, what happened in each line, without numbers: how many get through is a matter of chance."""
    lines = [re.split(r"\s{2,}", line) for line in block.splitlines() if re.match(r"\S.*\s{2,}", line)]
    return [(cells[0], re.findall(r"(?!done)[A-Za-z]{3,}", " ".join(cells[1:]))) for cells in lines]


def test_the_page_shows_what_is_seen() -> None:
    pytest.importorskip("loky")
    pytest.importorskip("pebble")
    block = re.search(r"```console\n\$ python tests/comparison\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    if platform.python_version().rpartition(".")[0] not in block[1]:
        pytest.skip("the page was made with another Python")
    status, out, err = finish(start(PROGRAM), 2 * SECONDS)
    assert (status, err) == (0, "")
    assert kinds(out) == kinds(block[1])
