"""A process is killed after each of its operations on a primitive's shared memory, one process for each."""

from __future__ import annotations

import itertools
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from evidence.crashes import barrier_scenes, condition_scenes, event_scenes, rlock_scenes, semaphore_scenes
from evidence.crashes.barrier_scenes import ComeFirst, ComeLast
from evidence.crashes.condition_scenes import PassNotificationOn, WaitForNotification
from evidence.crashes.crashes import Fault, Report, Scene, direct
from evidence.crashes.event_scenes import SetEvent
from evidence.crashes.meter import RETURNED
from evidence.crashes.rlock_scenes import HoldRLockTwice
from evidence.crashes.scenes import SCENES, AcquireBehindHolder, Hold, Register, Release, ReleaseForAnother
from evidence.crashes.semaphore_scenes import GivePermit, TakePermitInLine
from support.broken import (
    believe_in_eternal_life,
    clear_before_counting,
    count_the_dead,
    keep_the_dead,
    raise_high_too_late,
    release_at_once,
    tell_nobody,
    tell_twice,
    tidy_up_first,
    trust_to_be_let_go,
    trust_who_sets_out,
)
from support.workers import DEADLINE, Crew, expect

#: The next one is to have what it waits for within a quarter of a second; on a loaded machine within this (s).
HANDED_OVER = 5.0

FAMILY_SCENES = (
    *rlock_scenes.SCENES,
    *semaphore_scenes.SCENES,
    *event_scenes.SCENES,
    *condition_scenes.SCENES,
    *barrier_scenes.SCENES,
)

#: How many victims are played with at a time.
CASTS = 4
#: More operations than any scene has that needs a new lock for each.
MANY = 60


def play(ctx: BaseContext, crew: Crew, scene: Scene[Any], limit: float = HANDED_OVER) -> Report:
    """What becomes of the victims of a scene, whose primitives are sent by a start method."""
    primitives = [scene.make(ctx) for _ in range(MANY if scene.fresh else CASTS)]
    pipes = [ctx.Pipe(duplex=False) for _ in range(CASTS)]
    crew.start(direct, [theirs for _ours, theirs in pipes], primitives, scene, limit)
    for _ours, theirs in pipes:
        theirs.close()
    reports: list[Report] = [expect(ours, DEADLINE) for ours, _theirs in pipes]
    crew.finish()
    return Report(
        {fatal: end for report in reports for fatal, end in report.ends.items()},
        {fatal: outcome for report in reports for fatal, outcome in report.outcomes.items()},
        next((report.wrong for report in reports if report.wrong), ""),
        sum(report.torn for report in reports),
    )


def check(report: Report, scene: type[Scene[Any]]) -> None:
    """Insist that each victim of a scene has ended as it should."""
    assert not report.wrong, report.wrong
    victims = sorted(report.ends)
    seen = tuple(outcome for outcome, _ in itertools.groupby(report.outcomes[fatal] for fatal in victims))
    assert seen == scene.outcomes, f"survivors saw {seen}, one after the other, instead of {scene.outcomes}"
    operations = [report.ends[fatal].operation for fatal in victims]
    assert victims == [*range(len(victims))]
    assert operations.index(RETURNED) == len(victims) - CASTS, "each cast has played until its victim came to the end"
    assert not scene.fresh or len(victims) - CASTS < MANY
    assert scene.operations <= set(operations)
    assert (report.torn > 0) is scene.tears


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_after_every_operation(ctx: BaseContext, ctx_crew: Crew, scene: type[Scene[Any]]) -> None:
    check(play(ctx, ctx_crew, scene()), scene)


@pytest.mark.parametrize("scene", FAMILY_SCENES, ids=lambda scene: scene.__name__)
def test_killed_after_every_operation_on_the_family(fork: BaseContext, crew: Crew, scene: type[Scene[Any]]) -> None:
    check(play(fork, crew, scene()), scene)


FAULTS: list[tuple[type[Scene[Any]], Fault, float, str]] = [
    (AcquireBehindHolder, believe_in_eternal_life, 1.0, "the heir did not get the lock within"),
    (Release, keep_the_dead, HANDED_OVER, r"operation 0 \(none\): SlotsExhausted"),
    (Register, raise_high_too_late, HANDED_OVER, r"\(store PID\[0\]\): SlotsExhausted"),
    (Release, tell_twice, HANDED_OVER, r"operation 0 \(none\): .*told of the deaths of \[(\d+), \1\] instead"),
    (Hold, tell_nobody, HANDED_OVER, r"operation 0 \(none\): .*told of the deaths of \[\] instead"),
    (ReleaseForAnother, trust_who_sets_out, HANDED_OVER, "the heir has the lock, and so has|nobody holds"),
    (HoldRLockTwice, tell_nobody, HANDED_OVER, r"operation 0 \(none\): .*told of the deaths of \[\] instead"),
    (HoldRLockTwice, release_at_once, HANDED_OVER, r"survivors saw \(True, False\)"),
    (TakePermitInLine, believe_in_eternal_life, 1.0, "a sleeping heir|an heir was through only after"),
    (GivePermit, clear_before_counting, HANDED_OVER, r"survivors saw \(1, 0, "),
    (SetEvent, trust_to_be_let_go, 1.0, "an heir was through only after"),
    (WaitForNotification, trust_to_be_let_go, 1.0, "an heir was through only after"),
    (PassNotificationOn, tidy_up_first, HANDED_OVER, r"survivors saw \(1, 0, 1\)"),
    (ComeFirst, count_the_dead, HANDED_OVER, r"let through: .* instead of \[False, False\]"),
    (ComeLast, trust_to_be_let_go, 1.0, "an heir was through only after"),
]


@pytest.mark.parametrize(
    ("scene", "fault", "limit", "wrong"),
    FAULTS,
    ids=[f"{scene.__name__}-{fault.__name__}" for scene, fault, _limit, _wrong in FAULTS],
)
def test_a_broken_lock_is_found_out(
    fork: BaseContext, crew: Crew, scene: type[Scene[Any]], fault: Fault, limit: float, wrong: str
) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check(play(fork, crew, scene(fault), limit), scene)
