"""The processes of one program, and the segments that they share: found from any one of them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from mpbakery._errors import InspectionError, reraise_handlers
from mpbakery._inspect.decode import Budget, Place, is_of_other_layout, place_at, places, segment_in
from mpbakery._system import identity, procfs, segments
from mpbakery._system.identity import Process
from mpbakery._system.procfs import File, Mapping, Memory, Read, Relations

#: More than that many namespaces deep, no system goes.
_DEEPEST: Final = 64


#: Which primitive it is: the segment, and the place in it.
Key = tuple[int, int]


class Shared(NamedTuple):
    """A segment, and how to read it."""

    identity: int
    size: int
    read: Read
    close: Callable[[], None]


class Seen(NamedTuple):
    """A primitive, and where it was read."""

    segment: Shared
    place: Place

    @property
    def key(self) -> Key:
        """What tells it from all others, even where memory is forged, and an identity is there twice."""
        return self.segment.identity, self.place.offset

    def again(self) -> Place | None:
        """The same primitive, as it is now."""
        try:
            place = place_at(self.segment.read, self.segment.size, self.place.offset, Budget())
        except OSError as error:
            reraise_handlers(error)
            return None
        return place if place is not None and place.identity == self.place.identity else None


class Family:
    """The processes that share segments with one process, all their descendants included.

    Raises InspectionError where there is nothing to see, or no permission to see it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: what could not be seen, for people
        self.notes: list[str] = []
        #: the processes that have segments of ours, and the identities of these
        self.members: dict[int, set[int]] = {}
        self._own = os.getpid()
        everyone = _everyone()
        self._parents = {pid: relations.parent for pid, relations in everyone.items()}
        self._sessions = {pid: relations.session for pid, relations in everyone.items()}
        self._children: dict[int, list[int]] = {}
        for child, parent in self._parents.items():
            self._children.setdefault(parent, []).append(child)
        self._visited: set[int] = set()
        self._refused: set[int] = set()
        self._mappings: dict[int, list[Mapping] | None] = {}
        self._segments: dict[File, Shared | None] = {}
        self._identities: dict[int, Shared] = {}
        self._seen: dict[int, list[Seen]] = {}
        self._budget = Budget()
        self._hosts: dict[tuple[int, int], int] | None = None
        self._avoid = _own_files()
        self._adopt_own()
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what was opened for reading."""
        for shared in self._identities.values():
            shared.close()
        self._identities = {}

    def primitives(self) -> Iterator[Seen]:
        """Everything in all segments."""
        for seen in self._seen.values():
            yield from seen

    def programs(self) -> Iterator[tuple[list[int], list[Place]]]:
        """Those of the processes that share something, and what they share: one may have started another program."""
        left = dict(self.members)
        while left:
            pids = [min(left)]
            identities = left.pop(pids[0])
            while joining := [pid for pid in left if not identities.isdisjoint(left[pid])]:
                pids += joining
                identities = identities.union(*map(left.pop, joining))
            yield sorted(pids), [seen.place for identity in identities for seen in self._seen.get(identity, ())]

    # --- Which process is which -----------------------------------------------------------------------------------

    def host_of(self, pid: int, namespace: int) -> int | None:
        """What a process of a namespace is called here: 0 if there is none such any more, None if nobody can tell."""
        if not identity.is_foreign(namespace):
            return pid
        if self._hosts is None:
            self._hosts = _numbers_inside(self._parents)
        host = self._hosts.get((namespace, pid))
        if host is not None:
            return host
        return 0 if any(known == namespace for known, _ in self._hosts) else None

    def is_dead(self, host: int | None, start: int) -> bool:
        """Whether a process is proved to be gone."""
        if host is None:
            return False
        return host == 0 or (host != self._own and identity.is_dead(Process(host, start)))

    # --- The search -----------------------------------------------------------------------------------------------

    def _adopt_own(self) -> None:
        """This process reads its own segments where they are: to open and close their files would cost it its locks."""
        for segment in segments.here():
            mapping = segment.mapping
            shared = Shared(segment.identity, segment.size, _reader(mapping), _nothing)
            self._identities[segment.identity] = shared
            if segment.claims.is_intact():
                self._segments[procfs.file_of(segment.claims.descriptor)] = shared

    def _find(self) -> None:
        if self.pid == self._own and self._identities:
            self.members[self.pid] = set(self._identities)
            self._look_into(list(self._identities.values()))
        elif not procfs.is_here(self.pid):
            raise InspectionError(f"there is no process {self.pid}")
        self._visit(self.pid)
        while self._climb() or self._follow_slots() or self._look_around():
            pass
        if not self.members and self.pid in self._refused:
            raise InspectionError(_refusal(self.pid))
        if not self.members:
            raise InspectionError(
                f"neither process {self.pid} nor any descendant of it has a lock of mpbakery"
                + "".join(f"; {note}" for note in self.notes)
            )
        hidden = len(self._refused)
        if hidden:
            self.notes.append(f"{hidden} of its processes may not be looked into: run this with sudo to see all")
        if self._budget.is_spent:
            self.notes.append("there is more than can be read, and the rest is left out")

    def _visit(self, root: int) -> bool:
        """Take a process and all its descendants in; whether any of them is new."""
        waiting, new = [root], False
        while waiting:
            pid = waiting.pop()
            if pid in self._visited:
                continue
            self._visited.add(pid)
            new = True
            waiting += self._children.get(pid, [])
            mappings = self._maps(pid)
            if mappings is None:
                self._refused.add(pid)
                continue
            found = [shared for mapping in mappings if (shared := self._segment_of(pid, mapping))]
            if found:
                self.members.setdefault(pid, set()).update(shared.identity for shared in found)
                self._look_into(found)
        return new

    def _climb(self) -> bool:
        """Take in the highest ancestor of each that shares a segment with it; whether any is new."""
        new = False
        for pid in list(self._visited):
            highest, ancestor = pid, self._parents.get(pid, 0)
            for _ in range(_DEEPEST):
                if ancestor == 0 or ancestor in self._visited:
                    break
                # in between there may be a server of forks, or a shell, that has none itself
                if self._shares(ancestor):
                    highest = ancestor
                ancestor = self._parents.get(ancestor, 0)
            if highest != pid:
                new = self._visit(highest) or new
        return new

    def _follow_slots(self) -> bool:
        """Take in those who have a slot and are no kin, since they lost their parents; whether any is new."""
        new = False
        for pid, namespace, start in {
            (seat.pid, seen.place.namespace, seat.start) for seen in self.primitives() for seat in seen.place.seats
        }:
            host = self.host_of(pid, namespace)
            if not host or host in self._visited or self.is_dead(host, start):
                continue
            if self._shares(host):
                new = self._visit(host) or new
        return new

    def _look_around(self) -> bool:
        """Take in those of the same sessions who share a segment without being kin; whether there are any."""
        sessions = {self._sessions.get(pid) for pid in self.members}
        new = False
        for pid, session in self._sessions.items():
            if session in sessions and pid not in self._visited and self._shares(pid):
                new = self._visit(pid) or new
        return new

    def _shares(self, pid: int) -> bool:
        """Whether a process has a segment of the family."""
        return any(
            (shared := self._segments.get(mapping.file)) is not None and shared.identity in self._seen
            for mapping in self._maps(pid) or ()
        )

    def _maps(self, pid: int) -> list[Mapping] | None:
        """The mappings of a process, None if that may not be known."""
        if pid not in self._mappings:
            try:
                self._mappings[pid] = procfs.shared_mappings(pid)
            except PermissionError as error:
                reraise_handlers(error)
                self._mappings[pid] = None
            except OSError as error:
                reraise_handlers(error)
                self._mappings[pid] = []
        return self._mappings[pid]

    def _segment_of(self, pid: int, mapping: Mapping) -> Shared | None:
        """The segment in a mapping, None if there is none."""
        if mapping.file in self._segments:
            return self._segments[mapping.file]
        shared = None
        try:
            memory = Memory(pid, mapping, self._avoid)
        except OSError as error:
            reraise_handlers(error)
            if isinstance(error, PermissionError):
                self._refused.add(pid)
            return None  # another process may be more open
        try:
            found = segment_in(memory.read, mapping.size)
            if found is None and is_of_other_layout(memory.read):
                self.notes.append(f"process {pid} runs another version of mpbakery, and what it has cannot be read")
        except OSError as error:
            reraise_handlers(error)
            found = None
        if found is not None:
            shared = self._identities.setdefault(found[0], Shared(*found, memory.read, memory.close))
        if shared is None or shared.read is not memory.read:
            memory.close()
        self._segments[mapping.file] = shared
        return shared

    def _look_into(self, found: Iterable[Shared]) -> None:
        for shared in found:
            if shared.identity in self._seen:
                continue
            seen: list[Seen] = []
            self._seen[shared.identity] = seen
            try:
                seen.extend(Seen(shared, place) for place in places(shared.read, shared.size, self._budget))
            except OSError as error:
                reraise_handlers(error)  # else its process has ended in the middle of it


def _reader(mapping: mmap.mmap) -> Read:
    return lambda offset, size: mapping[offset : offset + size]


def _nothing() -> None:
    """There is nothing to close."""


def _everyone() -> dict[int, Relations]:
    try:
        return procfs.relations()
    except OSError as error:
        reraise_handlers(error)
        return {}


def _own_files() -> set[File]:
    try:
        return procfs.own_files()
    except OSError as error:
        reraise_handlers(error)
        return set()


def _numbers_inside(pids: dict[int, int]) -> dict[tuple[int, int], int]:
    """Which process has which number in which namespace other than this process's."""
    here = identity.this_namespace()
    found = {}
    for pid in pids:
        namespace = procfs.namespace_of(pid)
        if namespace not in {0, here}:
            found[namespace, procfs.number_inside(pid)] = pid
    return found


def _refusal(pid: int) -> str:
    """Why a process may not be looked into, and what would help."""
    try:
        user = procfs.user_of(pid)
    except OSError as error:
        reraise_handlers(error)
        return f"process {pid} ended"
    whose = f"belongs to user {user}" if user != os.geteuid() else "may not be looked into by its own user"
    return f"process {pid} {whose}: run this with sudo, or with CAP_SYS_PTRACE"
