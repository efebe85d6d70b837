"""The command `top`: the locks of a running program, live; or the programs that have any."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final, NamedTuple

from mpbakery._errors import InspectionError
from mpbakery._inspect import look, text
from mpbakery._inspect.family import Family
from mpbakery._inspect.model import CONVOY, FINE, VERDICTS, title
from mpbakery._inspect.watch import Row, Watch
from mpbakery._programs.console import plural
from mpbakery._programs.terminal import Screen
from mpbakery._system import procfs

#: By what rows are sorted, the greatest first: what most deserves a look, and the columns.
SORTS: Final[dict[str, Callable[[Row], object]]] = {
    "trouble": lambda row: (VERDICTS.index(row.verdict), row.in_line, row.rate),
    "rate": lambda row: row.rate,
    "held": lambda row: row.held,
    "line": lambda row: row.in_line,
    "longest": lambda row: row.longest,
}
_BY_NAME: Final = "name"
SORT_NAMES: Final = (*SORTS, _BY_NAME)

_HEADINGS: Final = ("PER SEC", "HELD", "IN LINE", "MEAN WAIT", "LONGEST", "HOLD")
_GAP: Final = "  "
_SHORTEST_NAME: Final = 12
_HELP: Final = "q quit  s sort  / filter  ↑↓ choose  ⏎ inspect"

_PLAIN: Final = "{}"
_COLOURS: Final = {FINE: _PLAIN, CONVOY: "\x1b[33m{}\x1b[0m"}
_ALARM: Final = "\x1b[31;1m{}\x1b[0m"
_REVERSE: Final = "\x1b[7m{}\x1b[0m"


class Options(NamedTuple):
    """How a program is shown: every so many seconds, so many times, None for no end."""

    every: float
    times: int | None
    sort: str
    filter: str
    stuck: float


def show_programs() -> Iterator[str]:
    """The programs that have something of ours, as lines; only those that may be looked into."""
    seen: set[int] = set()
    rows = []
    for pid in sorted(procfs.relations()):
        if pid in seen or pid == os.getpid() or not _may_have_segments(pid):
            continue
        try:
            family = Family(pid)
        except InspectionError:
            continue
        try:
            for pids, places in family.programs():
                if pids[0] not in seen:
                    held = sum(place.owner is not None for place in places)
                    waiting = sum(len(place.line) for place in places)
                    rows.append((pids[0], len(pids), len(places), held, waiting, procfs.command_of(pids[0])))
            seen.update(family.members)
        finally:
            family.close()
    if not rows:
        yield "No program of this user has a lock of mpbakery."
        return
    yield "    PID  PROCESSES  PRIMITIVES  HELD  WAITING  COMMAND"
    for pid, processes, primitives, held, waiting, command in rows:
        shown = "".join(one if one.isprintable() else "?" for one in command)
        yield f"{pid:>7}  {processes:>9}  {primitives:>10,}  {held:>4,}  {waiting:>7,}  {shown}"


def _may_have_segments(pid: int) -> bool:
    try:
        return bool(procfs.shared_mappings(pid))
    except OSError:
        return False


def run(pid: int, options: Options) -> None:
    """Show the program of a process until that has ended, or somebody has seen enough."""
    watch = Watch(pid, options.stuck)
    try:
        if sys.stdout.isatty():
            screen = Screen()
            with screen.taken():
                _Live(pid, watch, screen, options).run()
        else:
            _print_tables(watch, options)
    finally:
        watch.close()


def run_command(command: Sequence[str], options: Options) -> int:
    """Start a program, show it until it has ended, and return its exit status, as a shell tells it.

    What it prints comes after that where the terminal is taken. Whoever has seen enough earlier ends it, too.
    """
    is_live = sys.stdout.isatty()
    with tempfile.TemporaryFile() as kept:
        output: IO[bytes] | None = kept if is_live else None
        program = subprocess.Popen(  # noqa: S603 - it is what the user has asked for
            command,
            stdin=subprocess.DEVNULL if is_live else None,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that all that belongs to it can be ended together
        )
        try:
            _watch_command(program, options)
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGTERM)
            status = program.wait()
            if is_live:
                kept.seek(0)
                shutil.copyfileobj(kept, sys.stdout.buffer)
                sys.stdout.flush()
    return status if status >= 0 else 128 - status


def _watch_command(program: subprocess.Popen[bytes], options: Options) -> None:
    while program.poll() is None:
        try:
            return run(program.pid, options)
        except InspectionError:
            time.sleep(min(options.every, 0.1))  # it has no locks yet
    return None


def _print_tables(watch: Watch, options: Options) -> None:
    """Print a table at each interval: standard output is for a file, or another program."""
    for rows in _intervals(watch, options, time.sleep):
        print(time.strftime("%H:%M:%S"), _summary(watch, rows))
        for line in table(_chosen(rows, options.sort, options.filter), 120):
            print(line)
        print(flush=True)


def _intervals(watch: Watch, options: Options, wait: Callable[[float], object]) -> Iterator[list[Row]]:
    """The rows of each interval, until the program has ended."""
    number = 0
    end = time.monotonic() + options.every
    while options.times is None or number < options.times:
        while (left := end - time.monotonic()) > 0:
            wait(min(left, watch.pause))
            if watch.pause == 0:
                watch.look()
        try:
            yield watch.rows()
        except InspectionError:
            return  # it has ended
        number += 1
        end = max(end + options.every, time.monotonic())


class _Quit(Exception):
    """Somebody has seen enough."""


class _Live:
    """The program on a terminal."""

    def __init__(self, pid: int, watch: Watch, screen: Screen, options: Options) -> None:
        self._pid = pid
        self._watch = watch
        self._screen = screen
        self._options = options
        self._sort = options.sort
        self._filter = options.filter
        self._typing = False
        self._chosen = ""
        self._rows: list[Row] = []
        self._detail: list[str] = []
        self._coloured = "NO_COLOR" not in os.environ

    def run(self) -> None:
        self._draw()
        try:
            for rows in _intervals(self._watch, self._options, self._wait):
                self._rows = rows
                self._draw()
        except _Quit:
            pass

    def _wait(self, seconds: float) -> None:
        key = self._screen.key(seconds)
        if key:
            self._press(key)
            self._draw()

    def _press(self, key: str) -> None:
        if self._detail:
            self._detail = []
        elif self._typing:
            if key in {"enter", "escape"}:
                self._typing = False
                self._filter = "" if key == "escape" else self._filter
            elif key == "erase":
                self._filter = self._filter[:-1]
            elif len(key) == 1 and key.isprintable():
                self._filter += key
        elif key == "q":
            raise _Quit
        elif key == "s":
            self._sort = SORT_NAMES[(SORT_NAMES.index(self._sort) + 1) % len(SORT_NAMES)]
        elif key == "/":
            self._typing = True
        elif key in {"up", "down"}:
            self._move(1 if key == "down" else -1)
        elif key == "enter":
            self._inspect()

    def _move(self, step: int) -> None:
        shown = [row.identity for row in _chosen(self._rows, self._sort, self._filter)]
        if shown:
            at = shown.index(self._chosen) + step if self._chosen in shown else 0
            self._chosen = shown[min(max(at, 0), len(shown) - 1)]

    def _inspect(self) -> None:
        if not self._chosen:
            self._move(0)
        try:
            seen = look.inspect(self._pid, stuck=self._options.stuck)
        except InspectionError as error:
            self._detail = [str(error)]
            return
        self._detail = [
            line for one in seen.primitives if one.identity == self._chosen for line in text.about(one, whole=True)
        ] or ["it is not there any more"]

    def _draw(self) -> None:
        columns, height = self._screen.size
        lines = [f"{self._pid}: {_summary(self._watch, self._rows)}"[:columns]]
        if self._detail:
            lines += ["", *(line[:columns] for line in self._detail)][: height - 2]
            lines.append("any key: back"[:columns])
        else:
            rows = _chosen(self._rows, self._sort, self._filter)[: max(1, height - 4)]
            heading, *others = table(rows, columns)
            lines += ["", self._in_colour(_REVERSE, heading.ljust(columns))]
            for row, line in zip(rows, others, strict=True):
                colour = _COLOURS.get(row.verdict, _ALARM)
                lines.append(
                    self._in_colour(_REVERSE, line.ljust(columns))
                    if row.identity == self._chosen
                    else self._in_colour(colour, line)
                )
            state = f"filter: {self._filter}_" if self._typing else f"{_HELP}  by {self._sort}"
            lines += [""] * (height - 1 - len(lines)) + [state[:columns]]
        self._screen.show(lines)

    def _in_colour(self, colour: str, line: str) -> str:
        return colour.format(line) if self._coloured else line


def _chosen(rows: Sequence[Row], sort: str, wanted: str) -> list[Row]:
    """The rows that are asked for, in their order; without a filter, not those that nobody uses."""
    kept = [row for row in rows if (wanted in row.name if wanted else _is_used(row))]
    by_name = sorted(kept, key=lambda row: (row.name, row.identity))
    return by_name if sort == _BY_NAME else sorted(by_name, key=SORTS[sort], reverse=True)  # type: ignore[arg-type]


def _is_used(row: Row) -> bool:
    return bool(row.rate or row.held or row.in_line or row.verdict != FINE)


def _summary(watch: Watch, rows: Sequence[Row]) -> str:
    worst = max((row.verdict for row in rows), key=VERDICTS.index, default=FINE)
    processes = f"{watch.processes:,} process{'' if watch.processes == 1 else 'es'}"
    return f"{processes}, {plural(watch.primitives, 'primitive')}, {worst}"


def table(rows: Sequence[Row], columns: int) -> list[str]:
    """The rows as lines of at most so many columns, below a heading."""
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]
    notes = [_note(row) for row in rows]
    left = columns - sum(widths) - len(_GAP) * (len(widths) + 1)
    least = max((len(row.verdict) for row in rows if row.verdict != FINE), default=-len(_GAP)) + len(_GAP)
    names = [title(row.kind, row.name) for row in rows]
    room = max(_SHORTEST_NAME, left - least + len(_GAP))
    width = max([4, *(min(len(name), room) for name in names)])
    lines = []
    for name, row, note in zip(("NAME", *names), (_HEADINGS, *cells), ("NOTE", *notes), strict=True):
        shown = name if len(name) <= width else f"{name[: width - 1]}…"
        figures = _GAP.join(f"{cell:>{size}}" for cell, size in zip(row, widths, strict=True))
        lines.append(f"{shown:<{width}}{_GAP}{figures}{_GAP}{note}"[:columns].rstrip())
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    held = f"{row.held:.0%}" if row.held or row.rate else "-"
    return (
        f"{row.rate:,.0f}" if not 0 < row.rate < 10 else f"{row.rate:.1f}",
        held,
        f"{row.in_line:.1f}" if row.in_line else "-",
        _duration(row.wait if row.in_line else None),
        _duration(row.longest or None),
        _duration(row.hold),
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _note(row: Row) -> str:
    return "" if row.verdict == FINE else f"{row.verdict}: {row.note}"
