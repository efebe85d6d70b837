"""Watching a running program: `python3 -m mpbakery top`, on a terminal and without one."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from conftest import START_METHODS
from support import scripts
from support.processes import children_of, state_of
from support.specimens import exhibit
from support.terminals import ENTERED, LEFT, Terminal, terminal
from support.workers import wait_for_state, wait_until

HEADINGS = ["NAME", "PER", "SEC", "HELD", "IN", "LINE", "MEAN", "WAIT", "LONGEST", "HOLD", "NOTE"]


def top(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The exit status of the command where there is no terminal, and what it prints."""
    return scripts.finish(scripts.start("-m", "mpbakery", "top", *arguments))


# --- Without a terminal ---------------------------------------------------------------------------------------------


@pytest.mark.serial
@pytest.mark.parametrize("method", START_METHODS)
def test_tables(method: str) -> None:
    with exhibit("convoy", method) as program:
        status, out, err = top("--count", "3", "--every", "0.5", str(program.pid))
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        tables = out.strip().split("\n\n")
        assert len(tables) == 3
        heading, names, row = tables[-1].splitlines()
        assert re.fullmatch(r"\d\d:\d\d:\d\d 7 processes, 1 primitive, (CONVOY|fine)", heading)
        assert names.split() == HEADINGS
        found = re.match(
            r"Lock 'ledger' +(?P<rate>[\d,.]+) +(?P<held>\d+)% +(?P<line>[\d.]+) +(?P<wait>[\d.]+) ms +"
            r"(?P<longest>[\d.]+ m?s) +(?P<hold>[\d.]+) ms",
            row,
        )
        assert found is not None, row
        # six that hold it for two milliseconds at least, in turn
        assert 50 < int(found["rate"].replace(",", "")) <= 500
        assert int(found["held"]) > 30
        assert 3.5 < float(found["line"]) < 6
        assert float(found["hold"]) >= 1.2
        assert float(found["wait"]) == pytest.approx(
            float(found["line"]) / int(found["rate"].replace(",", "")) * 1e3, rel=0.1
        )


def test_what_is_wrong_is_noted() -> None:
    with exhibit("ring_of_two") as program:
        _, out, _ = top("--count", "3", "--every", "0.2", str(program.pid))
        first, *_, last = out.strip().split("\n\n")
        assert "DEADLOCK" not in first  # a ring has to be seen twice
        assert last.splitlines()[0].endswith("DEADLOCK")
        assert last.count("DEADLOCK: one of a ring") == 2


def test_sort_and_filter() -> None:
    with exhibit("ring_of_three") as program:
        _, out, _ = top("--count", "1", "--every", "0.1", "--sort", "name", str(program.pid))
        assert re.findall(r"^Lock '(\w+)'", out, re.MULTILINE) == ["one", "three", "two"]
        _, out, _ = top("--count", "1", "--every", "0.1", "--filter", "tw", str(program.pid))
        assert re.findall(r"^Lock '(\w+)'", out, re.MULTILINE) == ["two"]


def test_programs_of_this_user() -> None:
    lock = mpbakery.Lock()  # then the process of this test is a program as well, and the parent of the other one
    with exhibit("holder") as program:
        status, out, err = top()
        assert (status, err) == (0, "")
        assert re.search(
            rf"^ *{program.pid} +3 +2 +1 +1 +\S*python\S* -m support.specimens holder fork$", out, re.MULTILINE
        )
        assert re.search(rf"^ *{os.getpid()} +1 +", out, re.MULTILINE)
    del lock


def test_no_such_program() -> None:
    assert top(str(2**31 - 1)) == (2, "", f"python3 -m mpbakery: process {2**31 - 1} has ended (try --help)\n")


