"""Whether the benchmark runs; what it measures is not for a test to say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmark import screenshot
from support.scripts import finish, start

pytestmark = pytest.mark.tools

PROGRAM = str(Path(__file__).parent)


def test_every_section_has_figures(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    status, out, err = finish(start(PROGRAM, "--quick", "--json", str(results)), 110.0)
    assert status == 0, err
    report = json.loads(results.read_text())
    sections = list(dict.fromkeys(figure["section"] for figure in report["figures"]))
    assert err.splitlines() == [f"{section} ..." for section in sections]
    assert list(report["used_by_others"]) == sections
    assert all(f"-- {section} --" in out for section in sections if section != "peers")
    assert re.search(r"^multiprocessing.Lock .* nobody gets it in ", out, re.MULTILINE)
    assert len(sections) >= 12


@pytest.mark.parametrize("arguments", [("speed",), ("--json", "/nowhere/x"), ("--fast",)], ids=" ".join)
def test_a_mistake_in_the_arguments_gets_one_line(arguments: tuple[str, ...]) -> None:
    status, out, err = finish(start(PROGRAM, *arguments))
    assert (status, out) == (2, "")
    assert err.startswith("benchmark: ")
    assert err.count("\n") == 1


def test_the_picture_in_the_readme_is_of_a_screen_like_that(tmp_path: Path) -> None:
    script, new = Path(screenshot.__file__), tmp_path / "top.svg"
    status, out, err = finish(start(str(script), str(new)), 110.0)
    assert (status, out, err) == (0, "", "")
    pictures = [new.read_text(), (script.parents[2] / "docs" / "top.svg").read_text()]
    names = [sorted(re.findall(r">\w+ '([\w ]+)' ", text)) for text in pictures]
    assert names[0] == names[1] == ["accounts", "audit log", "closing time", "counter", "desks", "ledger"]
    assert [text.count("DEADLOCK: one of a ring") for text in pictures] == [2, 2]
    assert ET.fromstring(pictures[0]).tag.endswith("svg")
