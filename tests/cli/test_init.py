"""`ffd init`: the recipe it writes runs, and says why."""

from __future__ import annotations

import tomllib
from pathlib import Path

from click.testing import CliRunner

from ffcore.cli.commands import main
from ffcore.recipe import load_recipe

TEACHER = '[teacher]\ntype = "gaussian"\nmean = [1.0, 2.0]\n'


def test_it_writes_what_a_run_would_choose(tmp_path: Path) -> None:
    teacher, out = tmp_path / "teacher.toml", tmp_path / "mine.toml"
    teacher.write_text(TEACHER)
    said = CliRunner().invoke(main, ["init", str(teacher), "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert said.stdout == f"wrote {out}: ffd run {out}\n"
    assert load_recipe(out) == load_recipe(teacher)
    text = out.read_text()
    assert 'type = "mlp"  # made for vectors, here of 2' in text
    assert list(tomllib.loads(text))[:3] == ["teacher", "student", "predictor"]


def test_it_keeps_what_is_stated_without_a_comment(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.toml"
    teacher.write_text(TEACHER)
    said = CliRunner().invoke(main, ["init", str(teacher), "--set", "training.minutes=3"])
    tree = tomllib.loads(said.stdout)
    assert tree["training"]["minutes"] == 3
    assert "steps" not in tree["training"]
    assert "minutes = 3\n" in said.stdout


def test_it_replaces_no_file(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.toml"
    teacher.write_text(TEACHER)
    said = CliRunner().invoke(main, ["init", str(teacher), "--out", str(teacher)])
    assert said.exit_code == 2
    assert "exists: choose another file" in said.output
    assert teacher.read_text() == TEACHER