@pytest.mark.parametrize(
    "arguments", [("1", "--", "true"), ("--",), ("--every", "0"), ("--sort", "colour")], ids=" ".join
)
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    status, out, err = top(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("python3 -m mpbakery: ")
    assert err.count("\n") == 1


def test_it_ends_with_the_program() -> None:
    with exhibit("holder") as program:
        process = scripts.start("-m", "mpbakery", "top", "--every", "0.1", str(program.pid))
        assert process.stdout is not None
        assert "processes" in process.stdout.readline()
        for pid in (*program.told, program.pid):
            os.kill(pid, signal.SIGKILL)
        status, _out, err = scripts.finish(process)
        assert (status, err) == (0, "")


def test_it_goes_on_with_the_rest_of_the_program() -> None:
    with exhibit("holder") as program:
        process = scripts.start("-m", "mpbakery", "top", "--every", "0.1", str(program.told[1]))
        assert process.stdout is not None
        assert "3 processes" in process.stdout.readline()
        os.kill(program.told[1], signal.SIGKILL)
        line = process.stdout.readline()
        while line and "2 processes" not in line:
            line = process.stdout.readline()
        assert line
        process.kill()
        scripts.finish(process)


def test_command() -> None:
    code = "import mpbakery, time; l = mpbakery.Lock(name='mine'); l.acquire(); time.sleep(1); print('done'); exit(3)"
    status, out, err = top("--every", "0.1", "--", sys.executable, "-c", code)
    assert (status, err) == (3, "")
    assert "Lock 'mine'" in out
    assert "done" in out
    assert top("--every", "0.1", "--", sys.executable, "-c", "pass") == (0, "", "")


# --- On a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM, "program"])
def test_the_terminal_is_as_before(end: Any) -> None:
    with exhibit("ring_of_two") as program, terminal(str(program.pid)) as one:
        one.wait_for("audit log")
        if end == "program":
            for pid in [*children_of(program.pid), program.pid]:
                os.kill(pid, signal.SIGKILL)
        elif isinstance(end, str):
            one.press(end)
        else:
            one.process.send_signal(end)
        assert one.wait_for_end() == {"q": 0, "\x03": 130, "program": 0}.get(end, 143)


def test_it_fits_into_the_terminal() -> None:
    with exhibit("ring_of_two") as program, terminal(str(program.pid)) as one:
        for columns, lines in ((80, 24), (200, 50), (40, 10)):
            one.resize(columns, lines)
            # what is drawn at this moment may still be for the size of before
            wait_until(functools.partial(fits, one, columns, lines), "a fit")
        one.resize(80, 24)
        screen = one.wait_for("DEADLOCK")
        assert screen[0] == f"{program.pid}: 3 processes, 4 primitives, DEADLOCK"
        assert any(re.fullmatch(r"Lock 'accounts' .*  DEADLOCK.*", line) for line in screen)
        one.press("q")
        assert one.wait_for_end() == 0


def fits(one: Terminal, columns: int, lines: int) -> bool:
    """Whether the screen fills that many lines, and none is longer than that."""
    screen = one.screen()
    return len(screen) == lines and max(map(len, screen)) <= columns


@pytest.mark.parametrize("coloured", [True, False])
def test_colours(coloured: bool) -> None:
    options = {} if coloured else {"NO_COLOR": "1"}
    with exhibit("ring_of_two") as program, terminal(str(program.pid), **options) as one:
        one.wait_for("DEADLOCK")
        assert bool(re.search(r"\x1b\[[0-9;]*m", one.seen)) == coloured
        one.press("q")
        assert one.wait_for_end() == 0


def test_keys() -> None:
    with exhibit("ring_of_three") as program, terminal("--sort", "name", str(program.pid)) as one:
        one.wait_for("Lock 'two'")
        one.press("s")
        one.wait_for("by trouble$")
        one.press("/")
        one.press("twx\x7f")
        one.wait_for("^filter: tw_$")
        wait_until(lambda: sum("Lock '" in line for line in one.screen()) == 1, "one lock")
        one.press("\r")
        one.wait_for("quit")
        one.press("\x1b[B")
        one.press("\r")
        screen = one.wait_for("any key: back")
        assert any(re.match(r"  held for .*s by Child-2 \(\d+\), waiting for Lock 'three'", line) for line in screen)
        one.press("x")
        one.wait_for("Lock 'two' ")
        one.press("/")
        one.press("\x1b")
        wait_until(lambda: sum("Lock '" in line for line in one.screen()) == 3, "three locks")
        one.press("q")
        assert one.wait_for_end() == 0


def test_ctrl_z() -> None:
    with exhibit("ring_of_two") as program, terminal(str(program.pid)) as one:
        one.wait_for("audit log")
        one.press("\x1a")
        wait_for_state(one.process.pid, "T")
        assert one.read().count(LEFT) == 1
        assert termios.tcgetattr(one.theirs) == one.before
        one.process.send_signal(signal.SIGCONT)
        wait_until(lambda: one.read().count(ENTERED) == 2, "the screen to come back")
        one.press("q")
        assert one.wait_for_end() == 0


def test_what_a_command_prints_is_not_lost() -> None:
    code = "import mpbakery, time; l = mpbakery.Lock(name='mine'); l.acquire(); print('done'); time.sleep(1)"
    with terminal("--", sys.executable, "-c", code) as one:
        one.wait_for("Lock 'mine'")
        assert one.wait_for_end() == 0
        assert one.seen.rpartition(LEFT)[2].strip() == "done"


def test_whoever_has_seen_enough_ends_the_command() -> None:
    with terminal("--", sys.executable, "-m", "support.specimens", "ring_of_two", "fork") as one:
        one.wait_for("audit log")
        (program,) = children_of(one.process.pid)
        below = children_of(program)
        one.press("q")
        assert one.wait_for_end() == 128 + signal.SIGTERM
        for pid in (program, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # they have a session of their own
        wait_until(lambda: not [pid for pid in (program, *below) if state_of(pid) not in {"", "Z"}], "their end")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_as_a_terminal_shows_it(tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    package = Path(mpbakery.__file__).parents[1]
    with exhibit("ring_of_two") as program:
        command = (
            f"PYTHONPATH={package} {sys.executable} -m mpbakery top --every 0.2 {program.pid}; echo over; sleep 60"
        )
        subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", command], check=True)
        try:

            def shown() -> list[str]:
                run = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True)
                return run.stdout.splitlines()

            wait_until(lambda: any("DEADLOCK" in line for line in shown()[3:]), "the deadlock")
            lines = shown()
            assert lines[0] == f"{program.pid}: 3 processes, 4 primitives, DEADLOCK"
            assert lines[2].split() == [
                "NAME",
                "PER",
                "SEC",
                "HELD",
                "IN",
                "LINE",
                "MEAN",
                "WAIT",
                "LONGEST",
                "HOLD",
                "NOTE",
            ]
            assert {line.split("'")[1] for line in lines[3:5]} == {"accounts", "audit log"}
            assert lines[23].startswith("q quit")
            subprocess.run([*tmux, "send-keys", "q"], check=True)
            wait_until(lambda: shown()[0] == "over", "the screen of before")
        finally:
            subprocess.run([*tmux, "kill-server"], check=True)
