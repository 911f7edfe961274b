"""`ffd report`: where it writes, what it says, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_runs import small

from ffcore.cli import ExitCode, main
from ffcore.run.stages import run


def ffd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)], prog_name="ffd")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, to which tests add a report at most."""
    directory = tmp_path_factory.mktemp("runs") / "made"
    run(small("training.steps=2"), directory)
    return directory


def test_a_report_of_one_run_stands_in_its_directory(made: Path) -> None:
    found = ffd(made)
    assert (found.exit_code, found.stdout) == (ExitCode.OK, f"{made}/report.html\n")
    assert (made / "report.html").read_text().lstrip().startswith("<!doctype html>")
    assert not list(made.glob(".*"))
    assert ffd(made).exit_code == ExitCode.OK  # again
    assert run(small("training.steps=2"), made) is not None  # to which it is no stranger's file
    assert (made / "report.html").exists()
    run(small("training.steps=2"), made, restart=True)
    assert not (made / "report.html").exists()


def test_a_report_of_several_runs_needs_a_place(made: Path, tmp_path: Path) -> None:
    found = ffd(made, made)
    assert found.exit_code == ExitCode.USAGE
    assert "needs --out" in found.stderr
    out = tmp_path / "both.html"
    assert ffd(made, made, "--out", out).exit_code == ExitCode.OK
    assert out.is_file()


def test_nothing_is_written_over_or_into_what_is_anothers(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.html"
    out.write_text("years of work")
    for place, told in (
        (out, "exists: choose another path, or use --overwrite"),
        (tmp_path / "no" / "folder.html", "does not exist: create it"),
        (made / "other.html", "is the directory of a run or an export"),
    ):
        found = ffd(made, "--out", place)
        assert found.exit_code == ExitCode.USAGE
        assert told in found.stderr
    assert out.read_text() == "years of work"
    assert ffd(made, "--out", out, "--overwrite").exit_code == ExitCode.OK
    assert "years of work" not in out.read_text()


def test_json_tells_the_place_and_the_numbers(made: Path) -> None:
    found = json.loads(ffd(made, "--json").stdout)
    assert (found["schema"], found["report"]) == (1, f"{made}/report.html")
    (only,) = found["runs"]
    kept = json.loads((made / "evaluation.json").read_text())
    assert only["distances"]["raw"]["student"] == {"1": kept["distances"]["raw"]["student"]}
    assert only["conditions"] == kept["identity"]


def test_what_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    found = ffd(tmp_path)
    assert found.exit_code == ExitCode.USAGE
    assert found.stderr == (
        f"{tmp_path} is not a run directory: it has no recipe.toml and no provenance.json. A "
        "report needs a directory that ffd run wrote\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_report_imports_no_torch(made: Path) -> None:
    code = (
        "import sys; from ffcore.cli import main\n"
        f"main(['report', {str(made)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
