"""Data that a lock protects, and what writes it: for tests of what a token is good for."""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

from mpbakery import cluster


class Record(NamedTuple):
    """A number, and the token of the last one that has written it."""

    value: int
    token: int


class StaleTokenError(Exception):
    """A newer token has been seen: the write was refused."""


class Store:
    """A number in a file, which refuses old tokens if it is told to. It is no lock: what is read may be old at once."""

    def __init__(self, path: Path, *, refusing: bool) -> None:
        self.path = path
        self.refusing = refusing

    def create(self) -> None:
        """Begin with 0."""
        self.path.write_text(json.dumps(Record(0, 0)))

    def read(self, token: int) -> int:
        """The number; who reads under a token has it seen, and older ones are refused from then on."""
        return self._exchange(None, token).value

    def write(self, value: int, token: int) -> None:
        """Replace the number."""
        self._exchange(value, token)

    def _exchange(self, value: int | None, token: int) -> Record:
        with self.path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            record = Record(*json.load(file))
            if self.refusing and token < record.token:
                raise StaleTokenError(f"{token} after {record.token}")
            new = Record(record.value if value is None else value, max(token, record.token))
            file.seek(0)
            file.truncate()
            json.dump(new, file)
            file.flush()
            os.fsync(file.fileno())
            return record


def add_one(lock: cluster.Lock, store: Store) -> bool:
    """Add 1 to the number, under the lock; whether it was done, as far as this one knows."""
    with lock:
        value = store.read(lock.token)
        time.sleep(random.uniform(0, 0.01))
        store.write(value + 1, lock.token)
    return True
