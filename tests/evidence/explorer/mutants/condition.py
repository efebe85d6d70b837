"""The condition's protocol, broken by one small change each."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import one_change
from evidence.explorer.simulated.operations import SEQUENTIAL

CONDITION_MUTANTS: Final = {
    "condition: a dead one counts as notified": one_change(
        "condition, deaths", SEQUENTIAL, "condition", "if not room.is_lost(slot) and room.let_go", "if room.let_go"
    ),
    "condition: what a dead one was notified of is not handed on": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        "            self.notify()\n            # only",
        "            # only",
    ),
    "condition: what a dead one was notified of is cleared away before it is handed on": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        """\
            self.notify()
            # only now: if this process dies in between, or a handler raises, others must still find it
            self._room.is_lost(slot)
""",
        """\
            self._room.is_lost(slot)
            self.notify()
""",
    ),
    "condition: who sleeps does not look for the dead": one_change(
        "condition, death of one who hands on",
        SEQUENTIAL,
        "condition",
        "lambda: bool(room.orphans())",
        "lambda: False",
    ),
    "condition: what a wait was notified of that raises is not handed on": one_change(
        "condition, raising",
        SEQUENTIAL,
        "condition",
        """\
            if self._lock._is_mine() and not place.lost and room.words[place.number] == LET_GO:
                self.notify()
""",
        "",
    ),
    "condition: a wait that raises does not insist on the lock": one_change(
        "condition, raising, alone", SEQUENTIAL, "condition", "            lock._insist(depth)\n", ""
    ),
    "condition: a ticket is kept after giving up": one_change(
        "condition, timeouts",
        SEQUENTIAL,
        "condition",
        """\
            if not place.lost:
                room.words[place.number] = IDLE
""",
        "",
    ),
    "condition: who is late does not look whether it was notified": one_change(
        "condition, timeouts",
        SEQUENTIAL,
        "condition",
        "notified = self._was_notified(place, ticket)",
        "notified = timely and self._was_notified(place, ticket)",
    ),
    "condition: who waits is let go in the order of the slots": one_change(
        "condition, one of two",
        SEQUENTIAL,
        "waiting_room",
        "for _ticket, slot in tickets]",
        "for slot in sorted(slot for _ticket, slot in tickets)]",
    ),
}
