"""The students of unfinished runs, and of checkpoints."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import interrupted, small

from ffcore.evaluate.evaluator import evaluate_again
from ffcore.evaluate.pair import Pair
from ffcore.export import SourceError, export, load_student, read_student
from ffcore.run.stages import run
from ffcore.sample.load import load_sampler

OWN = ("training.ema_decay=[0.5, 0.9]", "evaluation.ema_decay=0.9", "optimizer.schedule=constant")


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that breaks off after step 4, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    interrupted(small("evaluation.enabled=false", *OWN), folder, 4)
    assert sorted(path.name[-1] for path in (folder / "checkpoints").iterdir()) == ["2", "4"]
    return folder


def average(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The measured EMA in a checkpoint, read without ffcore."""
    files = (run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")
    tensors = {name: each for path in files for name, each in load_file(path).items()}
    prefix = "ema/0.9/"
    return {n.removeprefix(prefix): e for n, e in tensors.items() if n.startswith(prefix)}


@pytest.mark.parametrize(("place", "step"), [("", 4), ("checkpoints/step-00000002", 2)])
def test_it_is_the_measured_average_of_that_step_and_this_is_said(
    place: str, step: int, unfinished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ffcore"):
        found = load_student(unfinished / place).state_dict()
    expected = average(unfinished, step)
    assert found.keys() == expected.keys()
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
    assert f"using the EMA of decay 0.9 after step {step}" in caplog.text
    assert ("has not finished" in caplog.text) == (place == "")


def test_it_samples_as_the_finished_run_of_so_many_steps_does(
    unfinished: Path, tmp_path: Path
) -> None:
    run(small("evaluation.enabled=false", "training.steps=4", *OWN), tmp_path)
    found = load_sampler(unfinished)(8, seed=1)
    assert torch.equal(found, load_sampler(tmp_path)(8, seed=1))


def test_a_run_that_was_made_longer_is_unfinished_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(small("evaluation.enabled=false", "training.steps=2", *OWN), tmp_path)
    load_student(tmp_path)
    assert "using the EMA" not in caplog.text
    interrupted(small("evaluation.enabled=false", *OWN), tmp_path, 4)
    found = load_student(tmp_path).state_dict()
    assert "has not finished: using the EMA of decay 0.9 after step 4" in caplog.text
    assert all(torch.equal(each, average(tmp_path, 4)[name]) for name, each in found.items())


def test_it_can_be_evaluated_verified_and_exported(unfinished: Path, tmp_path: Path) -> None:
    place = unfinished / "checkpoints" / "step-00000002"
    numbers = [evaluate_again(each)[0].distances for each in (unfinished, place)]
    assert numbers[0] != numbers[1]
    assert Pair.open(place).recipe.training.steps == 6
    export(place, tmp_path / "out")
    config = read_student(tmp_path / "out" / "student.safetensors").config
    assert (config["step"], config["ema_decay"]) == (2, 0.9)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- training steps: 2 of 6\n" in card
    assert "This student was not evaluated." in card


def test_a_damaged_checkpoint_is_passed_over_but_left_alone(
    unfinished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(unfinished, tmp_path / "run"))
    newest = copy / "checkpoints" / "step-00000004"
    next(newest.glob("*.safetensors")).write_bytes(b"")
    load_student(copy)
    assert "after step 2" in caplog.text
    assert newest.is_dir()
    with pytest.raises(SourceError, match="step-00000004 is damaged"):
        load_student(newest)
    shutil.rmtree(copy / "checkpoints" / "step-00000002")
    with pytest.raises(SourceError, match=r"has no student yet: .* no whole checkpoint"):
        load_student(copy)


def test_a_run_without_a_description_is_told_what_writes_it(
    unfinished: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(unfinished, tmp_path / "run"))
    (copy / "student.json").unlink()
    with pytest.raises(SourceError, match=r"no student\.json, .* the same `ffd run` writes it"):
        load_student(copy)
    found = json.loads((unfinished / "student.json").read_text())
    (copy / "student.json").write_text(json.dumps({**found, "ema_decay": 0.7}))
    with pytest.raises(Exception, match=r"does not fit .*\n  missing: ema/0\.7/"):
        load_student(copy)
