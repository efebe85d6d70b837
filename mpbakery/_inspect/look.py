"""`inspect`: a program at one moment, as values."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from mpbakery._inspect import judge, stacks
from mpbakery._inspect.decode import LOCKS, SEMAPHORES, Place
from mpbakery._inspect.family import Family, Key
from mpbakery._inspect.judge import Ring
from mpbakery._inspect.model import (
    DEADLOCK,
    FINE,
    VERDICTS,
    Deadlock,
    DeadlockStep,
    InspectedPrimitive,
    InspectedThread,
    Inspection,
    title,
)
from mpbakery._inspect.people import People, Person, Scene, Who
from mpbakery._system.layout import BARRIER, EVENT
from mpbakery._system.native import sleep

#: What those do who are neither dead nor stopped.
_AT_WORK: Final = ("asleep", "running")
#: How long somebody has to wait, without that the lock changes hands, before it counts as stuck (s).
STUCK_AFTER: Final = 10.0


def inspect(pid: int | None = None, *, stuck: float = STUCK_AFTER) -> Inspection:
    """Look at a running program: at everything of mpbakery in it, who holds it, who waits, and whether all is well.

    The program need not be prepared, does not notice, and need not be able to answer.

    Args:
        pid: any process of the program; None for the one that this call is made in.
        stuck: how many seconds somebody has to wait for a lock that does not change hands before it counts as stuck.

    Returns:
        What was seen; parts of it may be a moment apart. Whatever is not fine was seen twice, 0.1 s apart.

    Raises:
        InspectionError: there is no such process, or it has nothing of mpbakery, or it may not be looked into.
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
    """
    if pid is not None and (not isinstance(pid, int) or isinstance(pid, bool)):
        raise TypeError(f"pid is {pid!r}: give the number of a process, or None for this one")
    if pid is not None and not 0 < pid < 1 << 31:
        raise ValueError(f"pid is {pid}: give the number of a process, or None for this one")
    return _inspect(os.getpid() if pid is None else pid, checked_stuck(stuck), by_tools=True)


def inspect_here(stuck: float) -> Inspection:
    """The same for this process's program, without starting others: a signal handler may call it."""
    return _inspect(os.getpid(), stuck, by_tools=False)


def checked_stuck(stuck: float) -> float:
    """That number of seconds. Raises TypeError and ValueError for what is none."""
    if not isinstance(stuck, (int, float)):
        raise TypeError(f"stuck is {stuck!r}: give a number of seconds")
    if math.isnan(stuck) or stuck <= 0:
        raise ValueError(f"stuck is {stuck!r}: give a number of seconds above 0")
    return stuck


def _inspect(pid: int, stuck: float, *, by_tools: bool) -> Inspection:
    family = Family(pid)
    try:
        return _Look(family, stuck, by_tools).result()
    finally:
        family.close()


