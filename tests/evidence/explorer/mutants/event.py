"""The event's protocol, broken by one small change each."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import one_change
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER

_SETTING: Final = """\
        room.words[FLAG] = 1
        # Store, fence, look: whoever comes to wait has either seen the flag, or is seen here.
        room.machine.new_fence()()
        for slot, number in enumerate(room.numbers()):
            if number:
                room.let_go(slot, IDLE)
"""

EVENT_MUTANTS: Final = {
    "event: no fence between the flag and the look at who waits": one_change(
        "event",
        TOTAL_STORE_ORDER,
        "event",
        """\
        room.machine.new_fence()()
        for slot""",
        "        for slot",
    ),
    "event: no fence between what was written and the flag": one_change(
        "event, with something to read",
        PARTIAL_STORE_ORDER,
        "event",
        "            room.machine.order()  #",
        "            pass  #",
    ),
    "event: no fence between the number and the look at the flag": one_change(
        "event",
        TOTAL_STORE_ORDER,
        "event",
        """\
                room.machine.new_fence()()
                # The flag""",
        "                # The flag",
    ),
    "event: who waits does not look at the flag after its number": one_change(
        "event", SEQUENTIAL, "event", "if self.is_set() or room.sleep(", "if room.sleep("
    ),
    "event: who waits is let go before the flag is stored": one_change(
        "event",
        SEQUENTIAL,
        "event",
        _SETTING,
        """\
        for slot, number in enumerate(room.numbers()):
            if number:
                room.let_go(slot, IDLE)
        room.machine.new_fence()()
        room.words[FLAG] = 1
""",
    ),
    "event: who was let go looks at the flag once more": one_change(
        "event, set and cleared",
        SEQUENTIAL,
        "event",
        "                    return True\n",
        "                    return self.is_set()\n",
    ),
    "event: the flag is not looked at after a nap": one_change(
        "event, death of one who sets", SEQUENTIAL, "event", "deadline, self.is_set)", "deadline)"
    ),
    "event: a number is kept after giving up": one_change(
        "event, timeouts",
        SEQUENTIAL,
        "event",
        """\
                    room.words[place.number] = room.machine.idle
""",
        "                    pass\n",
    ),
}
