"""One execution: the processes take turns, and a strategy decides whose turn it is, action by action."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import greenlet

from evidence.explorer.simulated.operations import Abort, Interrupt, Violation

if TYPE_CHECKING:
    from evidence.explorer.simulated.process import Process

#: strategy(world, actions): which of the possible actions comes next; the first lets the process go on that is at it.
Strategy = Callable[[Any, list[str]], str]

#: An execution of more steps than this is taken for one that never ends.
_LONGEST: Final = 5_000


def _drop_interrupts(unraisable: Any) -> None:
    """What a handler raises while something is collected is dropped by the interpreter."""
    if unraisable.exc_type is not Interrupt:
        sys.__unraisablehook__(unraisable)


class Execution:
    """A sequence of actions; what they are, and what they do, is for the world to say."""

    processes: list[Process]

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        #: the actions so far, and those that it begins with, for which the strategy is not asked
        self.trace: list[str] = []
        self.prefix: list[str] = []
        self.current: Process | None = None
        self.scheduling = False
        self.closing = False
        self.violation: Violation | None = None
        self.log: list[str] | None = None
        self.main = greenlet.getcurrent()

    def run(self) -> Violation | None:
        """Run until all have come to an end, or the strategy stops it, or a promise is broken: then say which."""
        self.scheduling = True
        hook, sys.unraisablehook = sys.unraisablehook, _drop_interrupts
        try:
            try:
                self.go_on(None)
            except Violation as violation:
                self.violation = violation
            except Abort:
                pass
            self.scheduling = False
            return self.violation
        finally:
            self.scheduling = False
            self.closing = True
            sys.unraisablehook = hook
            for process in self.processes:
                process.table._mine = {}
                if process.greenlet and not process.greenlet.dead:
                    process.greenlet.throw(Abort)

    def stop(self, violation: Violation | None) -> None:
        """End the execution from within."""
        self.violation = self.violation or violation
        if greenlet.getcurrent() is self.main:
            raise Abort
        self.main.switch()
        raise Abort

    def go_on(self, current: Process | None) -> None:
        """Return when it is `current`'s turn; until then let others make their steps."""
        try:
            chosen = self._next_turn()
        except (Violation, Abort) as end:
            self.stop(end if isinstance(end, Violation) else None)
            raise
        if chosen is current:
            return
        if chosen is None:
            if current is not None:
                self.main.switch()
                raise Abort
            return
        self.current = chosen
        if current is None:
            chosen.greenlet.switch()
            return
        chosen.greenlet.switch()
        if self.closing:
            raise Abort

    def _next_turn(self) -> Process | None:
        """Carry out actions until one is the turn of a process; None when nobody has anything left to do."""
        while True:
            if len(self.trace) < len(self.prefix):
                action = self.prefix[len(self.trace)]
            else:
                if len(self.trace) > _LONGEST:
                    raise Violation(f"no end after {_LONGEST} steps")
                actions = self._possible()
                if not actions:
                    self._check_end()
                    return None
                action = self.strategy(self, actions)
            self.trace.append(action)
            if self.log is not None:
                self.log.append(self._describe(action))
            process = self._act(action)
            if process is not None:
                self.current = process
                return process

    def _possible(self) -> list[str]:
        """The actions that are possible now, first the one that lets the process go on that is at it."""
        raise NotImplementedError

    def _act(self, action: str) -> Process | None:
        """Carry out an action; whose turn it is then, None if nobody's."""
        raise NotImplementedError

    def _check_end(self) -> None:
        """Look whether everything is as it should be when nobody has anything left to do."""
        raise NotImplementedError

    def _describe(self, action: str) -> str:
        """An action for people to read."""
        raise NotImplementedError
