"""A file of records to which many processes append, one at a time: under a lock, which this module leaves to them.

Each record carries the balance of all records before it forward, so what one process writes depends on what the
others wrote: without a lock, balances go wrong and records run into each other. A record is a line; it is torn if its
end is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

#: So many bytes at the end of the file hold more than its last record, and what is torn behind it.
_TAIL: Final = 4096


class TornRecordError(ValueError):
    """A line of a ledger is no whole record: its writers were not kept apart."""


class Takeover(NamedTuple):
    """A record's writer had been given the lock of a dead process, and mended what that had left."""

    pid: int
    process: str
    #: when the dead process had got the lock (monotonic seconds)
    since: float
    #: how many bytes of its torn record were cut off
    cut: int


class Record(NamedTuple):
    """What one process has counted in one file, times in monotonic seconds."""

    file: int
    #: None if the file could not be read
    words: int | None
    balance: int
    pid: int
    process: str
    #: when the writer came to the lock, and when it got it
    arrived: float
    acquired: float
    takeover: Takeover | None


@dataclass(frozen=True)
class Audit:
    """What a whole ledger is worth: the words in it, and what is wrong with it."""

    words: int
    torn: int
    lost: int
    double: int
    off_balance: int

    @property
    def faults(self) -> dict[str, int]:
        """Everything that should be 0."""
        return {name: number for name, number in asdict(self).items() if name != "words"}


class Ledger:
    """One process's access to the file at `path`, which must exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._seen = 0

    def balance(self) -> int:
        """Return the balance that the last record carries forward. To be called under the lock."""
        line = self._tail().rstrip(b"\n").rpartition(b"\n")[2]
        return _parsed(line).balance if line else 0

    def append(self, record: Record, half_way: Callable[[], object]) -> None:
        """Write a record in two halves, with half_way() called between them. To be called under the lock."""
        line = json.dumps(record).encode() + b"\n"
        half = len(line) // 2
        try:
            self._write(line[:half])
            half_way()
            self._write(line[half:])
        except OSError as error:
            self.mend()
            raise OSError(error.errno, error.strerror, self._path) from None

    def mend(self) -> int:
        """Cut off the torn record at the end, if there is one; how many bytes that was. To be called under the lock."""
        torn = len(self._tail().rpartition(b"\n")[2])
        if torn:
            os.ftruncate(self._file, os.fstat(self._file).st_size - torn)
        return torn

    def news(self) -> list[Record]:
        """Return the whole records since the last call, without a lock: what is not whole yet is for the next call."""
        size = os.fstat(self._file).st_size
        whole, _, _ = os.pread(self._file, max(0, size - self._seen), self._seen).rpartition(b"\n")
        if not whole:
            return []
        self._seen += len(whole) + 1
        return [_parsed(line) for line in whole.split(b"\n")]

    def audit(self, files: int) -> Audit:
        """Read everything anew, and check it against one record for each of so many files."""
        os.lseek(self._file, 0, os.SEEK_SET)
        with open(self._file, "rb", closefd=False) as file:
            *lines, tail = file.read().split(b"\n")
        records, torn = [], 1 if tail else 0
        for line in lines:
            try:
                records.append(_parsed(line))
            except TornRecordError:
                torn += 1
        balance = off_balance = 0
        for record in records:
            balance += record.words or 0
            off_balance += record.balance != balance
            balance = record.balance
        counted = {record.file for record in records}
        words = sum(record.words or 0 for record in records)
        return Audit(words, torn, files - len(counted), len(records) - len(counted), off_balance)

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self._file)

    def _tail(self) -> bytes:
        return os.pread(self._file, _TAIL, max(0, os.fstat(self._file).st_size - _TAIL))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]


def _parsed(line: bytes) -> Record:
    """Raises TornRecordError for what is no record."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, list) or len(fields) != len(Record._fields):
        raise TornRecordError(f"the ledger has a torn record, {line!r}: two wrote at once, or one died and none mended")
    record = Record._make(fields)
    return record._replace(takeover=Takeover._make(record.takeover)) if record.takeover else record