class _Look:
    def __init__(self, family: Family, stuck: float, by_tools: bool) -> None:
        self._family = family
        self._stuck = stuck
        self._by_tools = by_tools
        self._people = People(family)
        self._now = time.monotonic()
        self._scenes = [self._people.scene(seen, seen.place) for seen in family.primitives()]
        self._awaited: dict[Who, str] | None = None

    def result(self) -> Inspection:
        """Everything, looked at twice where that is called for."""
        busy = [scene for scene in self._scenes if scene.holder or scene.line]
        rings = judge.find_rings(busy, self._people.awaited_child)
        twice = {scene.key for scene in busy if judge.needs_second_look(scene, self._now, self._stuck)}
        twice |= {edge.wants.key for ring in rings for edge in ring if edge.wants}
        verdicts: dict[Key, tuple[str, str]] = {}
        if rings or twice:
            sleep(judge.SECOND_LOOK)
            later = self._look_again(twice)
            rings = [ring for ring in rings if self._is_still_there(ring, later)]
            first = {scene.key: scene for scene in self._scenes}
            verdicts = {key: judge.judge(first[key], scene, self._now, self._stuck) for key, scene in later.items()}
            for ring in rings:
                for edge in ring:
                    if edge.wants:
                        verdicts[edge.wants.key] = DEADLOCK, "one of a ring"
            self._scenes = [later.get(scene.key, scene) for scene in self._scenes]
        worst = max((verdict for verdict, _ in verdicts.values()), key=VERDICTS.index, default=FINE)
        where = stacks.Stacks()
        if os.getpid() in self._family.members:
            where.see_own()
        if worst != FINE and self._by_tools:
            where.see(self._to_see(verdicts, rings), self._family.notes)
        return Inspection(
            pid=self._family.pid,
            verdict=worst,
            processes=tuple(sorted(self._family.members)),
            primitives=tuple(self._primitive(scene, verdicts, where) for scene in self._scenes),
            deadlocks=tuple(self._deadlock(ring, where) for ring in rings),
            notes=tuple(self._family.notes),
        )

    def _look_again(self, keys: Iterable[Key]) -> dict[Key, Scene]:
        self._people.forget_deaths()
        self._now = time.monotonic()
        wanted = set(keys)
        later = {}
        for scene in self._scenes:
            if scene.key in wanted and (place := scene.seen.again()) is not None:
                later[scene.key] = self._people.scene(scene.seen, place)
        return later

    def _is_still_there(self, ring: Ring, later: dict[Key, Scene]) -> bool:
        return judge.is_still_there(ring, lambda scene: later.get(scene.key), self._people.awaited_child)

    def _to_see(self, verdicts: dict[Key, tuple[str, str]], rings: list[Ring]) -> list[Who]:
        """Those whose stacks are worth a look, the most important first."""
        people = [edge.waiter for ring in rings for edge in ring]
        for scene in self._scenes:
            if verdicts.get(scene.key, (FINE, ""))[0] != FINE:
                people += [scene.holder] if scene.holder else []
                people += scene.line
        return [person.who for person in people if not person.is_dead and person.who.pid in self._family.members]

    def _deadlock(self, ring: Ring, where: stacks.Stacks) -> Deadlock:
        steps = []
        for before, edge in zip((ring[-1], *ring), ring, strict=False):
            holds = _title(before.wants.place) if before.wants else ""
            wants = _title(edge.wants.place) if edge.wants else f"the end of process {edge.child}"
            since = edge.waiter.seat.arrived if edge.wants else edge.waiter.seat.held
            steps.append(DeadlockStep(self._thread(edge.waiter, since, where), holds, wants))
        return Deadlock(tuple(steps))

    def _primitive(
        self, scene: Scene, verdicts: dict[Key, tuple[str, str]], where: stacks.Stacks
    ) -> InspectedPrimitive:
        place = scene.place
        verdict, why = verdicts.get(scene.key, (FINE, ""))
        holder = scene.holder
        return InspectedPrimitive(
            kind=place.type,
            name=place.name,
            identity=place.identity,
            verdict=verdict,
            why=why,
            holder=holder and self._holder(scene, holder, where),
            waiters=tuple(self._thread(person, person.seat.arrived, where, waits=True) for person in scene.line),
            robust=place.robust,
            acquisitions=place.acquisitions,
            recoveries=place.recoveries if place.kind in LOCKS else 0,
            slots=place.slots,
            slots_in_use=len(place.seats),
            value=_value(place),
            lock=place.link,
        )

    def _holder(self, scene: Scene, holder: Person, where: stacks.Stacks) -> InspectedThread:
        seen = self._thread(holder, holder.seat.held, where)
        if holder.is_dead:
            return seen
        place = scene.seen.again()
        if place is None or place.owner is None or judge.acquisition(place.owner) != judge.acquisition(holder.seat):
            # what it does now, it does without the lock
            return replace(seen, doing="who has gone on since", stack=())
        return seen

    def _thread(self, person: Person, since: float, where: stacks.Stacks, *, waits: bool = False) -> InspectedThread:
        return InspectedThread(
            pid=person.who.pid,
            thread=person.who.thread,
            process=person.seat.process,
            alive=not person.is_dead,
            doing=self._doing(person, waits=waits),
            seconds=max(0.0, self._now - since) if since else 0.0,
            gives_up_in=judge.deadline_left(person, self._now) if waits else None,
            stack=where.of(person.who),
        )

    def _doing(self, person: Person, *, waits: bool) -> str:
        words = self._people.describe(person)
        if not words.startswith(_AT_WORK):
            return words
        if waits:
            return "waiting"
        # whoever waits looks now and then, and is not asleep at that moment
        awaited = self._awaited_by(person.who)
        return f"waiting for {awaited}" if awaited else words

    def _awaited_by(self, who: Who) -> str:
        if self._awaited is None:
            self._awaited = {
                person.who: _title(scene.place) for scene in self._scenes for person in scene.line if not person.is_dead
            }
        return self._awaited.get(who, "")


def _title(place: Place) -> str:
    return title(place.type, place.name)


def _value(place: Place) -> int | None:
    if place.kind in SEMAPHORES:
        return place.permits
    if place.kind == BARRIER:
        return place.value
    return int(place.flag) if place.kind == EVENT else None
