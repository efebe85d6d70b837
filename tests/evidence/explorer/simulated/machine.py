"""What differs from machine to machine, as a simulated process sees it: fences, parking, time, who is alive."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from evidence.explorer.simulated.memory import Fenced, SimulatedMemory
from evidence.explorer.simulated.operations import PARTIAL_STORE_ORDER
from mpbakery._system.fence import Fence
from mpbakery._system.identity import Process as Identity
from mpbakery._system.layout import IDLE

if TYPE_CHECKING:
    from evidence.explorer.simulated.process import Process


class PrivateLock:
    """The lock inside a fence: a fence wherever it changes hands, and only there."""

    __slots__ = ("_process", "taken")

    def __init__(self, process: Process) -> None:
        self._process = process
        self.taken = False

    def acquire(self) -> bool:
        """Take it, if it is free."""
        if self.taken:
            return False
        self.taken = True
        self._process.perform("take")
        return True

    def release(self) -> None:
        """Free it."""
        if self.taken:
            self._process.perform("free")
        if not self.taken:
            raise RuntimeError("release unlocked lock")
        self.taken = False


class LockFence(Fence):
    """The fence of x86-64, with a lock of the simulation inside."""

    __slots__ = ()

    def __init__(self, process: Process) -> None:
        lock = PrivateLock(process)
        self.take = lock.acquire
        self.free = lock.release


class KernelFence(Fence):
    """The fence of other machines."""

    __slots__ = ("_process",)

    def __init__(self, process: Process) -> None:
        self._process = process
        self.take = self._take
        self.free = self

    def _take(self) -> bool:
        self._process.perform("take")
        return True

    def __call__(self) -> None:
        """A full fence."""
        self._process.perform("fence")


class SimulatedMachine:
    """Time, fences and parking (`mpbakery._protocol.interfaces.Machine`)."""

    def __init__(self, process: Process) -> None:
        world = process.world
        self._process = process
        self.spins = world.spins
        self.yields = world.yields
        weak = world.model == PARTIAL_STORE_ORDER
        self.order: Callable[[], object] | None = self._order if weak else None
        self.idle: int = IDLE
        if weak:
            self.idle = Fenced(IDLE)
            self.idle.fence = functools.partial(process.perform, "offset")
        self._fence: type[LockFence | KernelFence] = KernelFence if weak else LockFence

    def _order(self) -> None:
        self._process.perform("order")

    def new_fence(self) -> Fence:
        """A fence."""
        return self._fence(self._process)

    def clock(self) -> float:
        """The time."""
        time: float = self._process.perform("clock")
        return time

    def yield_(self) -> None:
        """Let others go first."""
        self._process.perform("yield")

    def nap(self, seconds: float, turn: int) -> None:
        """Sleep until something changes, or nobody can do anything else."""
        self._process.perform("nap", seconds=seconds)

    def park(self, word: int, expected: int, seconds: float, turn: int) -> None:
        """Sleep while the word is as expected, until woken or so long."""
        if self._process.perform("park", word, expected, seconds):
            self._process.perform("sleep", seconds=seconds)

    def unpark(self, word: int) -> None:
        """Wake who sleeps on the word."""
        self._process.perform("unpark", word)


class SimulatedClaims:
    """The record locks (`mpbakery._protocol.interfaces.Claims`)."""

    descriptor = -1

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_intact(self) -> bool:
        """Whether it can be used."""
        return True

    def try_lock(self, place: int) -> bool:
        """Get it, if nobody else has it."""
        got: bool = self._process.perform("lock")
        return got

    def unlock(self, place: int) -> None:
        """Give it back."""
        self._process.perform("unlock")

    def life_of(self, process: Identity) -> Callable[[], object]:
        """What holds the one that says that this process is alive."""
        return functools.partial(self._process.perform, "live")

    def is_taken(self, error: OSError) -> bool:
        """Nobody else has that one."""
        return False

    def lives(self, process: Identity) -> bool:
        """Whether a process holds it."""
        alive: bool = self._process.perform("lives", value=process.pid)
        return alive


class SimulatedProcesses:
    """Who is alive (`mpbakery._protocol.interfaces.Processes`)."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def this_process(self) -> Identity:
        """This one."""
        return self._process.identity

    def this_namespace(self) -> int:
        """Where its number means something."""
        return SimulatedMemory.namespace

    def is_foreign(self, namespace: int) -> bool:
        """There are no others."""
        return False

    def is_dead(self, process: Identity) -> bool:
        """Whether it was killed; or, where all is hearsay, so it seems."""
        dead: bool = self._process.perform("alive", value=process.pid)
        return dead
