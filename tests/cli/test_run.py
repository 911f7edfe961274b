"""`ffd run`, as a person meets it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main
from ffcore.cli.run import Observer

TINY = [
    "--set", "training.steps=4", "--set", "training.batch=32", "--set", "training.log_every=2",
    "--set", "evaluation.samples=32", "--set", "evaluation.solver.steps=4",
    "--set", "evaluation.euler=[1, 2]",
]  # fmt: skip


PATIENCE = 300.0  # seconds, after which a process is taken to hang


def ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="ffd")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)


def test_a_run_prints_its_results_and_leaves_its_pictures(tmp_path):
    found = ffd("run", "gaussian.toml", *TINY)
    assert found.exit_code == ExitCode.OK, found.stderr
    assert "student, 1 step" in found.stdout
    assert "Euler, 2 steps" in found.stdout
    assert "teacher, converged" in found.stdout
    last = found.stdout.strip().splitlines()[-1]
    assert last == "No verdict: 32 samples are too few, at least 100 are needed."
    assert "train 4/4 loss" in found.stderr
    assert re.search(r"time per step [\d.]+ ms: \w+ [\d.]+, ", found.stderr)
    assert re.search(r"\d+ samples per second, peak memory \d\.\d\d GiB", found.stderr)
    assert (tmp_path / "runs" / "gaussian" / "samples.png").exists()
    assert all(len(line) <= 80 for line in found.stdout.splitlines())


def test_a_run_ends_with_the_verdict_that_the_report_and_the_evaluation_say_too(tmp_path):
    bad = ["--set", "evaluation.samples=200", "--set", "optimizer.learning_rate=0.5"]
    found = ffd("run", "gaussian.toml", *TINY, *bad)
    verdict = json.loads((tmp_path / "runs/gaussian/evaluation.json").read_text())["verdict"]
    sentence = verdict["1"]["sentence"]
    assert sentence.startswith("one step is worth ")
    told = f"O{sentence[1:]}."
    assert " ".join(found.stdout.split()).endswith(told)
    again = ffd("evaluate", "runs/gaussian")
    assert " ".join(again.stdout.split()).endswith(told)
    ffd("report", "runs/gaussian")
    assert told in (tmp_path / "runs/gaussian/report.html").read_text()
    ffd("export", "runs/gaussian", "--out", "out")
    assert f"**{told[:-1]}.**" in (tmp_path / "out/README.md").read_text()


def test_a_student_that_starts_anywhere_has_a_row_for_each_number_of_steps(tmp_path):
    steps = ["--set", "student.starts_at='anywhere'", "--set", "evaluation.student_steps=[2, 4]"]
    found = ffd("run", "gaussian.toml", *TINY, *steps)
    assert found.exit_code == ExitCode.OK, found.stderr
    rows = [line.strip().split("  ")[0] for line in found.stdout.splitlines() if "student" in line]
    assert rows == ["student, 1 step", "student, 2 steps", "student, 4 steps"]


def test_json_is_one_document_on_stdout(tmp_path):
    found = ffd("run", "gaussian.toml", "--json", "-d", "here", *TINY)
    document = json.loads(found.stdout)
    assert document["directory"] == "here"
    assert document["evaluation"]["distances"]["raw"]["student"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.toml"], ExitCode.USAGE, "nowhere.toml: no such file"),
        (["gaussian.toml", "--set", "training.stepz=4"], ExitCode.USAGE, "did you mean 'steps'"),
        (["gaussian.toml", "--set", "training.steps=4.5"], ExitCode.USAGE, "must be an integer"),
        (["gaussian.toml", "--set", "student.type='mlpp'"], ExitCode.PLUGIN, "did you mean 'mlp'"),
        (
            ["gaussian.toml", "--set", "predictor.delta.high=1.5"],
            ExitCode.USAGE,
            "[predictor.delta] high: must be at least 0 and at most 1, found 1.5",
        ),
        (
            ["gaussian.toml", "--set", "evaluation.student_steps=[1, 2]"],
            ExitCode.USAGE,
            "[evaluation] student_steps: must be only 1, since the student starts at the prior",
        ),
        (
            ["mixture.toml", "--set", "balancer.correction=1.2"],
            ExitCode.USAGE,
            "[balancer] correction: must be at least 0 and at most 1, found 1.2",
        ),
        (
            ["digits.toml", "--set", "teacher.weights='gone.safetensors'"],
            ExitCode.ENVIRONMENT,
            "--set teacher.weights=PATH",
        ),
        (["gaussian.toml", "--set", "guidance.scale=2.0"], ExitCode.USAGE, "cannot be guided"),
        (
            ["gaussian.toml", "-d", "occupied"],
            ExitCode.USAGE,
            "holds files that are not a run's",
        ),
    ],
)
def test_bad_input_gets_one_message_and_leaves_nothing(tmp_path, arguments, code, said):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "notes.txt").write_text("mine")
    found = ffd("run", *arguments)
    assert found.exit_code == code, found.stderr
    assert said in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["occupied", "occupied/notes.txt"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGUSR1, ExitCode.TERMINATED),
    ],
)
def test_a_signal_stops_after_a_checkpoint_and_the_same_command_goes_on(
    tmp_path, monkeypatch, number, code
):
    """The signal comes from this process; tests of several processes send it from outside."""
    command = ["run", "gaussian.toml", "-d", "here", "--set", "training.steps=4"]
    command += ["--set", "training.log_every=1", "--set", "evaluation.enabled=false"]

    class Signalled(Observer):
        def report(self, report):
            super().report(report)
            if report.step == 2:
                signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr("ffcore.cli.run.Observer", Signalled)
        stopped = ffd(*command)
    assert stopped.exit_code == code, stopped.output
    assert "run it again to continue from there" in stopped.stderr
    assert list((tmp_path / "here" / "checkpoints").glob("step-*"))
    again = ffd(*command)
    assert again.exit_code == ExitCode.OK, again.output
    assert "resuming after step" in again.stderr


SLOW_DISK = """
import os, sys, time
from ffcore.training.checkpoint.snapshot import Snapshot
from ffcore.cli import main
from ffcore.cli.signals import Signals
write = Snapshot.write
def slow(snapshot):
    found = write(snapshot)
    if snapshot.writer.path.name == ".step-00000004.partial":
        print("writing", file=sys.stderr, flush=True)
        time.sleep(3600)
    return found
