"""Distilling exact teachers converges to the exact map, as benchmarks/science/convergence.py."""

from typing import Any

import attrs
import pytest
import torch
from convergence import CASES, STEPS, Case, errors, slope
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import DerivativeMismatch
from ffcore.interfaces import (
    Batch,
    Condition,
    Gap,
    Gaps,
    Networks,
    PredictorObjective,
    Student,
)
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_meanflow.objective import MeanFlowPredictor

# Twice what was measured, and half of its slope at least.
BOUNDS = {
    "Gaussian, prediction": (0.0012, -0.6),
    "Gaussian, prediction and correction": (0.007, -0.4),
    "Gaussian, MeanFlow by data": (0.027, -0.34),
    "Gaussian, MeanFlow by the teacher": (0.0064, -0.53),
    "mixture, prediction": (0.27, -0.3),
    "mixture, prediction and correction": (0.18, -0.3),
    "mixture, MeanFlow by data": (0.92, -0.12),
    "mixture, MeanFlow by the teacher": (0.09, -0.4),
}


def converges(case: Case, end: float, steepness: float) -> None:
    line = list(errors(case))
    assert [step for step, _ in line] == list(STEPS)
    assert line[-1][1] < end
    assert slope(line) < steepness


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_error_of_one_step_falls_with_the_steps_of_training(name: str) -> None:
    converges(CASES[name], *BOUNDS[name])


class Undifferentiated(PredictorObjective):
    """The predictor without its derivative: F follows u(f, 1 − δ), not the mean of u until then."""

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        delta = batch.draws.uniform("delta")
        output = networks.student(batch.z, torch.ones_like(delta), delta, batch.condition)
        with torch.no_grad():
            f = batch.z + delta[:, None] * output
            u = networks.teacher(f, 1 - delta, batch.condition)
            return Gaps(gaps=(Gap(output=output, gap=output.detach() - u),))


class Nothing(Derivative):
    """The derivative of every function is zero, so that MeanFlow is but flow matching."""

    def __call__(self, function: Any, primals: Any, tangents: Any, **rest: Any) -> Tensor:
        return torch.zeros_like(primals[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Gaussian, prediction", Undifferentiated()),
        (
            "Gaussian, MeanFlow by the teacher",
            MeanFlowPredictor("teacher", derivative=Nothing(backend="jvp")),
        ),
    ],
)
def test_an_objective_that_does_not_converge_would_be_seen(
    name: str, wrong: PredictorObjective
) -> None:
    with pytest.raises((AssertionError, DerivativeMismatch)):
        converges(attrs.evolve(CASES[name], predictor=wrong), *BOUNDS[name])


class Still(Student):
    """A student that does not depend on δ."""

    starts_at = "prior"

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Linear(2, 2)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found: Tensor = self.matrix(x_t)
        return found + 0 * delta[:, None]


def test_the_wrong_objective_differs_from_the_right_one_in_the_derivative_alone() -> None:
    run = CASES["Gaussian, prediction"].distillation()
    draws = Draws(0, 0, 0, 8)
    batch = Batch(
        z=draws.normal("z", (2,)), condition=run.teacher.conditions.draw(draws), draws=draws
    )
    networks = attrs.evolve(run.networks(), student=Still())
    found = [
        each.gaps(networks, batch).gaps[0].gap for each in (FreeFlowPredictor(), Undifferentiated())
    ]
    torch.testing.assert_close(*found)
