"""Real runs to report on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import interrupted, small

from ffcore.run.stages import run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs by what they are; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    run(small(), folder / "whole")
    run(small("training.seed=1", "evaluation.euler=[1, 4]"), folder / "comparable")
    run(small("evaluation.samples=101"), folder / "other")
    run(small("evaluation.enabled=false", "evaluation.previews=0"), folder / "bare")
    interrupted(small(), folder / "unfinished", 4)
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the runs, to change it."""
    return lambda name: shutil.copytree(runs / name, tmp_path / name)
