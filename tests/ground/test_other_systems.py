"""Systems that the suite does not run on: what is said there, and whether it could be begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.workers import DEADLINE

TESTS = Path(__file__).resolve().parents[1]

#: Makes this look like macOS to what is imported from then on, as far as that goes: there, these are not to be had.
MACOS = """
import ctypes, fcntl, os, resource, signal, sys

sys.platform = "darwin"
machine = os.uname_result(("Darwin", "here", "25.0.0", "Darwin Kernel Version 25.0.0", {machine!r}))
os.uname = lambda: machine
LINUX_ONLY = {{
    fcntl: ("F_ADD_SEALS", "F_GET_SEALS", "F_OFD_", "F_SEAL_", "F_SETPIPE_SZ", "F_GETPIPE_SZ"),
    os: ("CLONE_", "MFD_", "P_PIDFD", "copy_file_range", "eventfd", "memfd_create", "pidfd_open", "sched_getaffinity",
         "sched_setaffinity", "setns", "splice", "unshare"),
    resource: ("RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_SIGPENDING", "prlimit"),
    signal: ("SIGRTM", "pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
}}
for module, prefixes in LINUX_ONLY.items():
    for name in dir(module):
        if name.startswith(prefixes):
            delattr(module, name)


class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in {{"mount", "prctl", "syscall", "umount2", "unshare"}}:
            raise AttributeError(f"symbol not found: {{name}}")
        return super().__getattr__(name)


ctypes.CDLL = Library
"""
INTEL, APPLE = "x86_64", "arm64"


def run(program: str, *, machine: str) -> subprocess.CompletedProcess[str]:
    """Run a program as if it were on macOS."""
    return subprocess.run(
        [sys.executable, "-c", MACOS.format(machine=machine) + program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=TESTS.parent,
    )


def test_apple_silicon_is_refused() -> None:
    """Nothing there is known to be a full fence: two could be in."""
    output = run("import mpbakery", machine=APPLE)
    assert output.returncode == 1
    assert "ImportError: mpbakery has no memory fence for Apple silicon" in output.stderr
    assert "Rosetta" in output.stderr


def test_with_a_processor_of_intel_it_is_not() -> None:
    output = run("import mpbakery\nwith mpbakery.Lock() as got:\n    print(got)", machine=INTEL)
    assert (output.stdout, output.stderr) == ("True\n", "")


@pytest.mark.serial
def test_the_suite_can_be_collected() -> None:
    program = f"""
import pytest

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", {str(TESTS)!r}]))
"""
    output = run(program, machine=INTEL)
    assert output.returncode == 0, output.stdout[-2000:] + output.stderr[-2000:]
    assert "error" not in output.stdout.splitlines()[-1]
    assert int(output.stdout.splitlines()[-1].split()[0]) > 1500
