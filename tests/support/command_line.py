"""What the scripts for long runs share: options, a line about the progress, and results for programs."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Complains in one line, and has `--json`."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **settings)
        self.add_argument("--json", metavar="FILE", help="write the results to FILE; - is stdout, without the table")

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")

    def results(self, options: argparse.Namespace) -> Results:
        """Where the results go; minutes later would be too late to complain that nothing can be written there."""
        if options.json not in {None, "-"}:
            try:
                with open(options.json, "a", encoding="utf-8"):
                    pass
            except OSError as error:
                self.error(f"cannot write {options.json}: {error.strerror}")
        return Results(options.json)


class Results:
    """What a script has found, for programs: in a file, on standard output in place of the table, or nowhere."""

    def __init__(self, file: str | None) -> None:
        self._file = file
        #: whether nothing else is to be printed
        self.alone = file == "-"

    def write(self, results: object) -> None:
        """Write them, if they are asked for."""
        text = json.dumps(results, indent=2)
        if self.alone:
            print(text)
        elif self._file is not None:
            Path(self._file).write_text(text + "\n", encoding="utf-8")


class StatusLine:
    """A line on standard error that is written over and over; only on a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.live = sys.stderr.isatty() and not quiet

    def show(self, text: str) -> None:
        """Write it once more."""
        if self.live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be written over
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        self.show("")


def in_range(convert: Callable[[str], Any], least: float, most: float) -> Callable[[str], Any]:
    """What argparse converts an argument with, that has to be in a range."""

    def checked(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {least:g} to {most:g}")
        return value

    return checked
