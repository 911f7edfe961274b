"""Work that cannot fit is refused before it begins; stops and ends of pipes answer at once."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ffcore.cli import main
from ffcore.cli.exit_codes import ExitCode
from ffcore.recipe import RecipeError, load_recipe
from ffcore.run.directory import METRICS, PROVENANCE
from ffcore.run.previews import shown_steps
from ffcore.run.stages import run
from ffcore.sample.chunks import Chunks
from ffcore.sample.load import load_sampler
from ffcore.system.faults import (
    OutOfMemory,
    Unwritable,
    require_disk,
    require_memory,
    writable,
)

TINY = (
    "training.steps=2",
    "training.batch=8",
    "training.ema_decay=0.5",
    "evaluation.enabled=false",
    "evaluation.previews=0",
)


def ffd(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, words)
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(load_recipe("gaussian.toml", TINY), folder / "run")
    return folder / "run"


@pytest.mark.parametrize("name", ["x.npz", "new/x.npz"])
def test_samples_that_the_disk_cannot_hold_are_refused(
    finished: Path, tmp_path: Path, name: str
) -> None:
    code, output = ffd("sample", str(finished), "-n", "100000000000000", "-o", str(tmp_path / name))
    assert code == ExitCode.ENVIRONMENT
    assert "100000000000000 samples: needs" in output
    assert f"are free at {tmp_path}. Write fewer samples" in output
    assert [*tmp_path.iterdir()] == []


def test_samples_that_memory_cannot_hold_are_refused(finished: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"needs .* of memory, and this machine has"):
        load_sampler(finished)(10**14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.batch=1_000_000_000_000_000"], "training.batch = 1000000000000000: needs"),
        (
            ["evaluation.rows=1_000_000_000_000_000", "evaluation.previews=2"],
            "evaluation.rows = 1000000000000000: needs",
        ),
    ],
)
def test_a_run_that_memory_cannot_hold_is_refused(
    tmp_path: Path, changes: list[str], message: str
) -> None:
    sets = [word for each in (*TINY, *changes) for word in ("--set", each)]
    code, output = ffd("run", "gaussian.toml", "-d", str(tmp_path / "run"), *sets)
    assert code == ExitCode.ENVIRONMENT
    assert message in output
    assert not (tmp_path / "run").exists()


def test_previews_without_end_are_those_of_every_halving() -> None:
    assert shown_steps(12, 10**9) == {0, 1, 3, 6, 12}
    assert shown_steps(12, 3) == {0, 6, 12}


def test_sizes_are_told_in_a_unit_that_one_can_read(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"x: needs 1e\+06 PB of memory"):
        require_memory(10**21, "x", "y")
    with pytest.raises(Unwritable, match=r"x: needs 2e\+03 PB of disk, and .* are free at"):
        require_disk(tmp_path / "a" / "b", 2 * 10**18, "x", "y")
    require_memory(1, "x", "y")
    require_disk(tmp_path, 1, "x", "y")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    samples = np.zeros((10, 4096), np.float32)
    chunks = Chunks.beside(tmp_path / "x.npz", 10)
    chunks.directory.mkdir()
    (chunks.directory / "000000.partial").symlink_to("/dev/full")
    with (
        pytest.raises(Unwritable, match=r"the samples could not be written: No space.*free at"),
        writable(tmp_path, "the samples", remedy=""),
    ):
        chunks.put(0, samples)


def test_chunks_are_numpy_files(tmp_path: Path) -> None:
    chunks = Chunks.beside(tmp_path / "x.npz", 3)
    chunks.directory.mkdir()
    samples = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::-1]
    chunks.put(0, samples)
    (found,) = chunks
    assert found.dtype == samples.dtype
    assert (found == samples).all()


def test_a_reader_that_stops_ends_a_command_in_silence() -> None:
    script = f"{sys.executable} -m ffcore list-plugins | head -1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert found.stdout.splitlines()[-1] in ("141", "0")  # 0 if head read everything at once
    closed = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ffcore schema | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (closed.stdout, closed.stderr) == ("141\n", "")


def test_the_first_signal_says_what_the_command_waits_for(tmp_path: Path) -> None:
    sets = [word for each in (*TINY, "training.steps=100000") for word in ("--set", each)]
    command = [sys.executable, "-m", "ffcore", "run", "gaussian.toml", "-d", "run", *sets]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (tmp_path / "run" / METRICS).exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert "stopping: waiting for the current step or batch" in said
    assert "A second Ctrl-C stops at once." in said
    assert process.returncode == ExitCode.INTERRUPTED


DAMAGED = [
    *((PROVENANCE, each) for each in (b"\xff\xfe\x00", b"{", b"[]", b"3", b'{"changes": 3}')),
    *((METRICS, each) for each in (b"\xff\xfe\x00\n", b"{\n", b"[]\n", b'{"step": "x"}\n')),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_side_file_is_named(finished: Path, name: str, content: bytes) -> None:
    path = finished / name
    whole = path.read_bytes()
    sets = [word for each in TINY for word in ("--set", each)]
    command = ["run", "gaussian.toml", "-d", str(finished), *sets]
    try:
        path.write_bytes(content)
        code, output = ffd(*command)
        assert code == ExitCode.USAGE
        assert f"{path} is damaged" in output.replace("\n", "")
        path.unlink()
        assert ffd(*command)[0] == 0
        assert json.loads((finished / PROVENANCE).read_bytes())["changes"] == []
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "command",
    [["verify", "RUN", "--tolerance"], ["sample", "RUN", "--guidance"]],
)
def test_options_are_finite(finished: Path, command: list[str], word: str) -> None:
    code, output = ffd(*[str(finished) if each == "RUN" else each for each in command], word)
    assert code == ExitCode.USAGE
    assert command[-1] in output


def test_a_correction_that_never_begins_is_refused() -> None:
    load_recipe("digits.toml", ["balancer.correction_from=999"])
    with pytest.raises(RecipeError, match=r"must be less than training\.steps = 1000, found 1000"):
        load_recipe("digits.toml", ["balancer.correction_from=1000"])


def test_errno_of_a_full_disk_is_known() -> None:
    error: Any = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Unwritable, match="keep fewer checkpoints"), writable(Path(), "it"):
        raise error
