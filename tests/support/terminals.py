"""A command on a terminal of its own: what it draws, and whether it leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mpbakery
from support.workers import PATIENCE, wait_until

#: What is sent to have a screen of one's own, and to give it back.
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """`python3 -m mpbakery top` on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **environment: str) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.theirs)
        self.seen = ""
        path = os.pathsep.join([str(Path(mpbakery.__file__).parents[1]), str(Path(__file__).parents[1])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mpbakery", "top", "--every", "0.2", *arguments],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            cwd=Path(__file__).parents[1],  # as in `scripts`
            env={**os.environ, "PYTHONPATH": path, "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read(self, seconds: float = 0.0) -> str:
        """What has come in the meantime."""
        new = b""
        while select.select([self._ours], [], [], seconds)[0]:
            try:
                new += os.read(self._ours, 1 << 16)
            except OSError:
                break
            seconds = 0.0
        self.seen += new.decode(errors="replace")
        return self.seen

    def screen(self) -> list[str]:
        """The lines that were drawn last."""
        return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in self.coloured()]

    def coloured(self) -> list[str]:
        """The same, with what sets colours."""
        frames = self.read().split("\x1b[H")
        whole = [frame for frame in frames if "\x1b[J" in frame]
        return (
            [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rstrip("\r") for line in whole[-1].split("\n")] if whole else []
        )

    def wait_for(self, pattern: str) -> list[str]:
        """The screen, once a line of it is like that."""
        wait_until(lambda: any(re.search(pattern, line) for line in self.screen()), pattern)
        return self.screen()

    def wait_for_end(self) -> int:
        """The exit status; the terminal must be as it was before."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.01)
        self.read()
        assert self.process.returncode is not None
        assert self.seen.count(ENTERED) == self.seen.count(LEFT) > 0
        assert termios.tcgetattr(self.theirs) == self.before
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@contextlib.contextmanager
def terminal(*arguments: str, **options: Any) -> Iterator[Terminal]:
    one = Terminal(*arguments, **options)
    try:
        yield one
    finally:
        one.close()
