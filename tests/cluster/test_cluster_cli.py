"""The commands that use a server: `cluster URL`, and the main job with `--lock postgresql://…`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.networks import Network
from cluster.postgres import Server, running
from mpbakery import cluster
from support import scripts
from support.workers import Crew, Puppet, kill

pytest_plugins = ["cluster.fixtures"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of 40 files with 0, 1, … 39 words, which are 780."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("word " * number)
    return tmp_path


def command(*arguments: str) -> tuple[int, str, str]:
    return scripts.finish(scripts.start("-m", "mpbakery", *arguments))


class TestCluster:
    def test_makes_the_table_and_complains_of_nothing(self, server: Server) -> None:
        server.sql("CREATE DATABASE fresh", "postgres")
        status, out, err = command("cluster", server.url("fresh"))
        assert (status, err) == (0, "")
        assert server.sql("SELECT count(*) FROM mpbakery.locks", "fresh") == "0"
        assert f"PostgreSQL {server.version()}" in out
        assert "a vanished machine is noticed after 30 s" in out
        assert "0 locks that nobody holds or awaits" in out
        server.sql("DROP DATABASE fresh WITH (FORCE)", "postgres")

    def test_shows_locks_holders_and_lines(self, crew: Crew, server: Server) -> None:
        held, left, free = (cluster.Lock(server.url(), f"the {name} lock") for name in ("held", "left", "free"))
        with free:
            pass
        dead = Puppet(crew, left)
        dead("acquire")
        dead.kill()
        holder, first, second = (Puppet(crew, held, name=name) for name in ("holder", "first", "second"))
        holder("acquire")
        for number, waiter in enumerate((first, second), 1):
            waiter.begin("acquire")
            while len(held.statistics().waiters) < number:
                pass
        status, out, err = command("cluster", server.url())
        assert (status, err) == (0, "")
        text = " ".join(out.split())
        assert re.search(rf"the held lock held by holder \({holder.pid}\) \S+ \S+ m?s 1 ", text)
        assert re.search(rf"1\. in line first \({first.pid}\) .* 2\. in line second \({second.pid}\)", text)
        assert "the left lock its holder died" in text
        assert "the free lock" not in text
        assert "the free lock free" in " ".join(command("cluster", server.url(), "--all")[1].split())

        status, out, err = command("cluster", server.url(), "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        locks = {lock["name"]: lock for lock in found["locks"]}
        assert found["good"]
        assert locks["the held lock"]["owner"]["pid"] == holder.pid
        assert [one["process"] for one in locks["the held lock"]["waiters"]] == ["first", "second"]
        assert locks["the left lock"]["died"]
        assert not locks["the free lock"]["died"]
        assert locks["the free lock"]["acquisitions"] == 1
        assert locks["the free lock"]["token"] > 0
        for puppet in (holder, first, second):
            kill(puppet.process)

    def test_complains_of_what_a_lock_does_not_bear(self) -> None:
        with running(fsync="off") as server:
            server.sql("CREATE TABLE customers (name text)")
            with pytest.warns(RuntimeWarning, match="of others"):
                cluster.Lock(server.url(), "x").acquire()
            status, out, _ = command("cluster", server.url())
        text = " ".join(out.split())
        assert status == 1
        assert "a database of its own: 1 table of others; as long as anybody waits" in text
        assert "fsync: off; after a crash, tokens may be told again" in text

    @pytest.mark.parametrize(
        ("arguments", "status", "complaint"),
        [
            (["cluster"], 2, "url"),
            (["cluster", "mysql://x"], 2, "url is none that libpq understands"),
            (["cluster", "postgresql://127.0.0.1:1/x"], 1, "no connection to the server at 127.0.0.1:1"),
            (["--lock", "postgresql://["], 2, "url is none that libpq understands"),
            (["--lock", "postgresql://127.0.0.1:1/x"], 1, "no connection to the server at 127.0.0.1:1"),
            (["--machines", "nowhere"], 2, "'nowhere' cannot be entered"),
        ],
        ids=str,
    )
    def test_one_clear_line(self, texts: Path, arguments: list[str], status: int, complaint: str) -> None:
        folder = [] if arguments[0] == "cluster" else [str(texts)]
        found, out, err = command(*arguments, *folder, *(["--json"] if folder else []))
        assert (found, out) == (status, "")
        assert complaint in err
        assert err.startswith("python3 -m mpbakery")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["cluster", "postgresql://x"], ["--lock", "postgresql://x"]], ids=["cluster", "job"]
)
def test_without_psycopg_it_says_how_to_get_it(arguments: list[str]) -> None:
    code = f"""if True:
        import runpy, sys
        sys.modules["psycopg"] = None
        sys.argv[1:] = {arguments!r}
        runpy.run_module("mpbakery", run_name="__main__")
    """
    status, _, err = scripts.finish(scripts.start("-c", code))
    assert status == 1
    assert "pip install 'mpbakery[postgresql]'" in err
    assert err.count("\n") == 1


class TestJob:
    def test_goes_on_when_a_worker_is_killed(self, server: Server, texts: Path) -> None:
        status, out, err = command(str(texts), "--workers", "4", "--lock", server.url(), "--json")
        assert (status, err) == (0, "")
        result = json.loads(out)
        assert result["lock"] == "mpbakery.cluster"
        assert (result["words"], result["words_serial"], result["right"]) == (780, 780, True)
        assert len(result["killed"]) == len(result["handovers"]) == result["recoveries"] == 1
        assert 41 < result["acquisitions"] < 60
        assert result["handovers"][0]["seconds"] < 5

    def test_says_what_happened(self, server: Server, texts: Path) -> None:
        status, out, err = command(str(texts), "--lock", server.url(user="postgres", password="secret"))
        text = " ".join(out.split())
        assert status == 0, err
        assert "one mpbakery.cluster.Lock" in text
        assert "secret" not in out + err
        assert re.search(r"got the lock, wrote \d+ bytes .* was killed with SIGKILL", text)
        assert re.search(r"was handed the lock \S+ m?s after that, cut the torn record off", text)

    def test_over_several_machines(self, network: Network, texts: Path) -> None:
        home, *machines = (network.add() for _ in range(4))
        with running(Server(machine=home.name, host=home.address, clients="10.99.0.0/24")) as server:
            names = ",".join(machine.name for machine in machines)
            # the job's own process is on one of them as well: nothing of it can reach the server but by the switch
            inside = ["ip", "netns", "exec", machines[0].name, sys.executable, "-m", "mpbakery"]
            job = subprocess.Popen(
                [*inside, str(texts), "--json", "--workers", "6", "--machines", names, "--lock", server.url()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            status, out, err = scripts.finish(job)
        assert (status, err) == (0, "")
        result = json.loads(out)
        assert result["right"]
        assert result["recoveries"] == len(result["handovers"]) == 1
        hosts = {worker["process"].partition("@")[2] for worker in result["workers"]}
        assert hosts >= {machine.name for machine in machines}

    def test_ctrl_c_leaves_the_lock_free(self, server: Server, texts: Path) -> None:
        job = scripts.start("-m", "mpbakery", str(texts), "--lock", server.url())
        assert job.stdout is not None
        while "killed with SIGKILL" not in " ".join(job.stdout.readline().split()):
            pass
        job.send_signal(signal.SIGINT)
        status, _, err = scripts.finish(job)
        assert status in {0, 130}, err
        assert "Traceback" not in err
