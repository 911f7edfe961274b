"""What the machine lacks: memory, room on the disk, the directory itself."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ffcore.cli import ExitCode, main
from ffcore.system.faults import OutOfMemory, Unwritable, enough_memory, writable

LIMITED = """
import resource, sys
from ffcore.cli import main
from ffcore.run.stages import run  # torch takes its memory first
kind, limit = getattr(resource, sys.argv[1]), int(sys.argv[2])
if sys.argv[1] == "RLIMIT_AS":
    limit += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(kind, (limit, limit))
main(sys.argv[3:])
"""
RUN = [
    "run", "gaussian.toml", "-d", "here", "--set", "evaluation.enabled=false",
    "--set", "training.steps=4", "--set", "training.checkpoint_every=2",
    "--set", "student.width=64",
]  # fmt: skip


def start(
    folder: Path, *arguments: str, limit: tuple[str, int]
) -> subprocess.CompletedProcess[str]:
    """`ffd run`, with a limit of the system's on it."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, limit[0], str(limit[1]), *RUN, *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_disk_without_room_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is(
    tmp_path, monkeypatch
):
    """A limit on the size of files, which the optimizer's moments exceed."""
    monkeypatch.chdir(tmp_path)
    first = CliRunner().invoke(main, [*RUN, "--set", "training.steps=2"], prog_name="ffd")
    assert first.exit_code == ExitCode.OK, first.output
    few = ("--set", "evaluation.previews=0")  # a picture would be the first to exceed it
    found = start(tmp_path, *few, limit=("RLIMIT_FSIZE", 10_000))
    assert found.returncode == ExitCode.ENVIRONMENT, found.stderr
    said = found.stderr.splitlines()[-1]
    assert said.startswith("the checkpoint of step 4 could not be written: File too large (")
    assert "training.keep_last" in said
    assert "Traceback" not in found.stderr
    assert names(tmp_path / "here" / "checkpoints") == ["step-00000002"]
    again = CliRunner().invoke(main, RUN, prog_name="ffd")
    assert again.exit_code == ExitCode.OK, again.output
    assert "resuming after step 2 of 4" in again.stderr


def test_memory_that_runs_out_in_a_step_is_told_with_what_needs_less(tmp_path):
    found = start(tmp_path, "--set", "training.batch=4000000", limit=("RLIMIT_AS", 500_000_000))
    assert found.returncode == ExitCode.ENVIRONMENT, found.stderr
    said = found.stderr.splitlines()[-1]
    assert said.startswith("step 1: out of memory. ")
    for key in (
        "training.batch",
        "parallel.accumulation",
        "parallel.activation_checkpointing",
        "'fsdp'",
    ):
        assert key in said
    assert "Traceback" not in found.stderr


def test_memory_that_runs_out_in_building_is_told(tmp_path):
    found = start(tmp_path, "--set", "student.width=30000", limit=("RLIMIT_AS", 500_000_000))
    assert found.returncode == ExitCode.ENVIRONMENT, found.stderr
    said = found.stderr.splitlines()[-1]
    assert said.startswith("building the networks: out of memory. You tried to allocate ")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (MemoryError(), ""),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 4000 bytes. Error code 12 (Cannot allocate)"
            ),
            "You tried to allocate 4000 bytes. ",
        ),
        # As CUDA's allocator words it: there is none here.
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79"
            ),
            "Tried to allocate 20.00 GiB. ",
        ),
    ],
)
def test_what_runs_out_of_memory_is_known_on_every_device(error, amount):
    with (
        pytest.raises(OutOfMemory, match=rf"^here: out of memory\. {amount}Do that\.$") as caught,
        enough_memory("here", "Do that."),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("here", "Do that."):
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"No space left on device \([\d,.]+ MB are free at .*\)\. Free some space"),
        (errno.EDQUOT, r"Disk quota exceeded \([\d,.]+ MB"),
        (errno.EROFS, r"Read-only file system: file\.x$"),
        (errno.EIO, r"Input/output error"),
    ],
)
def test_why_a_directory_cannot_be_written_is_told(number, said, tmp_path):
    with (
        pytest.raises(Unwritable, match=rf"^the thing could not be written: .*{said}"),
        writable(tmp_path, "the thing"),
    ):
        raise OSError(number, os.strerror(number), "file.x")


def test_a_directory_that_is_gone_is_told(tmp_path):
    with (
        pytest.raises(Unwritable, match=r"run no longer exists$"),
        writable(tmp_path / "run", "it"),
    ):
        (tmp_path / "run" / "x").write_text("")
