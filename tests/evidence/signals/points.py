"""Signals and exceptions before every single bytecode of an operation.

CPython runs the handlers of signals between two bytecodes, but not between any two. Between which, differs from version
to version, and here the interpreter says it itself: `Tracer.explore` runs an operation bytecode by bytecode, with a
signal pending before each, and notes where the handler runs. `Tracer.strike` runs it again, with one handler that acts
at one such point; or, where no handler ever runs, with an exception out of the blue.
"""

from __future__ import annotations

import _thread
import opcode
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, Protocol

Operation = Callable[[], object]

_SIGNAL: Final = signal.SIGUSR1
#: How often a situation is looked at that differs from time to time, and how often a strike is tried there.
_FIRST_LOOKS: Final = 2
_LOOKS: Final = 5
_TRIES: Final = 5


class Struck(BaseException):
    """What is raised at a point."""


def strike() -> None:
    """What a handler does that raises."""
    raise Struck


class _Arrival(int):
    """A signal number. To ask for `now` has that signal come, in C, where no bytecode follows that would handle it."""

    now = property(_thread.interrupt_main)


class Place(NamedTuple):
    """A bytecode; below 0 is the entry of the function, on CPython 3.10."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.code.co_filename)}:{self.line} {self.code.co_name}+{self.offset}"

    @property
    def line(self) -> int:
        """The line of the source that it belongs to."""
        lines = (line for start, end, line in self.code.co_lines() if start <= max(self.offset, 0) < end and line)
        return next(lines, self.code.co_firstlineno)

    @property
    def kind(self) -> str:
        """The name of the bytecode."""
        return opcode.opname[self.code.co_code[self.offset]] if self.offset >= 0 else "entry"


class Visit(NamedTuple):
    """A bytecode, and the how manieth time it is come to."""

    place: Place
    number: int


class Point(NamedTuple):
    """The moment between two bytecodes of an operation."""

    #: what was executed just before, None at the start
    after: Visit | None
    #: what would be executed next
    before: Visit
    #: where a handler sees itself run that runs at this moment, None where none does
    handled: Place | None


class Outcome(NamedTuple):
    """How an operation ended that was struck."""

    value: object
    raised: type[BaseException] | None
    #: whether it was struck at the point that was meant
    hit: bool


class Tracer:
    """Runs operations bytecode by bytecode, in the main thread, with all the Python code that they call."""

    def __init__(self) -> None:
        self._signal = _Arrival(_SIGNAL)
        self._handled: tuple[CodeType, int] | None = None
        self._action: Callable[[], object] | None = None
        self._trace: Callable[..., Any] = strike
        self._bystanders = {Tracer.explore.__code__, Tracer.strike.__code__}
        signal.signal(_SIGNAL, self._handle)
        # CPython 3.12 looks at this when tracing is begun
        sys._getframe().f_trace_opcodes = True

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code is self._trace.__code__ or frame.f_code in self._bystanders:
            return  # at a bytecode of the tracing, or after the operation
        # a plain tuple: a call of Python code would be seen by `explore`, which has a signal come after each
        self._handled = (frame.f_code, frame.f_lasti)
        action, self._action = self._action, None
        if action is not None:
            action()

    def strike_twice(self) -> None:
        """What a handler does that raises at the same moment as another one, which comes as early as one may."""
        handled = self._handled

        def again() -> None:
            self._handled = handled
            raise Struck

        self._action = again
        self._signal.now  # noqa: B018  # no call nor jump behind it
        raise Struck

    def explore(self, operation: Operation) -> tuple[Outcome, list[Point]]:
        """How an operation ends, and every point of it."""
        points: list[Point] = []
        visits: dict[tuple[int, int], int] = {}
        handle = Tracer._handle.__code__

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            code = frame.f_code
            if code is handle:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                handled, self._handled = self._handled, None
                key = (id(code), frame.f_lasti)
                visits[key] = visits.get(key, 0) + 1
                visit = Visit(Place(code, frame.f_lasti), visits[key])
                points.append(Point(points[-1].before if points else None, visit, handled and Place(*handled)))
            # After each event, since all of them may have it handled here; and no call nor jump behind it.
            self._signal.now  # noqa: B018
            return trace

        self._trace = trace
        self._handled = None
        value: object = None
        raised: type[BaseException] | None = None
        sys.settrace(trace)
        try:
            self._signal.now  # noqa: B018
            value = operation()
        except Exception as error:
            raised = type(error)
        finally:
            sys.settrace(None)
        return Outcome(value, raised, False), points

    def strike(self, operation: Operation, point: Point, action: Callable[[], object] | None) -> Outcome:
        """Run an operation and, at a point of it, a handler that does `action`; without one, an exception is raised."""
        target = point.before if action is None else point.after
        hit = False
        left = target.number if target else 0

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal hit, left
            assert target is not None
            code = frame.f_code
            # both, since bytecodes that are not traced may be replaced by others, which handle signals elsewhere
            if code is not target.place.code and code is not point.before.place.code:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and frame.f_lasti == target.place.offset and code is target.place.code:
                left -= 1
                if not left:
                    sys.settrace(None)
                    if action is None:
                        hit = True
                        raise Struck
                    self._action = action
                    self._signal.now  # noqa: B018  # no call nor jump behind it
            return trace

        self._trace = trace
        self._handled = None
        value: object = None
        raised: type[BaseException] | None = None
        try:
            if target is None:
                self._action = action
                self._signal.now  # noqa: B018
            else:
                sys.settrace(trace)
            value = operation()
        except (Exception, Struck) as error:
            raised = type(error)
        finally:
            sys.settrace(None)
        self._action = None
        return Outcome(value, raised, hit or (action is not None and self._handled == point.handled))


class Subject(Protocol):
    """What is struck: see `situations.Situation`."""

    handlers_acquire: bool

    @property
    def handling(self) -> str: ...
    @property
    def bears_two(self) -> bool: ...
    @property
    def visits(self) -> int | None: ...
    @property
    def functions(self) -> frozenset[str] | None: ...
    def prepare(self) -> Operation: ...
    def examine(self, outcome: Outcome) -> list[str]: ...
    def handle(self) -> None: ...


@dataclass
class Report:
    """What came of striking at every point."""

    #: how many points there are, and at how many of them handlers run
    points: int = 0
    handled: int = 0
    #: how many strikes did not come to their point, however often they were tried
    missed: int = 0
    #: what was wrong after a handler, by what it does and where it ran
    wrong: list[str] = field(default_factory=list)
    #: what was wrong after an exception where no handler runs
    elsewhere: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        wrong = ", ".join(f"{what} {count}" for what, count in sorted(self.elsewhere.items())) or "nothing"
        return f"{self.points} points, handlers run at {self.handled}; an exception at the others leaves: {wrong}"


def explore(tracer: Tracer, subject: Subject) -> list[Point]:
    """The points of a situation; where its runs differ, those that most of them have."""
    found: dict[Visit, list[Point]] = {}
    looks = 1 if subject.visits is None else _LOOKS
    for look in range(_FIRST_LOOKS + looks):
        operation = subject.prepare()
        outcome, points = tracer.explore(operation)
        assert not subject.examine(outcome), "it is wrong before anything strikes"
        if look < _FIRST_LOOKS:
            continue  # what happens only at first has happened now
        for point in points:
            place, number = point.before
            is_new = subject.functions is None or place.code.co_name in subject.functions
            if is_new and (subject.visits is None or number <= subject.visits):
                found.setdefault(point.before, []).append(point)
    return [same[0] for same in found.values() if len(same) > looks // 2]


def strike_everywhere(tracer: Tracer, subject: Subject) -> Report:
    """Run a situation once for every point and what can strike there."""

    def handle_and_strike() -> None:
        subject.handle()
        strike()

    handlers = {"raises": strike, subject.handling: subject.handle, f"{subject.handling} and raises": handle_and_strike}
    if subject.bears_two:
        handlers["raises twice"] = tracer.strike_twice
    report = Report()
    for point in explore(tracer, subject):
        report.points += 1
        if point.handled is None:
            subject.handlers_acquire = False
            report.elsewhere.update(_strike(tracer, subject, point, None, report))
        else:
            report.handled += 1
            for what, handler in handlers.items():
                subject.handlers_acquire = subject.handling in what
                wrong = _strike(tracer, subject, point, handler, report)
                report.wrong += [
                    f"{one}: handler {what}, {point.handled}, before {point.before.place}" for one in wrong
                ]
    return report


def _strike(
    tracer: Tracer, subject: Subject, point: Point, action: Callable[[], object] | None, report: Report
) -> list[str]:
    for _ in range(_TRIES):
        outcome = tracer.strike(subject.prepare(), point, action)
        try:
            wrong = subject.examine(outcome)
        except Exception as error:
            wrong = [type(error).__name__]
        if wrong or outcome.hit:
            return wrong
    report.missed += 1
    return []
