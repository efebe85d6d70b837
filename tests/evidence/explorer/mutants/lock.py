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
        "two behind a holder",
        TOTAL_STORE_ORDER,
        "line",
        "        self.machine.new_fence()()\n        if not self.is_held():",
        "        if not self.is_held():",
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
    "a place is kept after giving up": one_change(
        "timeouts",
        SEQUENTIAL,
        "bakery",
        """\
                    words[number] = IDLE
                else:
                    slot.heir = self._seats
                    continue
                slot.announced = announced""",
        """\
                    pass
                else:
                    slot.heir = self._seats
                    continue
                slot.announced = announced""",
    ),
    "a place is kept after an exception": one_change(
        "raising",
        SEQUENTIAL,
        "bakery",
        """\
                    words[number] = slot.idle
                    slot.announced""",
        """\
                    slot.announced""",
    ),
    "no fence between writing OWNER and leaving the line when that is undone": one_change(
        "raising anywhere",
        PARTIAL_STORE_ORDER,
        "bakery",
        "words[number] = slot.idle",
        "words[number] = IDLE",
        guide=(
            "0 store OWNER",
            "0 order",
            "0 raises",
            "0 order",
            "0 shows number[0]",
            "1 enter",
            "0 shows OWNER",
            "2 enter",
        ),
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
        "handlers twice",
        SEQUENTIAL,
        "bakery",
        """\
                        if slot.generation is generation:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            held""",
        """\
                        if True:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            held""",
    ),
    "a handler goes on with the ticket that it finds": one_change(
        "handlers, three",
        SEQUENTIAL,
        "bakery",
        """\
            slot.generation = object()
            # No call from here""",
        """\
            # No call from here""",
    ),
    "a handler that does not see that its thread is about to enter": one_change(
        "handlers anywhere",
        SEQUENTIAL,
        "bakery",
        "while slot.attempt is slot.generation and not slot.is_in():",
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
        "handlers", SEQUENTIAL, "waiter", "        self._line.wake_if_free()\n", ""
    ),
    "a handler does not wake once more whom its own flow was about to wake": one_change(
        "handlers", SEQUENTIAL, "line", "        if interrupted is not None:\n", "        if False:\n"
    ),
    "a handler leaves its flow to sleep in a line in which it does not stand": one_change(
        "handlers twice",
        SEQUENTIAL,
        "bakery",
        "                slot.words[slot.park] = AWAKE\n",
        "                pass\n",
    ),
    "attention may be seen called for before its reason is seen": one_change(
        "one leaves and comes again",
        PARTIAL_STORE_ORDER,
        "waiter",
        "            self._line.machine.order()  # ATTENTION must",
        "            pass  # ATTENTION must",
        guide=(
            "1 sleep",
            "0 load held[0]",
            "2 load OWNER",
            "2 fence",
            "0 enter",
            "1 load OWNER",
            "1 fence",
            "1 shows ATTENTION",
            "2 sleep",
            "1 sleep",
        ),
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
        self._at_head = False
        # No call""",
        """\
        self._at_head = False
        # No call""",
    ),
    "a death is told by one who is not the head any more": one_change(
        "a dead owner, and handlers", SEQUENTIAL, "waiter", " or slot.generation is not self.generation:\n", ":\n"
    ),
    "a death is told once more after a handler that gave up": one_change(
        "a dead owner, and handlers", SEQUENTIAL, "bakery", "                        announced = slot.announced\n", ""
    ),
    "a new head that sleeps is not told of: by who has entered": one_change(
        "3x1",
        SEQUENTIAL,
        "bakery",
        "                                words[ATTENTION] = 1  # the head may sleep now",
        "                                # the head may sleep now",
    ),
    "a new head that sleeps is not told of: by who has given up": one_change(
        "timeouts",
        SEQUENTIAL,
        "line",
        "        self.words[ATTENTION] = 1\n        # Store, fence, look: whoever",
        "        # Store, fence, look: whoever",
    ),
    "a head that parks does not call for attention": one_change(
        "2x1", SEQUENTIAL, "waiter", "            words[ATTENTION] = 1\n", ""
    ),
    "attention is withdrawn without a fence": one_change(
        "3x1",
        TOTAL_STORE_ORDER,
        "line",
        """\
        self.machine.new_fence()()
        if words[FOREIGN]:""",
        "        if words[FOREIGN]:",
        bound=3,
    ),
    "attention is withdrawn, and nobody woken": one_change(
        "2x1",
        SEQUENTIAL,
        "line",
        "            words[ATTENTION] = 1\n        self.wake()\n",
        "            words[ATTENTION] = 1\n",
    ),
    "who has given up does not look whether the lock is free": one_change(
        "timeouts", SEQUENTIAL, "line", "        if not self.is_held():\n            self.attend()\n", ""
    ),
    "who has given up looks whether the lock is free without a fence": one_change(
        "timeouts",
        TOTAL_STORE_ORDER,
        "line",
        """\
        self.machine.new_fence()()
        if not self.is_held():""",
        "        if not self.is_held():",
    ),
    "attention may be seen called for before the place is seen given up": one_change(
        "one comes again, one gives up",
        PARTIAL_STORE_ORDER,
        "line",
        "            self.machine.order()  # ATTENTION must",
        "            pass  # ATTENTION must",
        guide=("1 sleep", "2 sleep", "1 is late", "1 fence", "1 shows ATTENTION", "0 load held[0]", "0 enter", "1 end"),
    ),
    "attention may be seen called for before the place of who has entered is seen given up": one_change(
        "one leaves and comes again",
        PARTIAL_STORE_ORDER,
        "bakery",
        "                                    order()  # ATTENTION must",
        "                                    pass  # ATTENTION must",
        guide=(
            "1 sleep",
            "2 sleep",
            "0 load held[0]",
            "1 load OWNER",
            "1 order",
            "1 load held[0]",
            "0 load OWNER",
            "0 load HIGH",
            "0 load OWNER",
            "0 fence",
            "1 enter",
            "1 shows ATTENTION",
            "0 sleep",
        ),
    ),
}

