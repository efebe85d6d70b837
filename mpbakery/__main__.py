"""The command line: `python3 -m mpbakery`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

import mpbakery
from mpbakery._programs import demo, halfbaked
from mpbakery._programs.console import Console, cleared, plural
from mpbakery._programs.ledger import TornRecordError
from mpbakery._system import network

FINE: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
STUCK: Final = 3

_PROGRAM: Final = "python3 -m mpbakery"
_STATUSES: Final = """
exit status:
  0    everything is as it should be
  1    it is not: {wrong}
  2    an argument is wrong, or there is nothing to do
  3    stuck: nothing happened for as long as --limit says
  130  ended by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP; 141: nobody reads on
"""
_INSPECT_STATUSES: Final = """
exit status:
  0    nothing is wrong: fine, or a CONVOY
  1    something is: DEADLOCK, LOST, or STUCK
  2    it cannot be looked into: no such process, no lock of mpbakery, no permission
  130  ended by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP; 141: nobody reads on
"""
_TOP_STATUSES: Final = """
keys: q ends it, and COMMAND, s sorts by the next column, / filters by name, up and
down choose a lock, and enter inspects that one. NO_COLOR in the environment: no colours.

exit status:
  0    the program has ended, or somebody has seen enough; with COMMAND, that of COMMAND
  2    it cannot be looked into, as for inspect
  130  ended by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP; 141: nobody reads on
