"""Names for people: what this process is called, and what a thing is called that was made without a name."""

from __future__ import annotations

import itertools
import os
import sys
from multiprocessing.process import current_process
from types import FrameType
from typing import Final

from mpbakery._errors import is_from_handler
from mpbakery._system.layout import NAME_BYTES

#: What makes things for others: the place that a program knows is outside of these.
_MAKERS: Final = (f"{__name__.rpartition('._system.')[0]}.", "multiprocessing.")
_made: Final = itertools.count(1)


def of_this_process() -> str:
    """The name of this process, "?" if it cannot be told: multiprocessing takes any object for a name."""
    try:
        name: object = current_process().name
        # a plain str in any case: what a subclass makes of its methods would be called where nothing may be
        return name if type(name) is str else str.__str__(str(name))
    except Exception as error:
        if is_from_handler(error):
            raise
        return "?"


def made_up(kind: str) -> str:
    """A name that says where something was made: `Lock app.py:9 1be9`; no two in a row are the same."""
    frame: FrameType | None = sys._getframe(2)  # whoever asks for a name is a maker, too
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if type(module) is not str or not module.startswith(_MAKERS):
            break
        frame = frame.f_back
    # odd, so that all numbers come before one comes again; the pid is for children that are forked at the same number
    number = (next(_made) * 0x9E37 ^ os.getpid()) & 0xFFFF
    if frame is None:
        return f"{kind} {number:04x}"
    file = frame.f_code.co_filename.rpartition("/")[2]
    if not file.isprintable():
        file = "".join(map(_escaped, file))
    name = f"{kind} {file}:{frame.f_lineno} {number:04x}"
    too_long = len(name.encode()) - NAME_BYTES
    if too_long <= 0:
        return name
    return name.replace(file, file.encode()[:-too_long].decode(errors="ignore"))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
