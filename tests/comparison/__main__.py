"""The same kills in the pools that people have: what comes of the tasks, and whether the pool works afterwards.

    python tests/comparison                                    everything that is installed
    python tests/comparison --library mpbakery killed_idle
    python tests/comparison --json comparison.json

Every scene runs in a program of its own. What is written is what was seen in this run: nothing is known beforehand.
loky and pebble take part where they are installed (`tox run -e comparison` does that).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[1:3])

from comparison.libraries import LIBRARIES, Library
from comparison.scenes import PATIENCE, SCENES, WORKERS, Outcome
from support.command_line import Parser, StatusLine

#: How long a scene may take in all, in seconds: it waits twice at most, and programs start slowly on a busy machine.
LIMIT = 4 * PATIENCE + 20
#: How long a pool without its owner may take to go, in seconds.
GRACE = 2.0


def play(scene: str, library: str, folder: str) -> None:
    """One scene with one library, in this process."""
    outcome = SCENES[scene](LIBRARIES[library].make(WORKERS), folder)
    (Path(folder).parent / "outcome.json").write_text(json.dumps(asdict(outcome)))
    # A pool that hangs would not let the program end.
    os._exit(0)


def watch(scene: str, library: str) -> Outcome:
    """One scene with one library, in a program of its own, of which nothing stays."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "meeting")
        meeting.mkdir()
        told = Path(folder, "told")
        with told.open("w") as errors:
            program = subprocess.Popen(
                [sys.executable, __file__, "--play", str(meeting), "--library", library, scene],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        try:
            program.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return Outcome(afterwards=f"the program did not end within {LIMIT:g} s")
        finally:
            left = [pid for pid in _left(program.pid, GRACE) if not _is_tracker(pid)]
            program.kill()
            program.wait()
            for pid in left:
                _kill(pid)
            for pid in _left(program.pid, GRACE):  # a tracker first removes what was left behind
                _kill(pid)
        if program.returncode == -signal.SIGKILL:
            return Outcome(left=len(left))
        if program.returncode:
            raise RuntimeError(f"{scene} with {library} broke:\n{told.read_text()}")
        found: dict[str, Any] = json.loads(Path(folder, "outcome.json").read_text())
        return Outcome(**found)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    """Whether that is the process of the standard library, or loky's, that cleans up behind a program."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _left(session: int, seconds: float) -> list[int]:
    """Who is still alive of a session, `seconds` from now, or at once when all have gone."""
    end = time.monotonic() + seconds
    while True:
        left = [pid for pid, other in _sessions() if other == session and pid != session]
        if not left or time.monotonic() >= end:
            return left
        time.sleep(0.05)


def _sessions() -> Iterator[tuple[int, int]]:
    """All processes that run, with their sessions."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in {"Z", "X"}:
            yield int(folder.name), int(fields[3])


def words(outcome: Outcome) -> list[str]:
    """An outcome in words: the tasks, what comes later, how long it took."""
    if outcome.left is not None:
        return [f"{outcome.left or 'no'} workers left", "", ""]
    tasks = [f"{outcome.results} done"] if outcome.results else []
    tasks += [f"{count} {name}" for name, count in outcome.errors.items()]
    tasks += [f"{outcome.missing} without answer"] if outcome.missing else []
    return [", ".join(tasks), outcome.afterwards, f"{outcome.seconds:.1f} s"]


def report(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """A block for each scene, a line for each library."""
    blocks = []
    for scene, found in outcomes.items():
        head = ["", "after 2 s", "", ""] if scene == "owner_killed" else ["", "of the tasks", "one more", ""]
        rows = [head, *([LIBRARIES[library].title, *words(outcome)] for library, outcome in found.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        blocks.append("\n".join([f"{scene}: {(SCENES[scene].__doc__ or '').splitlines()[0]}", *lines]))
    return "\n\n".join(blocks)


def version(name: str, library: Library) -> str | None:
    """Which one it is, None where it is not installed."""
    if library.package is None:
        return "of this checkout" if name == "mpbakery" else platform.python_version()
    try:
        return importlib.metadata.version(library.package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:<16}{(scene.__doc__ or '').splitlines()[0]}" for name, scene in SCENES.items())
    parser = Parser(
        "comparison",
        description="Kill processes of pools, and see what comes of it.",
        epilog=f"scenes:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenes", nargs="*", metavar="scene", help="what to do; everything if none is given")
    parser.add_argument(
        "--library", action="append", choices=list(LIBRARIES), help="a pool; all that are installed if none is given"
    )
    parser.add_argument("--play", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scenes if name not in SCENES]
    if unknown:
        parser.error(f"no scene {unknown[0]!r}: choose from {', '.join(SCENES)}")
    options.versions = {name: version(name, library) for name, library in LIBRARIES.items()}
    missing = [name for name in options.library or () if options.versions[name] is None]
    if missing:
        parser.error(f"{missing[0]} is not installed: pip install {LIBRARIES[missing[0]].package}")
    options.results = parser.results(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Watch and report; the exit status: 0, 1 if a scene broke, 130 if it was interrupted."""
    options = parse(arguments)
    if options.play:
        play(options.scenes[0], options.library[0], options.play)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    versions = {name: version for name, version in options.versions.items() if version is not None}
    progress = StatusLine(quiet=options.results.alone)
    outcomes: dict[str, dict[str, Outcome]] = {}
    status = 0
    try:
        for scene in options.scenes or SCENES:
            for library in options.library or versions:
                progress.show(f"{scene} with {LIBRARIES[library].title}")
                outcomes.setdefault(scene, {})[library] = watch(scene, library)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except RuntimeError as error:
        print(f"comparison: {error}", file=sys.stderr)
        status = 1
    finally:
        progress.clear()
    if outcomes and not options.results.alone:
        print(", ".join(f"{LIBRARIES[name].title} {version}" for name, version in versions.items()), end="\n\n")
        print(report(outcomes))
    options.results.write(
        {
            "versions": versions,
            "scenes": {scene: {name: asdict(one) for name, one in found.items()} for scene, found in outcomes.items()},
        }
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
