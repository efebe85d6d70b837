"""What the simulated processes do: small programs of a few of them, by name."""

from __future__ import annotations

from typing import Final

from evidence.explorer.scenarios.condition import CONDITIONS
from evidence.explorer.scenarios.event import EVENTS
from evidence.explorer.scenarios.lock import LOCKS
from evidence.explorer.scenarios.semaphore import SEMAPHORES

SCENARIOS: Final = LOCKS | SEMAPHORES | EVENTS | CONDITIONS
