"""The explorer finds what it should: mutants of the protocol, what the memory models allow, and old faults again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evidence.explorer.mutants import MUTANTS
from evidence.explorer.mutants.mutant import Mutant
from evidence.explorer.promises.lock import LockWorld
from evidence.explorer.protocol import Change, load
from evidence.explorer.scenarios import SCENARIOS
from evidence.explorer.scenarios.scenario import Scenario
from evidence.explorer.search import DepthFirst, Outcome, ScheduleError, at_random, guided, replay
from evidence.explorer.simulated.operations import (
    DATA,
    MODELS,
    PARTIAL_STORE_ORDER,
    SEQUENTIAL,
    TOTAL_STORE_ORDER,
    Violation,
)
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.world import World

#: How far a mutant is looked for at random, and then depth first.
RANDOM = 8_000
DEPTH_FIRST = 10_000


def hunt(mutant: Mutant) -> Outcome:
    """Look for what a mutant breaks."""
    scenario, changed = SCENARIOS[mutant.scenario], load(*mutant.changes)
    if mutant.guide:
        return guided(scenario, changed, mutant.model, mutant.guide)
    outcome = at_random(scenario, changed, mutant.model, seed=1, count=RANDOM)
    if outcome.violation is None:
        outcome = DepthFirst(scenario, changed, mutant.model, mutant.bound).run(most=DEPTH_FIRST)
    return outcome


# --- Mutants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found_and_its_schedule_shows_it_again(name: str) -> None:
    mutant = MUTANTS[name]
    outcome = hunt(mutant)
    assert outcome.violation is not None, "the explorer does not notice this change of the protocol"
    again = replay(SCENARIOS[mutant.scenario], load(*mutant.changes), mutant.model, outcome.schedule)
    assert str(again.violation) == str(outcome.violation)


@pytest.mark.parametrize(
    ("scenario", "model"), sorted({(mutant.scenario, mutant.model) for mutant in MUTANTS.values()})
)
def test_the_protocol_as_shipped_passes_what_finds_its_mutants(scenario: str, model: str) -> None:
    outcome = at_random(SCENARIOS[scenario], load(), model, seed=1, count=RANDOM // 4)
    assert outcome.violation is None, outcome.schedule


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.guide])
def test_the_protocol_as_shipped_bears_what_a_mutant_is_led_to(name: str) -> None:
    mutant = MUTANTS[name]
    outcome = guided(SCENARIOS[mutant.scenario], load(), mutant.model, mutant.guide)
    assert outcome.violation is None, outcome.schedule


def test_a_change_that_does_not_fit_the_source_is_refused() -> None:
    with pytest.raises(ValueError, match="out of date"):
        load(Change("bakery", "no such line", ""))


# --- Faults that the explorer found, each with the schedule that showed it first -------------------------

FOUND: dict[str, tuple[tuple[Change, ...], str, str, str]] = {
    "a handler waits for one whom its own flow was about to wake": (
        (Change("line", "        if interrupted is not None:\n", "        if False:\n"),),
        "handlers",
        SEQUENTIAL,
        "39:1 106:h0t",
    ),
    "a waiter tells of a death that another was told of, who took over while a handler had its place": (
        (Change("waiter", " or slot.generation is not self.generation:\n", ":\n"),),
        "a dead owner, and handlers",
        SEQUENTIAL,
        "0:2 195:2 210:1 215:h2t 216:1 220:z 254:1 259:t2",
    ),
    "a waiter is told of a death again after a handler that gave up": (
        (Change("bakery", "                        announced = slot.announced\n", ""),),
        "a dead owner, and handlers",
        SEQUENTIAL,
        "0:2 20:1 162:z 163:1 183:h1t 209:1 218:t1 219:1 253:1 278:1",
    ),
    "where stores overtake stores, an owner does not see that another has released for it": (
        (
            Change(
                "line",
                "            self.machine.order()\n        words[held] = 0",
                "            pass\n        words[held] = 0",
            ),
        ),
        "released by one whom another is releasing",
        PARTIAL_STORE_ORDER,
        "0:1 15:f1.51 16:f1.10 17:2 33:f1.54 34:f1.54 35:f2.34 36:f1.11",
    ),
    "a notification is lost with a wait in which a handler raises when all is over but for giving the place back": (
        (
            Change(
                "condition",
                "                if notified and self._lock._is_mine():\n                    self.notify()\n",
                "",
            ),
        ),
        "condition, raising",
        SEQUENTIAL,
        "80:h1r",
    ),
}

#: The same for the semaphore: the mutant that undoes the mending, and the schedule.
FOUND |= {
    name: (MUTANTS[f"semaphore: {name}"].changes, MUTANTS[f"semaphore: {name}"].scenario, model, schedule)
    for name, model, schedule in (
        ("what was given is zero for a moment", SEQUENTIAL, ""),
        (
            "attention is withdrawn without a fence",
            TOTAL_STORE_ORDER,
            "0:2 21:1 22:f1 25:f1 26:f1 27:f1 33:0 60:f0 68:f1 69:f1 70:0 84:1 102:f1 108:0 116:f0 118:f0 119:f0 "
            "129:f1",
        ),
        ("a new head that sleeps is not told of", SEQUENTIAL, "0:1 32:0 73:2"),
        ("a handler does not wake whom its own flow was about to wake", SEQUENTIAL, "0:2 75:1 88:0 90:1 125:h0t"),
        (
            "what a handler gave in the middle of a release counts twice",
            SEQUENTIAL,
            "0:1 22:h1t 33:0 61:0 66:0 98:0 113:1 126:0",
        ),
        (
            "attention may be seen called for before the place is seen given up",
            PARTIAL_STORE_ORDER,
            "3:f0.56 4:f0.57 33:1 37:f1.72 38:f1.73 50:0 51:f0.11 52:1",
        ),
    )
}


@pytest.mark.parametrize("name", FOUND)
def test_a_fault_of_the_past(name: str) -> None:
    mending_undone, scenario, model, schedule = FOUND[name]
    assert replay(SCENARIOS[scenario], load(*mending_undone), model, schedule).violation is not None
    try:
        now = replay(SCENARIOS[scenario], load(), model, schedule)
    except ScheduleError:
        return  # the mended protocol makes other steps from there on
    assert now.violation is None


# --- The memory models, by the classic litmus tests ------------------------------------------------------------------

X, Y, RESULTS = DATA + 1, DATA + 2, DATA + 3


def litmus(*programs: str, forbidden: tuple[int, ...]) -> Scenario:
    """Processes that store (`x` or `y`), load (`X` or `Y`) and fence (`|`); Violation where they load `forbidden`."""
    words = {"x": X, "y": Y}

    def script(program: str, result: int) -> Callable[[Process], None]:
        def run(process: Process) -> None:
            loaded = []
            for letter in program:
                if letter == "|":
                    process.perform("fence")
                elif letter in words:
                    process.perform("store", words[letter], 1)
                else:
                    loaded.append(process.perform("load", words[letter.lower()]))
            for number, value in enumerate(loaded):
                process.perform("store", result + number, value)

        return run

    def check(world: World) -> None:
        if tuple(world.memory[RESULTS : RESULTS + len(forbidden)]) == forbidden:
            raise Violation("the forbidden outcome")

    results = [RESULTS + sum(letter.isupper() for letter in "".join(programs[:n])) for n in range(len(programs))]
    scripts = tuple(script(program, result) for program, result in zip(programs, results, strict=True))
    return Scenario(scripts, check=check, make=LockWorld)


@pytest.mark.parametrize("model", MODELS)
def test_a_load_overtakes_a_store(model: str) -> None:
    outcome = DepthFirst(litmus("xY", "yX", forbidden=(0, 0)), load(), model).run()
    assert (outcome.violation is None) == (model == SEQUENTIAL)


@pytest.mark.parametrize("model", MODELS)
def test_a_load_does_not_overtake_a_store_across_a_fence(model: str) -> None:
    outcome = DepthFirst(litmus("x|Y", "y|X", forbidden=(0, 0)), load(), model).run()
    assert outcome.violation is None
    assert outcome.complete


@pytest.mark.parametrize("model", MODELS)
def test_a_store_overtakes_a_store_in_the_weakest_model_only(model: str) -> None:
    outcome = DepthFirst(litmus("xy", "YX", forbidden=(1, 0)), load(), model).run()
    assert (outcome.violation is None) == (model != PARTIAL_STORE_ORDER)


@pytest.mark.parametrize("model", MODELS)
def test_outcomes_that_no_model_forbids_are_found(model: str) -> None:
    """So leaving out what makes no difference leaves out nothing that does."""
    for outcome in ((0, 1), (1, 0), (1, 1)):
        assert DepthFirst(litmus("xY", "yX", forbidden=outcome), load(), model).run().violation is not None


# --- Searches and the command line -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_executions() -> None:
    one, other, third = (
        at_random(SCENARIOS["3x1"], load(), TOTAL_STORE_ORDER, seed=seed, count=50).steps for seed in (1, 1, 2)
    )
    assert one == other != third


def test_two_processes_exhaustively() -> None:
    outcome = DepthFirst(SCENARIOS["2x1"], load(), SEQUENTIAL).run()
    assert outcome.violation is None
    assert outcome.complete
    assert outcome.states > 1_000


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ScheduleError):
        replay(SCENARIOS["2x1"], load(), SEQUENTIAL, "3:k0")


def explore(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    script = Path(__file__).with_name("explore.py")
    return subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def test_the_command_line_shows_an_execution() -> None:
    run = explore("--replay", "2x1", "sc", "3:1")
    assert run.returncode == 0, run.stderr
    assert "store number[0] := 1" in run.stdout
    assert "no promise was broken" in run.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--only", "no such scenario"), ("--jobs", "0"), ("--replay", "4x4", "sc", ""), ("--replay", "2x1", "sc", "x")],
    ids=str,
)
def test_the_command_line_says_in_one_line_what_is_wrong(arguments: tuple[str, ...]) -> None:
    run = explore(*arguments)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
