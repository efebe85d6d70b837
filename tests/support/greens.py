"""A program of greenlets that share a lock with those of another process.

`python greens.py LIBRARY before|after` has LIBRARY change the standard library before or after mpbakery is imported,
and prints how many turns each process had, and what they have counted together. LIBRARY is gevent, eventlet, or
`stand-in`: that is none, but complains when mpbakery uses anything that it has put in the place of something.
"""

from __future__ import annotations

import _thread
import functools
import importlib
import os
import select
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

PROCESSES, GREENLETS, TURNS = 2, 4, 100


def change_nothing_for_others() -> Any:
    """What a library does, in short: others get what waits for real, and mpbakery must not come by here at all."""
    originals = {(module, name): getattr(module, name) for module, name in _CHANGED}

    def instead(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        assert not caller.startswith("mpbakery"), f"{caller} has used {original}"
        return original(*arguments, **keywords)

    class Local(threading.local):
        def __init_subclass__(cls) -> None:
            assert not cls.__module__.startswith("mpbakery"), f"{cls} has slots for greenlets"

    for (module, name), original in originals.items():
        setattr(module, name, Local if name.endswith("local") else functools.partial(instead, original))
    monkey: Any = types.ModuleType("gevent.monkey")
    monkey.get_original = lambda module, name: originals.get((sys.modules[module], name))
    sys.modules["gevent.monkey"] = monkey


_CHANGED = (
    (time, "sleep"),
    (_thread, "allocate_lock"),
    (_thread, "RLock"),
    (_thread, "get_ident"),
    (_thread, "_local"),
    (_thread, "start_new_thread"),
    (select, "poll"),
    (socket, "socket"),
    (socket, "socketpair"),
    (threading, "Lock"),
    (threading, "RLock"),
    (threading, "get_ident"),
    (threading, "local"),
)


def run_in_turn(works: list[Callable[[], None]]) -> None:
    for work in works:
        work()


def change(library: str) -> Callable[[list[Callable[[], None]]], object]:
    """Change the standard library; what runs functions as greenlets."""
    if library == "gevent":
        gevent: Any = importlib.import_module("gevent")
        importlib.import_module("gevent.monkey").patch_all()
        return lambda works: gevent.joinall([gevent.spawn(work) for work in works], raise_error=True)
    if library == "eventlet":
        eventlet: Any = importlib.import_module("eventlet")
        eventlet.monkey_patch()
        return lambda works: [greenlet.wait() for greenlet in [eventlet.spawn(work) for work in works]]
    change_nothing_for_others()
    return run_in_turn


def main(library: str, moment: str) -> None:
    run = change(library) if moment == "before" else None
    import mpbakery

    if run is None:
        run = change(library)
    context = mpbakery.get_context("fork")
    lock, counter, turns = context.Lock(), context.RawValue("q"), context.RawArray("q", PROCESSES)
    start = context.Barrier(PROCESSES)

    def take_turns(process: int) -> None:
        for _ in range(TURNS):
            with lock:
                counted = counter.value
                for _ in range(50):
                    pass
                counter.value = counted + 1
                turns[process] += 1
            time.sleep(0)

    # The slot of one that is dead, and not yet reaped: who claims a slot looks into that.
    dead = os.fork()
    if not dead:
        with lock:
            pass
        os._exit(0)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    children = []
    for process in range(PROCESSES):
        pid = os.fork()
        if not pid:
            try:
                start.wait()
                run([functools.partial(take_turns, process)] * GREENLETS)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                sys.stderr.flush()
                os._exit(0 if turns[process] == GREENLETS * TURNS else 1)
        children.append(pid)
    for pid in [*children, dead]:
        os.waitpid(pid, 0)
    print(*turns, counter.value, lock.statistics().slots_in_use, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