"""
_MOST_WORKERS: Final = 256


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{_PROGRAM}: {message} (try --help)\n")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return whole


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and up to 86400")
    return seconds


def _parser(program: str, description: str, wrong: str) -> _Parser:
    parser = _Parser(
        prog=program,
        description=description,
        epilog=_STATUSES.format(wrong=wrong),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--limit", type=_seconds, default=10.0, metavar="SECONDS", help="give up when nothing happens for so long (10)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    parser.add_argument("--version", action="version", version=f"mpbakery {mpbakery.__version__}")
    return parser


def _demo_parser() -> _Parser:
    parser = _parser(
        _PROGRAM,
        "Count the words of many files with a multiprocessing.Pool whose workers\n"
        "write one ledger under one lock, and kill one of them while it holds it.\n\n"
        "inspect PID as the first arguments looks into a running program instead, and\n"
        "says who holds which lock, who waits, and whether it is stuck; top does so\n"
        "live; cluster shows the locks of a server, and halfbaked runs the recipe of the\n"
        "half-baked mutex: see inspect --help and so on. (Folders of these names are\n"
        "./inspect ….)",
        "a record is torn or lost, or the serial count differs",
    )
    parser.add_argument(
        "folder", nargs="?", help="count all files in it and below it (the source files of Python's standard library)"
    )
    parser.add_argument(
        "--workers",
        type=_whole(1, _MOST_WORKERS),
        default=min(8, max(4, os.cpu_count() or 1)),
        metavar="N",
        help="how many processes (%(default)s)",
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="let all workers live")
    parser.add_argument(
        "--lock",
        type=_lock,
        default=demo.LOCKS[0],
        metavar="LOCK",
        help=f"whose lock: {', '.join(demo.LOCKS)}, or that of a server, postgresql://… (%(default)s)",
    )
    parser.add_argument(
        "--machines",
        type=lambda names: tuple(filter(None, names.split(","))),
        default=(),
        metavar="NAME,…",
        help="spread the workers over these network namespaces, from which they reach the server",
    )
    return parser


def _cluster_parser() -> _Parser:
    parser = _Parser(
        prog=f"{_PROGRAM} cluster",
        description="Get a PostgreSQL server ready for mpbakery.cluster.Lock, look whether it is\n"
        "set up well, and show the locks, who holds them, and who waits.",
        epilog=_STATUSES.format(wrong="the server has something that a lock does not bear"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("url", help="postgresql://user@host:port/database, as the locks are given it")
    parser.add_argument("--all", action="store_true", help="show locks that nobody holds or awaits, too")
    parser.add_argument("--json", action="store_true", help="print everything as JSON and nothing else")
    parser.add_argument("--version", action="version", version=f"mpbakery {mpbakery.__version__}")
    return parser


def _inspect_parser(stuck_after: float) -> _Parser:
    parser = _Parser(
        prog=f"{_PROGRAM} inspect",
        description="Look into a running program, which need not be prepared and does not notice:\n"
        "every lock, semaphore, condition, event, barrier and queue of mpbakery in it,\n"
        "who holds it, who waits, and whether anything is stuck. Any of its processes\n"
        "will do.",
        epilog=_INSPECT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pid", type=_whole(1, 2**31 - 1), metavar="PID", help="a process of the program")
    parser.add_argument(
        "--stuck",
        type=_seconds,
        default=stuck_after,
        metavar="SECONDS",
        help="a lock is stuck when it has not changed hands for so long and somebody waits as long (%(default)g)",
    )
    parser.add_argument("--all", action="store_true", help="show what nobody holds or awaits, too, and whole stacks")
    parser.add_argument("--json", action="store_true", help="print everything as JSON and nothing else")
    parser.add_argument("--version", action="version", version=f"mpbakery {mpbakery.__version__}")
    return parser


def _top_parser(sorts: Sequence[str], stuck_after: float) -> _Parser:
    parser = _Parser(
        prog=f"{_PROGRAM} top",
        usage=f"{_PROGRAM} top [options] [PID | -- COMMAND …]",
        description="Show the locks of a running program, live: how often each is taken, for which\n"
        "share of the time it is held, how many stand in line, for how long they wait.\n"
        "Without PID, list the programs that have locks of mpbakery; with COMMAND, start\n"
        "that, and show it. Where the output is no terminal, print a table each time.",
        epilog=_TOP_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pid", nargs="?", type=_whole(1, 2**31 - 1), metavar="PID", help="a process of the program")
    parser.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="refresh so often (1)")
    parser.add_argument("--count", type=_whole(1, 10**9), metavar="N", help="end after so many refreshes")
    parser.add_argument("--sort", choices=sorts, default=sorts[0], help="what comes first (%(default)s)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="show only what has this in its name")
    parser.add_argument(
        "--stuck", type=_seconds, default=stuck_after, metavar="SECONDS", help="as for inspect (%(default)g)"
    )
    parser.add_argument("--version", action="version", version=f"mpbakery {mpbakery.__version__}")
    return parser


def _lock(text: str) -> str:
    if text not in demo.LOCKS and not text.startswith(demo.SERVERS):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(demo.LOCKS)}, postgresql://…")
    return text


def _halfbaked_parser() -> _Parser:
    parser = _parser(
        f"{_PROGRAM} halfbaked",
        "Fork five times, which makes 32 processes, and let each print its line\n"
        "100 times, character by character, under one lock.",
        "a line is broken or missing, or a process did not end well",
    )
    parser.add_argument(
        "--forks", type=_whole(0, 8), default=5, metavar="N", help="fork N times: 2 to the power of N processes (5)"
    )
    parser.add_argument(
        "--rounds", type=_whole(1, 1_000_000), default=100, metavar="N", help="how many lines each process prints (100)"
    )
    parser.add_argument("--no-lock", dest="locked", action="store_false", help="print without the lock, and see")
    return parser


def _run_demo(arguments: Sequence[str]) -> int:
    parser = _demo_parser()
    options = parser.parse_args(arguments)
    folder = demo.standard_library() if options.folder is None else options.folder
    try:
        files = demo.find_files(options.folder)
    except FileNotFoundError:
        parser.error(f"folder {folder!r} does not exist")
    except NotADirectoryError:
        parser.error(f"{folder!r} is not a folder")
    except OSError as error:
        parser.error(f"folder {folder!r} cannot be read: {error.strerror}")
    if not any(map(demo.is_readable, files)):
        parser.error(f"folder {folder!r} has no readable file")
    console = Console(quiet=options.json)
    console.say(f"Counting words: {plural(len(files), 'file')} in {folder}")
    workers = plural(options.workers, "worker")
    for machine in options.machines:
        if refusal := network.refusal(machine):
            parser.error(f"network namespace {machine!r} cannot be entered: {refusal.strerror}")
    settings = demo.Settings(files, options.workers, options.lock, options.kill, options.limit, options.machines)
    try:
        if settings.lock.startswith(demo.SERVERS):  # another one would start multiprocessing's tracker of resources
            settings.make_lock()
    except ValueError as error:
        parser.error(str(error))
    console.say(f"{workers} of a multiprocessing.Pool, one ledger file, one {settings.lock_name}.Lock")
    console.gap()
    with cleared(console):
        result = demo.run(settings, console)
    if options.json:
        _print_json(demo.as_json(result))
    else:
        demo.report(result, console)
    return STUCK if result.stall else FINE if result.is_right else FAILED


def _run_halfbaked(arguments: Sequence[str]) -> int:
    options = _halfbaked_parser().parse_args(arguments)
    console = Console(quiet=options.json)
    settings = halfbaked.Settings(options.forks, options.rounds, options.locked, options.limit)
    result = halfbaked.run(settings, console)
    if options.json:
        _print_json(halfbaked.as_json(result))
    else:
        halfbaked.report(result, settings, console)
    return STUCK if result.stalled else FINE if result.is_right else FAILED


def _run_cluster(arguments: Sequence[str]) -> int:
    # it needs psycopg, which only those have who use it
    from mpbakery._programs import server

    parser = _cluster_parser()
    options = parser.parse_args(arguments)
    try:
        report = server.inspect(options.url)
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        _print_json(server.as_json(report))
    else:
        server.show(report, Console(quiet=False), everything=options.all)
    return FINE if report.is_good else FAILED


def _run_inspect(arguments: Sequence[str]) -> int:
    from mpbakery._programs import inspection

    parser = _inspect_parser(inspection.STUCK_AFTER)
    options = parser.parse_args(arguments)
    try:
        seen = mpbakery.inspect(options.pid, stuck=options.stuck)
    except mpbakery.InspectionError as error:
        parser.error(str(error))
    if options.json:
        _print_json(inspection.as_json(seen))
    else:
        inspection.show(seen, Console(quiet=False), everything=options.all)
    return FINE if seen.is_healthy else FAILED


def _run_top(arguments: Sequence[str]) -> int:
    from mpbakery._programs import top
    from mpbakery._programs.inspection import STUCK_AFTER

    parser = _top_parser(top.SORT_NAMES, STUCK_AFTER)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = list(arguments[at + 1 :])
    options = parser.parse_args(arguments[:at])
    if options.pid is not None and command:
        parser.error("give a PID or a COMMAND, not both")
    if at < len(arguments) and not command:
        parser.error("give a COMMAND after --")
    settings = top.Options(options.every, options.count, options.sort, options.filter, options.stuck)
    if command:
        return top.run_command(command, settings)
    if options.pid is None:
        console = Console(quiet=False)
        for line in top.show_programs():
            console.say(line)
        return FINE
    try:
        top.run(options.pid, settings)
    except mpbakery.InspectionError as error:
        parser.error(str(error))
    return FINE


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=2), flush=True)


def _describe(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End in good order when a signal says so, with no other signal to disturb that."""
    for ending in demo.ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _drop_output() -> None:
    """What is still in the buffer would be tried again at exit, complained about, and change the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; the exit status."""
    for ending in demo.ENDINGS:
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a folder may be any bytes
    try:
        if arguments[:1] == ["halfbaked"]:
            return _run_halfbaked(arguments[1:])
        if arguments[:1] == ["cluster"]:
            return _run_cluster(arguments[1:])
        if arguments[:1] == ["inspect"]:
            return _run_inspect(arguments[1:])
        if arguments[:1] == ["top"]:
            return _run_top(arguments[1:])
        return _run_demo(arguments)
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except (OSError, ImportError, TornRecordError, mpbakery.MpbakeryError) as error:
        _drop_output()
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.write(f"{_PROGRAM}: {_describe(error)}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
