"""What a system may refuse or not have, and what may take for ever there: files, descriptors, an import."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpbakery
from support.sandboxes import FUTEX_WAIT, FUTEX_WAKE, Refusal, limit_processes, share_lock_where_refused
from support.workers import DEADLINE, Crew, expect

PACKAGE = Path(mpbakery.__file__).parent

#: Runs a script whose lock is `lock`, held by a child as long as `held()` says; in its main thread.
PRELUDE = """
import os, sys, signal, threading, time
import mpbakery

lock = mpbakery.Lock()


def hold():
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.write(theirs, b"!")
        signal.alarm(60)
        signal.pause()
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def timed(timeout):
    start = time.monotonic()
    got = lock.acquire(timeout=timeout)
    return got, time.monotonic() - start < timeout + 5
"""


def run(script: str, *, first: str = "") -> list[str]:
    """What a program prints; `first` runs before mpbakery is imported."""
    program = f"{first}\n{PRELUDE}\n{script}"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=PACKAGE.parent,  # where `-c` looks first: else it could be another one than is tested
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout.split("\n")[:-1]


# --- Files in memory, and the processor -------------------------------------------------------------------------------


@pytest.fixture
def apart() -> Iterator[Crew]:
    """Children that do not inherit the fork server of this process: it is no child of theirs."""
    children = Crew(multiprocessing.get_context("spawn"))
    yield children
    children.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_files_in_memory_are_refused(apart: Crew, method: str, error: int) -> None:
    """An unlinked file takes their place."""
    assert_usable(apart, [("memfd_create", error, None)], method)


#: What else may be refused: the calls by which the lock sleeps and wakes, lets others run, and asks who it is.
REFUSALS: dict[str, list[tuple[str, int | None]]] = {
    "futex": [("futex", FUTEX_WAIT), ("futex", FUTEX_WAKE)],
    "futex, for wakers only": [("futex", FUTEX_WAKE)],
    "sched_yield": [("sched_yield", None)],
    "pidfd_open": [("pidfd_open", None)],
    "eventfd": [("eventfd2", None)],
    "prctl": [("prctl", None)],
}
REFUSALS["all of them"] = [
    *itertools.chain.from_iterable(calls for what, calls in REFUSALS.items() if what != "futex, for wakers only"),
    ("memfd_create", None),
]
# the last, since no further filter can be set without it
REFUSALS["all of them"].sort(key=lambda call: call[0] == "prctl")


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("what", REFUSALS)
def test_system_calls_are_refused(apart: Crew, what: str, error: int) -> None:
    """By a filter of the kernel, as in containers and sandboxes."""
    assert_usable(apart, [(name, error, second) for name, second in REFUSALS[what]], "fork")


@pytest.mark.parametrize("name", ["pidfd_open", "eventfd2"])
def test_there_are_too_many_descriptors_to_tell_who_one_is(apart: Crew, name: str) -> None:
    assert_usable(apart, [(name, errno.EMFILE, None)], "fork")


def assert_usable(crew: Crew, refusals: list[Refusal], method: str) -> None:
    """A lock is made, excludes, is handed over, and taken over from the dead."""
    ours, theirs = crew.context.Pipe()
    crew.start(share_lock_where_refused, theirs, refusals, method)
    theirs.close()
    told = expect(ours, DEADLINE)
    if isinstance(told, str):
        pytest.skip(told)
    assert told == {"has a name": False, "exclusion": True, "handed over": True, "taken over": True}
    crew.finish()


def test_no_process_can_be_started_any_more(crew: Crew) -> None:
    """In a control group that has reached its limit."""
    ours, theirs = crew.context.Pipe()
    crew.start(limit_processes, theirs)
    told = expect(ours, DEADLINE)
    if isinstance(told, str):
        pytest.skip(told)
    assert told == {"refused": True, "again": False, "free": True}
    crew.finish()


@pytest.mark.parametrize("machine", ["x86_64", "another"])
def test_there_is_no_way_to_yield_the_processor(machine: str) -> None:
    """As in some builds of Python. On machines other than x86 it is the fence, too."""
    first = f"import os, platform\ndel os.sched_yield\nplatform.machine = lambda: {machine!r}"
    script = """
child = hold()
print(timed(0.3))
end(child)
print(timed(30))
lock.release()
with lock:
    print(lock.locked())
