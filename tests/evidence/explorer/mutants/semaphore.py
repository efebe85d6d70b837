"""The semaphore's protocol, broken by one small change each."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import Mutant, one_change
from evidence.explorer.protocol import Change
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER

SEMAPHORE_MUTANTS: Final = {
    "semaphore: a head is not HUNGRY": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "permits",
        "        line.words[HUNGRY] = 1\n",
        "",
    ),
    "semaphore: no fence between HUNGRY and the look": one_change(
        "semaphore, given by another",
        TOTAL_STORE_ORDER,
        "permits",
        "        line.machine.new_fence()()\n",
        "",
    ),
    "semaphore: no fence between what is given and the look at HUNGRY": one_change(
        "semaphore, given by another",
        TOTAL_STORE_ORDER,
        "permits",
        """\
        try:
            self.free()
        except RuntimeError:
            self.refree()
""",
        "",
    ),
    "semaphore: HUNGRY is cleared, and nobody woken": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "permits",
        "        self.wake(once_more=once_more)\n",
        "",
    ),
    "semaphore: HUNGRY is cleared without a fence": one_change(
        "semaphore, 3x1",
        TOTAL_STORE_ORDER,
        "permits",
        """\
        self.machine.new_fence()()
        self.wake(once_more""",
        "        self.wake(once_more",
    ),
    "semaphore: who has taken does not wake the new head": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "permits",
        "                            slot.line.wake_if_free()  # there may be one more",
        "                            # there may be one more",
    ),
    "semaphore: whom an exception has kept from being woken sleeps on": one_change(
        "semaphore, raising, two permits",
        SEQUENTIAL,
        "permits",
        "                    slot.line.wake_if_free(once_more=True)\n",
        "                    slot.line.wake_if_free()\n",
    ),
    "semaphore: a new head that sleeps is not HUNGRY": one_change(
        "semaphore, timeouts",
        SEQUENTIAL,
        "permits",
        """\
        self.words[HUNGRY] = 1
        # Store, fence, look: whoever gives a permit back has either done it by now, or will see that it is waited for.
        self""",
        "        self",
    ),
    "semaphore: who makes a new head HUNGRY leaves it so, though there is a permit": one_change(
        "semaphore, given and timeouts",
        SEQUENTIAL,
        "permits",
        "            self.feed(once_more=once_more)",
        "            self.wake(once_more=once_more)",
    ),
    "semaphore: a handler does not feed whom its own flow was about to feed": one_change(
        "semaphore, given to handlers",
        SEQUENTIAL,
        "permits",
        "        self.wake_if_free(once_more=True)\n",
        "        pass\n",
    ),
    "semaphore: the place is given up before TAKEN is stored": one_change(
        "semaphore, 2x1",
        SEQUENTIAL,
        "permits",
        "                            words[TAKEN] = words[TAKEN] + step\n",
        """\
                            words[number] = IDLE
                            words[TAKEN] = words[TAKEN] + step
""",
    ),
    "semaphore: a permit is kept after an exception": one_change(
        "semaphore, raising, two permits",
        SEQUENTIAL,
        "permits",
        "                            self._seats.release()\n",
        "                            pass\n",
    ),
    "semaphore: a place is kept after an exception": one_change(
        "semaphore, raising",
        SEQUENTIAL,
        "permits",
        """\
                if not slot.lost:
                    words[number] = IDLE
                    slot.busy = nested
                    if taken""",
        """\
                if not slot.lost:
                    slot.busy = nested
                    if taken""",
    ),
    "semaphore: a place is kept after giving up": one_change(
        "semaphore, timeouts",
        SEQUENTIAL,
        "permits",
        """\
                if not slot.lost:
                    words[number] = IDLE
                else:
                    slot.heir = self._seats
                    continue""",
        """\
                if slot.lost:
                    slot.heir = self._seats
                    continue""",
    ),
    "semaphore: a handler's place is not noticed before TAKEN is stored": one_change(
        "semaphore, handlers", SEQUENTIAL, "permits", "if slot.generation is generation:", "if True:"
    ),
    "semaphore: more is known to be given than was": one_change(
        "semaphore, handlers",
        SEQUENTIAL,
        "permits",
        "known = slot.others + words[slot.entered_at]",
        "known = slot.others + words[slot.entered_at] + 1",
    ),
    "semaphore: what is known is kept where there is a bound": one_change(
        "semaphore, one too many",
        SEQUENTIAL,
        "permits",
        "        if self.bound == UNBOUNDED:\n            # The",
        "        if True:\n            # The",
    ),
    "semaphore: what is beyond the bound is kept": one_change(
        "semaphore, one too many",
        SEQUENTIAL,
        "permits",
        "return 1 if permits <= self.bound else permits - self.bound + 1",
        "return 1",
    ),
    "semaphore: what was given is zero for a moment": Mutant(
        "semaphore, given meanwhile",
        SEQUENTIAL,
        (
            Change(
                "permits",
                "self.line.memory.counting(record + GIVEN, record + HELD, count, slot)",
                "self.line.memory.counting_in_place(record + GIVEN, count, slot)",
            ),
        ),
    ),
    "semaphore: what is given is counted from zero in a slot that others had": one_change(
        "semaphore, one dead in line",
        SEQUENTIAL,
        "permits",
        "itertools.count(self.line.words[record + GIVEN] + 1)",
        "itertools.count(1)",
    ),
    "semaphore: who waits in the doorway leaves what it would wait for to others": one_change(
        "semaphore, handlers twice", SEQUENTIAL, "waiter", "        self._line.wake_unless_held()\n", ""
    ),
    "semaphore: what a handler gave in the middle of a release counts twice": Mutant(
        "semaphore, handlers",
        SEQUENTIAL,
        (
            Change("permits", "total - self.words[slot.entered_at]", "total"),
            Change("permits", "slot.others + words[slot.entered_at]", "slot.others"),
            Change(
                "permits",
                "        if self.line.bound != UNBOUNDED and",
                "        self.others += 1\n        if self.line.bound != UNBOUNDED and",
            ),
        ),
    ),
    "semaphore: HUNGRY may be seen before the place is seen given up": one_change(
        "semaphore, 2x1",
        PARTIAL_STORE_ORDER,
        "permits",
        "            self.machine.order()  # HUNGRY must",
        "            pass  # HUNGRY must",
        bound=None,
    ),
}
