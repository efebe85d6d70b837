"""Situations in which a queue's code runs, for `points.py` to strike at; all of it in a child, in its main thread."""

from __future__ import annotations

import gc
import pickle
import queue
import warnings
from multiprocessing.connection import Connection
from typing import Any, Final

import mpbakery
from evidence.signals.points import Operation, Outcome, Tracer, strike_everywhere
from support.processes import descriptors

LARGE: Final = bytes(range(256)) * 300
SMALL: Final = "small"


class QueueSituation:
    """A queue that is used by the main thread, while a handler uses it as well."""

    kind = "Queue"
    limit = 0
    item: object = SMALL
    visits: int | None = None
    functions: frozenset[str] | None = None
    handlers_acquire = False
    handling = "uses the queue"
    bears_two = False

    def __init__(self) -> None:
        self.items: Any = None
        self.handled: list[object] = []
        self.open = 0

    def prepare(self) -> Operation:
        """What is struck."""
        made = getattr(mpbakery.get_context("fork"), self.kind)
        self.items = made(self.limit) if self.limit else made()
        self.handled = []
        self.fill()
        self.open = descriptors()
        return self.operate

    def fill(self) -> None:
        """Put what there is in the beginning."""

    def operate(self) -> object:
        """What the main thread does."""
        raise NotImplementedError

    def examine(self, outcome: Outcome) -> list[str]:
        """What is wrong afterwards."""
        raise NotImplementedError

    def handle(self) -> None:
        """What a handler does that does not raise."""
        raise NotImplementedError

    def left(self) -> list[object]:
        """What there is in the queue."""
        found: list[object] = []
        while not self.items.empty():
            found.append(self.items.get(timeout=1) if self.kind != "SimpleQueue" else self.items.get())
        return found

    def look_at_the_rest(self) -> list[str]:
        """What is wrong with the queue, which is empty."""
        wrong = []
        self.items.put("afterwards")
        if self.items.get() != "afterwards":
            wrong.append("the queue does not work any more")
        if descriptors() > self.open:  # fewer, when a thread of the queue before has only just ended
            wrong.append("a descriptor was left open")
        return wrong


class Put(QueueSituation):
    """`put`, while a handler puts something as well."""

    def operate(self) -> object:
        """Put the item."""
        self.items.put(self.item)
        return None

    def handle(self) -> None:
        """Put another item."""
        try:
            self.items.put("from the handler", timeout=0) if self.limit else self.items.put("from the handler")
        except queue.Full:
            return
        self.handled.append("from the handler")

    def examine(self, outcome: Outcome) -> list[str]:
        """Whether the item is there, or may be missing."""
        wrong = []
        left = self.left()
        for item in self.handled:
            if item in left:
                left.remove(item)
            else:
                wrong.append("what the handler has put is not there")
        if left != [self.item] and not (outcome.raised is not None and left == []):
            wrong.append("the item is not there, or not as it was")
        return wrong + self.look_at_the_rest()


class Get(QueueSituation):
    """`get`, while a handler gets something as well."""

    def fill(self) -> None:
        """Three items."""
        for number in range(3):
            self.items.put((number, self.item))

    def operate(self) -> object:
        """Get an item."""
        return self.items.get()

    def handle(self) -> None:
        """Get another item."""
        if not self.items.empty():
            self.handled.append(self.items.get())

    def examine(self, outcome: Outcome) -> list[str]:
        """Whether all are there, or at most one is missing."""
        got = [outcome.value] if outcome.raised is None else []
        found: list[Any] = [*got, *self.handled, *self.left()]
        numbers = [number for number, _ in found]
        lost = set(range(3)) - set(numbers)
        wrong = []
        if len(set(numbers)) < len(numbers) or any(item != self.item for _, item in found):
            wrong.append("an item was there twice, or not as it was put")
        if len(lost) > (outcome.raised is not None):
            wrong.append("an item is lost")
        return wrong + self.look_at_the_rest()


class PutLarge(Put):
    """The same of an item that goes on in a file."""

    item = LARGE


class GetLarge(Get):
    """The same of an item that goes on in a file."""

    item = LARGE


class PutWithLimit(Put):
    """The same of a queue with a limit."""

    limit = 20


class GetWithLimit(Get):
    """The same of a queue with a limit."""

    limit = 20


class PutTask(Put):
    """The same of a queue with tasks: as many are not done as there are, and one more at most, which is lost."""

    kind = "JoinableQueue"

    def left(self) -> list[object]:
        """What there is in the queue, each of which can be done."""
        found = super().left()
        for _ in found:
            self.items.task_done()
        return found

    def examine(self, outcome: Outcome) -> list[str]:
        """The same, and whether `join` comes back."""
        wrong = super().examine(outcome)
        self.items.task_done()  # what was put afterwards
        lost = self.items._unfinished.count()
        if lost > (outcome.raised is not None):
            wrong.append(f"{lost} tasks are not done")
        elif lost:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.items.join()
        return wrong


class PutBehind(Put):
    """`put` behind what there was no room for, so that a thread sends it."""

    filling: object = bytes(10_000)

    def fill(self) -> None:
        """More than there is room for."""
        while not self.items._feeder.waiting:
            self.items.put(self.filling)

    def left(self) -> list[object]:
        """What there is behind that."""
        self.items.put("the last")
        found: list[object] = []
        while (item := self.items.get(timeout=1)) != "the last":
            if item != self.filling:
                found.append(item)
        self.items._feeder.join()
        return found


class PutFirst(PutBehind):
    """`put` when there is no room, and nobody waits yet: it starts the thread."""

    def fill(self) -> None:
        """Just as much as there is room for."""
        while self.items._writer.try_send(pickle.dumps(self.filling)):
            pass


class PutSimply(PutLarge):
    """The same without a feeder."""

    kind = "SimpleQueue"


class GetSimply(GetLarge):
    """The same without a feeder."""

    kind = "SimpleQueue"


SITUATIONS: Final = {
    kind.__name__: kind
    for kind in [
        *(Put, PutLarge, PutWithLimit, PutTask, PutBehind, PutFirst, PutSimply),
        *(Get, GetLarge, GetWithLimit, GetSimply),
    ]
}


def strike_queue(connection: Connection, name: str) -> None:
    """The main function of the child in which it happens."""
    gc.collect()  # what the parent has left would be closed when descriptors are counted
    gc.freeze()
    connection.send(strike_everywhere(Tracer(), SITUATIONS[name]()))
