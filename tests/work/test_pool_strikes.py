"""Whatever comes out of the blue in a thread of a pool, at whatever bytecode: the pool goes on.

There are too many bytecodes for each run of the suite; `strike` with a step of 1 strikes before all of them.
"""

from __future__ import annotations

import sys
from multiprocessing.context import BaseContext

import pytest

from support.pool_strikes import strike
from support.workers import Crew, expect

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        sys.version_info[:2] == (3, 12), reason="CPython 3.12 loses opcode events of threads, or crashes over them"
    ),
]

#: How long all strikes of a test may take (s).
_LONG = 100


@pytest.mark.parametrize(
    ("thread", "kind", "end", "step"),
    [
        ("PoolIntake", "Struck", "close", 11),
        ("PoolIntake", "MemoryError", "terminate", 17),
        ("PoolMessenger", "Struck", "close", 11),
        ("PoolMessenger", "MemoryError", "terminate", 17),
        ("PoolDispatcher", "Struck", "terminate", 19),
        ("PoolDispatcher", "MemoryError", "close", 29),
    ],
)
def test_the_pool_goes_on(fork: BaseContext, crew: Crew, thread: str, kind: str, end: str, step: int) -> None:
    ours, theirs = fork.Pipe()
    crew.start(strike, theirs, fork, thread, kind, step // 2, step, end, seconds=_LONG)
    places, strikes, problems = expect(ours, _LONG)
    crew.finish()
    assert not problems, "\n".join(problems)
    assert places > 100
    assert strikes >= places // step - places // 10 // step  # what depends on timing need not come again