"""
    assert run(script, first=first) == ["(False, True)", "(True, True)", "True"]


# --- The first wait imports ctypes ------------------------------------------------------------------------------------

#: Does what `strike` says in the middle of the import of a module that ctypes consists of.
INTERRUPTION = """
import importlib.machinery


class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_interrupted(module):
            strike()
            execute(module)

        spec.loader.exec_module = execute_interrupted
        return spec


def use_ctypes():
    import ctypes

    type("Some", (ctypes.Structure,), {{"_fields_": [("word", ctypes.c_long)]}})


assert "ctypes" not in sys.modules
sys.meta_path.insert(0, Interruption())
"""
MODULES = ["ctypes", "ctypes._endian"]
if sys.version_info >= (3, 14):
    MODULES += ["ctypes._layout"]  # which the first structure imports


@pytest.mark.parametrize("module", MODULES)
def test_a_child_that_was_forked_while_another_thread_imports_ctypes(module: str) -> None:
    """That thread does not exist there, and its import never ends."""
    script = """
from mpbakery._system import park

begun, enough = threading.Event(), threading.Event()


def strike():
    begun.set()
    enough.wait()


lock.acquire()
thread = threading.Thread(target=use_ctypes)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    print(*timed(0.3), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
print(*timed(0.3), park._futex is None)
enough.set()
thread.join()
print(*timed(0.3), park._futex is None)
"""
    told = run(INTERRUPTION.format(module=module) + script)
    assert told == ["False True", "0", "False True True", "False True False"]


@pytest.mark.parametrize("module", MODULES)
def test_a_signal_handler_that_interrupts_the_import_of_ctypes(module: str) -> None:
    script = """
def strike():
    signal.raise_signal(signal.SIGUSR1)


signal.signal(signal.SIGUSR1, lambda *_: print(*timed(0.2)))
child = hold()
use_ctypes()
print(*timed(0.2))
end(child)
print(*timed(30))
"""
    told = run(INTERRUPTION.format(module=module) + script)
    assert told == ["False True", "False True", "True True"]


@pytest.mark.parametrize("error", ["ImportError", "ModuleNotFoundError", "AttributeError", "OSError", "MemoryError"])
def test_a_signal_handler_that_raises_in_the_import_of_ctypes(error: str) -> None:
    """By a first wait. It comes out of that, and the next one imports it anew."""
    script = f"""
from mpbakery._system import park

struck = []


def strike():
    if not struck:
        struck.append(True)
        signal.raise_signal(signal.SIGUSR1)


def handle(number, frame):
    raise {error}(5, "of the handler")


signal.signal(signal.SIGUSR1, handle)
child = hold()
try:
    timed(5)
except {error} as error:
    print(error.args[-1], lock.statistics().waiters)
print(*timed(0.2), park._futex is not None)
"""
    told = run(INTERRUPTION.format(module="ctypes") + script + "\nend(child)")
    assert told == ["of the handler ()", "False True True"]


# --- No descriptor is left --------------------------------------------------------------------------------------------


def test_no_descriptor_is_left_for_the_first_wait_or_wake() -> None:
    """Whoever waits naps meanwhile, and whom a release would have woken finds out by itself."""
    script = """
import resource
from mpbakery._system import park

ours, theirs = os.pipe()
lock.acquire()
child = os.fork()
if child == 0:
    signal.alarm(60)
    lock.acquire()
    os.write(theirs, b"!")
    signal.pause()
while not lock.statistics().waiters:
    time.sleep(0.001)
free = os.dup(0)
os.close(free)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
assert "ctypes" not in sys.modules
lock.release()
os.read(ours, 1)
print(*timed(0.3), lock.statistics().waiters)
end(child)
print(*timed(30), park._get_futex())
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
time.sleep(park._PATIENCE)
print(*timed(0.3), park._get_futex() is not None)
"""
    assert run(script) == ["False True ()", "True True None", "False True True"]


def test_no_descriptor_is_left_for_the_first_use() -> None:
    """To know who one is, and to claim a slot."""
    script = """
import resource

child = os.fork()
if child == 0:
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    print(*timed(30), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
print(*timed(30), lock.recovered_from.pid == child)
"""
    assert run(script) == ["True True", "True True True"]
