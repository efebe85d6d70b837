"""What children of the tests of the lock beyond one machine run, and what these wait for."""

from __future__ import annotations

import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import mpbakery
from cluster.networks import enter
from cluster.stores import StaleTokenError, Store, add_one
from mpbakery import cluster
from support.workers import DEADLINE, begin, wait_until


def wait_for_line(lock: cluster.Lock, count: int) -> None:
    """Wait until exactly so many stand in the lock's line."""
    wait_until(lambda: len(lock.statistics().waiters) == count, f"{count} waiters")


def acquire_and_end(lock: cluster.Lock) -> None:
    """Acquire a lock, and end without a release."""
    lock.acquire()


def acquire_and_fork(connection: Connection, lock: cluster.Lock) -> None:
    """Hold a lock, and have a child that does nothing."""
    lock.acquire()
    child = os.fork()
    if child == 0:
        begin()
        time.sleep(DEADLINE)
        os._exit(0)
    connection.send(child)
    time.sleep(DEADLINE)


def hold_in_parent_and_child(connection: Connection, lock: cluster.Lock) -> None:
    """Fork within a `with`, leave it in the child, and tell what this does to the parent."""
    told: dict[str, object] = {}
    read, write = os.pipe()
    own = cluster.Lock(lock._url, "another one")
    with lock:
        child = os.fork()
        if child:
            os.close(write)
            with open(read, "rb") as pipe:
                told.update(pickle.load(pipe))
            os.waitpid(child, 0)
            told["held after the child has ended"] = lock.locked() and lock.acquire(False) is False
            told["lost"] = lock.lost
    if child:
        connection.send(told)
        return
    told["the child's exit from the block"] = None
    try:
        lock.release()
    except Exception as error:
        told["the child's release"] = type(error).__name__
    told["the child's own acquire"] = own.acquire(timeout=5)
    own.release()
    with open(write, "wb") as pipe:
        pickle.dump(told, pipe)
    os._exit(0)


def fork_while_connecting(connection: Connection, lock: cluster.Lock) -> None:
    """Fork again and again while another thread connects; tell of the children once that holds the lock."""
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    children: list[int] = []
    while thread.is_alive() and len(children) < 200:
        child = os.fork()
        if child == 0:
            begin()
            time.sleep(DEADLINE)
            os._exit(0)
        children.append(child)
    thread.join()
    connection.send(children)
    time.sleep(DEADLINE)


def be_interrupted(connection: Connection, lock: cluster.Lock, waiting: bool) -> None:
    """Use the lock until Ctrl-C comes, or wait for it; tell that it came."""
    try:
        if not waiting:
            with lock:
                pass
        connection.send("ready")
        while True:
            with lock:
                pass
    except KeyboardInterrupt:
        connection.send(1)
    time.sleep(0.3)  # what was left held would be so now


def add_while_told(connection: Connection, lock: cluster.Lock, store: Store, go: Path) -> None:
    """Add to the number as long as the file is there; tell how often it was done, refused, lost, and not possible."""
    done = refused = lost = errors = 0
    wait_until(go.exists, "the start")
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    while go.exists():
        try:
            done += add_one(lock, store)
        except StaleTokenError:
            refused += 1
        except cluster.LockLost:
            lost += 1
        except cluster.ServerError:
            errors += 1
            time.sleep(0.01)
    connection.send((done, refused, lost, errors))


def on_machine(machine: str, function: Callable[..., object], *arguments: object) -> None:
    """Run `function` on another machine, which is a network namespace."""
    enter(machine)
    function(*arguments)


def watch_lost(connection: Connection, lock: cluster.Lock) -> None:
    """Hold the lock until it is lost; tell when that was known, and what the release says."""
    lock.acquire()
    connection.send("held")
    wait_until(lambda: lock.lost, "lost")
    connection.send(time.monotonic())
    try:
        lock.release()
    except cluster.LockLost:
        connection.send("LockLost")


#: A board of numbers, shared by players: how often something was wrong, the last token, and from there on, for each
#: player, whether it is inside, whether it is being killed, and how often it was inside.
WRONG, LAST, BOARD = 0, 1, 2
MARKED, TURNS, FIELDS = 1, 2, 3


def play(lock: cluster.Lock, board: memoryview, player: int, stay: float) -> None:
    """Acquire the lock again and again, and look whether anybody else is inside, and whether the token has grown."""
    warnings.simplefilter("ignore", mpbakery.OwnerDiedWarning)
    me = BOARD + player * FIELDS
    others = [place for place in range(BOARD, len(board), FIELDS) if place != me]
    while True:
        with lock:
            board[me] = 1
            wrong = lock.token <= board[LAST]
            board[LAST] = lock.token
            for _ in range(3):
                wrong |= any(board[place] and not board[place + MARKED] for place in others)
                time.sleep(stay)
            board[WRONG] += wrong
            board[me + TURNS] += 1
            board[me] = 0
