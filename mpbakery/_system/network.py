"""Network namespaces: machines of their own, as far as the network goes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

#: setns(2): a network namespace, and no other kind.
_CLONE_NEWNET: Final = 0x40000000
#: Where ip(8) keeps those that have names.
_FOLDER: Final = Path("/run/netns")


def enter(name: str) -> None:
    """Have the calling thread, and what it starts, be in the network namespace that `ip netns add` has given that name.

    Raises OSError if there is none, or this process may not.
    """
    path = _FOLDER / name
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def refusal(name: str) -> OSError | None:
    """Why this process cannot enter a network namespace, None if it can; nothing has changed afterwards."""
    errors: list[OSError] = []

    def attempt() -> None:
        try:
            enter(name)
        except OSError as error:
            errors.append(error)

    # it concerns the thread alone, which ends
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return errors[0] if errors else None
