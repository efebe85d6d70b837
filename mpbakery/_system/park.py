"""Sleeping until another process stores a word: the futex of Linux, or naps.

`Parker(mapping)` sleeps on words of one mapping. On Linux it is the futex system call by way of ctypes, which is
imported at the first park. The operations are the shared ones: FUTEX_PRIVATE_FLAG would look the word up by its
address in this process alone, and never wake another. Without ctypes, or where the kernel refuses the call, a park is
a nap that grows with `turn`, and whoever should be woken finds out by itself.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import random
import sys
from collections.abc import Callable
from typing import Final

from mpbakery._system.native import new_rlock, sleep

_FUTEX_WAIT: Final = 0
_FUTEX_WAKE: Final = 1
_SYSCALLS: Final = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "loongarch64": 98,
    "ppc64le": 221,
    "ppc64": 221,
    "s390x": 238,
}
#: The futex is 32 bits wide: the half of its word that holds small numbers.
_HALF: Final = 0 if sys.byteorder == "little" else 4
_FIRST_NAP: Final = 50e-6
_LONGEST_POLL: Final = 5e-3
_WORD: Final = 8

Futex = Callable[[int, int, int, "float | None"], int]


def nap(seconds: float, turn: int) -> None:
    """Sleep at most `seconds`, the shorter the lower `turn` (0, 1, 2 …), with jitter: waiters fall out of step."""
    longest = min(_FIRST_NAP * 2 ** min(turn, 16), _LONGEST_POLL)
    sleep(max(0.0, min(seconds, longest * random.uniform(0.5, 1.0))))


def _load_futex() -> Futex | None:
    """The futex system call as futex(address, operation, value, seconds) -> errno, or None where there is none."""
    number = _SYSCALLS.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return None
    try:
        import ctypes
    except ImportError:
        return None

    class Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    try:
        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return None
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_uint32,
        ctypes.POINTER(Timespec),
        ctypes.c_void_p,
        ctypes.c_uint32,
    )

    def futex(address: int, operation: int, value: int, seconds: float | None) -> int:
        timeout = None
        if seconds is not None:
            whole = int(seconds)
            timeout = Timespec(whole, int((seconds - whole) * 1e9))
        if syscall(number, address, operation, value, timeout, None, 0) >= 0:
            return 0
        return ctypes.get_errno()

    return futex


#: A child that is forked while another thread imports ctypes would wait for that import for ever: no fork meanwhile.
_loading: Final = new_rlock()
os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)
_unloaded: Final = object()
_futex: object = _unloaded
#: The thread that has _loading is in the middle of it.
_half_loaded = False


def _get_futex() -> Futex | None:
    global _futex, _half_loaded
    if _futex is _unloaded:
        with _loading:
            if _half_loaded:
                return None  # a signal handler that interrupts the import would find half a ctypes: let it nap
            _half_loaded = True
            try:
                _futex = _load_futex()
            finally:
                _half_loaded = False
    return _futex  # type: ignore[return-value]


class Parker:
    """Parks and unparks threads on words of some shared memory."""

    __slots__ = ("_address", "_mapping")

    def __init__(self, mapping: mmap.mmap | memoryview) -> None:
        self._mapping = mapping
        self._address = 0

    def park(self, word: int, expected: int, seconds: float, turn: int) -> None:
        """Sleep while word `word` is `expected`, at most `seconds`; may return early, the more so the lower `turn`."""
        futex = _get_futex()
        if futex is None:
            nap(seconds, turn)
            return
        failure = futex(self._address_of(word), _FUTEX_WAIT, expected, seconds)
        if failure not in {0, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}:
            _refused()
            nap(seconds, turn)

    def unpark(self, word: int) -> None:
        """Wake whoever sleeps on word `word`; the caller has changed it."""
        futex = _get_futex()
        if futex is not None and futex(self._address_of(word), _FUTEX_WAKE, 1, None):
            _refused()

    def _address_of(self, word: int) -> int:
        if not self._address:
            import ctypes

            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        return self._address + word * _WORD + _HALF


def _refused() -> None:
    """The kernel does not let this process use the futex (a sandbox): from now on it naps."""
    global _futex
    _futex = None
