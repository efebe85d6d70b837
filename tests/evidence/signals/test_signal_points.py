"""Signals and exceptions at every bytecode: where handlers run, nothing is left behind, whatever the handler does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from conftest import FIGURES
from evidence.signals.points import Report
from evidence.signals.situations import SITUATIONS, Comparison, compare_with_storm, strike_situation
from support.workers import DEADLINE, Crew, expect

#: What must not even come of an exception where no interpreter lets a handler run.
NEVER = {"two in at once", "not held by who thinks so", "the holder was changed"}

#: What cannot be kept on CPython 3.10, and why.
NOT_ON_310 = {"TakeOverRefused": "handlers run before an `except`, and one that raises there is the second exception"}


def situation(name: str) -> Any:
    reason = NOT_ON_310.get(name, "")
    return pytest.param(name, marks=pytest.mark.xfail(bool(reason) and sys.version_info < (3, 11), reason=reason))


@pytest.mark.parametrize("name", [situation(name) for name in SITUATIONS])
def test_every_point_of(crew: Crew, name: str, record_property: Callable[[str, object], None]) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(strike_situation, theirs, name)
    theirs.close()
    report = expect(ours, DEADLINE)
    crew.finish()
    assert isinstance(report, Report)
    record_property(FIGURES, f"{name}: {report}")
    assert not report.wrong, "\n".join(report.wrong)
    assert 0 < report.handled < report.points
    assert not NEVER & set(report.elsewhere), report
    # where others have a say, or the clock, a point need not come again
    assert report.missed <= (0 if SITUATIONS[name].visits is None else report.points // 10)


@pytest.mark.serial
@pytest.mark.parametrize(("what", "kinds"), [("many_kinds", 5), ("With", 2)])
def test_real_signals_are_handled_where_they_are_said_to_be(crew: Crew, what: str, kinds: int) -> None:
    """Tracing could change where handlers run, and the tests above would strike at the wrong points."""
    ours, theirs = crew.context.Pipe()
    crew.start(compare_with_storm, theirs, what, 4_000, storm=True)
    comparison: Comparison = expect(ours, DEADLINE)
    crew.finish()
    missing = comparison.seen - comparison.expected
    assert not missing, f"handlers run at points that nothing strikes at: {missing}"
    assert len(comparison.seen) >= len(comparison.expected) / 2
    assert len(comparison.kinds) >= kinds, comparison
