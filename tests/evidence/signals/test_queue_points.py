"""A handler at every bytecode of a queue's code: no item comes twice, at most its own is lost, nothing stays open."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import FIGURES
from evidence.signals.points import Report
from evidence.signals.queue_situations import SITUATIONS, strike_queue
from support.workers import DEADLINE, Crew, expect

#: In these, a thread sends what there is no room for, and how far it is makes a difference.
_BESIDE_A_THREAD = {"PutBehind", "PutFirst"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_point_of_a_queue(crew: Crew, name: str, record_property: Callable[[str, object], None]) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(strike_queue, theirs, name)
    theirs.close()
    report = expect(ours, DEADLINE)
    crew.finish()
    assert isinstance(report, Report)
    record_property(FIGURES, f"queue, {name}: {report}")
    assert not report.wrong, "\n".join(report.wrong)
    assert 0 < report.handled < report.points
    assert report.missed <= (report.points // 50 if name in _BESIDE_A_THREAD else 0)
