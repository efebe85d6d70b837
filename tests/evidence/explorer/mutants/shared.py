"""Changes of what several primitives run, or of what stands in several of them alike: each has to show it."""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.mutant import Mutant, one_change
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER, SEQUENTIAL, TOTAL_STORE_ORDER


def in_each(name: str, model: str, places: dict[str, str], old: str, new: str) -> dict[str, Mutant]:
    """The same change in several `places`: the scenario that shows it, and the module."""
    mutants = {}
    for scenario, module in places.items():
        primitive = scenario.partition(", ")[0]
        prefix = f"{primitive}: " if primitive in {"semaphore", "event", "condition"} else ""
        mutants[prefix + name] = one_change(scenario, model, module, old, new)
    return mutants


SHARED_MUTANTS: Final = {
    **in_each(
        "no fence A, where one finds itself alone",
        TOTAL_STORE_ORDER,
        {"2x1": "bakery", "semaphore, 2x1": "permits"},
        """\
                if not slot.take():
                    slot.refence()
                at_head""",
        "                at_head",
    ),
    **in_each(
        "no fence A, before a ticket",
        TOTAL_STORE_ORDER,
        {"3x1": "waiter", "semaphore, 3x1": "waiter"},
        """\
        slot.fence()
        if words[HIGH]""",
        "        if words[HIGH]",
    ),
    **in_each(
        "the place may be seen given up before what was taken is seen",
        PARTIAL_STORE_ORDER,
        {"2x1": "bakery", "semaphore, 2x1": "permits"},
        "                                order()  # or",
        "                                # or",
    ),
    **in_each(
        "no wake after giving up",
        SEQUENTIAL,
        {"timeouts": "bakery", "semaphore, given and timeouts": "permits"},
        """\
                slot.attempt = nested
                slot.line.wake_if_free()
            except""",
        """\
                slot.attempt = nested
            except""",
    ),
    **in_each(
        "no wake after an exception",
        SEQUENTIAL,
        {"raising": "bakery", "semaphore, raising": "permits"},
        """\
                    slot.line.wake_if_free()
                raise""",
        "                raise",
    ),
    **in_each(
        "a dead waiter is waited for",
        SEQUENTIAL,
        {"deaths": "waiter", "semaphore, deaths": "waiter"},
        "if not line.table.is_dead(ahead[-1][1]):",
        "if True:",
    ),
    **in_each(
        "whom it lets go sleeps on",
        SEQUENTIAL,
        {"event": "waiting_room", "condition, one of two": "waiting_room"},
        "        self.machine.unpark(number)\n        return True",
        "        return True",
    ),
}
