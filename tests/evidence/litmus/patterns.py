"""The fences of the protocol, each with what stands on both sides of it, and the patterns that need them.

This is the table of docs/protocol.md: a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evidence.litmus.program import Fence, Load, Minus, Pattern, Store, Ticket


@dataclass(frozen=True)
class Guard:
    """A fence of the code."""

    #: a full fence, which every machine needs; else an order fence, which x86 can do without
    full: bool
    between: str
    without: str


#: By the names that docs/protocol.md has for them.
FENCES: Final = {
    "A": Guard(True, "`number[i] = CHOOSING`, and looking at the room", "two processes find the room empty at once"),
    "B": Guard(
        True,
        "`number[i] = ticket`, and comparing",
        "each looks before the other's ticket is visible: two heads",
    ),
    "C": Guard(
        True,
        "HELD[i] = *now* of who comes again, and looking at OWNER",
        "it sees OWNER open, and the head sees HELD still 0: two are in",
    ),
    "D": Guard(True, "OWNER closed, and looking at HELD", "likewise, seen from the head"),
    "release": Guard(True, "HELD = 0, and looking for somebody to wake", "a waiter that just parks is not woken"),
    "park": Guard(True, "PARK and ATTENTION set, and looking once more", "likewise, seen from the waiter"),
    "give up": Guard(True, "`number[i] = 0`, and looking whether the lock is free", "likewise"),
    "attend": Guard(
        True,
        "ATTENTION = 0, and looking whether the head is parked",
        "one that just parked is not woken at later releases",
    ),
    "give": Guard(
        True,
        "GIVEN of a semaphore counted up, and looking at ATTENTION",
        "a head that just parks is not told of the permit",
    ),
    "ask": Guard(True, "ATTENTION = 1, and looking for a permit", "likewise, seen from the head"),
    "set": Guard(True, "FLAG = 1 of an event, and looking who waits", "one that just comes to wait is not let go"),
    "wait": Guard(True, "coming to wait for an event, and looking at FLAG", "likewise, seen from the waiter"),
    "head": Guard(
        False,
        "looking at the room, and reading OWNER",
        "OWNER is read from before the last owner entered: two are in",
    ),
    "enter": Guard(
        False,
        "OWNER → HELD[i], and `number[i] = 0`",
        "the next head does not see that there is an owner: two are in",
    ),
    "close": Guard(
        False,
        "OWNER closed, and `number[i] = 0` of who is interrupted",
        "OWNER changes under the next head: two are in",
    ),
    "undo": Guard(
        False,
        "OWNER → HELD[i], or TAKEN of a semaphore, and `number[i] = 0` of an attempt that raises",
        "it takes the word back from the next owner: two are in",
    ),
    "leave": Guard(
        False,
        "what was written under the lock, and HELD = 0; in a release for another, "
        "also the mark that says so, and HELD = 0",
        "the next owner sees old data; the last one takes the lock that is free for its own",
    ),
    "hint": Guard(False, "PARK, and ATTENTION", "a release takes the hint back and misses the reason"),
    "pass on": Guard(
        False,
        "`number[i] = 0`, and ATTENTION = 1 for the next head",
        "who sees ATTENTION does not see who is the head now, and wakes somebody else",
    ),
    "publish": Guard(
        False, "what was written before `set()` of an event, and FLAG = 1", "who sees it set sees old data"
    ),
    "see": Guard(
        False, "FLAG of an event, and what is read after `wait()` or `is_set()`", "likewise, seen from the reader"
    ),
    "let go": Guard(
        False,
        "being let go by whoever has set an event, and what is read after `wait()`",
        "what was written before `set()` is not seen",
    ),
    "end": Guard(
        False,
        "what a thread did through its slot, and that it has ended, in THREAD",
        "a slot is claimed through which the lock is held",
    ),
    "claim": Guard(False, "THREAD of a slot, and HELD", "likewise, seen from who claims it"),
}


def _draw(mine: str, other: str) -> tuple[Store | Fence | Load | Ticket | Minus, ...]:
    """Through the doorway, and a look at the other one."""
    return (
        Store(mine, 1),
        Fence("A"),
        Load("room", other),
        Ticket("ticket", "room"),
        Store(mine, "ticket"),
        Fence("B"),
        Load("other", other),
        Minus("later", "other", "ticket"),
    )


PATTERNS: Final = [
    Pattern(
        "Two come to an empty room at once: both find themselves alone",
        (
            (Store("n0", 1), Fence("A"), Load("other", "n1")),
            (Store("n1", 1), Fence("A"), Load("other", "n0")),
        ),
        r"0:other=0 /\ 1:other=0",
    ),
    Pattern(
        "Two draw tickets: both find that they are first",
        (_draw("n0", "n1"), _draw("n1", "n0")),
        # nobody there, or one with a higher ticket; of equal ones the first processor goes first
        r"(0:other=0 \/ 0:later=0 \/ 0:later=1 \/ 0:later=2) /\ (1:other=0 \/ 1:later=1 \/ 1:later=2)",
    ),
    Pattern(
        "Two have drawn the same ticket: neither sees that of the other",
        (
            (Store("n0", 2), Fence("B"), Load("other", "n1")),
            (Store("n1", 2), Fence("B"), Load("other", "n0")),
        ),
        r"0:other=0 /\ 1:other=0",
    ),
    Pattern(
        "The last owner comes again, the head closes OWNER: both go in",
        (
            (Store("held", 1), Fence("C"), Load("owner", "owner")),
            (Store("owner", 2), Fence("D"), Load("held", "held")),
        ),
        r"0:owner=1 /\ 1:held=0",
        (("owner", 1),),
    ),
    Pattern(
        "A head has closed OWNER and is interrupted, the next one enters: OWNER is the old one again",
        (
            (Store("owner", 1), Fence("close"), Store("number", 0)),
            (Load("room", "number"), Fence("head"), Store("owner", 2)),
        ),
        r"1:room=0 /\ [owner]=1",
        (("number", 2),),
    ),
    Pattern(
        "One has written OWNER and raises, the next one enters: OWNER is the first one's again",
        (
            (Store("owner", 1), Fence("undo"), Store("number", 0)),
            (Load("room", "number"), Fence("head"), Store("owner", 2)),
        ),
        r"1:room=0 /\ [owner]=1",
        (("number", 2),),
    ),
    Pattern(
        "One releases, one parks: it sleeps while the lock is free, and nobody has seen it",
        (
            (Store("held", 0), Fence("release"), Load("attention", "attention")),
            (Store("attention", 1), Fence("park"), Load("held", "held")),
        ),
        r"0:attention=0 /\ 1:held=1",
        (("held", 1),),
    ),
    Pattern(
        "The head gives up, the lock becomes free: the next one is woken by neither",
        (
            (Store("head", 0), Fence("give up"), Load("held", "held")),
            (Store("held", 0), Fence("release"), Load("head", "head")),
        ),
        r"0:held=1 /\ 1:head=2",
        (("held", 1), ("head", 2)),
    ),
    Pattern(
        "One parks while the hint is taken back: it is parked, and there is no hint",
        (
            (Store("park", 1), Fence("hint"), Store("attention", 1)),
            (Store("attention", 0), Fence("attend"), Load("park", "park")),
        ),
        r"1:park=0 /\ [attention]=0",
    ),
    Pattern(
        "One gives a permit, the head parks: it sleeps beside a permit, and nobody has seen it",
        (
            (Store("given", 1), Fence("give"), Load("attention", "attention")),
            (Store("attention", 1), Fence("ask"), Load("given", "given")),
        ),
        r"0:attention=0 /\ 1:given=0",
    ),
    Pattern(
        "One leaves the line, one releases: attention is called for, and goes to the head of before",
        (
            (Store("number", 0), Fence("pass on"), Store("attention", 1)),
            (Load("attention", "attention"), Store("attention", 0), Fence("attend"), Load("head", "number")),
        ),
        r"1:attention=1 /\ 1:head=2",
        (("number", 2),),
    ),
    Pattern(
        "One sets an event, one comes to wait: it sleeps, and is not seen",
        (
            (Store("flag", 1), Fence("set"), Load("waits", "number")),
            (Store("number", 2), Fence("wait"), Load("flag", "flag")),
        ),
        r"0:waits=0 /\ 1:flag=0",
    ),
    Pattern(
        "One enters and leaves the room, the next is head: it sees an owner from before, or a free one",
        (
            (Store("held", 1), Store("owner", 1), Fence("enter"), Store("number", 0)),
            (Load("room", "number"), Fence("head"), Load("owner", "owner"), Load("held", "held", through="owner")),
        ),
        r"1:room=0 /\ (1:owner=0 \/ 1:held=0)",
        (("number", 2),),
    ),
    Pattern(
        "Something is written under the lock: the next one to enter sees what was there before",
        (
            (Store("data", 1), Fence("leave"), Store("held", 0)),
            (Load("held", "held"), Store("owner", 1), Fence("enter"), Load("data", "data")),
        ),
        r"1:held=0 /\ 1:data=0",
        (("held", 1),),
    ),
    Pattern(
        "Something is written before an event is set: who sees it set sees what was there before",
        (
            (Store("data", 1), Fence("publish"), Store("flag", 1)),
            (Load("flag", "flag"), Fence("see"), Load("data", "data")),
        ),
        r"1:flag=1 /\ 1:data=0",
    ),
    Pattern(
        "Something is written before an event is set: who is let go sees what was there before",
        (
            (Store("data", 1), Fence("set"), Store("number", 0)),
            (Load("number", "number"), Fence("let go"), Load("data", "data")),
        ),
        r"1:number=0 /\ 1:data=0",
        (("number", 2),),
    ),
    Pattern(
        "A thread ends with the lock, one claims a slot: it sees that the thread has ended, and nobody in",
        (
            (Store("held", 1), Fence("end"), Store("thread", 1)),
            (Load("thread", "thread"), Fence("claim"), Load("held", "held")),
        ),
        r"1:thread=1 /\ 1:held=0",
    ),
]
