"""What was measured, in figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmark.measuring import MPBAKERY, MULTIPROCESSING

Numbers = dict[str, Any]


@dataclass
class Figure:
    """One line of the report; `met` is None where there is no bound."""

    name: str
    bound: str
    measured: str
    multiprocessing: str
    met: bool | None
    numbers: Numbers
    section: str = field(default="")
    #: whose it is, if it is not one of mpbakery's lock beside multiprocessing's
    lock: str = ""


def spread(values: list[float]) -> Numbers:
    """Least, median and greatest of `values`."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "count": len(values)}


def ratios(values: list[float], others: list[float]) -> Numbers:
    """How many times `others` the `values` are, by pairs of the same moment: the median, and where most are."""
    tenths = statistics.quantiles((value / other for value, other in zip(values, others, strict=True)), n=10)
    return {"low": tenths[0], "median": tenths[4], "high": tenths[8], "count": len(values)}


def times(ratio: Numbers) -> str:
    """A ratio in words."""
    return f"{ratio['median']:.2f} x ({ratio['low']:.1f} to {ratio['high']:.1f})"


def ratio_figure(
    name: str, bound: str, limit: float | None, found: dict[str, list[float]], show: Callable[[float], str]
) -> Figure:
    """A figure whose bound is a multiple of multiprocessing's, None for no bound."""
    ratio = ratios(found[MPBAKERY], found[MULTIPROCESSING])
    values = {kind: spread(measured) for kind, measured in found.items()}
    return Figure(
        name,
        bound,
        f"{show(values[MPBAKERY]['median'])}, {times(ratio)}",
        show(values[MULTIPROCESSING]["median"]),
        None if limit is None else ratio["median"] <= limit,
        {"ratio": ratio, **values},
    )


def table(figures: list[Figure]) -> str:
    """The report: aligned columns, one block a section, and a table of its own for other locks."""
    tables = [_beside_multiprocessing([one for one in figures if not one.lock])]
    tables.append(_lock_by_lock([one for one in figures if one.lock]))
    return "\n\n".join(filter(None, tables))


def _lock_by_lock(figures: list[Figure]) -> str:
    """A line for each lock, a column for each figure."""
    columns = list(dict.fromkeys(one.name for one in figures))
    cells = {(one.lock, one.name): one.measured for one in figures}
    rows = [
        [lock, *(cells.get((lock, column), "-") for column in columns)]
        for lock in dict.fromkeys(one.lock for one in figures)
    ]
    return _aligned([["", *columns], *rows]) if rows else ""


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _beside_multiprocessing(figures: list[Figure]) -> str:
    """A line for each figure, a block for each section."""
    if not figures:
        return ""
    met = {True: "yes", False: "NO", None: "-"}
    head = ("figure", "bound", MPBAKERY, MULTIPROCESSING, "met?")
    rows = [(one.name, one.bound, one.measured, one.multiprocessing, met[one.met]) for one in figures]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    lines = [line(head)]
    section = None
    for one, row in zip(figures, rows, strict=True):
        if one.section != section:
            section = one.section
            lines.append(f"-- {section} ".ljust(sum(widths) + 2 * (len(widths) - 1), "-"))
        lines.append(line(row))
    return "\n".join(lines)
