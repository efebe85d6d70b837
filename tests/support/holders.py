"""What children do with shared values."""

from __future__ import annotations

import ctypes
import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import mpbakery
from support.workers import DEADLINE, expect


class Point(ctypes.Structure):
    """A value with fields."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))


class Envelope:
    """Sends what is in it as bytes, of a pickler that knows nothing of multiprocessing; as cloudpickle's users do."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce__(self) -> tuple[type[Envelope], tuple[bytes]]:
        return Envelope, (pickle.dumps(self.content),)


def fill(values: dict[str, Any]) -> None:
    """Write into each of them what the test expects."""
    values["value"].value = 7
    values["array"][1] = 2.5
    values["string"].value = b"hello"
    values["structure"].y = 0.5
    values["raw value"].value = 8
    values["raw array"][2] = 9


def count(value: Any, times: int) -> None:
    """Add one, so many times."""
    for _ in range(times):
        with value:
            value.value += 1


def write_when_told(connection: Connection, values: list[Any], number: int) -> None:
    """Write a number into each of some values, as soon as something comes through the pipe."""
    expect(connection, DEADLINE)
    for value in values:
        value.value = number
    connection.send("written")


def allocate_when_told(connection: Connection, number: int) -> None:
    """Make a value of its own in memory for children, and say what is in it after something came through the pipe."""
    value = mpbakery.RawValue("q", number)
    connection.send("made")
    expect(connection, DEADLINE)
    connection.send(value.value)


def make_values(connection: Connection) -> None:
    """Make values that go to a child, where nothing can be made in /dev/shm; report what they hold afterwards."""
    import multiprocessing
    import tempfile

    tempfile.tempdir = "/dev/shm"
    refused = []
    for make in (multiprocessing.Lock, lambda: multiprocessing.RawValue("i")):
        try:
            make()
        except OSError:
            refused.append(True)
    found = []
    for method in ("fork", "spawn"):
        context: Any = mpbakery.get_context(method)
        value, array = context.Value("i", 0), context.Array("d", 3)
        child = context.Process(target=count, args=(value, 10))
        child.start()
        child.join(DEADLINE)
        found.append((value.value, array[:]))
    connection.send((len(refused), found, os.listdir("/dev/shm")))
