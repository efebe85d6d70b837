"""The picture of `top` in the README, as SVG: the screen of a real run.

python tests/benchmark/screenshot.py docs/top.svg
"""

from __future__ import annotations

import re
import sys
import time
from html import escape
from pathlib import Path
from typing import Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[1:3])

from support.specimens import exhibit
from support.terminals import terminal

COLUMNS: Final = 104
LINES: Final = 14
#: The size of a character, and of the margin.
WIDE, HIGH, MARGIN = 8.4, 18, 12
INK, PAPER = "#d0d0d0", "#1c1c1c"
#: What a line is written in, by what sets its colour: ink and paper.
STYLES: Final = {"": (INK, PAPER), "7": (PAPER, INK), "33": ("#d7af5f", PAPER), "31;1": ("#ff6f60", PAPER)}
COLOURED: Final = re.compile(r"(?:\x1b\[(?P<style>[0-9;]+)m)?(?P<text>[^\x1b]*)(?:\x1b\[0m)?")


def screen() -> list[str]:
    """What `top` shows of a program, when it has looked at it for some seconds."""
    with exhibit("bank") as program, terminal(str(program.pid), "--every", "1", columns=COLUMNS, lines=LINES) as top:
        top.wait_for("DEADLOCK: one of a ring")
        time.sleep(2.5)  # some more refreshes
        lines = top.coloured()
        top.press("q")
        assert top.wait_for_end() == 0
    return lines


def draw(lines: list[str]) -> str:
    """A screen as a picture."""
    width, height = COLUMNS * WIDE + 2 * MARGIN, len(lines) * HIGH + 2 * MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" '
        f'font-size="14">',
        f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>',
    ]
    for number, line in enumerate(lines):
        found = COLOURED.match(line)
        assert found is not None, line
        text, top = found["text"].rstrip(), MARGIN + number * HIGH
        ink, paper = STYLES[found["style"] or ""]
        if paper != PAPER:
            drawn.append(f'<rect x="{MARGIN}" y="{top}" width="{COLUMNS * WIDE:.0f}" height="{HIGH}" fill="{paper}"/>')
        if text:
            drawn.append(
                f'<text x="{MARGIN}" y="{top + 14}" fill="{ink}" xml:space="preserve" '
                f'textLength="{len(text) * WIDE:.1f}">{escape(text, quote=False)}</text>'
            )
    return "\n".join([*drawn, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(screen()))
