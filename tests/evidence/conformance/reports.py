"""What a unit says while it runs, and what that amounts to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from evidence.conformance.exclusions import EXCLUSIONS, Exclusion
from evidence.conformance.units import THEIRS, Unit

#: Where a unit is told what it is: the arguments of a program do not reach a fork server.
VARIABLE: Final = "MPBAKERY_CONFORMANCE_UNIT"

# The outcomes in a report. Of a test:
KNOWN: Final = "known"
STARTED: Final = "started"
PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
# Of a unit, which is then not run: this Python comes without the tests, or the place cannot be made.
MISSING: Final = "missing"
REFUSED: Final = "refused"
#: CPython's own check found a process or a thread that was left when the tests had ended.
ALTERED: Final = "altered"


@dataclass
class Row:
    """What came of a unit."""

    unit: Unit
    version: str
    seconds: float = 0.0
    ran: int = 0
    passed: int = 0
    failed: int = 0
    excluded: int = 0
    skipped: int = 0
    #: by test, why it skipped itself
    skips: dict[str, str] = field(default_factory=dict)
    #: why it was not run; "" if it was
    lack: str = ""
    #: what is wrong, and what tells more about it
    problems: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


def judge(row: Row, report: str, exclusions: Sequence[Exclusion] = EXCLUSIONS) -> None:
    """Count what a report tells, and find what is wrong with it."""
    known = {exclusion.test: exclusion for exclusion in exclusions if exclusion.concerns(row.unit)}
    of: dict[str, set[str]] = {
        outcome: set() for outcome in (KNOWN, STARTED, PASSED, FAILED, SKIPPED, MISSING, REFUSED, ALTERED)
    }
    for line in report.splitlines():
        name, outcome, text = json.loads(line)
        of[outcome].add(name)
        if outcome in {MISSING, REFUSED}:
            row.lack = text
        if outcome == SKIPPED:
            row.skips[name] = text
        if outcome == FAILED and name not in known:
            row.details.append(f"{name}: {text}")
    if row.lack:
        return
    # of a test with parts, some may have failed, and others be skipped
    of[PASSED] -= of[FAILED]
    of[SKIPPED] -= of[FAILED]
    row.ran = len(of[PASSED] | of[FAILED])
    row.passed = len(of[PASSED])
    row.failed = len(of[FAILED])
    row.excluded = len(known.keys() & of[KNOWN])
    row.skipped = len(of[SKIPPED])
    row.problems.extend(_problems(row, of, known))


def _problems(row: Row, of: dict[str, set[str]], known: dict[str, Exclusion]) -> Iterator[str]:
    for name in of[STARTED] - of[PASSED] - of[FAILED] - of[SKIPPED]:
        yield f"{name} hangs, or ended its process"
    for name in known.keys() - of[KNOWN]:
        yield f"{name} is excluded, and there is no such test"
    if not row.passed:
        yield "no test passed"
    if row.unit.whose == THEIRS:
        # What multiprocessing fails is its own affair; but what is said of it has to be true.
        for name, exclusion in known.items():
            if exclusion.theirs and name in of[PASSED]:
                yield f"{name} is said to fail for multiprocessing as well, but passes"
            if not exclusion.theirs and name in of[FAILED]:
                yield f"{name} is said to fail for mpbakery alone, but fails for multiprocessing as well"
        return
    for name in of[FAILED] - known.keys():
        yield f"{name} fails"
    for name in known.keys() & (of[PASSED] | of[SKIPPED]):
        if not known[name].varies:
            yield f"{name} is excluded, but {'passes' if name in of[PASSED] else 'skips itself'}"
    if of[ALTERED]:
        yield "a process or a thread was left when the tests had ended"


def left_out(unit: Unit, exclusions: Sequence[Exclusion] = EXCLUSIONS) -> list[str]:
    """The tests that are not run at all."""
    return [exclusion.test for exclusion in exclusions if exclusion.concerns(unit) and not exclusion.run]
