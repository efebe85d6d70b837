"""The command line, as real processes: `python3 -m mpbakery` and `python3 -m mpbakery halfbaked`."""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import pytest

import mpbakery
from mpbakery._programs import demo
from mpbakery._programs.console import Console, jain_index
from mpbakery._programs.ledger import Audit, Ledger, Record

#: No run may take longer, however busy the machine is (s).
HARD_LIMIT = 60.0


class Finished(NamedTuple):
    status: int
    out: str
    err: str


class Start(Protocol):
    def __call__(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the command's temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def start(scratch: Path) -> Iterator[Start]:
    """Start the command in a process group of its own, and see in the end that it has left no temporary file."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        # the package that the tests import, wherever that is
        path = [str(Path(mpbakery.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(path)}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, *options.pop("python", []), "-m", "mpbakery", *arguments]
        process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    assert not list(scratch.iterdir())


def finish(process: subprocess.Popen[bytes], limit: float = HARD_LIMIT) -> Finished:
    out, err = process.communicate(timeout=limit)
    return Finished(process.returncode, (out or b"").decode(), (err or b"").decode())


@pytest.fixture
def run(start: Start) -> Callable[..., Finished]:
    """Run the command to its end."""

    def run(*arguments: str, **options: Any) -> Finished:
        return finish(start(*arguments, **options))

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of 40 files with 0, 1, … 39 words, which are 780."""
    folder = tmp_path / "texts"
    for number in range(40):
        file = folder / f"part{number % 3}" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("word " * number)
    return folder


def read_until(stream: IO[bytes] | None, what: bytes) -> bytes:
    """What comes from a pipe, up to `what`."""
    assert stream is not None
    seen = b""
    end = time.monotonic() + HARD_LIMIT
    while what not in seen:
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], f"{what!r} has not come: {seen!r}"
        piece = os.read(stream.fileno(), 4096)
        assert piece, f"ended before {what!r}: {seen!r}"
        seen += piece
    return seen


def read_terminal(stream: int) -> bytes:
    """What comes from a terminal until nobody has its other end open any more."""
    seen = b""
    end = time.monotonic() + HARD_LIMIT
    while True:
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], f"does not end: {seen!r}"
        try:
            piece = os.read(stream, 4096)
        except OSError:  # that is how Linux says so
            piece = b""
        if not piece:
            return seen
        seen += piece


