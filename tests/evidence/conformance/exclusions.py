"""The tests of CPython's that mpbakery does not pass, each with the reason."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from evidence.conformance.units import LOCK_TESTS, METHODS, MULTIPROCESSING, NO_SHM, PLACES, Unit


class Exclusion(NamedTuple):
    """A test that fails; if it passes, the list is to be mended."""

    suite: str
    #: as in units.CLASSES
    name: str
    test: str
    reason: str
    #: multiprocessing's own class fails it just as well
    theirs: bool = False
    #: whether it is run to see that it fails; not if it takes long to fail, or hangs
    run: bool = True
    #: whether it may pass as well
    varies: bool = False
    methods: tuple[str, ...] = METHODS
    places: tuple[str, ...] = PLACES
    #: the first version of CPython that has the test, or in which it fails, and the first one in which that is over
    since: tuple[int, int] = (3, 10)
    until: tuple[int, int] = (4, 0)

    def concerns(self, unit: Unit) -> bool:
        """Whether it counts for a unit, in this version of CPython."""
        return (
            (self.suite, self.name) == (unit.suite, unit.name)
            and unit.method in self.methods
            and unit.place in self.places
            and self.since <= sys.version_info[:2] < self.until
        )


def _of_threads(name: str, test: str, reason: str, *, since: tuple[int, int] = (3, 10), run: bool = True) -> Exclusion:
    """The tests are those of `threading`, and this asks for what only the locks of that have."""
    return Exclusion(LOCK_TESTS, name, test, reason, theirs=True, since=since, run=run)


_REPR: Final = "The repr that is asked for is threading's; mpbakery's is the one of multiprocessing."
_TIMEOUT: Final = (
    "threading refuses a timeout together with blocking=False, and one that is negative or more than TIMEOUT_MAX. "
    "multiprocessing takes all of them, with block=False for none and a negative one for zero, and so does mpbakery."
)
_REINIT: Final = (
    "_at_fork_reinit is private, and for locks of which a forked child gets a copy. One that is shared must not be "
    "reset by a child; a forked child's own state starts anew by itself."
)
_INTERNAL: Final = "is private, for threading.Condition, which does not take locks of mpbakery."
_MULTIRELEASE: Final = (
    "release(n) is threading's: multiprocessing's semaphores give back one permit at a time, and so do mpbakery's. "
    "It is not run because its threads wait half a minute for the permits."
)

EXCLUSIONS: Final[tuple[Exclusion, ...]] = (
    _of_threads("LockTests", "test_repr", _REPR),
    _of_threads("LockTests", "test_locked_repr", _REPR),
    _of_threads("LockTests", "test_timeout", _TIMEOUT),
    _of_threads("LockTests", "test_at_fork_reinit", _REINIT),
    _of_threads("RLockTests", "test_repr", _REPR),
    _of_threads("RLockTests", "test_locked_repr", _REPR),
    _of_threads("RLockTests", "test_repr_count", _REPR, since=(3, 14)),
    _of_threads("RLockTests", "test_timeout", _TIMEOUT),
    _of_threads("RLockTests", "test__is_owned", f"_is_owned {_INTERNAL}"),
    _of_threads("RLockTests", "test_release_save_unacquired", f"_release_save {_INTERNAL}"),
    _of_threads("RLockTests", "test_recursion_count", f"_recursion_count {_INTERNAL}", since=(3, 11)),
    _of_threads("EventTests", "test_at_fork_reinit", _REINIT),
    _of_threads("EventTests", "test_repr", _REPR, since=(3, 11)),
    _of_threads("SemaphoreTests", "test_acquire_timeout", _TIMEOUT),
    _of_threads("SemaphoreTests", "test_multirelease", _MULTIRELEASE, run=False),
    _of_threads("SemaphoreTests", "test_repr", _REPR, since=(3, 11)),
    _of_threads("BoundedSemaphoreTests", "test_acquire_timeout", _TIMEOUT),
    _of_threads("BoundedSemaphoreTests", "test_multirelease", _MULTIRELEASE, run=False),
    _of_threads("BoundedSemaphoreTests", "test_repr", _REPR, since=(3, 11)),
    _of_threads("BarrierTests", "test_repr", _REPR, since=(3, 11)),
    _of_threads(
        "ConditionTests",
        "test_nan_timeout",
        "After the calls with NaN, which raise as they should, it counts the private list _waiters.",
        since=(3, 14),
    ),
    Exclusion(
        LOCK_TESTS,
        "ConditionTests",
        "test_acquire",
        "It makes a condition over a threading.Lock, which other processes do not see. multiprocessing takes that all "
        "the same; mpbakery.Condition refuses every lock but mpbakery's, with a TypeError.",
    ),
    Exclusion(
        MULTIPROCESSING,
        "_TestQueue",
        "test_queue_feeder_donot_stop_onexc",
        "It puts what cannot be pickled, and wants put() to return as if nothing were wrong, and a thread to print a "
        "traceback: with multiprocessing's queue, nobody else is told. mpbakery's put() pickles itself, and raises.",
    ),
    Exclusion(
        MULTIPROCESSING,
        "TestStartMethod",
        "test_mixed_startmethod",
        "A lock made for fork that is sent to a spawned process raises the RuntimeError that it wants; but it wants it "
        "to say 'A SemLock created in a fork'. mpbakery's, which has no SemLock, says which lock, and what to do.",
        methods=("spawn",),  # under the others it skips itself
        since=(3, 11),
        until=(3, 14),  # from there on a test before it changes the start method, so that it skips itself
    ),
    Exclusion(
        MULTIPROCESSING,
        "TestStartMethod",
        "test_preload_resources",
        "It runs a program of CPython's, mp_preload.py, that makes a multiprocessing.Lock and does not call install(); "
        "where nothing can be made in /dev/shm, there is none.",
        methods=("forkserver",),  # under the others it skips itself
        places=(NO_SHM,),
    ),
)
