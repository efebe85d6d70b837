"""The protocol, broken by one small change each: the explorer has to find every one of them.

Each mutant is named by what it breaks, and goes with the scenario and the memory model that show it.
"""

from __future__ import annotations

from typing import Final

from evidence.explorer.mutants.condition import CONDITION_MUTANTS
from evidence.explorer.mutants.event import EVENT_MUTANTS
from evidence.explorer.mutants.lock import LOCK_MUTANTS, TENURE_MUTANTS
from evidence.explorer.mutants.semaphore import SEMAPHORE_MUTANTS
from evidence.explorer.mutants.shared import SHARED_MUTANTS

MUTANTS: Final = SHARED_MUTANTS | LOCK_MUTANTS | TENURE_MUTANTS | SEMAPHORE_MUTANTS | EVENT_MUTANTS | CONDITION_MUTANTS
