"""`AsyncLock`: the same lock for the tasks of asyncio."""

from __future__ import annotations

import asyncio
import select
import time
from typing import ClassVar, TypeVar

from mpbakery._protocol.bakery import deadline_of
from mpbakery.cluster._errors import LockLost
from mpbakery.cluster._lock import ClusterLock
from mpbakery.cluster._session import Attempt, Connect, Ready, Session, Steps
from mpbakery.cluster._values import Owner, Statistics

_T = TypeVar("_T")


class AsyncLock(ClusterLock):
    """`Lock` for asyncio: `async with`, and what asks the server is awaited.

    A task is to it what a thread is to `Lock`, with which it shares its locks: who has the same server and name has the
    same lock. `token`, `lost`, `recovered_from` and `name` are properties as there. A task that is cancelled while it
    waits, or in the midst of anything, leaves nothing behind.

    Args:
        url, name, lost_after: as in `Lock`.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or out of range.
    """

    _patience: ClassVar[float] = 0.0

    async def acquire(self, block: bool = True, timeout: float | None = None, blocking: bool | None = None) -> bool:
        """Acquire the lock; arguments, result, errors and warnings as in `Lock.acquire`."""
        attempt = Attempt(entered=False)
        try:
            return await _wait(self._acquiring(attempt, deadline_of(block, timeout, blocking, time.monotonic)))
        except BaseException:
            await _wait(self._undoing(attempt))
            raise

    async def __aenter__(self) -> bool:
        attempt = Attempt(entered=True)
        try:
            return await _wait(self._acquiring(attempt, None))
        except BaseException:
            await _wait(self._undoing(attempt))
            raise

    async def release(self) -> None:
        """Release the lock, whichever task of this process has acquired it; errors as in `Lock.release`."""
        attempt = self._to_release()
        try:
            await _wait(self._releasing(attempt))
        except BaseException:
            await _wait(self._undoing(attempt))
            raise

    async def __aexit__(self, _kind: object, error: object, _trace: object) -> None:
        try:
            await self.release()
        except LockLost:
            if error is None:
                raise

    async def locked(self) -> bool:
        """Whether somebody holds the lock at this moment, as the server says."""
        return (await self.statistics()).owner is not None

    async def owner(self) -> Owner | None:
        """Who holds the lock at this moment, as the server says; None if nobody does."""
        return (await self.statistics()).owner

    async def statistics(self) -> Statistics:
        """Who holds the lock, who waits for it in which order, and how often it was acquired, as the server says.

        Raises:
            ServerError: the server cannot be reached, or does not tell.
        """
        return await _wait(self._looking())

    def _user(self) -> object:
        try:
            return asyncio.current_task()
        except RuntimeError:  # outside of any loop, as for a repr
            return None


async def _wait(steps: Steps[_T]) -> _T:
    """Do what goes on in sessions, and let other tasks run meanwhile."""
    found: Session | None = None
    try:
        while True:
            need = steps.send(found)
            if isinstance(need, Connect):
                # it resolves names, and waits
                found = await asyncio.to_thread(Session, *need)
            else:
                await _ready(need)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        steps.close()


async def _ready(need: Ready) -> None:
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    loop.add_reader(need.descriptor, happened.set)
    if need.events & select.POLLOUT:
        loop.add_writer(need.descriptor, happened.set)
    try:
        await asyncio.wait_for(happened.wait(), need.seconds)
    except asyncio.TimeoutError:
        pass  # who asked looks at the clock
    finally:
        loop.remove_reader(need.descriptor)
        loop.remove_writer(need.descriptor)
