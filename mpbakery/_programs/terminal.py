"""A terminal that is taken over for a while, and given back as it was, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
#: What keys send that are no characters.
_KEYS: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "erase",
    "\x08": "erase",
}
#: One key: a control sequence, or a character.
_KEY: Final = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)


class Screen:
    """The terminal on standard output, and the keys of the one on standard input, if it is one."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._before: list[Any] = []
        #: what was typed and is not read yet
        self._typed = ""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the terminal within a block, and give it back as it was, for as long as this is stopped, too."""
        stopped = signal.signal(signal.SIGTSTP, self._stop)
        try:
            self._enter()
            yield
        finally:
            signal.signal(signal.SIGTSTP, stopped)
            self._leave()

    def show(self, lines: list[str]) -> None:
        """Draw these lines, as many as there is room for; each fits into a line, whatever colours are in it."""
        _columns, height = self.size
        shown = f"{_CLEAR_LINE}\r\n".join(lines[:height])
        self._write(f"{_HOME}{shown}{_CLEAR_LINE}{_CLEAR_BELOW}")

    def key(self, seconds: float) -> str:
        """The next key, as a character or a name; "" if none comes within so many seconds."""
        if not self._typed:
            self._typed = self._read(seconds)
        key = _KEY.match(self._typed)
        if key is None:
            return ""
        self._typed = self._typed[key.end() :]
        return _KEYS.get(key[0], key[0])

    def _read(self, seconds: float) -> str:
        keys = [self._keys] if self._keys >= 0 else []
        if not select.select(keys, [], [], seconds)[0]:
            return ""
        sent = os.read(self._keys, 256)
        if not sent:
            self._keys = -1  # the terminal has gone
        return sent.decode(errors="replace")

    def _enter(self) -> None:
        if self._keys >= 0:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        if self._before:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