TENURE_MUTANTS: Final = {
    "no fence where one comes again": one_change(
        "2x1, tenure",
        TOTAL_STORE_ORDER,
        "bakery",
        """\
                    if not slot.take():
                        slot.refence()
                    # Whoever""",
        "                    # Whoever",
    ),
    "one comes again though OWNER is closed": one_change(
        "2x1, tenure", SEQUENTIAL, "bakery", "if words[OWNER] == held and", "if words[OWNER] & ~(1 << 29) == held and"
    ),
    "the head does not close OWNER": one_change(
        "2x1, tenure", SEQUENTIAL, "seats", "                words[OWNER] = owner | CLOSED\n", "                pass\n"
    ),
    "no fence where the head closes OWNER": one_change(
        "2x1, tenure", TOTAL_STORE_ORDER, "seats", "            self.fence()\n            since", "            since"
    ),
    "the head does not look once more when it has closed OWNER": one_change(
        "2x1, tenure",
        SEQUENTIAL,
        "seats",
        """\
            since = words[last]
            if since:
                return last, since
        return None""",
        "        return None",
    ),
    "one comes again to what it holds": one_change(
        "again while held, tenure",
        SEQUENTIAL,
        "bakery",
        " and not slot.words[slot.held]:\n            ",
        ":\n            ",
    ),
    "one comes again for ever": one_change(
        "one comes again and again", SEQUENTIAL, "bakery", "if now < slot.until and not", "if slot.until and not"
    ),
    "who has come again in vain leaves HELD filled": one_change(
        "2x1, tenure",
        SEQUENTIAL,
        "bakery",
        """\
                        slot.until = 0.0
                        if slot.times[held] == now:
                            words[held] = 0
""",
        "                        slot.until = 0.0\n",
    ),
    "who comes again keeps the lock after an exception": one_change(
        "raising, tenure",
        SEQUENTIAL,
        "bakery",
        """\
                    if not slot.lost:
                        if slot.times[held] == now:
                            words[held] = 0
""",
        "                    if not slot.lost:\n",
    ),
    "who comes again wakes nobody after an exception": one_change(
        "raising, tenure",
        SEQUENTIAL,
        "bakery",
        """\
                        slot.line.wake_if_free()
                    raise""",
        "                    raise",
    ),
    # one of the two would be enough here: the second look is for children that handlers fork, the first for handlers
    # that release what nobody holds
    "who comes again does not notice that a handler has taken its place": Mutant(
        "handlers, tenure",
        SEQUENTIAL,
        (
            Change("bakery", "if words[OWNER] == held and slot.times[held] == now:", "if words[OWNER] == held:"),
            Change(
                "bakery",
                """\
                        if slot.generation is generation:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            slot.attempt""",
                """\
                        if True:
                            words[slot.entered_at] = slot.entered = slot.entered + 1
                            slot.attempt""",
            ),
        ),
    ),
    "a handler leaves HELD filled of whose place it takes": one_change(
        "handlers, tenure",
        SEQUENTIAL,
        "bakery",
        "                slot.words[slot.held] = 0  # it comes again, and leaves it to us to clear that\n",
        "                pass\n",
    ),
    "who comes again clears what a handler has got that raised": one_change(
        "handlers that raise, tenure",
        SEQUENTIAL,
        "bakery",
        """\
                    if not slot.lost:
                        if slot.times[held] == now:
                            words[held] = 0
                        slot.attempt""",
        """\
                    if not slot.lost:
                        words[held] = 0
                        slot.attempt""",
    ),
    "OWNER is closed by one who is not the head any more": one_change(
        "handlers, three, tenure",
        SEQUENTIAL,
        "seats",
        "            if self.generation is generation:\n",
        "            if True:\n",
        guide=(
            "2 load OWNER",
            "1 nap",
            "2 enter",
            "2 load held[2]",
            "1 list",
            "1 return",
            "1 is interrupted",
            "1 leave",
            "1 load OWNER",
            "2 end",
            "1 store OWNER",
            "0 enter",
        ),
    ),
    "a handler does not see that its thread is about to close OWNER": one_change(
        "handlers anywhere, tenure",
        SEQUENTIAL,
        "seats",
        "            self.attempt = generation\n            if",
        "            if",
    ),
    "a handler does not see that its thread is about to come again": one_change(
        "handlers anywhere, tenure",
        SEQUENTIAL,
        "bakery",
        "                        slot.attempt = generation  # see Slot.attempt\n",
        "",
    ),
    "a handler takes one who comes again in vain for the owner": one_change(
        "handlers anywhere, tenure", SEQUENTIAL, "bakery", "and not slot.is_in():", "and not line.is_held():"
    ),
    "a head parks without a ticket": one_change(
        "2x1, tenure",
        SEQUENTIAL,
        "bakery",
        "                        announced = slot.announced\n",
        """\
                        announced = slot.announced
                        waiter.generation, waiter._at_head = generation, slot.room == slot.alone
""",
    ),
    "a wait is for another value than the one that was tested": one_change(
        "2x1, tenure",
        SEQUENTIAL,
        "waiter",
        "                going_on = self._pause(*obstacle, ahead)\n",
        "                going_on = self._pause(obstacle[0], slot.words[obstacle[0]], ahead)\n",
    ),
    "a slot is claimed that still stands in OWNER, closed": one_change(
        "one comes again, and dies",
        SEQUENTIAL,
        "slots",
        "words[OWNER] & INDEX == record + HELD",
        "words[OWNER] == record + HELD",
        guide=(
            "1 store OWNER",
            "0 enter",
            "1 sleep",
            "0 is killed",
            "2 sleep",
        ),
    ),
}
