"""`torchrun -m ffcore run`: what several processes leave, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from ffcore.cli import main
from ffcore.cli.exit_codes import ExitCode

RUN = ["run", "gaussian.toml", "--set", "training.batch=64", "--set", "evaluation.enabled=false"]
LONG = ["--set", "training.checkpoint_every=50", "--set", "training.log_every=50"]
PATIENCE = 1200.0
"""Seconds: a last resort, however slow the machine is."""
DIES = Path(__file__).parents[1] / "fakes" / "dies.py"


def command(
    directory: Path, *more: str, program: tuple[str, ...] = ("-m", "ffcore"), restarts: int = 0
) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    start += [f"--max-restarts={restarts}"]
    return [*start, *program, *RUN, *more, "--directory", str(directory)]


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


@contextmanager
def running(directory: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Processes that train; they are ended where a test leaves them."""
    launched = subprocess.Popen(
        command(directory, *more),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield launched
    finally:
        if launched.poll() is None:
            for child in children(launched.pid).values():
                os.kill(child, signal.SIGKILL)
            launched.kill()
        launched.communicate()


def children(parent: int) -> dict[int, int]:
    """The process numbers of what torchrun started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            environment = path.joinpath("environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        ranks = [each for each in environment if each.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = int(path.name)
    return found


def wait_for_steps(directory: Path, steps: int) -> None:
    """Return once the metrics of so many steps are there."""
    metrics, end = directory / "metrics.jsonl", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if lines and json.loads(lines[-1])["step"] >= steps:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no step {steps} in {metrics}")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_leave_the_student_of_one(tmp_path: Path, strategy: str) -> None:
    few = [*RUN, "--set", "training.steps=6", "--directory"]
    alone = CliRunner().invoke(main, [*few, str(tmp_path / "alone")])
    assert alone.exit_code == ExitCode.OK, alone.stderr
    shared = ["--set", f"parallel.strategy={strategy}", "--set", "parallel.accumulation=2"]
    together = forked.ffd(*few, str(tmp_path / "together"), *shared, ranks=2)
    assert together.codes == [ExitCode.OK] * 2, together.stderr
    assert together.stderr.count("run directory:") == 1
    one, two = (
        load_file(tmp_path / name / "student.safetensors") for name in ("alone", "together")
    )
    for name, expected in one.items():
        assert (two[name] - expected).abs().max() <= 1e-5
    leads, by_itself = (
        {path.name for name in (".", "previews") for path in (tmp_path / run / name).iterdir()}
        for run in ("together", "alone")
    )
    assert leads == by_itself


def test_a_dead_process_ends_the_others_and_is_named(tmp_path: Path) -> None:
    with running(tmp_path / "run", *LONG, "--set", "training.steps=100000") as launched:
        wait_for_steps(tmp_path / "run", 50)
        os.kill(children(launched.pid)[1], signal.SIGKILL)
        _, said = launched.communicate(timeout=PATIENCE)
    assert launched.returncode != 0
    assert "process 0 of 2 lost another process" in said
    assert "ffcore/training/loop.py" not in said  # no traceback
    cause = said[said.index("Root Cause") :]
    assert "rank      : 1" in cause
    assert "SIGKILL" in cause


def test_started_again_by_torchrun_a_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    length = ["--set", "training.steps=150"]
    whole = forked.ffd(*RUN, *LONG, *length, "--directory", str(tmp_path / "whole"), ranks=2)
    assert whole.codes == [ExitCode.OK] * 2, whole.stderr
    started = command(tmp_path / "run", *LONG, *length, program=(str(DIES), "120"), restarts=1)
    run = finish(started)
    assert run.returncode == ExitCode.OK, run.stderr
    assert "resuming after step" in run.stderr
    student = (tmp_path / "run" / "student.safetensors").read_bytes()
    assert student == (tmp_path / "whole" / "student.safetensors").read_bytes()


def test_a_signal_to_one_process_stops_all_after_a_checkpoint(tmp_path: Path) -> None:
    with running(tmp_path / "run", *LONG, "--set", "training.steps=100000") as launched:
        wait_for_steps(tmp_path / "run", 50)
        os.kill(children(launched.pid)[1], signal.SIGTERM)
        _, said = launched.communicate(timeout=PATIENCE)
    assert "stopped after step" in said
    assert f"exitcode  : {ExitCode.TERMINATED}" in said
    assert list((tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"))


def test_an_error_is_told_once_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    found = finish(command(tmp_path / "run"))
    assert found.stderr.count("is a file; a run needs a directory") == 1
    assert f"exitcode  : {ExitCode.USAGE}" in found.stderr
