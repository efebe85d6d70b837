"""Litmus tests: what two processors do with a few words, and an outcome that must not be.

A pattern is written once, with a name for each fence, and translated for the machines whose memory differs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

#: The machines, by the name that herd7 has for them. x86 keeps the order of stores, and that of loads.
ARM: Final = "AArch64"
X86: Final = "X86"


@dataclass(frozen=True)
class Store:
    """Write a number, or what a register holds, into a word."""

    word: str
    value: int | str


@dataclass(frozen=True)
class Load:
    """Read a word into a register; `through`: where it is, is what that register holds, so it cannot be read before."""

    register: str
    word: str
    through: str | None = None


@dataclass(frozen=True)
class Ticket:
    """One more than the greater of 1 and what a register holds. (Not on x86.)"""

    register: str
    seen: str


@dataclass(frozen=True)
class Minus:
    """The difference of two registers. (Not on x86.)"""

    register: str
    one: str
    other: str


@dataclass(frozen=True)
class Fence:
    """Here the code has the fence of this name."""

    name: str


Step = Store | Load | Ticket | Minus | Fence


@dataclass(frozen=True)
class Pattern:
    """Two processors, and what must not come of it.

    `outcome` is in the words of herd7, with `0:a` for a register of the first processor, and `word` for a word in the
    end. `initially` are the words that do not begin as 0.
    """

    title: str
    processors: tuple[tuple[Step, ...], tuple[Step, ...]]
    outcome: str
    initially: tuple[tuple[str, int], ...] = ()

    @property
    def fences(self) -> list[str]:
        """The names of the fences in it."""
        return list(dict.fromkeys(step.name for steps in self.processors for step in steps if isinstance(step, Fence)))

    @property
    def machines(self) -> list[str]:
        """The machines that it can be translated for."""
        computes = any(isinstance(step, Ticket | Minus) for steps in self.processors for step in steps)
        return [ARM] if computes else [ARM, X86]

    def text(self, machine: str, fences: Collection[str]) -> str:
        """The test in herd7's language, with no fences but these."""
        write = _Arm if machine == ARM else _X86
        writers = [write(steps, fences) for steps in self.processors]
        columns = [[f"P{number}", *writer.lines] for number, writer in enumerate(writers)]
        length = max(map(len, columns))
        widths = [max(map(len, column)) for column in columns]
        rows = zip(*(column + [""] * (length - len(column)) for column in columns), strict=True)
        program = "\n".join(
            " " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " ;" for row in rows
        )
        start = [f"{word}={value};" for word, value in self.initially]
        start += [f"{number}:{place}" for number, writer in enumerate(writers) for place in writer.places]
        outcome = re.sub(
            r"(\d):(\w+)", lambda match: f"{match[1]}:{writers[int(match[1])].register(match[2])}", self.outcome
        )
        name = re.sub(r"\W+", "-", self.title)
        return f'{machine} {name}\n"{self.title}"\n{{ {" ".join(start)} }}\n{program}\nexists ({outcome})\n'


class _Arm:
    """The instructions of one processor."""

    def __init__(self, steps: tuple[Step, ...], fences: Collection[str]) -> None:
        self._registers: dict[str, str] = {}
        words = dict.fromkeys(step.word for step in steps if isinstance(step, Store | Load))
        self._addresses = {word: f"X{20 + number}" for number, word in enumerate(words)}
        self.lines: list[str] = []
        for step in steps:
            if not isinstance(step, Fence):
                self._add(step)
            elif step.name in fences:
                self.lines.append("DMB ISH")

    @property
    def places(self) -> list[str]:
        """Which register holds the address of which word in the beginning."""
        return [f"{register}={word};" for word, register in self._addresses.items()]

    def register(self, name: str) -> str:
        """The register of this name, as X0 and so on."""
        return self._registers.setdefault(name, f"X{len(self._registers)}")

    def _half(self, name: str) -> str:
        return self.register(name).replace("X", "W")

    def _add(self, step: Store | Load | Ticket | Minus) -> None:
        match step:
            case Store(word, value):
                source = "W19" if isinstance(value, int) else self._half(value)
                if isinstance(value, int):
                    self.lines.append(f"MOV W19,#{value}")
                self.lines.append(f"STR {source},[{self._addresses[word]}]")
            case Load(register, word, through):
                address = self._addresses[word]
                if through is not None:
                    self.lines.append(f"EOR W18,{self._half(through)},{self._half(through)}")
                    address += ",W18,SXTW"
                self.lines.append(f"LDR {self._half(register)},[{address}]")
            case Ticket(register, seen):
                ticket, other = self._half(register), self._half(seen)
                self.lines += [f"CMP {other},#1", f"CSINC {ticket},{other},WZR,GT", f"ADD {ticket},{ticket},#1"]
            case Minus(register, one, other):
                self.lines.append(f"SUBS {self._half(register)},{self._half(one)},{self._half(other)}")


class _X86:
    """The same; each word has its own name there, and one that is read through a register is just read."""

    places: Final[list[str]] = []
    _NAMES: Final = ("EAX", "EBX", "ECX", "EDX", "ESI", "EDI")

    def __init__(self, steps: tuple[Step, ...], fences: Collection[str]) -> None:
        self._registers: dict[str, str] = {}
        self.lines: list[str] = []
        for step in steps:
            match step:
                case Store(word, value):
                    self.lines.append(f"MOV [{word}],{f'${value}' if isinstance(value, int) else self.register(value)}")
                case Load(register, word):
                    self.lines.append(f"MOV {self.register(register)},[{word}]")
                case Fence(name) if name in fences:
                    self.lines.append("MFENCE")

    def register(self, name: str) -> str:
        """The register of this name."""
        return self._registers.setdefault(name, self._NAMES[len(self._registers)])
