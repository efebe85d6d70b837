"""The lock's protocol, broken by one small change each."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import Mutant, one_change
from evidence.explorer.protocol import Change
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER

LOCK_MUTANTS: Final = {
    "no CHOOSING": Mutant(
        "2x1",
        SEQUENTIAL,
        (
            Change("bakery", "words[number] = CHOOSING", "words[number] = IDLE"),
            Change("waiter", "words[slot.number] = CHOOSING", "words[slot.number] = 0"),
        ),
    ),
    "no fence B": one_change(
        "3x1",
        TOTAL_STORE_ORDER,
        "waiter",
        """\
        if not slot.take():
            slot.refence()
        self._ticket""",
        "        self._ticket",
    ),
    "the place is given up before the owner is set": one_change(
        "2x1",
        SEQUENTIAL,
        "bakery",
        "                            slot.times[held] = token\n",
        """\
                            words[number] = IDLE
                            slot.times[held] = token
""",
    ),
    "a ticket is read while its owner is in the doorway": one_change(
        "2x1", SEQUENTIAL, "waiter", "if number and (number, slot) < mine", "if number > 1 and (number, slot) < mine"
    ),
    "a ticket as high as the highest": one_change(
        "2x2", SEQUENTIAL, "waiter", "max(self._line.numbers()) + 1", "max(2, *self._line.numbers())"
    ),
    "no wake after release": one_change("2x1", SEQUENTIAL, "seats", "            self.line.attend()\n", ""),
    "no fence in release": one_change(
        "2x1",
        TOTAL_STORE_ORDER,
        "seats",
        """\
        try:
            self.free()
        except RuntimeError:
            self.refree()
