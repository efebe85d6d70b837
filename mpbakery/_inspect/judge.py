"""What is wrong, if anything: rings of waiting threads, locks of the dead, lines that do not move.

Memory is read while the program goes on, so one look can show what never was: a thread that holds one lock and waits
for another, though it gave the first one back in between. What is to be said aloud has to be there at a second look as
well, as the same acquisition and the same ticket. Then there was a moment, between the two, at which all of it was so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from mpbakery._inspect.decode import Seat
from mpbakery._inspect.model import CONVOY, FINE, LOST, STUCK
from mpbakery._inspect.people import Person, Scene, Who
from mpbakery._system.layout import RECURSIVE_LOCK

#: So many seconds pass before a second look.
SECOND_LOOK: Final = 0.1
#: In a convoy, at least so many stand in line, and this share of all who use the lock.
_CROWD: Final = 3
_SHARE: Final = 0.75


class Edge(NamedTuple):
    """A thread that holds a lock, and waits for the next one of a ring: for a lock, or for the end of a process."""

    waiter: Person
    wants: Scene | None
    child: int
    owner: Person


Ring = tuple[Edge, ...]


def needs_second_look(scene: Scene, now: float, stuck: float) -> bool:
    """Whether there may be something to say of a lock."""
    if not scene.can_be_stuck:
        return False
    return _is_lost(scene) or _longest(scene, now) > stuck or (_is_crowded(scene) and _moves(scene, now))


def judge(first: Scene, second: Scene, now: float, stuck: float) -> tuple[str, str]:
    """The verdict on a lock that was looked at twice, and a sentence about it; `now` is the time of the second look."""
    if not first.can_be_stuck:
        return FINE, ""
    if _is_lost(first) and _is_lost(second) and _same(first.holder, second.holder):
        if not second.place.robust:
            return LOST, "its holder is dead, and nobody takes over, since robust is false: only a release frees it"
        return LOST, "its holder is dead, and nobody is there to take over: whoever comes next does, with a warning"
    wait = _longest(second, now)
    if wait > stuck and _stands_still(first, second, now, stuck):
        return STUCK, _why_stuck(second, wait)
    passed = second.place.acquisitions - first.place.acquisitions
    if passed > 0 and _is_crowded(first) and _is_crowded(second):
        users = len({person.seat.slot for person in second.living} | {seat.slot for seat in second.place.seats})
        return CONVOY, f"{len(second.living)} of {users} stand in line"
    return FINE, ""


def _is_orphaned(scene: Scene) -> bool:
    return scene.holder is not None and scene.holder.is_dead


def _is_lost(scene: Scene) -> bool:
    return _is_orphaned(scene) and (not scene.place.robust or not scene.living)


def _is_crowded(scene: Scene) -> bool:
    waiting = len(scene.living)
    return waiting >= _CROWD and waiting >= _SHARE * len(scene.place.seats)


def _moves(scene: Scene, now: float) -> bool:
    """Whether it may change hands before a second look."""
    return scene.holder is None or now - scene.holder.seat.held < SECOND_LOOK


def _longest(scene: Scene, now: float) -> float:
    """For how long the one waits who has waited longest (s)."""
    return max((now - person.seat.arrived for person in scene.living if person.seat.arrived), default=0.0)


def _stands_still(first: Scene, second: Scene, now: float, stuck: float) -> bool:
    """Whether it has not changed hands for that long, or nobody takes it though it is free."""
    if second.holder is None:
        return first.holder is None and first.place.acquisitions == second.place.acquisitions
    return now - second.holder.seat.held > stuck


def _why_stuck(scene: Scene, wait: float) -> str:
    why = f"the longest wait is {wait:.1f} s"
    if scene.holder is None:
        return f"{why}, and nobody holds it: the first in line does not take it"
    if any(person.who == scene.holder.who for person in scene.living):
        return f"{why}; its holder waits for it as well, which ends only if another thread releases it"
    return why


def _same(one: Person | None, other: Person | None) -> bool:
    """Whether that is the same acquisition."""
    return one is not None and other is not None and acquisition(one.seat) == acquisition(other.seat)


def acquisition(seat: Seat) -> tuple[int, int, int, int, float, int]:
    """What tells an acquisition from all others of the same lock."""
    return seat.slot, seat.pid, seat.start, seat.thread, seat.held, seat.entered


def _attempt(seat: Seat) -> tuple[int, int, int, int, int, float]:
    return seat.slot, seat.pid, seat.start, seat.thread, seat.number, seat.arrived


# --- Deadlocks ------------------------------------------------------------------------------------------------------


def find_rings(scenes: Sequence[Scene], child_of: Callable[[Who], int]) -> list[Ring]:
    """The rings of threads of which each waits, without a limit, for what the next one has.

    `child_of(thread)` is the process whose end a thread waits for, 0 if it does not.
    """
    edges: dict[Who, list[Edge]] = {}
    for scene in scenes:
        if scene.holder is not None and _counts(scene):
            for person in scene.living:
                # one that waits for itself may be waiting for another thread's release
                if not person.seat.deadline and person.who != scene.holder.who:
                    edges.setdefault(person.who, []).append(Edge(person, scene, 0, scene.holder))
    if edges:
        _add_joins(edges, scenes, child_of)
    return [ring for ring in _cycles(edges) if _is_of_one_flow(ring)]


def _is_of_one_flow(ring: Ring) -> bool:
    """Whether each had what it holds before it came to wait: what it has got since, a signal handler will give back."""
    pairs = zip((ring[-1], *ring), ring, strict=False)
    return all(
        edge.wants is None or before.owner.seat.held < edge.waiter.seat.arrived
        for before, edge in pairs
        if before.wants
    )


def is_still_there(ring: Ring, again: Callable[[Scene], Scene | None], child_of: Callable[[Who], int]) -> bool:
    """Whether every wait in a ring is the same at a second look."""
    for edge in ring:
        if edge.wants is None:
            if child_of(edge.waiter.who) != edge.child:
                return False
            continue
        scene = again(edge.wants)
        if scene is None or not _same(scene.holder, edge.owner) or not _counts(scene):
            return False
        if _attempt(edge.waiter.seat) not in [_attempt(person.seat) for person in scene.line]:
            return False
    return True


def _counts(scene: Scene) -> bool:
    """Whether only its holder can release it, as far as one can know.

    A plain lock that another thread has ever released is used as a signal, by threads that do not hold it.
    """
    if scene.holder is None or scene.holder.is_dead or not scene.can_be_stuck:
        return False
    return scene.place.kind == RECURSIVE_LOCK or not scene.place.foreign


def _add_joins(edges: dict[Who, list[Edge]], scenes: Iterable[Scene], child_of: Callable[[Who], int]) -> None:
    """Holders that wait for the end of a process, which does not end before its main thread has what it waits for."""
    main_threads = {who.pid: waiting[0].waiter for who, waiting in edges.items() if _is_main(waiting[0].waiter)}
    for holder in {scene.holder.who: scene.holder for scene in scenes if scene.holder and _counts(scene)}.values():
        child = child_of(holder.who)
        if child in main_threads and child != holder.who.pid:
            edges.setdefault(holder.who, []).append(Edge(holder, None, child, main_threads[child]))


def _is_main(person: Person) -> bool:
    return person.seat.thread == person.seat.pid


def _cycles(edges: dict[Who, list[Edge]]) -> list[Ring]:
    """One ring for each thread that closes one; no ring twice."""
    done: set[Who] = set()
    rings = []
    for start in edges:
        path: list[Edge] = []
        on_path: dict[Who, int] = {}
        stack: list[tuple[Who, Iterator[Edge]]] = []

        def enter(who: Who, path: list[Edge] = path, on_path: dict[Who, int] = on_path) -> Iterator[Edge]:
            on_path[who] = len(path)
            done.add(who)
            return iter(edges.get(who, ()))

        if start in done:
            continue
        stack.append((start, enter(start)))
        while stack:
            who, ahead = stack[-1]
            edge = next(ahead, None)
            if edge is None:
                stack.pop()
                del on_path[who]
                if path:
                    path.pop()
                continue
            there = edge.owner.who
            if there in on_path:
                rings.append((*path[on_path[there] :], edge))
            elif there not in done:
                path.append(edge)
                stack.append((there, enter(there)))
    return rings


def deadline_left(person: Person, now: float) -> float | None:
    """How many seconds somebody goes on waiting, None for ever."""
    deadline = person.seat.deadline
    return max(0.0, deadline - now) if deadline and math.isfinite(deadline) else None
