"""Which process a thread is pickling for: one that is starting can be sent descriptors, any other a name alone."""

from __future__ import annotations

import sys
from typing import Any, Final

#: multiprocessing, and its copies that others maintain. Each notes the process that it starts in a variable of its own.
#: (loky starts processes in a way of its own, and notes them in multiprocessing's.)
_FAMILIES: Final = ("multiprocessing", "multiprocess", "billiard")


def starting_process() -> Any | None:
    """What starts the process that the calling thread is pickling for; None if it is pickling for anybody else.

    It is the `Popen` object of a `Process` whose start method is not fork, of multiprocessing or a copy of it:
    `duplicate_for_child` has a descriptor inherited, and `DupFd` makes of the result what is pickled in its place.
    """
    for family in _FAMILIES:
        # only what was imported can be starting anything; and it may be in the middle of being imported
        ask = getattr(sys.modules.get(f"{family}.context"), "get_spawning_popen", None)
        popen = None if ask is None else ask()
        if popen is not None:
            return popen
    return None


def send_descriptor(descriptor: int, popen: Any) -> Any:
    """What is pickled for the process that `popen` starts; there, its method `detach` returns the descriptor."""
    return popen.DupFd(popen.duplicate_for_child(descriptor))
