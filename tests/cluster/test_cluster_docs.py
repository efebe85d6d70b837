"""The examples of docs/cluster.md run, against a real server and the real packages that they name."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.postgres import Server, need

pytest_plugins = ["cluster.fixtures"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"


def examples() -> list[object]:
    blocks = re.findall(r"^```python\n(.*?)^```\n\n```output\n(.*?)^```\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [pytest.param(code, output, id=f"cluster-{number}") for number, (code, output) in enumerate(blocks, 1)]


def test_every_example_says_what_it_prints() -> None:
    assert len(examples()) == PAGE.read_text().count("```python\n") >= 6


@pytest.mark.serial
@pytest.mark.parametrize(("code", "output"), examples())
def test_example(server: Server, code: str, output: str, tmp_path: Path) -> None:
    for package in re.findall(r"^(?:import|from) (distributed|celery)", code, re.MULTILINE):
        need(importlib.util.find_spec(package), package)
    if not server.sql("SELECT 1 FROM pg_database WHERE datname = 'data'"):
        server.sql("CREATE DATABASE data", "postgres")
    script = tmp_path / "example.py"
    script.write_text(code)
    where = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": "postgres"}
    # a worker of Celery that runs as root says that it should not
    environment = {**os.environ, **where, "C_FORCE_ROOT": "1"}
    run = subprocess.run(
        [sys.executable, script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == output