class TestDemo:
    def test_counts_the_standard_library_and_survives_the_kill(self, run: Callable[..., Finished]) -> None:
        status, out, err = run("--json")

        result = json.loads(out)
        assert (status, err) == (0, "")
        assert result["files"] == result["records"] == len(demo.find_files(None)) > 500
        assert result["words"] == result["words_serial"] > 500_000
        assert [result[fault] for fault in ("torn", "lost", "double", "off_balance")] == [0, 0, 0, 0]
        (killed,), (handover,) = result["killed"], result["handovers"]
        assert killed["holding"]
        assert handover["from_pid"] == killed["pid"] != handover["to_pid"]
        assert handover["bytes_cut"] > 0
        assert result["recoveries"] == 1
        assert result["acquisitions"] >= result["records"] + 1  # the killed one had it once more
        assert sum(worker["records"] for worker in result["workers"]) == result["records"]
        assert len(result["workers"]) == 5  # four, and one in place of the dead
        assert 0 < result["longest_wait_undisturbed"] <= result["longest_wait"]
        assert result["evenness"] > 0.8

    def test_says_what_happened(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--workers", "3")

        text = " ".join(out.split())
        died = re.search(
            r"PoolWorker-\d+ \(pid (\d+)\) got the lock, wrote \d+ bytes .* was killed with SIGKILL\.", text
        )
        took_over = re.search(
            r"PoolWorker-\d+ \(pid (\d+)\) was handed the lock \S+ m?s after that, cut the torn", text
        )
        assert status == 0
        assert died
        assert took_over
        assert died[1] != took_over[1]
        assert re.search(r"words 780 .* words, serial count 780 the same", text)
        assert "records 40 0 torn, 0 lost, 0 double, 0 off balance" in text
        assert re.search(rf"{died[1]} \d+ .* killed", text)
        assert "Traceback" not in err
        assert "Warning" not in err
        assert "Counting: 40 of 40\n" in err  # no terminal: plain lines, and no control characters
        assert "\x1b" not in out + err
        assert "\r" not in out + err

    def test_without_kill_nobody_dies(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--no-kill", "--json")

        result = json.loads(out)
        assert (status, err) == (0, "")
        assert (result["killed"], result["handovers"], result["recoveries"]) == ([], [], 0)
        assert result["words"] == result["words_serial"] == 780
        assert result["acquisitions"] == 41  # one a record, and the one that opens the job
        assert all(worker["throughout"] for worker in result["workers"])

    @pytest.mark.parametrize("workers", ["1", "2", "12"])
    def test_any_number_of_workers(self, run: Callable[..., Finished], texts: Path, workers: str) -> None:
        status, out, _ = run(str(texts), "--workers", workers, "--json")

        result = json.loads(out)
        assert status == 0
        assert result["words"] == 780
        assert len(result["handovers"]) == 1

    def test_a_single_file(self, run: Callable[..., Finished], tmp_path: Path) -> None:
        folder = tmp_path / "single"
        folder.mkdir()
        (folder / "file").write_text("one two three")

        status, out, _ = run(str(folder), "--json")

        result = json.loads(out)
        assert status == 0
        assert result["words"] == 3
        assert len(result["handovers"]) == 1

    def test_warnings_as_errors_change_nothing(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--json", python=["-W", "error::RuntimeWarning"])

        assert (status, err) == (0, "")
        assert len(json.loads(out)["handovers"]) == 1

    def test_strange_files(self, run: Callable[..., Finished], tmp_path: Path) -> None:
        folder = tmp_path / "strange"
        folder.mkdir()
        (folder / "plain").write_text("fünf Wörter in dieser Datei")
        (folder / "binary").write_bytes(bytes(range(256)) * 10)
        (folder / "latin").write_bytes("drei süße Wörter".encode("latin-1"))
        (folder / "empty").touch()
        (folder / "name\nwith a break").write_text("one")
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_text("one")
        (folder / "dangling").symlink_to("nowhere")
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        os.mkfifo(folder / "pipe")

        status, out, _ = run(str(folder), "--json")

        result = json.loads(out)
        assert status == 0
        assert result["files"] == 6  # without the link to nowhere, the loop and the pipe
        assert result["words"] == result["words_serial"] > 5 + 1 + 1

    def test_unreadable_files_are_told(self, run: Callable[..., Finished], texts: Path) -> None:
        (texts / "memory").symlink_to("/proc/self/mem")  # whose first page nobody can read, not even root

        status, out, _ = run(str(texts))

        assert status == 0
        assert re.search(r"unreadable files +1 ", out)
        assert re.search(r"words +780 ", out)

    def test_a_file_that_changes_is_told(self, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
        counted = [3, 4, 5]
        files = [str(texts / "part0" / f"{words}.txt") for words in (0, 3, 6)]
        result = demo.Result(demo.Settings(files, workers=1), serial=[3, 4, 6])
        result.records = [Record(file, words, 0, 1, "worker", 0.0, 0.0, None) for file, words in enumerate(counted)]
        result.audit = Audit(12, 0, 0, 0, 0)

        demo.report(result, Console(quiet=False))

        assert not result.is_right
        assert result.differing == files[2:]
        assert "NOT the same" in capsys.readouterr().out


class TestMultiprocessingLock:
    def test_says_how_it_hangs_instead_of_hanging(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--lock", "multiprocessing", "--limit", "1", "--workers", "3")

        text = " ".join(out.split())
        died = re.search(r"\(pid (\d+)\) got the lock, wrote half of its record, and was killed with SIGKILL", text)
        assert status == 3, err
        assert died, text
        assert "Stuck: no record in the last" in text
        # as many as have a task: if the one who died was slow, no more than that of the dead may be left
        waiting = rf"(1 worker waits|[23] workers wait) for a lock whose holder, pid {died[1]}, is dead\."
        assert re.search(waiting, text), text
        assert "<Lock(owner=SomeOtherProcess)>" in text
        assert "Traceback" not in err

    def test_says_so_in_json(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--lock", "multiprocessing", "--limit", "1", "--workers", "2", "--json")

        result = json.loads(out)
        assert (status, err) == (3, "")
        assert not result["right"]
        assert result["records"] < result["files"]
        assert result["stall"]["holder_is_dead"]
        assert result["stall"]["holder"] == result["killed"][0]["pid"]
        assert result["stall"]["waiting"] in {1, 2}  # the second one comes in place of the dead

    def test_does_the_job_when_nobody_is_killed(self, run: Callable[..., Finished], texts: Path) -> None:
        status, out, err = run(str(texts), "--lock", "multiprocessing", "--no-kill", "--json")

        result = json.loads(out)
        assert (status, err) == (0, "")
        assert (result["lock"], result["words"], result["stall"]) == ("multiprocessing", 780, None)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["{tmp}/nowhere"], "does not exist"),
            ([""], "does not exist"),
            (["{tmp}/file"], "is not a folder"),
            (["{tmp}/empty"], "no readable file"),
            (["--workers", "0"], "'0' is not a whole number from 1"),
            (["--workers", "-3"], "'-3' is not a whole number from 1"),
            (["--workers", "four"], "'four' is not a whole number"),
            (["--workers", "2.5"], "'2.5' is not a whole number"),
            (["--workers", "9999999999"], "'9999999999' is not a whole number"),
            (["--limit", "nan"], "'nan' is not a number of seconds"),
            (["--limit", "inf"], "'inf' is not a number of seconds"),
            (["--limit", "0"], "'0' is not a number of seconds"),
            (["--limit", "soon"], "'soon' is not a number of seconds"),
            (["--lock", "threading"], "'threading'"),
            (["--bogus"], "--bogus"),
            (["{tmp}/empty", "more"], "more"),
            (["halfbaked", "folder"], "folder"),
            (["halfbaked", "--forks", "9"], "'9' is not a whole number from 0 to 8"),
            (["halfbaked", "--forks", "x"], "'x' is not a whole number from 0 to 8"),
            (["halfbaked", "--rounds", "0"], "'0' is not a whole number from 1"),
            (["halfbaked", "--workers", "2"], "--workers"),
        ],
        ids=" ".join,
    )
    def test_one_clear_line(
        self, run: Callable[..., Finished], tmp_path: Path, arguments: list[str], complaint: str
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()

        status, out, err = run(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))

        assert (status, out) == (2, "")
        assert complaint in err
        assert err.startswith("python3 -m mpbakery: ")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("command", [[], ["halfbaked"]], ids=["demo", "halfbaked"])
    def test_help_tells_the_statuses(self, run: Callable[..., Finished], command: list[str]) -> None:
        status, out, err = run(*command, "--help")

        assert (status, err) == (0, "")
        assert re.search(r"exit status:\n +0 .*\n +1 .*\n +2 .*\n +3 .*\n +130 ", out)

    def test_version(self, run: Callable[..., Finished]) -> None:
        assert run("--version") == (0, f"mpbakery {mpbakery.__version__}\n", "")


class TestEndings:
    """However it ends, it leaves no process (conftest.py looks for them) and no temporary file (`start` does)."""

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
        ids=lambda it: str(int(it)),
    )
    def test_a_signal_to_all_while_the_job_hangs(
        self, start: Start, scratch: Path, texts: Path, sent: signal.Signals, expected: int
    ) -> None:
        process = start(str(texts), "--lock", "multiprocessing", "--limit", "1000")
        read_until(process.stdout, b"SIGKILL")
        assert [file.name for file in scratch.iterdir() if file.name.startswith("mpbakery-ledger-")]
        sent_at = time.monotonic()
        os.killpg(process.pid, sent)

        status, _, err = finish(process)

        assert status == expected
        assert time.monotonic() - sent_at < 5  # it takes a fraction of a second, on a machine that is not busy
        assert "Traceback" not in err

    def test_ctrl_c_at_the_start(self, start: Start) -> None:
        process = start()
        read_until(process.stdout, b"Counting words")
        os.killpg(process.pid, signal.SIGINT)

        status, _, err = finish(process)

        assert status == 130
        assert "Traceback" not in err

    def test_ctrl_c_in_the_middle(self, start: Start) -> None:
        process = start()
        read_until(process.stdout, b"was handed the lock")
        os.killpg(process.pid, signal.SIGINT)

        status, out, err = finish(process)

        assert status == 130
        assert "serial" not in out
        assert "Traceback" not in err

    def test_ctrl_c_twice(self, start: Start, texts: Path) -> None:
        process = start(str(texts), "--lock", "multiprocessing", "--limit", "1000")
        read_until(process.stdout, b"SIGKILL")
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)

        status, _, err = finish(process)

        assert status == 130
        assert "Traceback" not in err

    def test_ctrl_c_ends_the_family(self, start: Start) -> None:
        process = start("halfbaked", "--rounds", "1000000")
        read_until(process.stdout, b" ------ \n")
        os.killpg(process.pid, signal.SIGINT)

        status, _, err = finish(process)

        assert status == 130
        assert "Traceback" not in err

    @pytest.mark.parametrize("arguments", [[], ["halfbaked", "--rounds", "100000"]], ids=["demo", "halfbaked"])
    def test_a_reader_that_leaves(self, start: Start, arguments: list[str]) -> None:
        process = start(*arguments)
        assert process.stdout is not None
        read_until(process.stdout, b"\n")
        process.stdout.close()

        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(HARD_LIMIT) == 128 + signal.SIGPIPE
        assert b"Traceback" not in err
        assert b"Exception" not in err

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
    @pytest.mark.parametrize("arguments", [["--no-kill"], ["halfbaked", "--forks", "1"]], ids=["demo", "halfbaked"])
    def test_no_room_for_the_output(self, run: Callable[..., Finished], arguments: list[str]) -> None:
        with open("/dev/full", "wb") as full:
            status, _, err = run(*arguments, stdout=full)

        assert status == 1
        assert err == "python3 -m mpbakery: No space left on device\n"

    @pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a lock would be too large a file as well")
    def test_no_room_for_the_ledger(self, run: Callable[..., Finished], texts: Path) -> None:
        for number in range(100):
            (texts / f"{number}").touch()

        def limit_files() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

        status, _, err = run(str(texts), "--no-kill", "--json", preexec_fn=limit_files)

        assert status == 1
        assert re.fullmatch(r"python3 -m mpbakery: .*mpbakery-ledger-.*: File too large\n", err)

    def test_a_progress_bar_on_a_terminal(self, start: Start, texts: Path) -> None:
        ours, theirs = pty.openpty()
        try:
            process = start(str(texts), "--json", stderr=theirs)
            os.close(theirs)
            bar = read_terminal(ours)
            out, _ = process.communicate(timeout=HARD_LIMIT)
        finally:
            os.close(ours)

        assert process.returncode == 0
        assert json.loads(out)["words"] == 780
        assert re.search("\r\x1b\\[K  Counting  .*█.*40 of 40".encode(), bar)
        assert bar.endswith(b"\r\x1b[K")
        assert b"\n" not in bar


class TestHalfbaked:
    LINE = re.compile(r" ------ (\d+) ------ ")

    def test_the_recipe_made_right(self, run: Callable[..., Finished]) -> None:
        status, out, err = run("halfbaked")

        printed, _, summary = out.partition("\n\n")
        lines = [self.LINE.fullmatch(line) for line in printed.split("\n")]
        by_process = collections.Counter(line[1] for line in lines if line)
        assert (status, err) == (0, "")
        assert all(lines)
        assert len(by_process) == 32
        assert set(by_process.values()) == {100}
        assert re.search(r"processes +32 of 32 +from 5 forks, all reaped", summary)
        assert re.search(r"broken lines +0\n", summary)
        # first come, first served: nobody comes twice before everybody has come once, but for a start that is not so
        half = collections.Counter(line[1] for line in lines[: len(lines) // 2] if line)
        assert jain_index([half[pid] for pid in by_process]) > 0.9

    def test_json(self, run: Callable[..., Finished]) -> None:
        status, out, err = run("halfbaked", "--forks", "3", "--rounds", "20", "--json")

        result = json.loads(out)
        assert (status, err) == (0, "")
        assert (result["processes"], result["lines"], result["broken"], result["reaped"]) == (8, 160, 0, True)
        assert result["evenness"] > 0.8

    def test_without_the_lock_lines_break_and_it_is_seen(self, run: Callable[..., Finished]) -> None:
        status, out, _ = run("halfbaked", "--no-lock", "--forks", "4", "--rounds", "1000", "--json")

        result = json.loads(out)
        assert status == 1
        assert result["broken"] > 0
        assert not result["right"]

    def test_one_process(self, run: Callable[..., Finished]) -> None:
        status, out, _ = run("halfbaked", "--forks", "0", "--rounds", "2")

        assert status == 0
        assert len(self.LINE.findall(out)) == 2


class TestLedger:
    """What finds the faults, or else a count of none would mean nothing."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "ledger"
        path.touch()
        return path

    @pytest.fixture
    def ledger(self, path: Path) -> Iterator[Ledger]:
        ledger = Ledger(str(path))
        yield ledger
        ledger.close()

    @staticmethod
    def write(ledger: Ledger, *files: int) -> None:
        for file in files:
            record = Record(file, 10, ledger.balance() + 10, 1, "worker", 0.0, 0.0, None)
            ledger.append(record, half_way=lambda: None)

    def test_a_whole_one(self, ledger: Ledger) -> None:
        self.write(ledger, 2, 0, 1)

        assert ledger.audit(3) == Audit(words=30, torn=0, lost=0, double=0, off_balance=0)

    def test_lost_and_double(self, ledger: Ledger) -> None:
        self.write(ledger, 0, 2, 2)

        assert ledger.audit(4) == Audit(words=30, torn=0, lost=2, double=1, off_balance=0)

    def test_torn_at_the_end_and_mended(self, ledger: Ledger, path: Path) -> None:
        self.write(ledger, 0, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])

        assert ledger.audit(2).torn == 1
        assert ledger.mend() == len(whole) // 2 - 7
        self.write(ledger, 1)
        assert path.read_bytes() == whole
        assert ledger.mend() == 0

    def test_torn_in_the_middle(self, ledger: Ledger, path: Path) -> None:
        self.write(ledger, 0, 1)
        path.write_bytes(path.read_bytes().replace(b"worker", b"", 1)[8:])

        assert ledger.audit(2).torn == 1

    def test_two_who_had_the_lock_at_once(self, ledger: Ledger) -> None:
        self.write(ledger, 0)
        for file in (1, 2):
            ledger.append(Record(file, 10, 20, 1, "worker", 0.0, 0.0, None), half_way=lambda: None)

        assert ledger.audit(3).off_balance == 1

    def test_a_reader_leaves_what_is_not_whole(self, ledger: Ledger, path: Path) -> None:
        reader = Ledger(str(path))
        seen: list[list[int]] = []

        def look() -> None:
            seen.append([record.file for record in reader.news()])

        try:
            ledger.append(Record(7, 1, 1, 1, "worker", 0.0, 0.0, None), half_way=look)
            look()
            look()
        finally:
            reader.close()

        assert seen == [[], [7], []]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_words_are_the_same_however_a_file_is_cut(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("  one two_2, drei-vier\tfünf\n\n6 (seven)  ")
    monkeypatch.setattr(demo, "_CHUNK", chunk)

    assert demo.count_words(str(file)) == 7


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1, 1], 1.0), ([4, 0, 0, 0], 0.25), ([0, 0], 1.0), ([1, 3], 0.8)])
def test_jain_index(shares: list[float], index: float) -> None:
    assert jain_index(shares) == pytest.approx(index)