Snapshot.write = slow
take = Signals._take
def told(signals, *arguments):
    take(signals, *arguments)
    os.write(2, b"asked to stop\\n")
Signals._take = told
main(sys.argv[1:])
"""


def test_a_second_signal_ends_a_run_at_once_while_a_checkpoint_is_being_written(tmp_path):
    arguments = ["run", "gaussian.toml", "-d", "here", "--set", "evaluation.enabled=false"]
    arguments += ["--set", "training.steps=100000", "--set", "training.checkpoint_every=2"]
    command = [sys.executable, "-c", SLOW_DISK, *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while running.stderr.readline() != "writing\n":
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        while not running.stderr.readline().endswith("asked to stop\n"):
            assert running.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):  # the first waits for what is written
            running.wait(1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == ExitCode.TERMINATED
    left = sorted(path.name for path in (tmp_path / "here" / "checkpoints").iterdir())
    assert left == [".step-00000004.partial", "step-00000002"]
    again = ffd(*arguments[:-4], "--set", "training.steps=4")
    assert again.exit_code == ExitCode.OK, again.stderr
    assert "resuming after step 2 of 4" in again.stderr
    left = sorted(path.name for path in (tmp_path / "here" / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004"]


def test_results_are_printed_in_a_locale_that_lacks_their_letters():
    runner = CliRunner(charset="ascii")
    found = runner.invoke(main, ["run", "gaussian.toml", *TINY], prog_name="ffd")
    assert found.exit_code == ExitCode.OK, found.output
    assert "student, 1 step" in found.stdout
    assert "?" in found.stdout
