"""The machine that measures: what it is, and how much others use of it meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import mpbakery


def environment() -> dict[str, str]:
    """What the figures depend on, apart from the code."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mpbakery": mpbakery.__version__,
        "machine": f"{cores} cores of {model}, {platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
    }


class Disturbance:
    """How much of the machine other processes use while this one measures: a figure is worth less the more it is."""

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float | None:
        """The share of all processors that others have used since this was made, 0 to 1; None where it is unknown."""
        now = self._read()
        if self._start is None or now is None:
            return None
        total, busy, own = (late - early for late, early in zip(now, self._start, strict=True))
        return max(0.0, (busy - own) / total) if total else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            cpu_line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return None
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in cpu_line.split()[1:9]]
        own = os.times()
        # idle and waiting for a disk are no use; time stolen by a hypervisor is
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], sum(own[:4])
