"""Where threads are in their programs: by py-spy if it is on the PATH, by the standard library from CPython 3.15 on."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any, Final

from mpbakery._errors import is_from_handler
from mpbakery._inspect.decode import printable
from mpbakery._inspect.people import Who

#: So many processes are looked at, at most: each costs some 0.2 s.
_MOST: Final = 16
#: At once, so that the machine has something left for the program itself.
_AT_ONCE: Final = 4
#: py-spy is given up after so many seconds.
_PATIENCE: Final = 10.0

_Call = tuple[str, str, int]


class Stacks:
    """What was seen of the threads of some processes."""

    def __init__(self) -> None:
        self._found: dict[Who, tuple[str, ...]] = {}

    def of(self, who: Who) -> tuple[str, ...]:
        """The calls of a thread, the innermost first; none if they could not be seen."""
        return self._found.get(who, ())

    def see_own(self) -> None:
        """Look at the threads of this process."""
        self._found.update(_own())

    def see(self, whom: Sequence[Who], notes: list[str]) -> None:
        """Look where these are, in other processes than this one; `notes` is told what could not be seen."""
        pids = [pid for pid in dict.fromkeys(who.pid for who in whom) if pid != os.getpid()]
        if len(pids) > _MOST:
            notes.append(f"the stacks of {len(pids) - _MOST} more processes were not looked at")
        # imported where something is wrong only: the look at a program in which all is well takes half the time so
        import shutil

        program = shutil.which("py-spy")
        if program is not None:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_AT_ONCE) as executor:
                for found in executor.map(_by_py_spy, [program] * _MOST, pids[:_MOST]):
                    self._found.update(found)
        elif sys.version_info >= (3, 15):
            for pid in pids[:_MOST]:
                self._found.update(_by_interpreter(pid))
        elif pids:
            notes.append("where they are in the program can be seen with py-spy on the PATH (pip install py-spy)")


def _own() -> dict[Who, tuple[str, ...]]:
    """The threads of this process."""
    natives = {thread.ident: thread.native_id for thread in threading.enumerate()}
    found = {}
    for ident, frame in sys._current_frames().items():
        native = natives.get(ident)
        if native is not None:
            found[Who(os.getpid(), native)] = _told(_calls(frame))
    return found


def _calls(frame: FrameType | None) -> Iterable[_Call]:
    while frame is not None:
        yield frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _by_py_spy(program: str, pid: int) -> dict[Who, tuple[str, ...]]:
    import json
    import subprocess

    # without --nonblocking it would stop the process for a moment
    command = [program, "dump", "--json", "--nonblocking", "--pid", str(pid)]
    try:
        run = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)  # noqa: S603
        threads = json.loads(run.stdout)
        return {
            Who(pid, int(thread["os_thread_id"])): _told(
                (str(frame["name"]), str(frame["filename"]), int(frame["line"])) for frame in thread["frames"]
            )
            for thread in threads
            if thread.get("os_thread_id")
        }
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        if is_from_handler(error):
            raise
        return {}


def _by_interpreter(pid: int) -> dict[Who, tuple[str, ...]]:
    """By what CPython 3.15 has for its own profiler: private, and only for the same version of Python."""
    try:
        debugging: Any = importlib.import_module("_remote_debugging")
        return {
            Who(pid, thread.thread_id): _told(
                (frame.funcname, frame.filename, frame.location.lineno if frame.location else 0)
                for frame in thread.frame_info
            )
            for interpreter in debugging.RemoteUnwinder(pid, all_threads=True).get_stack_trace()
            for thread in interpreter.threads
        }
    except Exception as error:
        if is_from_handler(error):
            raise
        return {}


def _told(calls: Iterable[_Call]) -> tuple[str, ...]:
    """Calls as people read them, without those inside of this package, in which a waiter waits."""
    told: list[str] = []
    for name, file, line in calls:
        if not told and "/mpbakery/_" in file:
            continue
        told.append(printable(f"{name} ({os.path.basename(file)}:{line})".encode(errors="replace")))
    return tuple(told)
