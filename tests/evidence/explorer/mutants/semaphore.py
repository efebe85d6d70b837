"""The semaphore's protocol, broken by one small change each."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import Mutant, one_change
from evidence.explorer.protocol import Change
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER

SEMAPHORE_MUTANTS: Final = {
    "semaphore: a head does not call for attention": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "permits",
        "            words[ATTENTION] = 1\n",
        "",
    ),
    "semaphore: no fence between calling for attention and the look": one_change(
        "semaphore, given by another",
        TOTAL_STORE_ORDER,
        "permits",
        "            self.fence()\n",
        "",
    ),
    "semaphore: a head that parks calls for attention once more": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "waiter",
        "        if not ahead and word != ATTENTION:\n",
        "        if not ahead:\n",
    ),
    "semaphore: no fence between what is given and the look at ATTENTION": one_change(
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
    "semaphore: attention is withdrawn, and nobody woken": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "line",
        "            words[ATTENTION] = 1\n        self.wake()\n",
        "            words[ATTENTION] = 1\n",
    ),
    "semaphore: attention is withdrawn without a fence": one_change(
        "semaphore, 3x1",
        TOTAL_STORE_ORDER,
        "line",
        """\
        self.machine.new_fence()()
        if words[FOREIGN]:""",
        "        if words[FOREIGN]:",
    ),
    "semaphore: who has taken does not wake the new head": one_change(
        "semaphore, given by another",
        SEQUENTIAL,
        "permits",
        "                            slot.line.wake_if_free()  # there may be one more",
        "                            # there may be one more",
    ),
    "semaphore: a new head that sleeps is not told of": one_change(
        "semaphore, timeouts",
        SEQUENTIAL,
        "line",
        "        self.words[ATTENTION] = 1\n        # Store, fence, look: whoever",
        "        # Store, fence, look: whoever",
    ),
    "semaphore: who calls for attention leaves it so, though there is a permit": one_change(
        "semaphore, given and timeouts",
        SEQUENTIAL,
        "line",
        "            self.attend()\n\n    def release_for_another",
        "            self.wake()\n\n    def release_for_another",
    ),
    "semaphore: a handler does not wake whom its own flow was about to wake": one_change(
        "semaphore, given to handlers", SEQUENTIAL, "waiter", "        self._line.wake_if_free()\n", ""
    ),
    "semaphore: the place is given up before TAKEN is stored": one_change(
        "semaphore, 2x1",
        SEQUENTIAL,
        "permits",
        "                            words[TAKEN] = taking\n",
        """\
                            words[number] = IDLE
                            words[TAKEN] = taking
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
                    words[number] = slot.idle  # not IDLE: the next head could be one before it sees what was taken
                    slot.attempt = nested
                    if taken""",
        """\
                    slot.attempt = nested
                    if taken""",
    ),
    "semaphore: no fence between taking a permit and leaving the line when that is undone": one_change(
        "semaphore, raising anywhere",
        PARTIAL_STORE_ORDER,
        "permits",
        "words[number] = slot.idle",
        "words[number] = IDLE",
        guide=(
            "0 store TAKEN",
            "0 order",
            "0 raises",
            "0 offset",
            "0 shows number[0]",
            "1 enter",
            "0 end",
            "2 enter",
        ),
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
        "if slot.others + words[slot.entered_at] < taking:",
        "if slot.others + words[slot.entered_at] + 1 < taking:",
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
    "semaphore: what a handler gave in the middle of a release counts twice": Mutant(
        "semaphore, handlers",
        SEQUENTIAL,
        (
            Change("permits", "total - self.words[slot.entered_at]", "total"),
            Change("permits", "slot.others + words[slot.entered_at]", "slot.others"),
            Change("permits", "self.others + words[self.entered_at]", "self.others"),
            Change(
                "permits",
                "        if self.line.bound != UNBOUNDED and",
                "        self.others += 1\n        if self.line.bound != UNBOUNDED and",
            ),
        ),
    ),
    "semaphore: attention may be seen called for before the place is seen given up": one_change(
        "semaphore, 2x1",
        PARTIAL_STORE_ORDER,
        "line",
        "            self.machine.order()  # ATTENTION must",
        "            pass  # ATTENTION must",
        bound=None,
    ),
}
