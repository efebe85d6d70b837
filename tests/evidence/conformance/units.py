"""What is run: CPython's test classes, each by itself, by start method and by place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

METHODS: Final = ("fork", "spawn", "forkserver")

HERE: Final = "here"
#: Where nothing can be made in /dev/shm.
NO_SHM: Final = "no-shm"
#: With a Python as it is built where there is no `sem_open`.
NO_SEMLOCK: Final = "no-semlock"
PLACES: Final = (HERE, NO_SHM, NO_SEMLOCK)

OURS: Final = "mpbakery"
THEIRS: Final = "multiprocessing"

MULTIPROCESSING: Final = "test._test_multiprocessing"
LOCK_TESTS: Final = "test.lock_tests"
FUTURES: Final = "test.test_concurrent_futures"

#: The classes of each suite: those that use what mpbakery has. Left out are, for example, managers' proxies,
#: connections and shared_memory. Of test_concurrent_futures, what is in front of the colon is the module.
CLASSES: Final = {
    MULTIPROCESSING: (
        "_TestLock",
        "_TestSemaphore",
        "_TestCondition",
        "_TestEvent",
        "_TestBarrier",
        "_TestQueue",
        "_TestPool",
        "_TestPoolWorkerErrors",
        "_TestPoolWorkerLifetime",
        "TestPoolNotLeakOnFailure",
        "TestSimpleQueue",
        "TestInitializers",
        "TestStartMethod",
        "_TestLogging",
        "_TestValue",
        "_TestArray",
        "_TestSharedCTypes",
        "_TestProcess",
        "_TestSubclassingProcess",
    ),
    LOCK_TESTS: (
        "LockTests",
        "RLockTests",
        "ConditionTests",
        "EventTests",
        "SemaphoreTests",
        "BoundedSemaphoreTests",
        "BarrierTests",
    ),
    FUTURES: (
        "test_wait:Wait",
        "test_process_pool:ProcessPoolExecutor",
        "test_shutdown:ProcessPoolShutdown",
        "test_as_completed:AsCompleted",
        "test_deadlock:ExecutorDeadlock",
        "test_init:Initializer",
        "test_init:FailingInitializer",
    ),
}


class Unit(NamedTuple):
    """One class of tests, under one start method, in one place; what is tested is mpbakery or multiprocessing."""

    suite: str
    name: str
    method: str
    place: str = HERE
    whose: str = OURS


def all_units(methods: Sequence[str], places: Sequence[str], whose: str, word: str) -> Iterator[Unit]:
    """Every unit of those methods and places whose suite or class has that word in its name."""
    for place in places:
        for method in methods:
            for suite, names in CLASSES.items():
                for name in names:
                    if word.lower() in f"{suite}.{name}".lower():
                        yield Unit(suite, name, method, place, whose)
