"""Every example of the documentation runs, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpbakery._system.native import FREE_THREADED

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```output\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
#: A piece of a program, which shows a form of words rather than a program.
FRAGMENT = re.compile(r"^with lock:\n    \.\.\.\n\Z")


def examples() -> list[object]:
    return [
        pytest.param(match["code"], match["output"], id=f"{page.stem}-{number}")
        for page in PAGES
        if page.stem != "cluster"  # whose examples need a server: see tests/cluster
        for number, match in enumerate(BLOCK.finditer(page.read_text()), 1)
        if not FRAGMENT.match(match["code"])
    ]


def test_there_are_examples_on_every_page_that_has_code() -> None:
    assert len(examples()) >= 10


@pytest.mark.parametrize(("code", "output"), examples())
def test_example(code: str, output: str | None, tmp_path: Path) -> None:
    for module in ("tqdm", "rich"):
        if f"import {module}" in code:
            pytest.importorskip(module, reason=f"{module}, which an example uses, is not installed here")
    if "RLIMIT_AS" in code and FREE_THREADED:
        pytest.skip("the interpreter has mapped a gigabyte ahead, in which it finds the memory all the same")
    script = tmp_path / "example.py"
    script.write_text(code)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    if output is not None:
        assert run.stdout == output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in target:
            there = page.parent / target if target else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to as."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "folder"), [("CONTRIBUTING.md", "mpbakery"), ("tests/README.md", "tests")])
def test_every_module_has_its_line(page: str, folder: str) -> None:
    text = (ROOT / page).read_text()
    modules = [path.name for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 30
    assert [name for name in modules if f"{name}`" not in text] == []


def test_every_word_of_the_header_is_in_the_layout() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    source = (ROOT / "mpbakery" / "_system" / "layout.py").read_text()
    header = source[source.index("# The header.") : source.index("IDLE: ")]
    words = {name: int(at) for name, at in re.findall(r"^([A-Z]+)(?:_AT)?: Final = (\d+)", header, re.MULTILINE)}
    assert len(words) > 15
    for name, at in words.items():
        shown = "number" if name == "NUMBERS" else name
        assert re.search(rf"(?<!\d){at}(-\d+)?  +{shown}", page), f"word {at}, {name}"
