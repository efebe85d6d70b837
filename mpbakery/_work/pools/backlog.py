"""The tasks that wait for a worker, and who may not submit more of them for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mpbakery._system.pipes import CAPACITY
from mpbakery._work.pools.task import Task
from mpbakery._work.pools.threads import Bell


class Backlog:
    """Tasks in order, some of which may not want a worker any more, and how many bytes they have.

    Two threads use it: one submits tasks, and tells so before it sends them to the other one, the dispatcher, who does
    everything else.
    """

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        # Each counts for itself, so there is nothing that two threads would change at once.
        self._submitted = 0
        self._given = 0
        self._bell = Bell()
        self._somebody_waits = False
        self._is_open = True

    def __len__(self) -> int:
        return len(self._tasks)

    # --- For the thread that submits -------------------------------------------------------------------------------

    def announce(self, task: Task) -> None:
        """There will be one more."""
        self._submitted += len(task.message)

    def wait_for_room(self) -> None:
        """Wait while as many bytes wait for a worker as a pipe holds."""
        while True:
            self._somebody_waits = True
            if self._submitted - self._given < CAPACITY or not self._is_open:
                return
            self._bell.wait()

    # --- For the dispatcher ----------------------------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Here it is."""
        self._tasks.append(task)

    def put_back(self, task: Task) -> None:
        """Have a task wait once more, before all others."""
        self._tasks.appendleft(task)

    def first(self) -> Task | None:
        """The first that wants a worker, which stays in here; None if none does."""
        while self._tasks:
            task = self._tasks[0]
            if task.wants_worker:
                return task
            self.drop_first()
        return None

    def drop_first(self) -> None:
        """The first has a worker now, or wants none."""
        task = self._tasks[0]
        if not task.was_given:
            given = self._given + len(task.message)
            task.was_given = True
            self._given = given
        self._tasks.popleft()

    def let_in(self) -> None:
        """Have the one go on who waits for room, if there is some."""
        # not for every single task that leaves: each time costs two changes of threads
        if self._somebody_waits and self._submitted - self._given < CAPACITY // 2:
            self._somebody_waits = False
            self._bell.ring()

    def shut(self) -> None:
        """From now on, nobody waits for room."""
        self._is_open = False
        self._bell.ring()

    def count_anew(self, others: Iterable[Task]) -> None:
        """Find out what waits, after something out of the blue; `others` are on their way here."""
        # In this order, and they are announced before they are sent: so too much counts as given rather than too
        # little, for which somebody would wait for ever.
        submitted = self._submitted
        waiting = {task for task in (*others, *self._tasks) if not task.was_given}
        self._given = submitted - sum(len(task.message) for task in waiting)
        self._bell.ring()
