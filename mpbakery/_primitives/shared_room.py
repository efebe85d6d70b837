"""What conditions, events and barriers have in common: memory in which threads wait to be let go."""

from __future__ import annotations

from mpbakery._primitives.shared import Shared
from mpbakery._protocol.waiting_room import WaitingRoom
from mpbakery._system.machine import ThisMachine


class SharedRoom(Shared):
    """Something in whose memory threads wait."""

    __slots__ = ("__dict__", "__weakref__", "_memory", "_room", "_table")

    def _set_up(self, machine: ThisMachine) -> None:
        self._room = WaitingRoom(self._memory, self._table, machine)

    def _occupy(self) -> None:
        self._room.leave(self._room.enter())

    def _has_slots(self) -> bool:
        return self._room.is_used

    def _abandon_slots(self) -> None:
        self._room.renew()
