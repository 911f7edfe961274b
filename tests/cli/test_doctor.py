"""`ffd doctor`, as a person and as a program meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], prog_name="ffd")


def test_a_person_gets_a_table_of_80_columns_and_a_verdict(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ffcore", "doctor"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert found.returncode == ExitCode.OK, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    assert lines[-1] == "ffcore works here"
    assert all(len(line) <= 80 for line in lines)
    topics = [line.split()[0] for line in lines[:-1] if line[:1].strip()]
    assert topics[:3] == ["versions", "devices", "precision"]
    assert topics[-1] == "files"
    assert found.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_program_gets_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads(doctor("--json").stdout)
    assert (document["schema"], document["works"]) == (1, True)
    first = document["findings"][0]
    assert first.keys() == {"topic", "name", "state", "found", "advice", "essential"}
    assert {each["state"] for each in document["findings"]} <= {"works", "absent", "fails"}


def test_where_a_run_cannot_work_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/proc")  # where nobody can write
    found = doctor()
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.stdout.splitlines()[-1] == "ffcore does not work here: files this directory"
    assert json.loads(doctor("--json").stdout)["works"] is False
