"""`training.minutes`: a run times a step, and records the steps that fit."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from ffcore.recipe import Recipe, load_recipe
from ffcore.run.directory import RunDirectoryError
from ffcore.run.stages import run

TEXT = """
[teacher]
type = "mixture"
means = [[1.0, 0.0], [-1.0, 0.0]]
[student]
type = "mlp"
width = 8
depth = 2
[predictor]
type = "freeflow"
[corrector]
type = "vsd"
online = { type = "mlp", width = 8, depth = 2 }
[balancer]
type = "adaptive"
correction_from = 2
[training]
minutes = 0.004
batch = 16
threads = 1
[evaluation]
enabled = false
previews = 0
"""


class Listener:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def report(self, report: object) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


def recipe(folder: Path, *changes: str) -> Recipe:
    (folder / "x.toml").write_text(TEXT)
    return load_recipe(folder / "x.toml", changes)


def stored(directory: Path) -> tuple[dict[str, object], dict[str, object]]:
    tree = tomllib.loads((directory / "recipe.toml").read_text())
    return tree["training"], json.loads((directory / "provenance.json").read_text())["timed"]


def test_the_steps_come_from_the_time_and_are_recorded(tmp_path: Path) -> None:
    listener = Listener()
    run(recipe(tmp_path), tmp_path / "run", observer=listener)
    training, timed = stored(tmp_path / "run")
    assert training["minutes"] == "none"
    assert training["steps"] == timed["steps"]
    assert timed["minutes"] == 0.004
    assert timed["steps"] == max(1, round(60 * 0.004 / timed["seconds_per_step"]))  # type: ignore[operator]
    said = f"training.steps = {timed['steps']}: 0.004 minutes at "
    assert any(line.startswith(said) for line in listener.lines)


def test_the_same_command_shows_the_finished_run(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "run")
    before = (tmp_path / "run" / "student.safetensors").read_bytes()
    listener = Listener()
    run(recipe(tmp_path), tmp_path / "run", observer=listener)
    assert not any("minutes at" in line for line in listener.lines)
    assert (tmp_path / "run" / "student.safetensors").read_bytes() == before


def test_the_timed_steps_leave_no_trace(tmp_path: Path) -> None:
    """The student is that of a run that states these steps."""
    run(recipe(tmp_path), tmp_path / "timed")
    steps = stored(tmp_path / "timed")[0]["steps"]
    stated = recipe(tmp_path, "training.minutes=none", f"training.steps={steps}")
    run(stated, tmp_path / "stated")
    one, other = ((tmp_path / name / "student.safetensors") for name in ("timed", "stated"))
    assert one.read_bytes() == other.read_bytes()


def test_other_minutes_are_timed_anew(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "run")
    first = stored(tmp_path / "run")[0]["steps"]
    run(recipe(tmp_path, "training.minutes=0.04"), tmp_path / "run")
    training, timed = stored(tmp_path / "run")
    assert training["steps"] > first  # type: ignore[operator]
    assert (timed["minutes"], timed["steps"]) == (0.04, training["steps"])
    listener = Listener()
    run(recipe(tmp_path, "training.minutes=0.04"), tmp_path / "run", observer=listener)
    assert not any("minutes at" in line for line in listener.lines)


def test_stated_steps_come_from_no_time(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "run")
    steps = int(str(stored(tmp_path / "run")[0]["steps"])) + 1
    stated = recipe(tmp_path, "training.minutes=none", f"training.steps={steps}")
    run(stated, tmp_path / "run")
    training, timed = stored(tmp_path / "run")
    assert training["steps"] == steps
    assert timed is None


def test_another_run_is_still_refused(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"training\.batch"):
        run(recipe(tmp_path, "training.batch=17"), tmp_path / "run")
