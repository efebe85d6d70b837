"""Classes of tests in which something is wrong, to see that it would be noticed; and one in which nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import unittest

import mpbakery


class Sound(unittest.TestCase):
    """Nothing is wrong."""

    def test_lock(self) -> None:
        with mpbakery.Lock() as acquired:
            assert acquired

    def test_that_skips_itself(self) -> None:
        self.skipTest("to see that this is counted")

    def test_whose_part_skips_itself(self) -> None:
        with self.subTest(part=1):
            self.skipTest("to see that it counts for the test")

    def test_in_parts(self) -> None:
        for part in range(3):
            with self.subTest(part=part):
                assert part < 3


class FailingPart(unittest.TestCase):
    """One of three parts of a test fails."""

    def test_in_parts(self) -> None:
        for part in range(3):
            with self.subTest(part=part):
                assert part != 1

    def test_that_passes(self) -> None:
        pass


class Hanging(unittest.TestCase):
    """A test hangs, and has a child."""

    def test_that_passes(self) -> None:
        pass

    def test_the_lock_of_somebody_who_sleeps(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        lock = mpbakery.Lock()
        lock.acquire()
        lock.acquire()


class Ending(unittest.TestCase):
    """A test ends the process."""

    def test_exit(self) -> None:
        os._exit(0)


class Deadlocked(unittest.TestCase):
    """Two threads wait for each other."""

    def test_two_locks(self) -> None:
        first, second = mpbakery.RLock(), mpbakery.RLock()
        held = threading.Event()

        def take_both() -> None:
            with first:
                held.set()
                with second:
                    pass

        with second:
            thread = threading.Thread(target=take_both)
            thread.start()
            held.wait()
            while not second.statistics().waiters:
                time.sleep(0.001)
            first.acquire()

    def test_that_passes(self) -> None:
        pass


class Leaving(unittest.TestCase):
    """An orphan stays behind."""

    def test_orphan(self) -> None:
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)


class Skipping(unittest.TestCase):
    """Nothing is run."""

    def test_that_skips_itself(self) -> None:
        self.skipTest("all of them do")


class Unprepared(unittest.TestCase):
    """The class cannot be prepared."""

    @classmethod
    def setUpClass(cls) -> None:
        raise OSError("no space left")

    def test_that_passes(self) -> None:
        pass
