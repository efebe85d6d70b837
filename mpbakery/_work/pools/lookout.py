"""How the thread of a dispatcher waits: for what its workers do, and for others that ring."""

from __future__ import annotations

import math
import os
import select
from collections import deque
from collections.abc import Callable

from mpbakery._system.pipes import close_private, private_pipe


class Lookout:
    """Waits until there is something to read or to write, or somebody rings."""

    def __init__(self) -> None:
        self._bell, self._rope = private_pipe()
        # Not empty while the thread waits, or is about to: who has something for it after that must ring.
        self._asleep: deque[None] = deque()
        self._hungry: deque[None] = deque()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}

    # --- For other threads -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to do, which was left where the thread looks."""
        if self._asleep:
            self._ring()

    def feed(self) -> None:
        """There is one more task: the thread is left alone if it has nobody to give it to."""
        if self._hungry:
            self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._rope.fileno(), b"\0")
        except BlockingIOError:
            pass  # others have rung enough
        except BrokenPipeError:
            pass  # the thread has ended

    # --- For the thread --------------------------------------------------------------------------------------------

    def watch(self, readers: dict[int, Callable[[], object]], writers: dict[int, Callable[[], object]]) -> None:
        """Wait for these descriptors from now on, and call what is there for them."""
        self._poll = select.poll()
        self._handlers = {self._bell.fileno(): self._hear, **readers, **writers}
        for descriptor in self._handlers:
            self._poll.register(descriptor, select.POLLOUT if descriptor in writers else select.POLLIN)

    def lie_down(self, *, hungry: bool) -> None:
        """From now on others ring, if they have a task only if the thread is `hungry`: look around before `wait`."""
        self._asleep.append(None)
        if hungry:
            self._hungry.append(None)

    def wait(self, seconds: float | None) -> None:
        """Wait until something happens, so long at most, and see to it."""
        events = self._poll.poll(None if seconds is None else math.ceil(1000 * seconds))
        self._asleep.clear()
        self._hungry.clear()
        for descriptor, _event in events:
            handle = self._handlers.get(descriptor)
            if handle is not None:
                handle()

    def _hear(self) -> None:
        os.read(self._bell.fileno(), 1 << 10)

    def close(self) -> None:
        """Hear nothing any more, and refer to nobody."""
        # The other end is closed with this object: whoever rings just now has its number, and would write to whatever
        # has got that number next.
        close_private(self._bell)
        self._handlers.clear()
