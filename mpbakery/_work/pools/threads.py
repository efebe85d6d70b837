"""What the threads of a pool stand on: the loop that keeps each of them going, and how they wake one another.

What the program's own code raises comes out of the doors of `doors.py`. What is left comes out of the blue: there is no
memory for a moment, somebody traces the thread, or throws something into it. The loop outlives that as well: it has the
thread look at what it has in hand, and goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

_T = TypeVar("_T")

#: How long a thread rests after something out of the blue (s): memory may come back, and what goes wrong again and
#: again must not cost a whole core.
_PAUSE: Final = 0.01
#: Whoever waits without a limit looks so often whether there was a signal (s). The main thread, which is to handle it,
#: is not woken by one that came just before it began to wait; nor by one that the kernel gave to another thread, as it
#: may when that is just starting a thread or a process. Then a Ctrl-C would wait as well.
NOTICE: Final = 0.25


def join(thread: threading.Thread) -> None:
    """Wait until a thread has ended."""
    while thread.is_alive():
        thread.join(NOTICE)


def keep_on(step: Callable[[], bool], mend: Callable[[BaseException], object]) -> None:
    """Call `step` again and again until it returns False.

    If it raises, `mend` is called with the error before the next step, and called again if it raises itself. The two
    have an object in common, and keep what they have in hand there, not in variables: so nothing is lost with the step
    that was broken off.
    """
    fault: BaseException | None = None
    while True:
        try:
            if fault is not None:
                time.sleep(_PAUSE)
                mend(fault)
                fault = None
            if not step():
                return
        except BaseException as error:
            fault = error


def let_go(lock: Any) -> None:
    """Release an RLock as often as this thread holds it: something out of the blue may have kept it from that."""
    while True:
        try:
            lock.release()
        except RuntimeError:
            return  # it is not, or no more, held by this thread


class Bell:
    """One thread waits until others ring; it may be rung before."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Have the one go on who waits, or who will wait."""
        try:
            if self._silence.locked():
                self._silence.release()
        except RuntimeError:
            pass  # somebody else has rung it just now

    def wait(self) -> None:
        """Wait until the bell is rung, if it was not rung since the last time."""
        self._silence.acquire()


class Inbox(Generic[_T]):
    """What others want of a thread, in order.

    The first stays in it until the thread is through with it.
    """

    def __init__(self) -> None:
        self._items: deque[_T] = deque()
        self._bell = Bell()

    def put(self, item: _T) -> None:
        """Add something: from any thread, also from a signal handler in the middle of this."""
        self._items.append(item)
        self._bell.ring()

    def put_silently(self, item: _T) -> int:
        """Add something that may wait until somebody rings; returns how much there is now."""
        self._items.append(item)
        return len(self._items)

    def ring(self) -> None:
        """Have the thread look into it."""
        self._bell.ring()

    def first(self) -> _T:
        """Wait until there is something; returns the first, and leaves it there."""
        while not self._items:
            self._bell.wait()
        return self._items[0]

    def drop_first(self) -> None:
        """Take out the first."""
        self._items.popleft()

    def all(self) -> list[_T]:
        """What is in it now."""
        return list(self._items)
