"""Ways through the executions of a scenario: depth first with a bound on pre-emptions, at random, and one once more."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from evidence.explorer.protocol import Protocol
from evidence.explorer.scenarios.scenario import Scenario
from evidence.explorer.simulated.execution import Strategy
from evidence.explorer.simulated.operations import Abort, Violation
from evidence.explorer.simulated.process import Process
from evidence.explorer.simulated.sharing import Sharing
from evidence.explorer.simulated.states import footprint, state_of
from evidence.explorer.simulated.telling import describe, name_of
from evidence.explorer.simulated.world import World

#: So many executions at random show which words are shared, before a search depth first begins.
_WARM_UP = 500


@dataclass
class Outcome:
    """What a search has seen."""

    schedules: int = 0
    states: int = 0
    steps: int = 0
    #: whether there was nothing left to try
    complete: bool = False
    violation: Violation | None = None
    #: what replays the execution that broke a promise
    schedule: str = ""


Progress = Callable[[Outcome], None]
Footprint = tuple[frozenset[int], frozenset[int]] | None


class _Branch:
    """A decision, what was possible there, and which of it is being explored."""

    __slots__ = ("actions", "at", "footprints", "preemptive", "sleeping", "spent", "taken_before")

    def __init__(self, actions: list[str], spent: int, taken_before: int) -> None:
        self.actions = actions
        #: whether a process is at it that could go on
        self.preemptive = actions[0][0].isdigit()
        #: the pre-emptions, and the actions, before this one
        self.spent = spent
        self.taken_before = taken_before
        self.at = 0
        self.footprints: dict[str, Footprint] = {}
        self.sleeping: dict[str, Footprint] = {}

    def spent_after(self) -> int:
        """The pre-emptions up to and with the action that is being explored."""
        return self.spent + (self.preemptive and self.at > 0 and self.actions[self.at][0].isdigit())


def _are_independent(one: Footprint, other: Footprint) -> bool:
    """Whether two actions lead to the same state in either order."""
    if one is None or other is None:
        return False
    return not (one[1] & (other[0] | other[1]) or one[0] & other[1])


class DepthFirst:
    """Every execution with at most `bound` pre-emptions (None: all of them), leaving out what was seen before.

    States that were seen before are recognised by their hash (64 bits). Without a bound, of two actions that make no
    difference to each other only one order is tried (sleep sets: Godefroid, "Partial-Order Methods for the
    Verification of Concurrent Systems", 1996).
    """

    def __init__(self, scenario: Scenario, protocol: Protocol, model: str, bound: int | None = None) -> None:
        self._scenario = scenario
        self._protocol = protocol
        self._model = model
        self._bound = bound
        self._sharing = Sharing()
        self._branches: list[_Branch] = []
        # for each state: the pre-emptions that were spent when it was met, or the actions that were asleep
        self._spent: dict[int, int] = {}
        self._slept: dict[int, frozenset[str]] = {}
        self.outcome = Outcome()

    def run(self, most: int | None = None, progress: Progress | None = None) -> Outcome:
        """Search until a promise is broken, all is explored, or `most` executions were tried."""
        choose = random.Random(0)
        for _ in range(_WARM_UP):
            self._execute(lambda _world, actions: choose.choice(actions), [])
        outcome = self.outcome
        prefix: list[str] = []
        while most is None or outcome.schedules < most:
            self._sharing.stale = False
            world = self._execute(self._decide, prefix)
            outcome.schedules += 1
            outcome.steps += len(world.trace)
            outcome.states = len(self._spent) or len(self._slept)
            outcome.violation = world.violation
            if progress is not None:
                progress(outcome)
            if world.violation is not None:
                outcome.schedule = self._spell_out(world.trace)
                break
            if self._sharing.stale:
                self._begin_again()
                prefix = []
                continue
            while self._branches and self._branches[-1].at + 1 >= len(self._branches[-1].actions):
                self._branches.pop()
            if not self._branches:
                outcome.complete = True
                break
            branch = self._branches[-1]
            branch.at += 1
            prefix = [*world.trace[: branch.taken_before], branch.actions[branch.at]]
        return outcome

    def _begin_again(self) -> None:
        self._spent.clear()
        self._slept.clear()
        self._branches.clear()

    def _execute(self, strategy: Strategy, prefix: list[str]) -> World:
        world = self._scenario.world(self._protocol, strategy, self._model, self._sharing)
        world.prefix = prefix
        world.run()
        return world

    def _decide(self, world: World, actions: list[str]) -> str:
        parent = self._branches[-1] if self._branches else None
        branch = _Branch(actions, parent.spent_after() if parent else 0, len(world.trace))
        if self._bound is None:
            self._leave_out_sleeping(world, branch, parent)
        else:
            self._keep_to_bound(world, branch, self._bound)
        if not branch.actions:
            raise Abort
        self._branches.append(branch)
        return branch.actions[0]

    def _keep_to_bound(self, world: World, branch: _Branch, bound: int) -> None:
        # who is at it matters here: letting another one go on costs a pre-emption
        state = hash((state_of(world), branch.actions[0]))
        if self._spent.get(state, bound + 1) <= branch.spent:
            branch.actions = []
            return
        self._spent[state] = branch.spent
        if branch.spent >= bound and branch.preemptive:
            first, *others = branch.actions
            branch.actions = [first, *(action for action in others if not action[0].isdigit())]

    def _leave_out_sleeping(self, world: World, branch: _Branch, parent: _Branch | None) -> None:
        branch.footprints = {action: footprint(world, action) for action in branch.actions}
        if parent is not None:
            taken = parent.footprints[parent.actions[parent.at]]
            asleep = parent.sleeping | {action: parent.footprints[action] for action in parent.actions[: parent.at]}
            branch.sleeping = {action: f for action, f in asleep.items() if _are_independent(f, taken)}
        state = state_of(world)
        sleeping = frozenset(branch.sleeping)
        before = self._slept.get(state)
        # what was asleep when the state was met before, and is not now, has not been tried yet
        branch.actions = [a for a in branch.actions if a not in sleeping and (before is None or a in before)]
        self._slept[state] = sleeping if before is None else before & sleeping

    def _spell_out(self, trace: list[str]) -> str:
        """The schedule of an execution in which steps that concern nobody else were not decided about."""
        rest = iter(trace)

        def follow(world: World, actions: list[str]) -> str:
            for process in world.processes:
                if process.buffer and not self._sharing.is_written_to_others(process.index, process.buffer[0][0]):
                    action = f"f{process.index}"
                    return action if action in actions else f"{action}.{process.buffer[0][0]}"
            current = world.current
            if current is not None and actions[0] == str(current.index) and not self._matters(world, current):
                return actions[0]
            return next(rest, actions[0])

        return schedule_of(self._scenario, self._protocol, self._model, follow)

    def _matters(self, world: World, process: Process) -> bool:
        return world.must_decide(process, self._sharing)


class _AtRandom:
    """The decisions of one execution: priorities that change at a few random moments, and mischief at others.

    Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010): a fault
    that needs d steps in a certain order is found in n processes of k steps with a chance of at least 1 / (n k**(d-1)).
    A store buffer counts as a process, or as one for each word where stores leave it in any order.
    """

    def __init__(self, choose: random.Random, depth: int, length: int) -> None:
        self._choose = choose
        self._priorities: dict[str, float] = {}
        self._changes = {choose.randrange(length) for _ in range(depth - 1)}
        self._mischief = sorted(choose.randrange(length) for _ in range(4))
        self._hurry = choose.choice((0.0, 0.05, 0.3))

    def decide(self, world: World, actions: list[str]) -> str:
        """The next action."""
        step = len(world.trace)
        if self._mischief and step >= self._mischief[0]:
            mischief = [action for action in actions if action[0] in "khz"]
            if mischief:
                self._mischief.pop(0)
                return self._choose.choice(mischief)
        late = [action for action in actions if action[0] == "t"]
        if late and (len(late) == len(actions) or self._choose.random() < self._hurry):
            return self._choose.choice(late)
        steps = [action for action in actions if action[0] not in "tkhz"]
        if not steps:
            return self._choose.choice(actions)
        best = max(steps, key=self._priority_of)
        if step in self._changes:
            self._priorities[best] = -step
            best = max(steps, key=self._priority_of)
        return best

    def _priority_of(self, action: str) -> float:
        priority = self._priorities.get(action)
        if priority is None:
            priority = self._priorities[action] = self._choose.random()
        return priority


def at_random(
    scenario: Scenario,
    protocol: Protocol,
    model: str,
    *,
    seed: int,
    count: int,
    progress: Progress | None = None,
) -> Outcome:
    """`count` random executions, the same for the same seed, until one breaks a promise."""
    outcome = Outcome()
    length = 100
    for number in range(count):
        choose = random.Random(f"{seed} {number}")
        execution = _AtRandom(choose, choose.randint(1, 5), length)
        world = scenario.world(protocol, execution.decide, model)
        world.run()
        length = max(20, (7 * length + len(world.trace)) // 8)
        outcome.schedules += 1
        outcome.steps += len(world.trace)
        outcome.violation = world.violation
        if progress is not None:
            progress(outcome)
        if world.violation is not None:
            break
    if outcome.violation is not None:
        outcome.schedule = schedule_of(scenario, protocol, model, lambda again, _actions: world.trace[len(again.trace)])
    return outcome


def guided(scenario: Scenario, protocol: Protocol, model: str, guide: tuple[str, ...]) -> Outcome:
    """One execution that is led to where it matters, and goes on there as if nobody interfered.

    Each line of the guide has the number of a process, and how far that goes on: until it is about to do what the rest
    of the line begins with (`1 load OWNER`), or to its `end`. Or what happens to it: `1 is late`, `1 is killed`, `1 is
    interrupted` by a handler that acquires, `1 raises` in one, and `1 shows ATTENTION`, where that leaves its store
    buffer.
    """
    lines = list(guide)
    happens = {"is late": "t{}", "is killed": "k{}", "is interrupted": "h{}t", "raises": "h{}r"}

    def lead(world: World, actions: list[str]) -> str:
        while lines:
            who, _blank, what = lines[0].partition(" ")
            process = world.processes[int(who)]
            kind, word, value, _seconds = process.pending
            about = f"{kind} {name_of(world, word)} := {value}" if word >= 0 else kind
            if what in happens or what.startswith("shows "):
                action = happens.get(what, "").format(who)
                if what.startswith("shows "):
                    mine = [one for one in actions if one.startswith(f"f{who}.")]
                    action = next((one for one in mine if describe(world, one).split()[1] == what[6:]), "")
                lines.pop(0)
            elif about.startswith(what) or (what == "end" and process.finished):
                lines.pop(0)
                continue
            else:
                action = who
            if action not in actions:
                raise Abort
            return action
        return actions[0]

    world = scenario.world(protocol, lead, model)
    outcome = Outcome(schedules=1, violation=world.run(), steps=len(world.trace))
    if outcome.violation is not None:
        outcome.schedule = schedule_of(scenario, protocol, model, lambda again, _actions: world.trace[len(again.trace)])
    return outcome


def schedule_of(scenario: Scenario, protocol: Protocol, model: str, strategy: Strategy) -> str:
    """What an execution does otherwise than to let the process go on that is at it: `number of the action:action` …"""
    exceptions = []

    def note(world: World, actions: list[str]) -> str:
        action = strategy(world, actions)
        if action != actions[0]:
            exceptions.append(f"{len(world.trace)}:{action}")
        return action

    scenario.world(protocol, note, model).run()
    return " ".join(exceptions)


class ScheduleError(ValueError):
    """A schedule asks for something that is not possible there: the protocol makes other steps now."""


def replay(scenario: Scenario, protocol: Protocol, model: str, schedule: str) -> World:
    """An execution once more, with a log of what happened.

    Raises ScheduleError if the schedule does not fit.
    """
    exceptions = dict(item.split(":") for item in schedule.split())
    misfits: list[str] = []

    def strategy(world: World, actions: list[str]) -> str:
        number = str(len(world.trace))
        action = exceptions.pop(number, actions[0])
        if action not in actions:
            misfits.append(f"{number}:{action} is not possible, only {' '.join(actions)}")
            raise Abort
        return action

    world = scenario.world(protocol, strategy, model)
    world.log = []
    violation = world.run()
    if exceptions and violation is None and not misfits:
        misfits.append(f"the execution is over after {len(world.trace)} actions")
    if misfits:
        raise ScheduleError(misfits[0])
    return world
