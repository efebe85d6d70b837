"""Whether the benchmark runs; what it measures is not for a test to say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

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
