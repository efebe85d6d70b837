"""Sleeping until another process stores a word: the futex of Linux, or naps.

`Parker(mapping, place)` sleeps on words of one mapping, counted from the byte `place` on. On Linux it is the futex
system call by way of ctypes, which is imported at the first park. The operations are the shared ones:
FUTEX_PRIVATE_FLAG would look the word up by its address in this process alone, and never wake another. Without ctypes,
or where the kernel refuses the call, a park is a nap that grows with `turn`, and whoever should be woken finds out by
itself.
"""

from __future__ import annotations

import errno
import importlib
import math
import mmap
import os
import random
import sys
import time
from typing import Final

from mpbakery._errors import is_from_handler
from mpbakery._system.native import FUTEX_CALL, new_rlock, sleep

_FUTEX_WAIT: Final = 0
_FUTEX_WAKE: Final = 1
#: The futex is 32 bits wide: the half of its word that holds small numbers.
_HALF: Final = 0 if sys.byteorder == "little" else 4
_FIRST_NAP: Final = 50e-6
_LONGEST_POLL: Final = 5e-3
_WORD: Final = 8
#: How many seconds pass until ctypes is looked for again, where it may be had later.
_PATIENCE: Final = 1.0


def nap(seconds: float, turn: int) -> None:
    """Sleep at most `seconds`, the shorter the lower `turn` (0, 1, 2 …), with jitter: waiters fall out of step."""
    longest = min(_FIRST_NAP * 2 ** min(turn, 16), _LONGEST_POLL)
    sleep(max(0.0, min(seconds, longest * random.uniform(0.5, 1.0))))


class _Futex:
    """The futex system call, by way of ctypes."""

    def __init__(self, number: int) -> None:
        """`number` of the system call. Raises ImportError or OSError where ctypes cannot be had."""
        from ctypes import CDLL, POINTER, Structure, addressof, c_char, c_int, c_long, c_uint32, c_void_p, get_errno

        class Timespec(Structure):
            _fields_ = (("seconds", c_long), ("nanoseconds", c_long))

        self._number = number
        self._timespec = Timespec
        self._errno = get_errno
        self._byte = c_char
        self._address_of = addressof
        self._call = CDLL(None, use_errno=True).syscall
        self._call.restype = c_long
        self._call.argtypes = (c_long, c_void_p, c_int, c_uint32, POINTER(Timespec), c_void_p, c_uint32)

    def address_of(self, mapping: mmap.mmap | memoryview) -> int:
        """Where a mapping begins."""
        return self._address_of(self._byte.from_buffer(mapping))

    def __call__(self, address: int, operation: int, value: int, seconds: float | None) -> int:
        """Carry out an operation on the word at an address; 0, or the error's number."""
        timeout = None
        if seconds is not None:
            whole = int(seconds)
            timeout = self._timespec(whole, int((seconds - whole) * 1e9))
        if self._call(self._number, address, operation, value, timeout, None, 0) >= 0:
            return 0
        return self._errno()


#: A child that is forked while another thread is here would wait for that import for ever: no fork meanwhile.
_loading: Final = new_rlock()
os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)
_futex: _Futex | None = None
#: When to look for it again (monotonic seconds), where there is none.
_look_again = 0.0


def _get_futex() -> _Futex | None:
    """The futex, None where there is none, or not yet."""
    global _futex, _look_again
    if _futex is not None or time.monotonic() < _look_again:
        return _futex
    if FUTEX_CALL is None:
        _look_again = math.inf
        return None
    with _loading:
        if _is_being_imported("ctypes") or _is_being_imported("_ctypes"):
            return None
        try:
            _futex = _Futex(FUTEX_CALL)
        except (ImportError, AttributeError, MemoryError, OSError) as error:
            if is_from_handler(error):
                raise
            # no descriptor is left; or there is no ctypes, or what it needs is forbidden
            later = isinstance(error, (ImportError, OSError)) and not isinstance(error, ModuleNotFoundError)
            _look_again = time.monotonic() + _PATIENCE if later else math.inf
    return _futex


def _is_being_imported(package: str) -> bool:
    """Whether somebody is importing that, or a module in it, at this moment: whoever imports it as well, waits.

    That can be for ever. This may be a signal handler in the midst of that import, or a child that was forked while a
    thread imported it that does not exist here; its timeout is to be kept all the same.
    """
    # Nothing public says so. Where this is missing, the import is one like any other.
    locks = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {}).copy()  # others change it
    return any(
        module.partition(".")[0] == package and getattr(reference(), "owner", None) is not None
        for module, reference in locks.items()
    )


class Parker:
    """Parks and unparks threads on words of some shared memory."""

    __slots__ = ("_address", "_mapping", "_place")

    def __init__(self, mapping: mmap.mmap | memoryview, place: int = 0) -> None:
        self._mapping = mapping
        self._place = place
        self._address = 0

    def park(self, word: int, expected: int, seconds: float, turn: int) -> None:
        """Sleep while word `word` is `expected`, at most `seconds`; may return early, the more so the lower `turn`."""
        futex = _get_futex()
        if futex is None:
            nap(seconds, turn)
            return
        failure = futex(self._address_of(futex, word), _FUTEX_WAIT, expected, seconds)
        if failure not in {0, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}:
            _refused()
            nap(seconds, turn)

    def unpark(self, word: int) -> None:
        """Wake whoever sleeps on word `word`; the caller has changed it."""
        futex = _get_futex()
        if futex is not None and futex(self._address_of(futex, word), _FUTEX_WAKE, 1, None):
            _refused()

    def _address_of(self, futex: _Futex, word: int) -> int:
        if not self._address:
            self._address = futex.address_of(self._mapping) + self._place
        return self._address + word * _WORD + _HALF


def _refused() -> None:
    """The kernel does not let this process use the futex (a sandbox): from now on it naps."""
    global _futex, _look_again
    _futex, _look_again = None, math.inf
