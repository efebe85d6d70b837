"""The shape of a mutant: what it changes, and where that shows."""

from __future__ import annotations

from dataclasses import dataclass

from evidence.explorer.protocol import Change


@dataclass(frozen=True)
class Mutant:
    """A change of the protocol, and where to look for what it does."""

    scenario: str
    model: str
    changes: tuple[Change, ...]
    #: the pre-emptions that it takes to show, if it is not found at random; None for any number
    bound: int | None = 2
    #: how to bring it about, for `search.guided`, where chance hardly ever does
    guide: tuple[str, ...] = ()


def one_change(
    scenario: str, model: str, module: str, old: str, new: str, *, bound: int | None = 2, guide: tuple[str, ...] = ()
) -> Mutant:
    """A mutant that differs in one place."""
    return Mutant(scenario, model, (Change(module, old, new),), bound, guide)
