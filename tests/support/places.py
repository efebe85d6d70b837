"""Places that lack what the standard library's locks need, and everything that is used there."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path

from support.everything import USES
from support.namespaces import without_shared_memory
from support.scripts import finish, run, start
from support.workers import DEADLINE, Crew, expect

EVERYTHING = str(Path(__file__).with_name("everything.py"))


def run_without_shared_memory(crew: Crew, method: str, whose: str) -> tuple[bool, list[str]]:
    """Use everything where nothing can be made in /dev/shm.

    Whether the standard library is refused its locks there, and what has been used.
    """
    ours, theirs = crew.context.Pipe()
    crew.start(without_shared_memory, _run, theirs, method, whose)
    theirs.close()
    refused, out = expect(ours, DEADLINE)
    crew.finish()
    return refused, list(json.loads(out))


def _run(connection: Connection, method: str, whose: str) -> None:
    status, _out, err = finish(start("-c", "import multiprocessing; multiprocessing.Lock()"))
    connection.send((status != 0 and "Read-only file system" in err, run(EVERYTHING, method, whose, *USES)))
