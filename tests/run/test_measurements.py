"""Measurements during training: they change nothing, go on after a stop, and choose the best."""

import json
from pathlib import Path
from typing import get_args

import forked
import pytest
import torch
from safetensors.torch import load_file

from ffcore.evaluate import EvaluationError
from ffcore.evaluate.verdict import MEASURES
from ffcore.recipe import Recipe, RecipeError, load_recipe
from ffcore.recipe.components import BuildError
from ffcore.recipe.tables import Kept
from ffcore.run.best import BEST
from ffcore.run.directory import METRICS
from ffcore.run.measurements import Measurements
from ffcore.run.stages import run
from ffcore.system.weights import read_weights
from ffcore.training.loop import Stopped

SMALL = (
    "training.steps=12",
    "training.batch=64",
    "training.log_every=4",
    "training.checkpoint_every=5",
    "training.threads=1",
    "optimizer.learning_rate=0.05",
    "optimizer.schedule=constant",
    "training.ema_decay=0",
    "student.width=16",
    "evaluation.samples=400",
    "evaluation.solver.steps=8",
    "evaluation.euler=[1, 2]",
    "evaluation.previews=0",
    "evaluation.every=2",
)
CHOOSES = ("evaluation.keep_best=energy",)


def small(*overrides: str) -> Recipe:
    """A run whose last student is not its best: its learning rate overshoots."""
    overshoots = ("corrector=none", "optimizer.learning_rate=0.4")
    return load_recipe("mixture.toml", [*SMALL, *overshoots, *overrides])


def measured(directory: Path) -> dict[int, dict[str, float]]:
    """The measures in the metrics, by step."""
    lines = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
    found = ("measure/", "interval/")
    return {
        line["step"]: {name: each for name, each in line.items() if name.startswith(found)}
        for line in lines
        if "measure/energy" in line
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def stopped(recipe: Recipe, directory: Path, after: int) -> None:
    """Begin a run and stop it after a step."""
    began = (directory / METRICS).exists
    with pytest.raises(Stopped):
        run(recipe, directory, stop=lambda: began() and _steps(directory) >= after)


def _steps(directory: Path) -> int:
    return int(json.loads((directory / METRICS).read_text().splitlines()[-1])["step"])


def test_the_measures_that_may_choose_are_those_of_the_verdict():
    assert set(get_args(Kept)) == MEASURES.keys()


def test_measures_come_at_their_steps_and_at_the_end_and_change_no_weight(tmp_path):
    off = "evaluation.enabled=false"
    run(small(off, "evaluation.every=5"), tmp_path / "with")
    run(small(off, "evaluation.every=none"), tmp_path / "without")
    found = measured(tmp_path / "with")
    assert list(found) == [5, 10, 12]
    assert {"measure/coverage", "interval/coverage", "measure/frechet"} <= found[5].keys()
    assert measured(tmp_path / "without") == {}
    students = (weights(tmp_path / name / "student.safetensors") for name in ("with", "without"))
    assert same(*students)


def test_a_resumed_run_measures_and_chooses_as_an_uninterrupted_one(tmp_path):
    recipe = small("evaluation.enabled=false", *CHOOSES)
    run(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "parts", 6)
    run(recipe, tmp_path / "parts")
    assert measured(tmp_path / "parts") == measured(tmp_path / "whole")
    students = [tmp_path / name / "student.safetensors" for name in ("whole", "parts")]
    assert same(*map(weights, students))
    assert len({read_weights(str(each)).config["step"] for each in students}) == 1


def test_the_best_is_the_student_and_is_evaluated_on_other_noise(tmp_path):
    evaluation = run(small(*CHOOSES), tmp_path)
    found = {step: each["measure/energy"] for step, each in measured(tmp_path).items()}
    best = min(found, key=lambda step: found[step])
    assert best < 12  # so that it matters: this learning rate overshoots
    assert evaluation is not None
    assert evaluation.best == {"step": best, "measure": "energy", "value": found[best]}
    assert evaluation.measures["raw"]["energy"].student[1].value != found[best]
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["best"]["step"] == best
    assert read_weights(str(tmp_path / "student.safetensors")).config["step"] == best
    run(small("evaluation.enabled=false", f"training.steps={best}"), tmp_path / "short")
    short, chosen = (
        weights(folder / "student.safetensors") for folder in (tmp_path / "short", tmp_path)
    )
    assert same(short, chosen)


def test_a_finished_run_may_take_the_last_student_and_its_best_again(tmp_path):
    chosen = small("evaluation.enabled=false", *CHOOSES)
    run(chosen, tmp_path)
    first = weights(tmp_path / "student.safetensors")
    run(chosen, tmp_path)
    assert same(first, weights(tmp_path / "student.safetensors"))
    run(small("evaluation.enabled=false"), tmp_path)
    last = read_weights(str(tmp_path / "student.safetensors"))
    assert last.config["step"] == 12
    run(chosen, tmp_path)
    assert same(first, weights(tmp_path / "student.safetensors"))


def test_a_finished_run_refuses_a_choice_that_it_cannot_make_any_more(tmp_path):
    off = "evaluation.enabled=false"
    run(small(off, *CHOOSES), tmp_path / "chosen")
    first = weights(tmp_path / "chosen" / "student.safetensors")
    for key in ("evaluation.seed=3", "evaluation.samples=600", "evaluation.keep_best=coverage"):
        with pytest.raises(
            BuildError, match="finished, and its best student was chosen in another"
        ):
            run(small(off, *CHOOSES, key), tmp_path / "chosen")
    run(small(off, *CHOOSES), tmp_path / "chosen")
    assert same(first, weights(tmp_path / "chosen" / "student.safetensors"))
    run(small(off), tmp_path / "last")
    with pytest.raises(BuildError, match="finished, and it kept no best student"):
        run(small(off, *CHOOSES), tmp_path / "last")


def test_a_stored_best_of_a_step_that_runs_again_does_not_count(tmp_path):
    recipe = small("evaluation.enabled=false", *CHOOSES)
    run(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "parts", 6)
    (tmp_path / "parts" / BEST).mkdir(exist_ok=True)
    (kept,) = (tmp_path / "whole" / BEST).iterdir()
    (tmp_path / "parts" / BEST / "step-00000011.safetensors").write_bytes(kept.read_bytes())
    run(recipe, tmp_path / "parts")
    names = [
        sorted(each.name for each in (tmp_path / name / BEST).iterdir())
        for name in ("whole", "parts")
    ]
    assert "step-00000011.safetensors" not in names[1]
    assert names[0][-1] == names[1][-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.every=none", *CHOOSES], "keep_best: must be 'none'"),
        (["evaluation.samples=199"], "evaluation.samples of at least 200"),
        (["evaluation.features=[]"], "evaluation.features names nothing"),
    ],
)
def test_measurements_that_are_not_possible_are_refused(overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message):
        small(*overrides)


