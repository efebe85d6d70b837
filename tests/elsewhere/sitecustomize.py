"""Has each Python that starts with this folder in PYTHONPATH use the fences of other machines than x86.

That shows that the code works there, and what it costs; not that the fences are where memory needs them.
"""

from __future__ import annotations

import importlib
import platform
import sys

_FENCE = "mpbakery._system.fence"
_machine = platform.machine


def _machine_of_fences() -> str:
    # the rest, which has the numbers of system calls, goes by the machine as it is
    return "another" if sys._getframe(1).f_globals["__name__"] == _FENCE else _machine()


platform.machine = _machine_of_fences
importlib.import_module(_FENCE)
platform.machine = _machine
