"""Signals and exceptions at every bytecode of the lock beyond one machine: nothing is left held, nobody in line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.postgres import Server
from cluster.situations import SITUATIONS, strike
from conftest import FIGURES
from evidence.signals.points import Report
from support.workers import Crew, expect

pytest_plugins = ["cluster.fixtures"]

#: What must not even come of an exception where no interpreter lets a handler run.
NEVER = {"two in at once", "not held by who thinks so"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_point_of(crew: Crew, server: Server, name: str, record_property: Callable[[str, object], None]) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(strike, theirs, name, server.url())
    theirs.close()
    report = expect(ours, 90)
    crew.finish()
    assert isinstance(report, Report)
    record_property(FIGURES, f"{name}: {report}")
    assert not report.wrong, "\n".join(report.wrong[:10])
    assert 50 < report.handled < report.points
    assert not NEVER & set(report.elsewhere), report
