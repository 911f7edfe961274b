"""`ffd export`, as a person meets it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from forked import ffd

from ffcore.cli import ExitCode
from ffcore.cli.export import export
from ffcore.recipe import load_recipe
from ffcore.run.stages import run

FILES = ["student.safetensors", "config.json", "README.md", "recipe.toml"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    place = tmp_path_factory.mktemp("runs") / "run"
    overrides = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]
    run(load_recipe("gaussian.toml", [*overrides, "student.width=16"]), place)
    return place


def test_an_export_is_told_in_a_line_and_ffd_sample_takes_it(finished, tmp_path):
    found = ffd("export", str(finished), "--out", "out", folder=tmp_path)
    assert found.codes == [ExitCode.OK], found.stderr
    assert found.stdout == f"out: {', '.join(FILES)}\n"
    assert "Warning" not in found.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    found = ffd("sample", "out", "-n", "4", "--out", "samples.npz", folder=tmp_path)
    assert found.codes == [ExitCode.OK], found.stderr
    assert (tmp_path / "samples.npz").exists()


def test_json_is_one_document_on_stdout(finished, tmp_path):
    out = str(tmp_path / "out")
    found = CliRunner().invoke(export, [str(finished), "--out", out, "--json"])
    assert json.loads(found.stdout) == {"schema": 1, "directory": out, "files": FILES}


def test_what_cannot_be_exported_gets_one_message_and_leaves_nothing(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "notes.txt").write_text("mine")
    for arguments, environment, code, said in (
        (["empty", "--out", "out"], {}, ExitCode.USAGE, "empty is not a run directory"),
        (
            [str(finished), "--out", "occupied", "--overwrite"],
            {},
            ExitCode.USAGE,
            "exists and is not an earlier export",
        ),
        (
            [str(finished), "--out", "out"],
            {"FFCORE_DISABLE_PLUGINS": "mlp"},
            ExitCode.PLUGIN,
            "'mlp'",
        ),
        ([str(finished), "--out", "occupied/notes.txt/out"], {}, ExitCode.ENVIRONMENT, "notes.txt"),
    ):
        found = ffd("export", *arguments, folder=tmp_path, environment=environment)
        assert found.codes == [code], found.stderr
        assert said in " ".join(found.stderr.split())
        assert "Traceback" not in found.stderr
        assert found.stdout == ""
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["empty", "occupied", "occupied/notes.txt"]
