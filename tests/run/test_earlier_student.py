"""A run that starts from an earlier student."""

import shutil
from pathlib import Path

import pytest
import torch
from observers import Listens
from small_runs import interrupted, small

from ffcore.export import SourceError, export, load_student, read_student
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore.system.weights import WeightsError, read_weights, write_weights
from ffcore.training.checkpoint import CheckpointError

QUICK = ("evaluation.enabled=false", "evaluation.previews=0", "predictor.derivative=dual")
FORMS = ("finished", "exported", "finished/student.safetensors", "unfinished",
         "unfinished/checkpoints/step-00000002")  # fmt: skip


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An earlier student in every form."""
    folder = tmp_path_factory.mktemp("earlier")
    run(small(*QUICK), folder / "finished")
    export(folder / "finished", folder / "exported")
    interrupted(small(*QUICK), folder / "unfinished", 4)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_run_starts_from_an_earlier_student(earlier: Path, form: str) -> None:
    said: list[str] = []
    built = build(small(*QUICK, f"student.weights={earlier / form}"), say=said.append)
    expected = load_student(earlier / form).state_dict()
    for network in (built.distillation.student, built.student):  # the EMA too
        assert all(torch.equal(e, expected[name]) for name, e in network.state_dict().items())
    step = {"unfinished": 4, FORMS[-1]: 2}.get(form, 6)
    assert len(said) == 1
    assert f"the student starts from the EMA of decay 0.99 after step {step} in" in said[0]


def test_a_resumed_run_and_its_student_do_not_need_it(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier / "exported", tmp_path / "first")
    recipe = small(*QUICK, f"student.weights={tmp_path / 'first'}")
    interrupted(recipe, tmp_path / "run", 4)
    run(recipe, tmp_path / "whole")
    shutil.rmtree(tmp_path / "first")
    listens = Listens()
    run(recipe, tmp_path / "run", observer=listens)
    assert not any("starts from" in each for each in listens.said)
    found = load_student(tmp_path / "run").state_dict()
    expected = load_student(tmp_path / "whole").state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
    assert read_student(tmp_path / "run" / "student.safetensors").config["student"]["weights"] == (
        "none"
    )
    with pytest.raises(SourceError, match=r"student\.weights: .* does not exist"):
        run(recipe, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ("finished", WeightsError, r"the file has \(16, 83\), the network \(8, 83\)"),
        ("unfinished", CheckpointError, r"\(16, 83\) in the checkpoint, \(8, 83\) in the recipe"),
    ],
)
def test_other_shapes_are_refused_with_both(
    earlier: Path, form: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(small(*QUICK, "student.width=8", f"student.weights={earlier / form}"))


def test_no_class_that_a_file_names_is_imported(earlier: Path, tmp_path: Path) -> None:
    weights = read_weights(str(earlier / "finished" / "student.safetensors"))
    config = {**weights.config, "student": {"type": "no_such_module:Class"}}
    write_weights(tmp_path / "student.safetensors", weights.tensors, config)
    built = build(small(*QUICK, f"student.weights={tmp_path / 'student.safetensors'}"))
    found = built.distillation.student.state_dict()
    assert all(torch.equal(each, weights.tensors[name]) for name, each in found.items())


def test_a_transformer_starts_from_one(tmp_path: Path) -> None:
    short = ("training.steps=1", "training.batch=8", "corrector=none", *QUICK)
    run(load_recipe("digits.toml", short), tmp_path / "first")
    built = build(load_recipe("digits.toml", [*short, f"student.weights={tmp_path / 'first'}"]))
    expected = load_student(tmp_path / "first").state_dict()
    found = built.distillation.student.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
