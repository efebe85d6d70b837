"""The command `inspect`: looks into a running program, and says whether all is well."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from mpbakery._inspect import text
from mpbakery._inspect.look import STUCK_AFTER
from mpbakery._inspect.model import Inspection
from mpbakery._programs.console import Console

__all__ = ["STUCK_AFTER", "as_json", "show"]

#: What `as_json` makes, as docs/stuck.md describes it; higher where a program that reads it would have to be changed.
SCHEMA: Final = 1


def show(inspection: Inspection, console: Console, *, everything: bool) -> None:
    """Print it for people."""
    for line in text.lines(inspection, free=everything, whole=everything):
        console.say(line)


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything for a machine; times in seconds."""
    return {"schema": SCHEMA, "healthy": inspection.is_healthy, **asdict(inspection)}