""",
        "",
    ),
    "no look before parking": one_change(
        "2x1", SEQUENTIAL, "waiter", "while words[word] == value and slot.generation is self.generation:", "while True:"
    ),
    "no fence before parking": one_change(
        "2x1",
        TOTAL_STORE_ORDER,
        "waiter",
        """\
        fence()
        while words[word] == value and""",
        "        while words[word] == value and",
    ),
    "attention called for again without a second look at the line": one_change(
        "3x1",
        SEQUENTIAL,
        "line",
        "                self.wake_if_free()  # whoever",
        "                pass  # whoever",
        bound=3,
    ),
    "attention withdrawn without a second look": one_change(
        "3x1",
        SEQUENTIAL,
        "line",
        """\
            if self._deserves_attention():
                self.words[ATTENTION] = 1
                self.wake_if_free()""",
        """\
            if False:
                pass""",
    ),
    "a place is kept after giving up": one_change(
        "timeouts",
        SEQUENTIAL,
        "bakery",
        """\
                    words[number] = IDLE
                else:
                    slot.heir = self._seats
                    continue
                slot.announced = announced  # or""",
        """\
                    pass
                else:
                    slot.heir = self._seats
                    continue
                slot.announced = announced  # or""",
    ),
    "a place is kept after an exception": one_change(
        "raising",
        SEQUENTIAL,
        "bakery",
        """\
                    words[number] = IDLE
                    slot.deciding = None
                    slot.announced""",
        """\
                    slot.deciding = None
                    slot.announced""",
    ),
    "the lock is kept after an exception": one_change(
        "raising", PARTIAL_STORE_ORDER, "bakery", "                        words[slot.held] = 0\n", ""
    ),
    "an undo that does not check its token": one_change(
        "again while held", SEQUENTIAL, "bakery", "if token and slot.times[slot.held] == token:", "if True:"
    ),
    "a handler's place is not noticed after the ticket": Mutant(
        "handlers twice",
        SEQUENTIAL,
        (
            Change(
                "waiter",
                "if slot.generation is not self.generation and not self._doorway():",
                "if self.generation is None and not self._doorway():",
            ),
            Change("waiter", "if slot.generation is generation:", "if True:"),
            Change("bakery", "generation = waiter.generation", "generation = slot.generation"),
        ),
    ),
    "a handler's place is not noticed before the owner is set": one_change(
        "handlers twice", SEQUENTIAL, "bakery", " and slot.generation is generation:\n", ":\n"
    ),
    "a handler goes on with the ticket that it finds": one_change(
        "handlers, three",
        SEQUENTIAL,
        "bakery",
        """\
            slot.generation = object()
            slot.deciding = None
            if not""",
        """\
            slot.deciding = None
            if not""",
    ),
    "a handler that does not see that its thread is about to enter": one_change(
        "handlers anywhere",
        SEQUENTIAL,
        "bakery",
        "while slot.deciding is slot.generation and not line.is_held():",
        "while False:",
    ),
    "takeover by one who is not the head": Mutant(
        "death of a holder",
        SEQUENTIAL,
        (
            Change(
                "waiter",
                """\
            if ahead:
                number, place""",
                """\
            if ahead and not self._line.owner_died(at_once=True):
                number, place""",
            ),
            Change("waiter", "self._pause(*obstacle, ahead)", "self._pause(*obstacle, [])"),
        ),
    ),
    "a living owner is taken for dead": one_change(
        "3x1 with time",
        SEQUENTIAL,
        "waiter",
        "if not line.owner_died(at_once=True) or line.words[held] != since or",
        "if line.words[held] != since or",
    ),
    "an owner that released and then ended is taken for a dead holder": one_change(
        "death of a holder, two", SEQUENTIAL, "waiter", " or line.words[held] != since or", " or"
    ),
    "a death is not told": one_change(
        "deaths", SEQUENTIAL, "waiter", "announce = slot.announced != since", "announce = False"
    ),
    "a dead owner is waited for": one_change(
        "deaths", SEQUENTIAL, "waiter", "self.recovering = held", "self.recovering = 0"
    ),
    "a dead slot is cleared outside the claim lock": one_change(
        "a newcomer, and one dead in line",
        SEQUENTIAL,
        "slots",
        "return bool(self._exclusively(lambda: self._reap(slot, mine), deadline))",
        "return self._reap(slot, mine)",
    ),
    "claims do not exclude one another": one_change(
        "two newcomers",
        SEQUENTIAL,
        "slots",
        "            return self._claims.try_lock(place)\n",
        "            return self._claims.try_lock(place) or True\n",
    ),
    "a slot is claimed that still stands in OWNER": one_change(
        "a newcomer", SEQUENTIAL, "slots", "if holds else (0, 0)", "if False else (0, 0)"
    ),
    "one who is said to be dead is, though it holds its record lock": one_change(
        "hearsay", SEQUENTIAL, "slots", "            and not self._claims.lives(process)\n", ""
    ),
    "one who lost its record lock is dead": one_change(
        "closed descriptors", SEQUENTIAL, "slots", "            and self._processes.is_dead(process)\n", ""
    ),
    "a slot is there to be seen before its process holds its record lock": Mutant(
        "hearsay, newcomers",
        SEQUENTIAL,
        (
            Change("slots", "        if not self._live(mine):\n            return _STRANGER\n", ""),
            Change(
                "slots",
                "            if slot == _NONE:\n                #",
                "            self._live(mine)\n            if slot == _NONE:\n                #",
            ),
        ),
    ),
    "a thread that ends keeps its slot": one_change(
        "a thread that ends", SEQUENTIAL, "slots", "                words[thread] = ended\n", ""
    ),
    "a slot is lost that could not be given back for a handler": one_change(
        "claims that are interrupted",
        PARTIAL_STORE_ORDER,
        "slots",
        "                self._give_back(other)  # a handler has cut that off\n",
        "                pass\n",
    ),
    "a slot is given back with the lock held through it": one_change(
        "a thread that ends with the lock",
        SEQUENTIAL,
        "slots",
        "(words[record + THREAD] >= ENDED and not words[record + HELD])",
        "words[record + THREAD] >= ENDED",
    ),
    "no wake after a release for another": one_change(
        "released by another",
        SEQUENTIAL,
        "line",
        """\
        self.machine.new_fence()()
        self.wake()

    def _clear""",
        """\

    def _clear""",
    ),
    "an owner does not see that another has released for it": one_change(
        "released by one whom another released", SEQUENTIAL, "line", "return mark >> 1 if mark & 1 else 0", "return 0"
    ),
    "a handler does not wake whom its own flow was about to wake": one_change(
        "handlers", SEQUENTIAL, "line", "self.wake(once_more=True)", "self.wake()"
    ),
    "a handler leaves its flow to sleep in a line in which it does not stand": one_change(
        "handlers twice",
        SEQUENTIAL,
        "bakery",
        "                slot.words[slot.park] = AWAKE\n",
        "                pass\n",
    ),
    "attention may be seen called for before its reason is seen": one_change(
        "3x1",
        PARTIAL_STORE_ORDER,
        "waiter",
        "            self._line.machine.order()  # ATTENTION must",
        "            pass  # ATTENTION must",
    ),
    "an acquisition that was undone counts as not released yet": one_change(
        "released after an exception", PARTIAL_STORE_ORDER, "bakery", "slot.left = slot.left + 1", "pass"
    ),
    "a slot is claimed before those who clear away the dead look at it": one_change(
        "two newcomers",
        SEQUENTIAL,
        "slots",
        "        # HIGH before PID",
        """\
        words[record + PID] = process.pid
        # HIGH before PID""",
    ),
    "an owner takes one who died on the way to release for it for one who has": one_change(
        "released by another, who may die",
        SEQUENTIAL,
        "line",
        "return mark >> 1 if mark & 1 else 0",
        "return mark >> 1",
    ),
    "an owner does not wait until it can see whether another has released for it": one_change(
        "released by one whom another is releasing", SEQUENTIAL, "line", "if mark == 2 * entered:", "if False:"
    ),
    "a release for another may be seen before its mark is": one_change(
        "released by one whom another is releasing",
        PARTIAL_STORE_ORDER,
        "line",
        """\
            self.machine.order()
        words[held] = 0""",
        """\
            pass
        words[held] = 0""",
    ),
    "a release for another is forgotten when attention is withdrawn": one_change(
        "released by one whom another released", SEQUENTIAL, "line", "        words[FOREIGN] = 1\n", ""
    ),
    "one who was to take over from a dead owner does so after its handler has": one_change(
        "a dead owner's slot, and handlers",
        TOTAL_STORE_ORDER,
        "waiter",
        """\
        self.recovering = 0
        # No call""",
        "        # No call",
    ),
    "a death is told by one who is not the head any more": one_change(
        "a dead owner, and handlers", SEQUENTIAL, "waiter", " or slot.generation is not self.generation:\n", ":\n"
    ),
    "a death is told once more after a handler that gave up": one_change(
        "a dead owner, and handlers", SEQUENTIAL, "bakery", "                        announced = slot.announced\n", ""
    ),
}
