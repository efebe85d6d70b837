"""What the kernel tells of processes: whose children they are, what state they are in, what they have open."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: prctl(2): whoever loses its parent becomes a child of this process.
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants that lose theirs, so that it can find and reap them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def all_processes() -> Iterator[int]:
    """The pids of all."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def status_of(pid: int) -> list[bytes]:
    """What /proc/<pid>/stat says after the name: the state, the parent …; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def state_of(pid: int) -> str:
    """The letter of a process's state, such as T (stopped) or Z (zombie), "" if it is gone."""
    return b"".join(status_of(pid)[:1]).decode()


def children_of(parent: int) -> list[int]:
    """The children of a process, dead ones included that were not reaped."""
    return [pid for pid in all_processes() if status_of(pid)[1:2] == [b"%d" % parent]]


def command_of(pid: int) -> str:
    """What a process runs, "" if it is dead or gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them


def own_descriptors() -> int:
    """The same without those of what nobody uses any more, which would be closed sooner or later."""
    gc.collect()
    return descriptors()


def mapped_memory() -> int:
    """The address space of this process (bytes)."""
    return _memory(0)


def resident_memory() -> int:
    """What of it is in memory (bytes)."""
    return _memory(1)


def _memory(field: int) -> int:
    return int(Path("/proc/self/statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")
