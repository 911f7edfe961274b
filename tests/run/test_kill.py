"""A run that is killed again and again; `benchmarks/faults/kill.py` does it a hundred times."""

import subprocess
import sys
from pathlib import Path

KILL = Path(__file__).parents[2] / "benchmarks" / "faults" / "kill.py"


def test_a_run_that_is_killed_and_resumed_ends_where_it_would_have_ended():
    found = subprocess.run(
        [sys.executable, str(KILL), "--recipe", "gaussian.toml", "--kills", "6"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "6 kills" in found.stdout
    assert "57 tensors equal, metrics equal" in found.stdout
