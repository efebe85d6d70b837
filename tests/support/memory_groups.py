"""Groups of processes that have only so much memory: the kernel kills one of them when it is used up."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpbakery import Lock
from support.workers import wait_until

#: Where groups are made, in both versions of the kernel's interface, and what the limit is called.
_PLACES = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A group whose processes have `limit` bytes together; skips the test where none can be made."""
    for place, name in _PLACES:
        group = place / f"mpbakery-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(limit))
            break
        except OSError:
            group.rmdir()
    else:
        pytest.skip("no memory group can be made here")
    try:
        yield group
    finally:
        # a process leaves its group a moment after it was reaped
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def join_group(group: Path) -> None:
    """Have this process be in the group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def use_memory(size: int) -> int:
    """Use so many bytes for a moment: something is written to each page."""
    memory = bytearray(size)
    for page in range(0, size, mmap.PAGESIZE):
        memory[page] = 1
    return size


def use_memory_under(lock: Lock, group: Path, size: int) -> None:
    """The same in the group, while holding the lock."""
    join_group(group)
    with lock:
        use_memory(size)
