"""Whether the fences are enough on ARM and on x86, and whether each of them is needed: herd7 tries all that can happen.

`tox run -e litmus`; herd7 is Debian's package herdtools7.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evidence.litmus import herd
from evidence.litmus.patterns import FENCES, PATTERNS
from evidence.litmus.program import ARM, X86, Pattern

PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"

ON_EACH = [
    pytest.param(pattern, machine, id=f"{machine}-{pattern.title}")
    for pattern in PATTERNS
    for machine in pattern.machines
]
ON_ARM = [
    pytest.param(pattern, fence, id=f"{fence}-{pattern.title}") for pattern in PATTERNS for fence in pattern.fences
]

needs_herd = pytest.mark.skipif(herd.command() is None, reason="herd7 is not installed")


@needs_herd
@pytest.mark.parametrize(("pattern", "machine"), ON_EACH)
def test_it_cannot_come_about_with_the_fences_that_the_machine_gets(pattern: Pattern, machine: str) -> None:
    fences = [name for name in pattern.fences if FENCES[name].full or machine != X86]
    assert not herd.allows(pattern.text(machine, fences))


@needs_herd
@pytest.mark.parametrize(("pattern", "fence"), ON_ARM)
def test_on_arm_it_can_without_any_one_of_them(pattern: Pattern, fence: str) -> None:
    assert herd.allows(pattern.text(ARM, [name for name in pattern.fences if name != fence]))


@needs_herd
@pytest.mark.parametrize("fence", [name for name, one in FENCES.items() if one.full])
def test_on_x86_each_full_fence_is_needed_somewhere(fence: str) -> None:
    patterns = [pattern for pattern in PATTERNS if X86 in pattern.machines and fence in pattern.fences]
    assert any(herd.allows(one.text(X86, [name for name in one.fences if name != fence])) for one in patterns)


def test_every_fence_is_in_a_pattern_and_every_pattern_has_its_own_title() -> None:
    assert {name for pattern in PATTERNS if ARM in pattern.machines for name in pattern.fences} == set(FENCES)
    assert len({pattern.title for pattern in PATTERNS}) == len(PATTERNS)


def test_the_tables_of_the_page_are_these() -> None:
    page = PAGE.read_text()
    for full, head in ((True, "fence"), (False, "order fence")):
        table = re.search(
            rf"^\| {head} \| between \| without it \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE
        )
        assert table is not None
        rows = [f"| {name} | {one.between} | {one.without} |" for name, one in FENCES.items() if one.full is full]
        assert table[1].splitlines() == rows


@needs_herd
def test_what_is_no_litmus_test_is_an_error() -> None:
    with pytest.raises(herd.HerdError):
        herd.allows("AArch64 x\n{ }\n P0 ;\n JUMP ;\nexists (0:X0=0)\n")
