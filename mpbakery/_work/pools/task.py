"""A task: the bytes that a worker is sent, and what is to be done with the outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mpbakery._work.pools.channel import Content
from mpbakery._work.pools.doors import Outcome
from mpbakery._work.pools.outcome import outcome_of


class Taker(Protocol):
    """Who has a task: a worker."""

    task: Task | None


class Task:
    """Something for a worker to do. Subclasses say what is to be done with the outcome.

    Args:
        message: what the worker is sent: a function, its arguments and keywords, pickled.
        outcome: what has come of it already, so that it needs no worker: it could not be pickled, for example.
        function: what the worker will call, for messages.
        index: the number of the task in its job, for messages.
        items: for how many items of an iterable it stands, None if it is no chunk; for messages.
        retries: how often it may be given out again after its worker has died while it ran.
    """

    __slots__ = (
        "answer", "dead_readers", "deaths", "failure", "function", "index", "is_over", "items", "message", "outcome",
        "retries", "was_given", "worker",
    )  # fmt: skip

    def __init__(
        self, message: bytes, outcome: Outcome | None, function: object, index: int, items: int | None, retries: int
    ) -> None:
        self.message = message
        self.outcome = outcome
        self.function = function
        self.index = index
        self.items = items
        self.retries = retries
        #: What its worker has sent; or what makes the error that has come of it.
        self.answer: Content | None = None
        self.failure: Callable[[], BaseException] | None = None
        #: Whether the outcome was delivered.
        self.is_over = False
        #: Who was given it, and whether anybody ever was.
        self.worker: Taker | None = None
        self.was_given = False
        #: How many workers have died while they ran it, and how many while they read it.
        self.deaths = self.dead_readers = 0

    def deliver(self, outcome: Outcome) -> None:
        """Do with the outcome what is to be done with it: the messenger calls this, again only if it was broken off."""

    @property
    def wants_worker(self) -> bool:
        """Whether it is to be given to a worker: nobody has it, and nothing has come of it."""
        has_worker = self.worker is not None and self.worker.task is self
        return not (has_worker or self.is_done)

    @property
    def is_done(self) -> bool:
        """Whether something has come of it, be it delivered already or not."""
        return self.answer is not None or self.outcome is not None or self.failure is not None

    def open(self) -> Outcome:
        """What has come of it. This unpickles what the worker has sent, and asks for the name of the function."""
        if self.outcome is None:
            if self.answer is not None:
                self.outcome = outcome_of(self.answer, self.function)
            elif self.failure is not None:
                self.outcome = False, self.failure()
            else:
                raise RuntimeError("nothing has come of this task")
        return self.outcome
