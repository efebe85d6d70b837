"""An inspection as people read it: the verdict first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mpbakery._inspect.model import (
    CONVOY,
    DEADLOCK,
    FINE,
    LOST,
    STUCK,
    Deadlock,
    InspectedPrimitive,
    InspectedThread,
    Inspection,
    title,
)

#: So many of a line are shown, unless everything is.
_SHOWN: Final = 5


def lines(inspection: Inspection, *, free: bool = False, whole: bool = False) -> Iterator[str]:
    """What there is to say: of what is `free`, too, if that is asked for, and the `whole` lines and stacks."""
    yield _verdict(inspection)
    yield _summary(inspection)
    for ring in inspection.deadlocks:
        yield ""
        yield from _ring(ring)
    worst_first = sorted(inspection.primitives, key=lambda one: (one.verdict == FINE, not one.is_busy))
    for primitive in worst_first:
        if free or primitive.is_busy:
            yield ""
            yield from about(primitive, whole=whole)
    if inspection.notes:
        yield ""
    for note in inspection.notes:
        yield f"Note: {note}."


def _verdict(inspection: Inspection) -> str:
    verdict = inspection.verdict
    concerned = [one for one in inspection.primitives if one.verdict == verdict]
    if verdict == DEADLOCK:
        rings = inspection.deadlocks
        threads = _plural(sum(len(ring.steps) for ring in rings), "thread")
        what = "wait for each other" if len(rings) == 1 else f"wait for each other, in {len(rings)} rings"
        return f"{DEADLOCK}: {threads} {what} (seen twice, 0.1 s apart)"
    if verdict == FINE:
        return "fine: nobody waits for ever, as far as can be seen"
    first = title(concerned[0].kind, concerned[0].name) + (
        f" and {len(concerned) - 1} more" if len(concerned) > 1 else ""
    )
    return {
        STUCK: f"{STUCK}: {first} does not change hands, and others wait for it",
        LOST: f"{LOST}: who held {first} is dead",
        CONVOY: f"{CONVOY}: most of those who use {first} stand in line for it",
    }[verdict]


def _summary(inspection: Inspection) -> str:
    primitives = inspection.primitives
    held = sum(one.holder is not None for one in primitives)
    waiting = sum(len(one.waiters) for one in primitives)
    return (
        f"{_plural(len(inspection.processes), 'process', 'es')}, {_plural(len(primitives), 'primitive')}: "
        f"{held} held, {waiting} waiting"
    )


def _ring(ring: Deadlock) -> Iterator[str]:
    for step in ring.steps:
        holds = f"holds {step.holds}" if step.holds else "has not ended"
        yield f"  {_named(step.thread)} {holds}, wants {step.wants}{_at(step.thread)}"
    yield "  None of them can go on, unless another thread releases what one holds. Kill one: the others take over."


def about(one: InspectedPrimitive, *, whole: bool) -> Iterator[str]:
    name = title(one.kind, one.name)
    yield f"{name}  {one.verdict}: {one.why}" if one.verdict != FINE else name + _state(one)
    if one.holder is not None:
        yield f"  held for {_seconds(one.holder.seconds)} by {_named(one.holder)}, {one.holder.doing}"
        yield from _stack(one.holder, whole=whole)
    shown = one.waiters if whole else one.waiters[:_SHOWN]
    for place, waiter in enumerate(shown, 1):
        doing = "" if waiter.doing == "waiting" else f"  {waiter.doing}"
        limit = "" if waiter.gives_up_in is None else f"  gives up in {_seconds(waiter.gives_up_in)}"
        yield f"  {place}. {_named(waiter)}  {_seconds(waiter.seconds)}{doing}{limit}{_at(waiter)}"
        if whole:
            yield from _stack(waiter, whole=True)
    if len(one.waiters) > len(shown):
        yield f"  … {len(one.waiters) - len(shown)} more"


def _state(one: InspectedPrimitive) -> str:
    if one.value is None:
        return "" if one.holder or one.waiters else "  free"
    if one.kind == "Barrier":
        return f"  {len(one.waiters)} of {one.value} are there"
    if one.kind == "Event":
        return "  set" if one.value else "  not set"
    return f"  {_plural(one.value, 'permit')} left"


def _stack(thread: InspectedThread, *, whole: bool) -> Iterator[str]:
    for call in thread.stack if whole else thread.stack[:1]:
        yield f"      at {call}"


def _at(thread: InspectedThread) -> str:
    return f"  at {thread.stack[0]}" if thread.stack else ""


def _named(thread: InspectedThread) -> str:
    # of a process with one thread, the thread has the number of the process
    number = f"{thread.pid}" if thread.pid == thread.thread else f"{thread.pid}, thread {thread.thread}"
    return f"{thread.process} ({number})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def _plural(number: int, noun: str, ending: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else ending}"
