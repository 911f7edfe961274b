"""`ffd search`, as a person meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ffcore.cli import ExitCode, main
from ffcore.export import export
from ffcore.recipe import load_recipe
from ffcore.run.stages import run

TINY = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]
VERIFIER = """\
import torch

def bright(images, condition):
    return images.flatten(1).mean(1)

def dark(images, condition):
    return -bright(images, condition)

def slow(images, condition):
    open("called", "w").close()
    return bright(images, condition)

def broken(images, condition):
    return images[condition.nothing]

def crooked(images, condition):
    return images
"""


def ffd(*arguments: str, command: str = "search") -> Result:
    return CliRunner().invoke(main, [command, *arguments], prog_name="ffd")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, with verifiers in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(VERIFIER)


BRIGHT = ("-v", "mine:bright", "-n", "12", "--teacher-steps", "2")


def test_a_search_tells_what_it_is_worth_and_keeps_what_it_chose(finished):
    found = ffd(finished, *BRIGHT, "-j", "mine:dark", "-N", "3,6", "-f", "raw", "-o", "out")
    assert found.exit_code == ExitCode.OK, found.output
    lines = found.stdout.splitlines()
    assert lines[0] == "mine:bright (verifier): mean ± standard error"
    heading, *table = [re.split(r"\s{2,}", line.strip()) for line in lines[1:5]]
    assert heading == [
        *("N", "NFE", "best, rendered"),
        *("NFE", "teacher alone", "NFE", "student's best"),
    ]
    assert [[row[0], row[1], row[3], row[5]] for row in table] == [
        ["1", "4", "4", "1"],
        ["3", "7", "6", "3"],
        ["6", "10", "10", "6"],
    ]
    best = [float(row[6].split(" ± ")[0]) for row in table]
    assert best == sorted(best)
    assert "mine:dark (judge): mean ± standard error" in lines
    assert "Fréchet distance (raw)" in lines
    assert max(map(len, lines)) <= 80
    assert "search 72/72 evaluations" in found.stderr
    assert {path.name for path in Path("out").iterdir()} == {
        "search.json",
        "search.png",
        "examples.png",
        "best_of_6.npz",
        "best_of_6.npz.json",
    }
    for name in ("search.png", "examples.png"):
        with Image.open(Path("out") / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    again = ffd(finished, *BRIGHT, "-o", "out")
    assert again.exit_code == ExitCode.USAGE
    assert "out is an earlier search: choose another directory, or --overwrite" in again.stderr
    assert ffd(finished, *BRIGHT, "-N", "2", "-o", "out", "--overwrite").exit_code == ExitCode.OK
    assert Path("out/best_of_2.npz").is_file()
    assert not Path("out/best_of_6.npz").exists()
    assert {path.name for path in Path().iterdir()} <= {"mine.py", "__pycache__", "out"}


def test_json_is_one_document_and_the_same_that_is_kept(finished):
    found = ffd(finished, *BRIGHT, "-N", "4", "-o", "out", "--json", "--seed", "3")
    assert found.exit_code == ExitCode.OK, found.output
    document = json.loads(found.stdout)
    assert document.keys() == {"schema", "rows", "conditions", "notes", "seconds"}
    assert document == json.loads(Path("out/search.json").read_text())
    assert [row["candidates"] for row in document["rows"]] == [1, 4]
    row = document["rows"][-1]
    assert row.keys() == {"candidates", "searched", "teacher", "student"}
    assert (row["searched"]["nfe"], row["teacher"]["nfe"], row["teacher"]["steps"]) == (8, 8, 4)
    assert row["searched"]["scores"].keys() == {"mine:bright"}
    conditions = document["conditions"]
    assert (conditions["verifier"], conditions["judges"]) == ("mine:bright", [])
    assert conditions["student"]["seed"] == conditions["teacher"]["seed"] == 3
    assert conditions["teacher"]["solver"]["steps"] == 2


def test_without_candidates_the_teacher_is_that_of_ffd_sample(finished):
    ffd(finished, *BRIGHT, "-N", "1", "-o", "out", "--labels", "3,1", "--seed", "5")
    ffd(
        finished, "--teacher", "-n", "12", "--steps", "2", "--labels", "3,1", "--seed", "5",
        "-o", "plain.npz", command="sample",
    )  # fmt: skip
    with np.load("out/best_of_1.npz") as ours, np.load("plain.npz") as theirs:
        assert np.array_equal(ours["arr_0"], theirs["arr_0"])


def test_a_kept_search_is_evaluated_as_it_was_told(finished):
    shipped = "ffcore_digits:reference.safetensors"
    found = ffd(finished, *BRIGHT, "-N", "4", "-f", "digits", "-o", "out", "--json")
    told = json.loads(found.stdout)["rows"][-1]["searched"]["features"]["digits"]
    apart = ffd("out/best_of_4.npz", "-r", shipped, "-f", "digits", "--json", command="evaluate")
    measured = json.loads(apart.stdout)["metrics"]["digits"]
    assert measured["fd"] == pytest.approx(told["fd"], rel=1e-5)
    assert measured["classes"]["as_asked"] == told["classes"]["as_asked"]


def test_an_export_searches_for_the_teacher_of_a_recipe(finished):
    run_ = Path("run")
    run(load_recipe("digits.toml", TINY), run_)
    export(run_, Path("exported"))
    refused = ffd("exported", *BRIGHT)
    assert refused.exit_code == ExitCode.USAGE
    assert "holds a student without its teacher" in refused.stderr
    found = ffd("exported", *BRIGHT, "-N", "2", "--teacher", "digits.toml", "-f", "raw")
    assert found.exit_code == ExitCode.OK, found.output
    assert "Fréchet distance (raw)" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-v", "mine:brigth"], ExitCode.PLUGIN, "did you mean 'bright'?"),
        (["-v", "mime:bright"], ExitCode.PLUGIN, "No module named 'mime'"),
        (["-v", "mine:broken"], ExitCode.PLUGIN, "verifier mine:broken failed: AttributeError: "),
        (["-v", "mine:broken"], ExitCode.PLUGIN, ", at mine.py:14"),
        (["-v", "mine:crooked"], ExitCode.PLUGIN, "mine:crooked returned a tensor (64, 1, 8, 8)"),
        (["-v", "mine:bright", "-j", "mine:bright"], ExitCode.USAGE, "judges: name each once"),
        (["-v", "mine:bright", "-N", "4,0"], ExitCode.USAGE, "whole numbers of at least 1, as in"),
        (["-v", "mine:bright", "-N", "few"], ExitCode.USAGE, "whole numbers of at least 1, as in"),
        (["-v", "mine:bright", "--solver", "dopri5"], ExitCode.USAGE, "dopri5"),
        (["-v", "mine:bright", "--guidance", "2"], ExitCode.USAGE, "trained for scale 1 only"),
        (["-v", "mine:bright", "-r", "x.npz"], ExitCode.USAGE, "--reference needs --features"),
        (["-v", "mine:bright", "-f", "digit"], ExitCode.PLUGIN, "did you mean 'digits'?"),
        (["-v", "mine:bright", "--teacher", "gaussian.toml"], ExitCode.USAGE, "teacher do not fit"),
        (["-v", "mine:bright", "-o", "no/where"], ExitCode.USAGE, "does not exist: create it"),
        (["-v", "mine:bright", "-o", "mine.py"], ExitCode.USAGE, "is not an earlier search"),
        ([], ExitCode.USAGE, "Missing option '--verifier'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_message(finished, arguments, code, said):
    found = ffd(finished, "-n", "70", *arguments)
    assert found.exit_code == code, found.output
    assert said in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert {path.name for path in Path().iterdir()} <= {"mine.py", "__pycache__"}


def test_the_pages_python_runs_and_finds_what_it_says(finished):
    Path("runs").mkdir()
    Path("runs/digits").symlink_to(finished)
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/search.md", "exec"), names)
    assert names["images"].shape == (20, 1, 8, 8)
    assert names["best"] == {n: names["found"].chosen[n] for n in (4, 16)}
    assert names["bright"](names["images"], None).shape == (20,)


def test_ctrl_c_ends_a_search_and_leaves_nothing(finished):
    arguments = ["search", finished, "-v", "mine:slow", "-n", "2000", "-N", "512", "-o", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ffcore", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while not Path("called").exists():  # the search is on its way
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=300)
    assert process.returncode == ExitCode.INTERRUPTED, rest
    assert out == ""
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    assert {path.name for path in Path().iterdir()} <= {"mine.py", "__pycache__", "called"}
