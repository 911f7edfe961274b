"""Alarms: raised for a history that deserves them, with number and key, and for no healthy one."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from observers import Listens

from ffcore.evaluate.evaluator import Evaluation
from ffcore.evaluate.verdict import Estimate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Alarm
from ffcore.recipe import load_recipe
from ffcore.run.alarms import due, raised, solver_alarm
from ffcore.run.directory import ALARMS, RunDirectory
from ffcore.run.stages import run
from ffcore.training.loop import Stopped

ABOVE = Alarm(number="n", rule="stays above", limit=2.0, title="n", remedy="raise a.key")
FALLING = Alarm(number="n", rule="stops falling", limit=0.1, title="n", remedy="raise a.key")
STEPS = 1000

Of = Callable[[float], float]


def history(of: Of, until: int = STEPS, noise: float = 0.01, number: str = "n") -> list[Any]:
    """Lines every 20 steps: a number by the share of the run, with relative noise."""
    drawn = random.Random(0)
    return [
        {"step": step, number: of(step / STEPS) * (1 + noise * drawn.gauss(0, 1))}
        for step in range(20, until + 1, 20)
    ]


def names(lines: list[Any], *rules: Alarm) -> list[str]:
    return [each.name for each in raised(lines, STEPS, rules)]


def test_a_number_that_stays_above_its_limit_is_told_with_its_mean_and_the_key():
    (found,) = raised(history(lambda part: 3.0, noise=0.0), STEPS, [ABOVE])
    assert found.step == STEPS
    assert found.sentence.startswith("n was 3 on average over the last 8 reports")
    assert found.sentence.endswith("2 at most is healthy: raise a.key")


@pytest.mark.parametrize(
    ("of", "noise", "until"),
    [
        (lambda part: 1.9, 0.01, STEPS),  # below
        (lambda part: 3.0 if part < 0.5 else 1.0, 0.01, STEPS),  # it was above earlier
        (lambda part: 9.0, 0.01, 200),  # the run has only begun
        (lambda part: 9.0, 0.01, 280),  # too few reports since
        (lambda part: 2.1, 0.5, STEPS),  # as far as can be told
    ],
)
def test_a_number_that_is_not_surely_above_its_limit_is_none(of: Of, noise: float, until: int):
    assert names(history(of, until, noise), ABOVE) == []


@pytest.mark.parametrize("of", [lambda part: 0.5, lambda part: 0.5 + part])
def test_a_number_that_stops_falling_while_it_is_large_is_told(of: Of):
    assert names(history(of), FALLING) == ["n"]


@pytest.mark.parametrize(
    ("of", "noise", "until"),
    [
        (lambda part: 1 / (1 + 5 * part), 0.01, STEPS),  # it falls
        (lambda part: 0.09, 0.01, STEPS),  # it is small enough
        (lambda part: 0.5, 0.01, 480),  # before the half
        (lambda part: 0.5, 0.3, STEPS),  # as far as can be told
    ],
)
def test_a_number_that_falls_or_is_small_is_none(of: Of, noise: float, until: int):
    assert names(history(of, until, noise), FALLING) == []


def measured(values: list[float], interval: float = 0.05, name: str = "coverage") -> list[Any]:
    return [
        {"step": 100 * index, f"measure/{name}": value, f"interval/{name}": interval}
        for index, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize("name", ["coverage", "class"])
def test_a_measure_that_is_far_worse_twice_in_a_row_is_a_collapse(name: str):
    lines = measured([1.5, 1.1, 2.0, 2.1], name=name)
    (found,) = raised(lines, STEPS, [])
    assert found.name == f"measure/{name}"
    assert "2.1 ± 0.05 after step 400, and was 1.1 ± 0.05 after step 200" in found.sentence
    assert "optimizer.learning_rate" in found.sentence


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([3.0, 2.0, 1.5, 1.2], 0.05),  # better and better
        ([1.1, 1.2, 1.1, 2.0], 0.05),  # once only
        ([1.1, 2.0, 1.1, 2.0], 0.05),  # not in a row
        ([1.1, 1.5, 1.5, 1.5], 0.05),  # not by so much
        ([1.1, 2.0, 2.1], 0.5),  # within its interval
        ([2.0, 2.1], 0.05),  # nothing to compare with
    ],
)
def test_a_measure_that_wavers_is_no_collapse(values: list[float], interval: float):
    assert names(measured(values, interval)) == []


def test_a_class_distance_below_nought_has_no_collapse_within_its_interval():
    assert names(measured([-0.01, 0.02, 0.03], 0.02, "class")) == []
    assert names(measured([-0.01, 0.2, 0.3], 0.02, "class")) == ["measure/class"]


def evaluation(error: float | None, left: float) -> Evaluation:
    estimate = Estimate(value=left, low=left, high=left)
    return Evaluation(
        verdict={}, measures={}, distances={}, trajectory_error={1.0: estimate}, trajectories=256,
        solver_error=error, identity={},
    )  # fmt: skip


def test_a_solver_that_errs_as_much_as_the_student_is_told():
    found = solver_alarm(evaluation(0.03, 0.05), Solver("heun", 4), STEPS)
    assert found is not None
    assert "heun with 4 steps is off by 3.00%" in found.sentence
    assert found.sentence.endswith("raise evaluation.solver.steps")
    adaptive = solver_alarm(evaluation(0.03, 0.05), Solver("dopri5", tolerance=0.1), STEPS)
    assert adaptive is not None
    assert adaptive.sentence.endswith("lower evaluation.solver.tolerance")


def test_a_coarse_solver_is_told_beside_a_student_that_is_worse():
    found = solver_alarm(evaluation(0.165, 0.42), Solver("heun", 1), STEPS)
    assert found is not None
    assert "heun with 1 step is off by 16.50%" in found.sentence


@pytest.mark.parametrize("error", [None, 0.001, 0.025])
def test_a_solver_that_errs_less_is_none(error: float | None):
    assert solver_alarm(evaluation(error, 0.05), Solver(), STEPS) is None


def test_checks_do_not_become_more_with_a_longer_history():
    checks = [step for step in range(1, 100_001) if due(step, step - 1, 100_000)]
    assert len(checks) == 100
    assert checks[-1] == 100_000


# Runs

RING = (
    "training.threads=1",
    "training.batch=128",
    "training.log_every=10",
    "training.steps=300",
    "evaluation.enabled=false",
    "evaluation.previews=0",
)


def alarms(recipe: str, directory: Path, *overrides: str) -> dict[str, str]:
    run(load_recipe(recipe, [*RING, *overrides]), directory)
    found = RunDirectory(directory).history(ALARMS)
    assert len({each["name"] for each in found}) == len(found)
    return {each["name"]: each["sentence"] for each in found}


SLOW = ("optimizer.learning_rate=1e-6", "student.width=8")
PAIRS = (
    'predictor={type="pairs", pairs=1000}',
    "corrector=none",
    "training.steps=600",
    "optimizer={learning_rate=0.01, schedule='constant'}",
)
LAGS = (
    'corrector={type="vsd", online={type="mlp"}, online_optimizer={learning_rate=1e-6}}',
    "balancer.alpha=0.1",
    "training.steps=600",
)
STANDS = (  # a copy of the teacher, which says that nothing is left to correct
    "predictor=none",
    "corrector.online_optimizer.learning_rate=1e-7",
    "training.steps=80",
    "training.log_every=5",
    "training.batch=16",
)
LOST = (  # the corrector alone takes over, by a network that has learnt nothing
    "balancer.correction=1.0",
    "balancer.correction_from=150",
    "corrector.online_optimizer.learning_rate=1e-6",
    "evaluation.every=25",
)


def test_a_student_that_does_not_learn_deserves_an_alarm(tmp_path):
    found = alarms("mixture.toml", tmp_path, "corrector=none", *SLOW)
    assert "gap_to_1" in found
    assert "optimizer.learning_rate" in found["gap_to_1"]


def test_beside_a_corrector_the_predictors_gap_need_not_fall(tmp_path):
    assert not [name for name in alarms("mixture.toml", tmp_path, *SLOW) if name.startswith("gap")]


def test_an_online_network_that_does_not_learn_deserves_an_alarm(tmp_path):
    found = alarms("mixture.toml", tmp_path, *LAGS)
    assert "corrector.online_optimizer.learning_rate" in found["online_excess"]


def test_a_copy_of_the_teacher_that_does_not_learn_deserves_an_alarm(tmp_path):
    found = alarms("digits.toml", tmp_path, *STANDS)
    assert "corrector.online_updates" in found["online_slope"]


def test_a_student_that_loses_a_mode_deserves_an_alarm(tmp_path):
    found = alarms("mixture.toml", tmp_path, *LOST)
    assert {"measure/coverage", "measure/class"} & found.keys()


def test_a_student_that_cannot_fit_its_pairs_deserves_an_alarm(tmp_path):
    found = alarms("mixture.toml", tmp_path / "small", *PAIRS, "student.width=2", "student.depth=1")
    assert "use a larger student" in found["pairs_error"]
    assert alarms("mixture.toml", tmp_path / "large", *PAIRS, "student.width=64") == {}


def test_a_coarse_solver_deserves_an_alarm(tmp_path):
    overrides = ("evaluation.enabled=true", "evaluation.samples=200", "training.log_every=50")
    coarse = "evaluation.solver.steps=2"
    assert "solver" in alarms("gaussian.toml", tmp_path / "coarse", *overrides, coarse)
    assert alarms("gaussian.toml", tmp_path / "fine", *overrides) == {}


def test_healthy_runs_raise_none(tmp_path):
    assert alarms("mixture.toml", tmp_path / "mixture", "evaluation.every=50") == {}
    assert alarms("gaussian.toml", tmp_path / "gaussian", "evaluation.every=50") == {}


def test_an_alarm_is_said_once_and_a_resumed_run_has_the_same_ones(tmp_path):
    recipe = load_recipe("mixture.toml", [*RING, "corrector=none", *SLOW])
    whole, parts = Listens(), Listens()
    run(recipe, tmp_path / "whole", observer=whole)
    made = iter(range(300))
    with pytest.raises(Stopped):
        run(recipe, tmp_path / "parts", observer=parts, stop=lambda: next(made) == 249)
    run(recipe, tmp_path / "parts", observer=parts)
    first, second = (RunDirectory(tmp_path / name).history(ALARMS) for name in ("whole", "parts"))
    assert first
    assert first == second
    said = [[line for line in each.said if line.startswith("alarm")] for each in (whole, parts)]
    assert said[0] == said[1]
    assert len(said[0]) == len(first)
