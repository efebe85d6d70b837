"""How a process ends with its parent, whatever it does: the system signals it when the last end of a pipe closes."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from multiprocessing import parent_process

from mpbakery._system import native


def end_when_orphaned() -> None:
    """Have SIGTERM sent to this process, a child of multiprocessing, when its parent is gone.

    Where the system cannot do that (only Linux can), nothing happens: then the process has to find it out itself.
    """
    parent = parent_process()
    if parent is None or sys.platform != "linux":
        return
    # The reading end of a pipe that never has anything in it, and whose other end the parent has.
    end = parent.sentinel
    try:
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGTERM)  # else it would be SIGIO, which says nothing
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | fcntl.FASYNC)
    except OSError:  # of a sandbox
        return
    # It may have been gone before, and no signal comes any more.
    if native.is_readable(end):
        os.kill(os.getpid(), signal.SIGTERM)
