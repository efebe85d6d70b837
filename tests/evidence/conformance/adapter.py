"""Runs one class of CPython's tests against mpbakery; conform.py starts it, in a process of its own.

    python adapter.py REPORT SECONDS TEST...    all tests of the class but those; what class it is, VARIABLE says

A child of the spawn or forkserver method imports this module as its main module, and so has the class, too.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import multiprocessing
import os
import sys
import traceback
import unittest
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import mpbakery
from evidence.conformance.reports import ALTERED, FAILED, KNOWN, MISSING, PASSED, REFUSED, SKIPPED, STARTED, VARIABLE
from evidence.conformance.units import FUTURES, HERE, LOCK_TESTS, MULTIPROCESSING, NO_SEMLOCK, NO_SHM, OURS, Unit
from support.namespaces import WITHOUT_SEMAPHORES, leave_shared_memory


def make_class(unit: Unit) -> type[unittest.TestCase]:
    """The class that CPython makes of its own in its test suite, over the locks that are to be tested.

    Raises ModuleNotFoundError if this Python comes without those tests.
    """
    if unit.whose == OURS and unit.suite in {MULTIPROCESSING, FUTURES}:
        _prepare_programs(unit)
    if unit.suite == MULTIPROCESSING:
        return _of_multiprocessing(unit)
    if unit.suite == LOCK_TESTS:
        return _of_lock_tests(unit)
    if unit.suite == FUTURES:
        return _of_futures(unit)
    found: type[unittest.TestCase] = getattr(importlib.import_module(unit.suite), unit.name)
    return found


def _prepare_programs(unit: Unit) -> None:
    """Have programs that tests run use mpbakery as well: they are started in isolated mode, and inherit nothing."""
    helper: Any = importlib.import_module("test.support.script_helper")
    plain = helper.run_python_until_end
    path = str(Path(mpbakery.__file__).parent.parent)
    prelude = f"import sys; sys.path.insert(0, {path!r}); import mpbakery; mpbakery.install()\n"
    if unit.place == NO_SEMLOCK:
        prelude = WITHOUT_SEMAPHORES + prelude

    def run_prepared(*arguments: str, **settings: Any) -> Any:
        if arguments[0] == "-c":
            arguments = "-c", prelude + arguments[1], *arguments[2:]
        return plain(*arguments, **settings)

    helper.run_python_until_end = run_prepared


def _of_multiprocessing(unit: Unit) -> type[unittest.TestCase]:
    if unit.whose == OURS:
        mpbakery.install()  # before the import: the module takes multiprocessing's functions by their names
    support: Any = importlib.import_module("test.support")
    # This asks for the semaphores that are not used here, and skips everything where there are none.
    support.skip_if_broken_multiprocessing_synchronize = lambda: None
    module: Any = importlib.import_module(MULTIPROCESSING)
    if unit.whose == OURS:
        # In place of a look at the semaphores that multiprocessing's Condition is made of.
        module._TestCondition.check_invariant = _nobody_waits
    # Not CPython's own module of these classes, which asks for the semaphores on 3.10, too, and would end the server.
    module.PRELOAD = ["__main__"]
    module.install_tests_in_module_dict(globals(), unit.method)
    found: type[unittest.TestCase] = globals()[unit.name.replace("_Test", "WithProcessesTest")]
    return found


def _nobody_waits(case: unittest.TestCase, condition: mpbakery.Condition) -> None:
    if not repr(condition).endswith(", 0)>"):
        case.fail(f"{condition} has somebody who waits")


def _of_lock_tests(unit: Unit) -> type[unittest.TestCase]:
    module: Any = importlib.import_module(LOCK_TESTS)
    context = _context(unit)
    kinds = {
        "locktype": context.RLock if unit.name == "RLockTests" else context.Lock,
        "condtype": context.Condition,
        "eventtype": context.Event,
        "semtype": context.BoundedSemaphore if unit.name == "BoundedSemaphoreTests" else context.Semaphore,
        "barriertype": context.Barrier,
    }
    return type(unit.name, (getattr(module, unit.name),), {name: staticmethod(kind) for name, kind in kinds.items()})


def _of_futures(unit: Unit) -> type[unittest.TestCase]:
    if unit.place != HERE:
        mpbakery.install()  # else there is no ProcessPoolExecutor without `mp_context`, or none at all
    package: Any = importlib.import_module(FUTURES)
    name, _, stem = unit.name.partition(":")
    several = hasattr(package, "__path__")
    module = importlib.import_module(f"{FUTURES}.{name}") if several else package
    util: Any = importlib.import_module(f"{FUTURES}.util") if several else package
    util.ExecutorMixin.get_context = lambda _self: _context(unit)
    found: type[unittest.TestCase] = getattr(module, f"ProcessPool{unit.method.capitalize()}{stem}Test")
    return found


def _context(unit: Unit) -> Any:
    return (mpbakery if unit.whose == OURS else multiprocessing).get_context(unit.method)


class Telling(unittest.TestResult):
    """Writes down what comes of each test as soon as it is known: it may be that there is no time for it later."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def tell(self, name: str, outcome: str, text: str = "") -> None:
        """One line of the report."""
        print(json.dumps([name, outcome, text]), file=self._out, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        """Say what is running: it may hang."""
        super().startTest(test)
        print(f"--- {test}", file=sys.stderr, flush=True)
        self.tell(_name(test), STARTED)

    def addSuccess(self, test: unittest.TestCase) -> None:
        """It passed."""
        self.tell(_name(test), PASSED)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """It skipped itself."""
        self.tell(_name(test), SKIPPED, reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        """It failed."""
        self._tell_failure(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        """It raised, or what prepares the class or the module did."""
        self._tell_failure(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        """A part of it has ended."""
        if err is not None:
            self._tell_failure(test, err)

    def _tell_failure(
        self, test: unittest.TestCase, err: tuple[type[BaseException], BaseException, TracebackType | None]
    ) -> None:
        self.tell(_name(test), FAILED, "".join(traceback.format_exception(*err)))


def _name(test: unittest.TestCase) -> str:
    test = getattr(test, "test_case", test)  # a part that is skipped stands for its test
    return getattr(test, "_testMethodName", str(test))


def run(unit: Unit, out: TextIO, seconds: float, left_out: list[str]) -> None:
    """Run the class and report, line by line."""
    result = Telling(out)
    if case is None:
        result.tell("", MISSING, lack)
        return
    if unit.place == NO_SHM:
        try:
            leave_shared_memory()
        except PermissionError as error:
            result.tell("", REFUSED, f"a mount namespace of one's own: {error}")
            return
    _check_place(unit.place)
    faulthandler.dump_traceback_later(seconds, exit=True)
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    for name in names:
        result.tell(name, KNOWN)
    unittest.TestSuite(case(name) for name in names if name not in left_out).run(result)
    faulthandler.cancel_dump_traceback_later()
    support: Any = sys.modules.get("test.support")
    if getattr(support, "environment_altered", False):
        result.tell("", ALTERED)


def _check_place(place: str) -> None:
    """Raise RuntimeError if there is what there should not be."""
    if place == NO_SEMLOCK and hasattr(importlib.import_module("_multiprocessing"), "SemLock"):
        raise RuntimeError("there is a SemLock")
    if place == NO_SHM:
        try:
            open("/dev/shm/mpbakery", "x").close()
        except OSError:
            return
        raise RuntimeError("a file can be made in /dev/shm")


# also in children of the other start methods, which import this
warnings.simplefilter("error", mpbakery.DeadlockWarning)
unit = Unit(*json.loads(os.environ[VARIABLE]))
case, lack = None, ""
try:
    case = make_class(unit)
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("test"):
        raise
    lack = str(error)

if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as report:
        run(unit, report, float(sys.argv[2]), sys.argv[3:])
