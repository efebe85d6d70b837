"""The figures of mpbakery.Lock beside those of multiprocessing.Lock, measured in turn in the same run.

A script, not a test: it reports, and a missed bound does not make it fail.

    python tests/benchmark                          everything, some six minutes
    python tests/benchmark death timeout            two sections
    python tests/benchmark --quick --json out.json
    python tests/benchmark waits holds --plot pictures

How it is measured: every section forks its own children with `os.fork`; what they measure they write into shared
memory. The measuring process itself neither waits for a lock nor wakes a waiter, so that what a lock does at its first
wait (importing ctypes, for one) is paid, and seen, in each child. Times are of time.monotonic_ns, which all processes
share. A figure is the median over rounds in which the two locks take turns; where the worst matters, it is shown too.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

# the tests' folder, and for a checkout in which nothing is installed the one of the package
sys.path += map(str, Path(__file__).resolve().parents[1:3])

import mpbakery
from benchmark.figures import Figure, table
from benchmark.machine import Disturbance, environment
from benchmark.measuring import QUICK, Broken, Effort, progress
from benchmark.pictures import can_draw, draw
from benchmark.sections.contention import fairness, throughput
from benchmark.sections.creation import creation
from benchmark.sections.curves import holds, registered, waits
from benchmark.sections.death import death
from benchmark.sections.family import family
from benchmark.sections.looking import looking
from benchmark.sections.peers import peers
from benchmark.sections.queues import queues
from benchmark.sections.timeout import timeout
from benchmark.sections.uncontended import uncontended
from benchmark.sections.waiting import cpu
from support.command_line import Parser

SECTIONS: Final[dict[str, Callable[[Effort], Iterator[Figure]]]] = {
    "uncontended": uncontended,
    "fairness": fairness,
    "cpu": cpu,
    "death": death,
    "timeout": timeout,
    "creation": creation,
    "throughput": throughput,
    "family": family,
    "waits": waits,
    "holds": holds,
    "registered": registered,
    "peers": peers,
    "queues": queues,
    "looking": looking,
}


@dataclass
class Report:
    """What has been measured so far."""

    environment: dict[str, str]
    quick: bool
    seconds: float = 0.0
    #: the share of the machine that other processes used meanwhile, by section
    used_by_others: dict[str, float | None] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)

    def show(self) -> None:
        """Print it."""
        print(", ".join(f"{name} {value}" for name, value in self.environment.items()))
        print(table(self.figures))
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.used_by_others.items() if share is not None)
        print(f"other processes used of the machine: {shares or 'unknown'}")
        missed = sum(one.met is False for one in self.figures)
        bounds = sum(one.met is not None for one in self.figures)
        quick = " (--quick: too short to be a figure)" if self.quick else ""
        print(f"{bounds - missed} of {bounds} bounds met, in {self.seconds} s{quick}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:<13}{(section.__doc__ or '').splitlines()[0]}" for name, section in SECTIONS.items())
    parser = Parser(
        "benchmark",
        description="Measure mpbakery.Lock beside multiprocessing.Lock.",
        epilog=f"sections:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="section", help="what to measure; everything if none is given")
    parser.add_argument("--quick", action="store_true", help="less of everything: shows that it runs, not how fast")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw what was measured into DIR, as SVG files")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    if options.plot and not can_draw():
        parser.error("--plot needs matplotlib: pip install matplotlib, or tox run -e bench -- --plot DIR")
    options.results = parser.results(options)
    return options


def measure(names: list[str], effort: Effort, report: Report) -> None:
    """Add the figures of the named sections to the report, as they come, and how disturbed each section was."""
    for name in names:
        progress.start(name)
        disturbance = Disturbance()
        try:
            for figure in SECTIONS[name](effort):
                figure.section = name
                report.figures.append(figure)
        except (Broken, OSError, mpbakery.MpbakeryError) as error:
            raise Broken(f"section {name} broke: {error}") from error
        finally:
            report.used_by_others[name] = disturbance.share()
            progress.clear()


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; the exit status: 0, 1 if a measurement broke, 130 if it was interrupted."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start = time.monotonic()
    report = Report(environment(), options.quick)
    status = 0
    try:
        measure(options.sections or list(SECTIONS), QUICK if options.quick else Effort(), report)
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except Broken as error:
        print(f"benchmark: {error}", file=sys.stderr)
        status = 1
    report.seconds = round(time.monotonic() - start, 1)
    if report.figures and not options.results.alone:
        report.show()
    options.results.write(asdict(report))
    if options.plot:
        for file in draw(report.figures, options.plot):
            print(f"drawn: {file}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
