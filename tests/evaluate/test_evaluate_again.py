"""A run's own evaluation, made again: the same numbers to the last digit, or a refusal."""

import json
import re
import shutil
from pathlib import Path

import attrs
import pytest
from small_runs import small

from ffcore.evaluate.evaluator import REFERENCE, evaluate_again
from ffcore.export import EVALUATION, SourceError, export
from ffcore.recipe.components import BuildError
from ffcore.run.stages import run
from ffcore.system.files import MissingFile
from ffcore.system.weights import read_weights, write_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, `run`, another that names the first one's reference, `named`, and exports."""
    place = tmp_path_factory.mktemp("evaluator")
    run(small(), place / "run")
    run(small(f"evaluation.reference={place / 'run' / REFERENCE}"), place / "named")
    for name in ("run", "named"):
        export(place / name, place / f"{name}-export")
    return place


def stored(directory: Path) -> object:
    return json.loads((directory / EVALUATION).read_text())


def again(source: Path, *overrides: str) -> tuple[object, tuple[str, ...]]:
    found, notes = evaluate_again(source, overrides=overrides)
    return json.loads(json.dumps(attrs.asdict(found))), notes


def test_a_run_repeats_its_numbers_to_the_last_digit(folder):
    assert again(folder / "run") == (stored(folder / "run"), ())
    assert again(folder / "named") == (stored(folder / "named"), ())


def test_so_does_an_export_which_samples_its_teacher_where_no_statistics_lie(folder):
    found, notes = again(folder / "run-export")
    assert found == stored(folder / "run")
    assert "it was sampled again" in notes[0]


def test_an_export_whose_reference_is_elsewhere_says_how_to_name_it(folder, monkeypatch):
    monkeypatch.chdir(folder)  # an export keeps the name of the file, and not its place
    with pytest.raises(MissingFile, match=r"--set evaluation\.reference=PATH"):
        again(folder / "named-export")
    override = f"evaluation.reference={folder / 'run' / REFERENCE}"
    assert again(folder / "named-export", override) == (stored(folder / "named"), ())
    found, _ = again(folder / "named-export", "evaluation.reference=none")
    assert found == stored(folder / "named")


def test_another_number_of_samples_gives_other_numbers_by_a_teacher_sampled_once_more(folder):
    found, notes = again(folder / "run", "evaluation.samples=32")
    assert found["distances"] != stored(folder / "run")["distances"]
    assert found["trajectory_error"] == stored(folder / "run")["trajectory_error"]
    assert notes


def test_a_reference_of_another_teacher_is_refused(folder, tmp_path):
    kept = read_weights(str(folder / "run" / REFERENCE))
    other = {**kept.config["identity"], "teacher": "another"}
    write_weights(tmp_path / "r.safetensors", kept.tensors, {**kept.config, "identity": other})
    with pytest.raises(BuildError, match="teacher: the reference has another"):
        again(folder / "run", f"evaluation.reference={tmp_path / 'r.safetensors'}")


@pytest.mark.parametrize("override", ["training.steps=7", "student.width=8", "guidance.scale=2"])
def test_what_made_the_student_cannot_be_set(folder, override):
    with pytest.raises(SourceError, match="keys of the teacher and the evaluation"):
        again(folder / "run", override)


def test_more_threads_than_there_are_cpus_are_refused(folder, tmp_path):
    """A recipe comes from a larger machine."""
    place = tmp_path / "run"
    shutil.copytree(folder / "run", place)
    text = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(re.sub(r"(?m)^threads = .*$", "threads = 100000", text))
    with pytest.raises(BuildError, match=r"\[training\] threads is 100000"):
        again(place)
