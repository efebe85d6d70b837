"""Pictures of what was measured, as SVG files: matplotlib draws them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmark.figures import Figure
from benchmark.measuring import MPBAKERY, MULTIPROCESSING

#: Each with its colour, of which people who see few colours can tell the two.
_KINDS: Final = {MPBAKERY: "#0072b2", MULTIPROCESSING: "#d55e00"}


def can_draw() -> bool:
    """Whether what draws is installed."""
    return find_spec("matplotlib") is not None


def draw(figures: list[Figure], folder: Path) -> list[Path]:
    """Draw what there are figures of; the files."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    # text as text, and the same file for the same figures
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "mpbakery", "font.size": 11})
    pyplot = import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for section, picture in _PICTURES.items():
        found = [one for one in figures if one.section == section]
        if not found:
            continue
        canvas, axes = pyplot.subplots(figsize=(7.2, 4), layout="constrained")
        picture(axes, found)
        axes.grid(visible=True, which="major", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.legend(frameon=False)
        files.append(folder / f"{section}.svg")
        canvas.savefig(files[-1], metadata={"Date": None})
        pyplot.close(canvas)
    return files


def _waits(axes: Any, figures: list[Figure]) -> None:
    """Of each length, what part of the waits was longer."""
    numbers = figures[0].numbers
    bounds = numbers["bounds_ns"]
    for kind, colour in _KINDS.items():
        counts = numbers[kind]
        total, left = sum(counts), sum(counts)
        lengths, parts = [], []
        for bound, count in zip(bounds, counts, strict=False):
            left -= count
            if left:
                lengths.append(bound / 1e6)
                parts.append(left / total)
        axes.step(lengths, parts, where="post", color=colour, label=f"{kind}.Lock")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="wait (ms)",
        ylabel="part of the waits that is longer",
        title="Eight processes, each holds the lock for 100 µs, again and again",
    )


def _holds(axes: Any, figures: list[Figure]) -> None:
    """How often the lock is acquired, against how long it is held."""
    lengths = [one.numbers["hold_ns"] / 1e3 for one in figures]
    for kind, colour in _KINDS.items():
        rates = [one.numbers[kind]["median"] for one in figures]
        axes.plot(lengths, rates, marker="o", color=colour, label=f"{kind}.Lock")
    axes.set_xscale("symlog", linthresh=1)
    axes.set(
        yscale="log",
        xlabel="held for (µs)",
        ylabel="acquisitions a second",
        title="Eight processes that do nothing else",
    )


def _registered(axes: Any, figures: list[Figure]) -> None:
    """What an acquisition costs, against how many have used the lock."""
    counts = [one.numbers["registered"] for one in figures]
    for kind, colour in _KINDS.items():
        axes.plot(
            counts, [one.numbers[kind]["median"] for one in figures], marker="o", color=colour, label=f"{kind}.Lock"
        )
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="processes that have used the lock",
        ylabel="ns",
        title="with lock: pass, when nobody else wants it",
        ylim=(0, None),
    )


_PICTURES: Final[dict[str, Callable[[Any, list[Figure]], None]]] = {
    "waits": _waits,
    "holds": _holds,
    "registered": _registered,
}
