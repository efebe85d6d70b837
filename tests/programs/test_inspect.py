"""Looking into running programs: `python3 -m mpbakery inspect` and `mpbakery.inspect`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mpbakery
from conftest import START_METHODS
from mpbakery._inspect import judge
from mpbakery._inspect.family import Family
from mpbakery._inspect.people import People, Scene
from support import scripts, specimens
from support.namespaces import in_new_pid_namespace
from support.processes import children_of, descriptors
from support.specimens import FORGED, MANY, exhibit
from support.workers import PATIENCE, Crew, Puppet, expect, kill, wait_for_state, wait_for_waiters, wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stuck.md"
#: What `time.sleep` does, from CPython 3.11 on, and before.
SLEEP = "(clock_nanosleep|select|pselect6)"

every_method = pytest.mark.parametrize("method", START_METHODS)


def look(pid: int, *options: str) -> tuple[int, str]:
    """The exit status of the command, and what it prints."""
    status, out, err = scripts.finish(scripts.start("-m", "mpbakery", "inspect", str(pid), *options))
    assert err == ""
    return status, out


def see(pid: int, stuck: float = 60.0) -> mpbakery.Inspection:
    """The same from a program, with the processes of this test left out of nothing."""
    return mpbakery.inspect(pid, stuck=stuck)


def named(seen: mpbakery.Inspection, name: str) -> mpbakery.InspectedPrimitive:
    (found,) = [one for one in seen.primitives if one.name == name and one.kind != "Barrier's guard"]
    return found


# --- What is seen ---------------------------------------------------------------------------------------------------


@every_method
def test_stuck_pool(method: str) -> None:
    with exhibit("stuck_pool", method) as program:
        seen = see(program.pid)
        assert seen.verdict == "fine"
        lock = named(seen, "ledger")
        assert lock.kind == "Lock"
        assert lock.holder is not None
        assert re.fullmatch(r"asleep in recvfrom\(\d+ = socket:\[\d+\]\)", lock.holder.doing)
        assert len(lock.waiters) == 3
        assert len(seen.processes) == 5
        assert {lock.holder.process, *(waiter.process for waiter in lock.waiters)} == {
            f"Child-{number}" for number in range(1, 5)
        }
        assert [waiter.seconds for waiter in lock.waiters] == sorted(
            (waiter.seconds for waiter in lock.waiters), reverse=True
        )
        wait_until(lambda: see(program.pid, 0.3).verdict == "STUCK", "0.3 s of waiting")
        status, out = look(program.pid, "--stuck", "0.3")
        assert status == 1
        assert out.startswith("STUCK: Lock 'ledger' does not change hands, and others wait for it\n")
        assert "\n5 processes, 1 primitive: 1 held, 3 waiting\n" in out
        assert "\nLock 'ledger'  STUCK: the longest wait is " in out
        assert re.search(r"\n  1\. Child-\d \(\d+\)  ", out)
        assert look(program.pid)[0] == 0


@every_method
@pytest.mark.parametrize(("plight", "count"), [("ring_of_two", 2), ("ring_of_three", 3)])
def test_deadlock(plight: str, count: int, method: str) -> None:
    with exhibit(plight, method) as program:
        seen = see(program.pid)
        assert seen.verdict == "DEADLOCK"
        (ring,) = seen.deadlocks
        assert len(ring.steps) == count
        for before, step in zip((ring.steps[-1], *ring.steps), ring.steps, strict=False):
            assert before.wants == step.holds
        assert len({step.thread.pid for step in ring.steps}) == count
        assert [one.verdict for one in seen.primitives if one.holder] == ["DEADLOCK"] * count
        status, out = look(program.pid)
        assert status == 1
        assert out.startswith(f"DEADLOCK: {count} threads wait for each other (seen twice, 0.1 s apart)\n")
        if plight == "ring_of_two":
            assert re.search(
                r"\n  Child-1 \(\d+\) holds Lock 'accounts', wants RLock 'audit log'.*"
                r"\n  Child-2 \(\d+\) holds RLock 'audit log', wants Lock 'accounts'",
                "\n" + "\n".join(sorted(out.splitlines())),
            )


@pytest.mark.parametrize("plight", ["ring_with_time_out", "ring_of_signals"])
def test_a_ring_that_may_end_is_no_deadlock(plight: str) -> None:
    with exhibit(plight) as program:
        seen = see(program.pid)
        assert (seen.verdict, seen.deadlocks) == ("fine", ())
        waiters = named(seen, "accounts").waiters
        assert len(waiters) == 1
        assert (waiters[0].gives_up_in is None) == (plight == "ring_of_signals")


@pytest.mark.parametrize("method", ["fork", "spawn"])  # with forkserver, it is a pipe that `join` waits for
def test_main_that_joins_who_wants_what_it_holds(method: str) -> None:
    with exhibit("join_of_waiter", method) as program:
        wait_until(lambda: see(program.pid).deadlocks, "main to join")
        (ring,) = see(program.pid).deadlocks
        (main,) = [step for step in ring.steps if step.thread.pid == program.pid]
        (child,) = [step for step in ring.steps if step.thread.pid != program.pid]
        assert (main.holds, main.wants) == ("Lock 'results'", f"the end of process {program.told[0]}")
        assert (child.holds, child.wants) == ("", "Lock 'results'")
        assert child.thread.pid == program.told[0]
        status, out = look(program.pid)
        assert status == 1
        assert f"Child-1 ({program.told[0]}) has not ended, wants Lock 'results'" in out


@every_method
def test_lost_lock(method: str) -> None:
    with exhibit("lost", method) as program:
        seen = see(program.pid)
        assert seen.verdict == "LOST"
        owner = named(seen, "ledger").holder
        assert owner is not None
        assert (owner.pid, owner.alive, owner.doing) == (program.told[0], False, "dead")
        status, out = look(program.pid)
        assert status == 1
        assert out.startswith("LOST: who held Lock 'ledger' is dead\n")
        assert "whoever comes next does, with a warning" in out


@pytest.mark.skipif(
    shutil.which("py-spy") is None and sys.version_info < (3, 15), reason="needs py-spy, or CPython 3.15"
)
def test_stacks_of_holder_and_waiters() -> None:
    with exhibit("stuck_pool") as program:
        wait_until(lambda: see(program.pid, 0.3).verdict == "STUCK", "0.3 s of waiting")
        lock = named(see(program.pid, 0.3), "ledger")
        assert lock.holder is not None
        for thread in (lock.holder, *lock.waiters):
            assert re.fullmatch(r"receive \(specimens\.py:\d+\)", thread.stack[0])
            assert any(call.startswith("main ") for call in thread.stack)


def test_lost_lock_that_nobody_takes_over() -> None:
    with exhibit("lost_for_ever") as program:
        lock = named(see(program.pid), "ledger")
        assert (lock.verdict, lock.robust) == ("LOST", False)
        assert "only a release frees it" in lock.why


def test_stopped_holder() -> None:
    with exhibit("holder") as program:
        os.kill(program.told[0], signal.SIGSTOP)
        wait_for_state(program.told[0], "T")
        lock = named(see(program.pid), "ledger")
        assert lock.holder is not None
        assert (lock.holder.pid, lock.holder.doing) == (program.told[0], "stopped")
        assert [(waiter.pid, waiter.doing) for waiter in lock.waiters] == [(program.told[1], "waiting")]


def test_stopped_waiter_that_does_not_take_a_free_lock(crew: Crew) -> None:
    lock = mpbakery.Lock(name="free", ctx=crew.context)
    lock.acquire()
    waiter = Puppet(crew, lock)
    waiter.begin("acquire")
    wait_for_waiters(lock, 1)
    waiter.stop()
    lock.release()
    time.sleep(0.2)  # the waiting itself
    found = named(see(waiter.pid, 0.2), "free")
    assert found.verdict == "STUCK"
    assert "nobody holds it: the first in line does not take it" in found.why
    assert [one.doing for one in found.waiters] == ["stopped"]
    waiter.go_on()
    assert waiter.end() is True
    waiter("release")
    waiter.dismiss()


def test_holder_whose_thread_has_ended() -> None:
    with exhibit("ended_thread") as program:
        holder = named(see(program.pid), "ledger").holder
        assert holder is not None
        assert (holder.pid, holder.alive, holder.doing) == (program.pid, True, "its thread has ended")


@pytest.mark.serial
def test_convoy() -> None:
    with exhibit("convoy") as program:
        wait_until(lambda: see(program.pid).verdict == "CONVOY", "a convoy")
        status, out = next(found for found in iter(lambda: look(program.pid), None) if "CONVOY" in found[1])
        assert status == 0
        assert re.search(r"Lock 'ledger'  CONVOY: \d of \d stand in line", out)


@every_method
def test_everything_that_is_waited_for(method: str) -> None:
    with exhibit("everything", method) as program:
        seen = see(program.pid)
        assert seen.verdict == "fine"
        found = {name: named(seen, name) for name in ("permits", "bell", "gate", "news", "door", "places")}
        assert {name: (one.kind, one.value, len(one.waiters)) for name, one in found.items()} == {
            "permits": ("Semaphore", 0, 1),
            "bell": ("Event", 0, 1),
            "gate": ("Barrier", 3, 1),
            "news": ("Condition", None, 1),
            "door": ("Lock", None, 0),
            "places": ("BoundedSemaphore", 1, 0),
        }
        assert found["news"].lock == found["door"].identity
        assert found["news"].waiters[0].gives_up_in is not None
        assert found["bell"].waiters[0].gives_up_in is None


def test_idle_readers_are_not_stuck() -> None:
    with exhibit("idle_readers") as program:
        time.sleep(0.3)  # the waiting itself
        seen = see(program.pid, 0.2)
        assert seen.verdict == "fine"
        (lock,) = [one for one in seen.primitives if one.waiters]
        assert (lock.kind, len(lock.waiters)) == ("Queue", 2)
        assert lock.holder is not None
        assert re.match(r"asleep in (read|poll|recv)", lock.holder.doing)


def test_orphan() -> None:
    with exhibit("orphan") as program:
        (pid,) = program.told
        assert pid not in children_of(program.pid)
        for start in (program.pid, pid):
            seen = see(start)
            assert {program.pid, pid} <= set(seen.processes)
            holder = named(seen, "ledger").holder
            assert holder is not None
            assert (holder.pid, holder.alive) == (pid, True)


def test_any_process_of_the_program_will_do() -> None:
    with exhibit("holder", "forkserver") as program:
        views = [see(pid) for pid in (program.pid, *program.told)]
        assert {view.processes for view in views} == {tuple(sorted((program.pid, *program.told)))}


@every_method
def test_daemon(method: str) -> None:
    with exhibit("daemon", method) as program:
        (pid,) = program.told
        for start in (program.pid, pid):
            assert see(start).processes == tuple(sorted((program.pid, pid)))


def test_programs_do_not_mix() -> None:
    with exhibit("lost") as one, exhibit("holder") as other:
        assert one.pid not in see(other.pid).processes
        assert see(other.pid).verdict == "fine"


def test_one_s_own_program(crew: Crew) -> None:
    lock = mpbakery.Lock(name="of my own", ctx=crew.context)
    puppet = Puppet(crew, lock)
    with lock:
        puppet.begin("acquire")
        wait_for_waiters(lock, 1)
        found = named(mpbakery.inspect(), "of my own")
        assert found.holder is not None
        assert found.holder.pid == os.getpid()
        assert [waiter.pid for waiter in found.waiters] == [puppet.pid]
    assert puppet.end() is True
    puppet("release")
    puppet.dismiss()


def test_looking_costs_a_program_none_of_its_record_locks(crew: Crew) -> None:
    # Whoever closes a second descriptor of a file loses all record locks that it has on it. Nor may one stay open.
    lock = mpbakery.Lock(name="guarded", ctx=crew.context)
    puppet = Puppet(crew, lock)
    puppet("acquire")
    fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 << 60)
    before = descriptors()
    holder = named(mpbakery.inspect(puppet.pid), "guarded").holder
    assert holder is not None
    assert holder.pid == puppet.pid
    assert descriptors() <= before
    assert puppet("gets_record_lock", 1 << 60) is False
    puppet("release")
    puppet.dismiss()


# --- What comes from elsewhere --------------------------------------------------------------------------------------


def test_names_cannot_do_anything_to_a_terminal() -> None:
    with exhibit("unnamed") as program:
        out = look(program.pid)[1] + look(program.pid, "--all")[1]
        assert "Lock 'red \\x1b[31m alert\\n\\u202e'" in out
        assert all(line.isprintable() for line in out.splitlines())


def test_mappings_full_of_garbage() -> None:
    with exhibit("garbage") as program:
        status, out = look(program.pid)
        assert status == 0
        assert "1 process, 1 primitive: 1 held, 0 waiting" in out
        assert f"Note: process {program.pid} runs another version of mpbakery, and what it has cannot be read." in out


def test_forged_segments() -> None:
    with exhibit("forged") as program:
        (count,) = program.told
        assert count == FORGED
        status, out = look(program.pid, "--all")
        assert status in {0, 1}
        assert all(line.isprintable() for line in out.splitlines())
        assert "Lock 'ledger'" in out
        # those of which too much was wrong are left out, and few of them are
        assert 10 < len(see(program.pid).primitives) < FORGED


def test_a_program_that_ends_meanwhile(crew: Crew) -> None:
    lock = mpbakery.Lock(name="short", ctx=crew.context)
    ends = 0
    for round_ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", "import mpbakery, time; l = mpbakery.Lock(); l.acquire(); time.sleep(0.02)"],
            env={**os.environ, "PYTHONPATH": str(Path(mpbakery.__file__).parents[1])},
        )
        while process.poll() is None:
            try:
                mpbakery.inspect(process.pid)
            except mpbakery.InspectionError as error:
                ends += bool(str(error)) and round_ >= 0
    assert ends
    del lock


def test_nothing_to_see() -> None:
    status, out, err = scripts.finish(scripts.start("-m", "mpbakery", "inspect", str(2**31 - 1)))
    assert (status, out) == (2, "")
    assert err == f"python3 -m mpbakery: there is no process {2**31 - 1} (try --help)\n"
    process = scripts.start("-c", "input()")
    with process:
        try:
            with pytest.raises(mpbakery.InspectionError, match="nor any descendant of it has a lock of mpbakery"):
                mpbakery.inspect(process.pid)
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(("pid", "stuck", "error"), [("1", 1, TypeError), (0, 1, ValueError), (1, 0, ValueError)])
def test_wrong_arguments(pid: Any, stuck: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"give (a|the) number"):
        mpbakery.inspect(pid, stuck=stuck)


def test_segment_in_no_file() -> None:
    with exhibit("limited") as program:
        holder = named(see(program.pid), "ledger").holder
        assert holder is not None
        assert (holder.pid, holder.alive) == (program.told[0], True)


# --- Who may look ---------------------------------------------------------------------------------------------------

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = 65534
CAP_SYS_PTRACE = 19


def look_as_nobody(crew: Crew, pid: int, capabilities: int) -> mpbakery.Inspection | Exception:
    ours, theirs = crew.context.Pipe()
    crew.start(specimens.look_as, theirs, NOBODY, capabilities, pid)
    seen = expect(ours)
    assert isinstance(seen, (mpbakery.Inspection, Exception))
    crew.finish()
    return seen


@only_root
def test_another_user_may_not_look(crew: Crew) -> None:
    with exhibit("holder") as program:
        error = look_as_nobody(crew, program.pid, 0)
        assert isinstance(error, mpbakery.InspectionError)
        assert str(error) == (f"process {program.pid} belongs to user 0: run this with sudo, or with CAP_SYS_PTRACE")


@only_root
@pytest.mark.parametrize("plight", ["holder", "limited"])
def test_another_user_with_nothing_but_the_capability(plight: str, crew: Crew) -> None:
    with exhibit(plight) as program:
        seen = look_as_nobody(crew, program.pid, 1 << CAP_SYS_PTRACE)
        assert isinstance(seen, mpbakery.Inspection)
        holder = named(seen, "ledger").holder
        assert holder is not None
        assert (holder.pid, holder.alive) == (program.told[0], True)


@only_root
def test_the_same_user_needs_no_capability(crew: Crew) -> None:
    lock = mpbakery.Lock(name="of another user", ctx=crew.context)
    ours, theirs = crew.context.Pipe()
    holder = crew.start(specimens.hold_as, theirs, NOBODY, lock)
    expect(ours)
    crew.processes.remove(holder)
    try:
        seen = look_as_nobody(crew, holder.pid or 0, 0)
    finally:
        kill(holder)
    assert isinstance(seen, mpbakery.Inspection)
    owner = named(seen, "of another user").holder
    assert owner is not None
    assert (owner.pid, owner.alive) == (holder.pid, True)


@pytest.mark.usefixtures("pid_namespaces")
@pytest.mark.parametrize("new_proc", [True, False])
def test_pid_namespace_from_outside(new_proc: bool, crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    outer = crew.start(in_new_pid_namespace, specimens.hold_in_namespace, theirs, new_proc)
    inside = expect(ours)
    (init,) = children_of(outer.pid or 0)
    wait_until(lambda: named(see(init), "inside").waiters, "the first process to wait")
    lock = named(see(init), "inside")
    assert lock.holder is not None
    assert [lock.holder.pid] == children_of(init)
    assert lock.holder.alive
    assert re.fullmatch(f"asleep in {SLEEP}", lock.holder.doing)
    assert [waiter.pid for waiter in lock.waiters] == [init]
    assert inside != lock.holder.pid == lock.holder.thread
    os.kill(init, signal.SIGSTOP)
    wait_for_state(init, "T")
    os.kill(lock.holder.pid, signal.SIGKILL)
    wait_until(lambda: not (now := named(see(init), "inside").holder) or not now.alive, "the death to be seen")
    lock = named(see(init), "inside")
    assert lock.holder is not None
    assert (lock.holder.alive, lock.holder.doing) == (False, "dead")
    os.kill(init, signal.SIGKILL)
    crew.close()


@pytest.mark.usefixtures("pid_namespaces")
def test_pid_namespace_from_inside(crew: Crew) -> None:
    ours, theirs = crew.context.Pipe()
    crew.start(in_new_pid_namespace, specimens.look_in_namespace, theirs, True)
    (holder, waiter), seen = expect(ours)
    assert holder < 100  # the numbers that they have there
    (lock,) = [one for one in seen["primitives"] if one["name"] == "inside"]
    assert (lock["holder"]["pid"], lock["holder"]["alive"]) == (holder, True)
    assert re.fullmatch(f"asleep in {SLEEP}", lock["holder"]["doing"])
    assert [one["pid"] for one in lock["waiters"]] == [waiter]
    assert set(seen["processes"]) == {1, holder, waiter}
    crew.finish()


def test_user_namespace(crew: Crew) -> None:
    lock = mpbakery.Lock(name="of that namespace", ctx=crew.context)
    ours, theirs = crew.context.Pipe()
    holder = crew.start(specimens.hold_in_user_namespace, theirs, lock)
    if refusal := expect(ours):
        pytest.skip(f"a new user namespace is not permitted here: {refusal}")
    owner = named(see(holder.pid or 0), "of that namespace").holder
    assert owner is not None
    assert (owner.pid, owner.alive) == (holder.pid, True)
    assert re.fullmatch(f"asleep in {SLEEP}", owner.doing)
    with exhibit("holder") as program:
        crew.start(specimens.look_from_user_namespace, theirs, program.pid)
        error = expect(ours)
    assert isinstance(error, mpbakery.InspectionError)
    assert str(error).endswith(": run this with sudo, or with CAP_SYS_PTRACE")
    crew.close()


# --- From inside ----------------------------------------------------------------------------------------------------


@every_method
def test_dump_on_signal(method: str) -> None:
    with exhibit("dumping", method) as program:
        (holder,) = program.told
        wait_until(lambda: named(see(program.pid), "ledger").waiters, "main to wait")
        for _ in range(2):
            os.kill(program.pid, signal.SIGUSR1)
            told = lines_until(program.process, r"      at _run_module_as_main .*")
            assert told[0] == f"--- mpbakery, process {program.pid} ---"
            assert told[1].startswith("fine: ")
            text = "\n".join(told)
            assert re.search(rf"\n  held for .*s by Child-1 \({holder}\), asleep in {SLEEP}\n", text)
            assert re.search(
                rf"\n  1\. MainProcess \({program.pid}\)  .*s  at dumping \(specimens.py:\d+\)\n"
                r"      at dumping .*\n      at main ",
                text,
            )
        assert named(see(program.pid), "ledger").waiters


def lines_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """What a process writes to stderr, up to the first line that is like that."""
    assert process.stderr is not None
    told = b""
    end = time.monotonic() + PATIENCE
    while not re.search(rb"^(?:%s).*\n\Z" % pattern.encode(), told, re.MULTILINE):
        assert select.select([process.stderr], [], [], max(0.0, end - time.monotonic()))[0], told
        told += os.read(process.stderr.fileno(), 1 << 16)
    return told.decode().splitlines()


def test_dump_into_a_file_and_where_there_is_nothing_to_dump(tmp_path: Path) -> None:
    code = (
        "import mpbakery, os, signal, sys\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    mpbakery.dump_on_signal(signal.SIGUSR2, file=file)\n"
        "    os.kill(os.getpid(), signal.SIGUSR2)\n"
        "mpbakery.dump_on_signal(signal.SIGUSR2)\n"
        "os.close(2)\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "print('goes on')\n"
    )
    assert scripts.run("-c", code, str(tmp_path / "dump")) == "goes on\n"
    heading, line = (tmp_path / "dump").read_text().splitlines()
    assert heading.startswith("--- mpbakery, process ")
    assert line.startswith("InspectionError: neither process ")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"file": "a"}, TypeError), ({"file": True}, TypeError), ({"stuck": 0}, ValueError), ({"stuck": "a"}, TypeError)],
)
def test_wrong_arguments_of_dump(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"give a"):
        mpbakery.dump_on_signal(signal.SIGUSR2, **arguments)


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_is_what_the_page_describes() -> None:
    page = PAGE.read_text()
    with exhibit("ring_of_two") as program:
        status, out = look(program.pid, "--json")
    assert status == 1
    seen = json.loads(out)
    assert (seen["schema"], seen["healthy"], seen["verdict"]) == (1, False, "DEADLOCK")

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for inner in value.values() for key in keys(inner)}
        return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()

    assert [key for key in sorted(keys(seen)) if f"`{key}`" not in page] == []


# --- The page about it ----------------------------------------------------------------------------------------------

SHOWN = re.compile(
    r"^<!-- (?P<plight>\w+), (?P<seconds>[\d.]+) s -->\n"
    r"```console\n\$ python3 -m mpbakery inspect \d+\n(?P<output>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
EXAMPLES = list(SHOWN.finditer(PAGE.read_text()))


def bare(output: str) -> list[str]:
    """What an output says, whatever the numbers are, who came first, and whether py-spy is there."""
    kept = [
        re.sub(r"  at .*", "", line) for line in output.splitlines() if not line.startswith(("Note: ", "      at "))
    ]
    return sorted(re.sub(r"\b\d+(\.\d+)? m?s\b|\d+", "#", line) for line in kept if line)


@pytest.mark.serial
@pytest.mark.parametrize("shown", EXAMPLES, ids=lambda shown: shown["plight"])
def test_output_on_the_page(shown: re.Match[str]) -> None:
    with exhibit(shown["plight"]) as program:
        time.sleep(float(shown["seconds"]))  # the waiting that is shown
        wait_until(lambda: bare(look(program.pid)[1]) == bare(shown["output"]), "what the page shows")


def test_there_are_examples_on_the_page() -> None:
    assert len(EXAMPLES) >= 5


# --- How fast, and how sure -----------------------------------------------------------------------------------------


@pytest.mark.serial
def test_twenty_thousand_locks() -> None:
    with exhibit("many") as program:
        start = time.monotonic()
        seen = see(program.pid)
        seconds = time.monotonic() - start
        assert len([one for one in seen.primitives if one.name.startswith("lock ")]) == MANY
        holder = named(seen, f"lock {MANY // 2}").holder
        assert holder is not None
        assert holder.pid == program.pid
        assert seconds < PATIENCE


def test_a_ring_that_never_was(crew: Crew) -> None:
    # Each lock is read for itself. Here, as much happens in between as makes what was read look like a ring.
    first, second = (mpbakery.Lock(name=f"{name} of a pair", ctx=crew.context) for name in ("first", "second"))
    one, other = (Puppet(crew, specimens.Pair(first, second)) for _ in range(2))
    family = Family(one.pid)
    people = People(family)
    found = {seen.place.name: seen for seen in family.primitives()}

    def scene(lock: mpbakery.Lock) -> Scene:
        seen = found[lock.name]
        place = seen.again()
        assert place is not None
        return people.scene(seen, place)

    one("take", "first")
    other("take", "second")
    other.begin("take", "first")
    wait_for_waiters(first, 1)
    before = scene(first)
    one("give", "first")
    other.end()
    other("give", "first")
    one.begin("take", "second")
    wait_for_waiters(second, 1)
    scenes = [before, scene(second)]
    (ring,) = judge.find_rings(scenes, people.awaited_child)
    assert {edge.waiter.who.pid for edge in ring} == {one.pid, other.pid}
    assert not judge.is_still_there(ring, lambda known: scene(first if known is before else second), lambda _who: 0)
    assert named(see(one.pid), first.name).verdict == "fine"
    other("give", "second")
    one.end()
    one("give", "second")
    for puppet in (one, other):
        puppet.dismiss()
    family.close()


@pytest.mark.parametrize(
    "programs",
    [
        pytest.param(2, marks=pytest.mark.serial),
        pytest.param(20, marks=[pytest.mark.tools, pytest.mark.timeout(600)]),
    ],
)
def test_no_false_deadlock(programs: int) -> None:
    busy = 0
    for _ in range(programs):
        with exhibit("in_order") as program:
            for _ in range(500):
                seen = see(program.pid)
                assert seen.deadlocks == ()
                busy += bool(named(seen, "first").waiters)
    assert busy > 50 * programs
