"""Who delivers what has come of tasks, from a thread of its own: it unpickles results, and calls callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from mpbakery._work.pools.doors import report
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.threads import Inbox, keep_on, let_go

#: How often to try what raises something other than MemoryError.
_TRIES: Final = 3


class Messenger:
    """Delivers, in order."""

    def __init__(self) -> None:
        self._inbox: Inbox[Task | Callable[[], object] | None] = Inbox()
        self._tries = 0
        #: Held while something is unpickled.
        self.unpickling = threading.RLock()
        self.thread = threading.Thread(
            target=partial(keep_on, self._step, self._mend), name="PoolMessenger", daemon=True
        )

    # --- What others call, from any thread -------------------------------------------------------------------------

    def bring(self, task: Task) -> int:
        """Deliver what has come of a task, as soon as somebody calls `hurry`; returns how much there is to deliver."""
        return self._inbox.put_silently(task)

    def hurry(self) -> None:
        """Deliver what there is."""
        self._inbox.ring()

    def call(self, function: Callable[[], object]) -> None:
        """Call something, after what was brought before; once more if it is broken off."""
        self._inbox.put(function)

    def end(self) -> None:
        """There is no more to deliver."""
        self._inbox.put(None)

    # --- The thread ------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        item = self._inbox.first()
        if item is None:
            return False
        if isinstance(item, Task):
            self._settle(item)
        else:
            item()
        self._inbox.drop_first()
        self._tries = 0
        return True

    def _settle(self, task: Task) -> None:
        if not task.is_over:
            with self.unpickling:
                outcome = task.open()
            task.deliver(outcome)
            task.is_over = True

    def _mend(self, error: BaseException) -> None:
        """Try again, but not for ever: it may be an error of the program's, which `deliver` should not have let out."""
        let_go(self.unpickling)
        if not isinstance(error, MemoryError):
            self._tries += 1
            if self._tries == _TRIES:
                report(error)
                self._inbox.drop_first()
                self._tries = 0
