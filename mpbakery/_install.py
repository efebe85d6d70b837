"""`install`: plain multiprocessing, with everything that it makes made here; and back."""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]
import contextlib
import functools
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from multiprocessing import context, heap
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any, Final

from mpbakery._context import Factories
from mpbakery._primitives.barrier import Barrier
from mpbakery._primitives.condition import Condition
from mpbakery._primitives.event import Event
from mpbakery._primitives.lock import Lock
from mpbakery._primitives.rlock import RLock
from mpbakery._primitives.semaphore import MOST_PERMITS, BoundedSemaphore, Semaphore
from mpbakery._work import arena

#: What of a context is replaced: all that `Factories` makes, but not what it is.
_NAMES: Final = sorted(name for name in vars(Factories) if name[0].isupper())
_SYNCHRONIZE: Final = "multiprocessing.synchronize"

_guard: Final = threading.RLock()
_blocks = 0
_for_good = False
#: What undoes it, in reverse order, while it is installed.
_undo: contextlib.ExitStack | None = None


def install() -> None:
    """Have plain `multiprocessing` make mpbakery's locks, semaphores, queues, pools and shared values.

    This concerns what is called from now on: the functions of the module `multiprocessing`, those of its contexts, also
    of contexts that somebody has already, and so all that makes use of these, such as
    `concurrent.futures.ProcessPoolExecutor`, tqdm, or joblib's multiprocessing backend. Where Python was built without
    `sem_open`, `multiprocessing.synchronize` can be imported then, and has the classes of mpbakery.

    It is too late for objects that were made before, and for functions that were imported by name before, as in
    `from multiprocessing import Lock`: they stay what they were. Install first, then import. The classes
    `multiprocessing.pool.Pool` and `ThreadPool` are left alone, because others derive from them; a Pool that is made
    from that class has mpbakery's locks all the same.

    A forked child inherits the installation. One that is started by spawn or forkserver does not: what came in its
    arguments is mpbakery's as it was where it was made, but what it makes itself is not. For that, call `install()` at
    the top of the main module, outside of `if __name__ == "__main__":`; such a child imports it before anything else.

    Installing twice is installing once.
    """
    global _for_good
    with _guard:
        _for_good = True
        _settle()


def uninstall() -> None:
    """Undo `install`; inside `with installed():`, at the end of that. What was made in the meantime stays as it is."""
    global _for_good
    with _guard:
        _for_good = False
        _settle()


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """`install()` for a block, for all threads of the process. Blocks may be nested, and overlap in threads."""
    global _blocks
    with _guard:
        _blocks += 1
        _settle()
    try:
        yield
    finally:
        with _guard:
            _blocks -= 1
            _settle()


def _settle() -> None:
    """Replace everything or put everything back, if it is not as it is wanted."""
    global _undo
    wanted = _for_good or _blocks > 0
    if wanted and _undo is None:
        with contextlib.ExitStack() as undo:
            _replace_all(undo)
            _undo = undo.pop_all()
    elif not wanted and _undo is not None:
        undo, _undo = _undo, None
        undo.close()


def _replace_all(undo: contextlib.ExitStack) -> None:
    for name in _NAMES:
        _replace(undo, BaseContext, name, vars(Factories)[name])
        # the module has methods of the default context, bound when it was imported
        _replace(undo, multiprocessing, name, getattr(context._default_context, name))
    # for multiprocessing.sharedctypes
    _replace(undo, heap, "Arena", functools.partial(arena.create, sendable=True))
    if not hasattr(_multiprocessing, "SemLock") and _SYNCHRONIZE not in sys.modules:
        _provide_synchronize(undo)


def _replace(undo: contextlib.ExitStack, where: Any, name: str, value: object) -> None:
    undo.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)


def _provide_synchronize(undo: contextlib.ExitStack) -> None:
    """A `multiprocessing.synchronize` where there is none: ProcessPoolExecutor refuses to work without."""
    module: Any = ModuleType(_SYNCHRONIZE, "What mpbakery has in place of the module that needs `sem_open`.")
    for kind in (Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event, Barrier):
        setattr(module, kind.__name__, kind)
    # joblib patches the class that the real ones derive from as soon as it can import the module
    module.SemLock = type("SemLock", (), {})
    module.SEM_VALUE_MAX = MOST_PERMITS
    sys.modules[_SYNCHRONIZE] = module
    undo.callback(sys.modules.pop, _SYNCHRONIZE, None)
    package: Any = multiprocessing
    package.synchronize = module
    undo.callback(delattr, package, "synchronize")
    executors: Any = sys.modules.get("concurrent.futures.process")
    if executors is not None:
        executors._system_limited = None  # or it would refuse without looking, once it has refused
