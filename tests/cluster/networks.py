"""Machines on one computer: network namespaces, on a switch whose cables can be pulled.

Nothing in them reaches the network of the computer, nor anything beyond.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from types import TracebackType
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_numbers = itertools.count(1)


class Network:
    """A switch, in a namespace of its own; it and its machines are gone when the block ends."""

    def __init__(self) -> None:
        self._switch = f"mpb{os.getpid()}-{next(_numbers)}"
        self._machines: dict[str, Machine] = {}

    def __enter__(self) -> Network:  # noqa: PYI034 - Self is of Python 3.11
        try:
            _ip("netns", "add", self._switch)
            self._on_switch("link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
            self._on_switch("link", "set", "switch", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for machine in [*self._machines, self._switch]:
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True)

    def add(self) -> Machine:
        """A new machine with a cable to the switch."""
        number = len(self._machines) + 1
        name = f"{self._switch}-{number}"
        _ip("netns", "add", name)
        machine = self._machines[name] = Machine(name, f"10.99.0.{number}", self, f"port{number}")
        self._on_switch("link", "add", machine.port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._on_switch("link", "set", machine.port, "master", "switch", "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{machine.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", name, *command)
        return machine

    def machine(self, name: str) -> Machine:
        """The machine of that name."""
        return self._machines[name]

    def _on_switch(self, *command: str) -> None:
        _ip("-n", self._switch, *command)

    def pull(self, machine: Machine) -> None:
        """Take a machine's cable out of the switch: what is sent is lost, and nobody is told, the machine neither."""
        self._on_switch("link", "set", machine.port, "nomaster")

    def plug(self, machine: Machine) -> None:
        """Put the cable in again."""
        self._on_switch("link", "set", machine.port, "master", "switch")


class Machine:
    """A network namespace with an address."""

    def __init__(self, name: str, address: str, network: Network, port: str) -> None:
        self.name = name
        self.address = address
        self.port = port
        self._network = network

    def pull(self) -> None:
        """Take its cable out."""
        self._network.pull(self)

    def plug(self) -> None:
        """Put its cable in again."""
        self._network.plug(self)


def enter(name: str) -> None:
    """Have this process, and its children to come, be on that machine."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(descriptor)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
