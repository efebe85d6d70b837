"""What the commands show to people: lines, a progress bar, aligned tables, figures."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

_BAR_WIDTH: Final = 30
_LEAST_BAR_WIDTH: Final = 6
_TEXT_WIDTH: Final = 76
#: What stands to the left of a text.
_MARGIN: Final = 4
#: With fewer turns than that, the shares differ a lot by chance alone.
_FEW_TURNS: Final = 10
_BLOCKS: Final = ("█", "░", "✓", "✗")
_ASCII: Final = ("#", ".", "+", "!")
#: The bar is drawn again after this many seconds at the earliest.
_REDRAW: Final = 0.05


class Console:
    """Lines on standard output, and what passes, the progress, on standard error.

    On a terminal the progress is a bar; elsewhere it is a line for every quarter.

    Args:
        quiet: leave out all lines, and progress where it is no bar: standard output is for a machine.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._out = None if quiet else sys.stdout
        self._err = sys.stderr
        self._live = self._err is not None and self._err.isatty()
        self._talks = self._live or not quiet
        self._colours = self._out is not None and self._out.isatty() and "NO_COLOR" not in os.environ
        self._signs = _BLOCKS if _can_show(self._out) else _ASCII
        self._bar_signs = _BLOCKS if _can_show(self._err) else _ASCII
        self._bar = ""
        self._drawn = 0.0
        self._quarter = -1
        self._label = ""
        self._is_gap = True

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._out is not None:
            self.clear()
            self._is_gap = not line
            self._out.write(line + "\n")
            self._out.flush()

    def gap(self) -> None:
        """Print an empty line, unless there is one."""
        if not self._is_gap:
            self.say("")

    def tell(self, text: str, *, good: bool) -> None:
        """Print a text that stays, about an event, over as many lines as it needs."""
        sign = self._signs[2 if good else 3]
        if self._colours:
            sign = f"\x1b[{32 if good else 31};1m{sign}\x1b[0m"
        width = min(_TEXT_WIDTH, _columns(self._out) - _MARGIN - 1)
        first, *others = textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False)
        self.say(f"  {sign} {first}")
        for line in others:
            self.say(f"    {line}")

    def pass_on(self, data: bytes) -> None:
        """Print bytes from elsewhere, as they are."""
        if self._out is not None:
            self._is_gap = False
            self._out.buffer.write(data)
            self._out.buffer.flush()

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show how much of something is done; where that cannot be shown any more, the work goes on without."""
        if not self._talks:
            return
        if self._live:
            if done < total and time.monotonic() - self._drawn < _REDRAW:
                return
            self._drawn = time.monotonic()
            self._bar = self._progress_line(label, done, total, note)
            self._show(f"\r\x1b[K{self._bar}")
        else:
            quarter = done * 4 // total
            if (label, quarter) == (self._label, self._quarter):
                return
            self._label, self._quarter = label, quarter
            self._show(f"{label}: {done:,} of {total:,}\n")

    def clear(self) -> None:
        """Take the progress bar away, until the next progress."""
        if self._bar:
            self._bar = ""
            self._drawn = 0.0
            self._show("\r\x1b[K")

    def bar(self, share: float, width: int = _BAR_WIDTH) -> str:
        """Draw a share between 0 and 1, for a line that stays."""
        return self._picture(share, width, self._signs).rstrip(self._signs[1])

    def _show(self, text: str) -> None:
        if self._err is not None:
            try:
                self._err.write(text)
                self._err.flush()
            except OSError:
                self._err = None

    def _progress_line(self, label: str, done: int, total: int, note: str) -> str:
        """A line that fits the terminal: what is left beside the figures is for the bar, and then for the note."""
        columns = _columns(self._err) - 1
        before, after = f"  {label}  ", f"{done * 100 // total:3d} %  {done:,} of {total:,}"
        width = min(_BAR_WIDTH, columns - len(before) - len(after) - 1)
        bar = f"{self._picture(done / total, width, self._bar_signs)} " if width >= _LEAST_BAR_WIDTH else ""
        return f"{before}{bar}{after}  {note}"[: max(columns, 1)].rstrip()

    @staticmethod
    def _picture(share: float, width: int, signs: Sequence[str]) -> str:
        full = round(share * width)
        return signs[0] * full + signs[1] * (width - full)


@contextlib.contextmanager
def cleared(console: Console) -> Iterator[None]:
    """Leave no half-drawn bar behind, however the block ends."""
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            console.clear()


def table(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Align cells in lines; `alignment` is a `<` or `>` for every column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(alignment))]
    return [
        "  "
        + "   ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)).rstrip()
        for row in rows
    ]


def jain_index(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 if all shares are the same, 1/n if one has everything.

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def evenness(turns: Sequence[int]) -> float | None:
    """Jain's index of the turns that each had, None where nobody had enough to say anything."""
    return jain_index(turns) if max(turns, default=0) >= _FEW_TURNS else None


def show_evenness(index: float | None) -> str:
    """Write the same for people."""
    return "-" if index is None else f"{index:.4f}"


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def plural(number: int, noun: str) -> str:
    """Write `1 worker`, `2 workers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _can_show(stream: TextIO | None) -> bool:
    try:
        "".join(_BLOCKS).encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeError:
        return False
    return True


def _columns(stream: TextIO | None) -> int:
    try:
        return (stream and os.get_terminal_size(stream.fileno()).columns) or 80
    except (OSError, ValueError):
        return 80
