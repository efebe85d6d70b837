"""The network between holder, waiter and server is cut: machines are network namespaces, and cables are pulled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.children import on_machine, watch_lost
from cluster.networks import Machine, Network
from cluster.postgres import Server, running
from conftest import FIGURES
from mpbakery import cluster
from support.workers import Crew, Puppet, expect, obey

pytest_plugins = ["cluster.fixtures"]

pytestmark = pytest.mark.serial

#: The least that is allowed: the holder knows after 3 s at most, and the server gives it up after 4 to 6 s.
LOST_AFTER = 6


@pytest.fixture
def remote(network: Network) -> Iterator[Server]:
    """A server on a machine of its own."""
    machine = network.add()
    with running(Server(machine=machine.name, host=machine.address, clients="10.99.0.0/24")) as server:
        yield server


@pytest.fixture
def lock(remote: Server) -> cluster.Lock:
    return cluster.Lock(remote.url(), "ledger", lost_after=LOST_AFTER)


class Remote(Puppet):
    """A puppet on another machine."""

    def __init__(self, crew: Crew, lock: cluster.Lock, machine: Machine) -> None:
        self._ours, theirs = crew.context.Pipe()
        self.process = crew.start(on_machine, machine.name, obey, theirs, lock)
        theirs.close()
        self.pid = self.process.pid or 0
        self.warnings = []
        self.moment = 0.0


def test_an_unplugged_holder_knows_before_the_next_one_is_in(
    crew: Crew, network: Network, lock: cluster.Lock, record_property: Callable[[str, object], None]
) -> None:
    far, near = network.add(), network.add()
    ours, theirs = crew.context.Pipe()
    holder = crew.start(on_machine, far.name, watch_lost, theirs, lock)
    assert expect(ours) == "held"
    heir = Remote(crew, lock, near)
    assert heir("acquire", False) is False
    heir.begin("acquire")
    time.sleep(1.5)  # some signs of life have gone to and fro
    cut = time.monotonic()
    far.pull()
    knew = expect(ours) - cut
    assert heir.end() is True
    got = heir.moment - cut
    record_property(
        FIGURES, f"unplugged holder, lost_after=6: it knew after {knew:.2f} s, the next was in after {got:.2f} s"
    )
    assert knew < 3.5
    assert knew < got < 7
    assert len(heir.warnings) == 1
    assert expect(ours) == "LockLost"
    holder.join()
    far.plug()


def test_a_short_cut_does_no_harm(crew: Crew, network: Network, lock: cluster.Lock) -> None:
    far, near = network.add(), network.add()
    holder, waiter = Remote(crew, lock, far), Remote(crew, lock, near)
    holder("acquire")
    waiter.begin("acquire")
    time.sleep(1.2)
    far.pull()
    near.pull()
    time.sleep(0.8)
    far.plug()
    near.plug()
    time.sleep(1.0)
    assert not waiter.has_answered()
    assert holder("lost") is False
    holder("release")
    assert waiter.end() is True
    assert waiter.warnings == []


def test_an_unplugged_waiter_is_told_and_forgotten(crew: Crew, network: Network, lock: cluster.Lock) -> None:
    far, near = network.add(), network.add()
    waiter, holder = Remote(crew, lock, far), Remote(crew, lock, near)
    holder("acquire")
    waiter.begin("acquire")
    time.sleep(0.5)
    cut = time.monotonic()
    far.pull()
    with pytest.raises(cluster.ServerError, match="try again"):
        waiter.end()
    assert waiter.moment - cut < 4
    while len(holder("statistics").waiters) and time.monotonic() - cut < 20:
        time.sleep(0.1)
    assert time.monotonic() - cut < 8


def test_a_release_into_a_cut_says_lost(crew: Crew, network: Network, lock: cluster.Lock) -> None:
    far = network.add()
    holder = Remote(crew, lock, far)
    holder("acquire")
    far.pull()
    start = time.monotonic()
    with pytest.raises(cluster.LockLost):
        holder("release")
    assert holder.moment - start < 5


def test_ctrl_c_while_the_server_is_out_of_reach(crew: Crew, network: Network, lock: cluster.Lock) -> None:
    far, near = network.add(), network.add()
    waiter, holder = Remote(crew, lock, far), Remote(crew, lock, near)
    holder("acquire")
    waiter.begin("acquire")
    time.sleep(0.5)
    far.pull()
    start = time.monotonic()
    os.kill(waiter.pid, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        waiter.end()
    assert waiter.moment - start < 1


def test_a_server_that_vanishes(crew: Crew, network: Network, remote: Server, lock: cluster.Lock) -> None:
    far = network.add()
    holder = Remote(crew, lock, far)
    holder("acquire")
    network.pull(network.machine(remote.machine))
    cut = time.monotonic()
    while not holder("lost"):
        assert time.monotonic() - cut < 5
        time.sleep(0.05)
    network.plug(network.machine(remote.machine))
    with pytest.raises(cluster.LockLost):
        holder("release")
    assert holder("acquire") is True