def test_a_student_that_diverges_is_named_with_its_step(tmp_path):
    wild = ("optimizer.learning_rate=1e30", "training.clip=none", "training.on_nonfinite=skip")
    with pytest.raises(EvaluationError, match="cannot be measured after step 3: features raw"):
        run(small("evaluation.every=3", *wild), tmp_path)


def test_a_measure_that_the_samples_do_not_have_is_refused_before_training(tmp_path):
    with pytest.raises(BuildError, match="no measure 'accuracy'; possible: frechet, energy"):
        run(small("evaluation.keep_best=accuracy"), tmp_path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("energy", [-0.1, 0.02, 0.5]),
        ("accuracy", [0.99, 0.9, 0.2]),
        ("coverage", [0.8, 1.1, 3.0]),
        ("sharpness", [1.0, 1.1, 0.5, 3.0]),
    ],
)
def test_excess_grows_with_the_distance_from_the_teachers_own(name: str, values: list[float]):
    measurements = object.__new__(Measurements)
    own = {"energy": 0.01, "accuracy": 0.95, "coverage": 0.3, "sharpness": 0.2}[name]
    measurements.floor = {name: (own,) * 11}
    found = [measurements.excess(name, value) for value in values]
    assert found[0] == 0
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_a_known_reference_is_the_same_as_new_samples(tmp_path):
    run(small(), tmp_path / "first")
    known = f"evaluation.reference={json.dumps(str(tmp_path / 'first' / 'reference.safetensors'))}"
    run(small(known), tmp_path / "second")
    first, second = measured(tmp_path / "first"), measured(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(first[step] == pytest.approx(second[step], rel=1e-3, abs=1e-6) for step in first)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_measure_and_choose_as_one_does(tmp_path, strategy: str):
    changes = [*SMALL, *CHOOSES, "evaluation.enabled=false", f"parallel.strategy={strategy}"]
    place = ("-d", str(tmp_path / "two"))
    found = forked.ffd(
        "run", "gaussian.toml", *place, *(f"--set={each}" for each in changes), ranks=2
    )
    assert found.codes == [0, 0], found.stderr
    run(load_recipe("gaussian.toml", changes), tmp_path / "one")
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[step] == pytest.approx(two[step], rel=0.01, abs=1e-3) for step in one)
    steps = {
        read_weights(str(tmp_path / name / "student.safetensors")).config["step"]
        for name in ("one", "two")
    }
    assert len(steps) == 1
