"""Distilling exact teachers: how the error of the one-step map falls with the steps.

    python benchmarks/convergence.py [picture.png]

The student is a perceptron from scratch, its one step compared with the teacher's exact flow map
from the same noise: in closed form for the Gaussian, by an adaptive solve for the mixture. The
error is ‖f(z, 1) − f*(z, 1)‖ / ‖f*(z, 1) − z‖, root mean square over 2,000 z, of the student's
average. tests/convergence holds the lines to their slopes and ends.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from ffcore.analytic import Gaussian, GaussianMixture
from ffcore.distill import Distillation
from ffcore.draws import Draws
from ffcore.flow_map import generate
from ffcore.interfaces import Teacher
from ffcore.optimizer import Optimizer
from ffcore.train import train
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_mlp.student import MlpAverageVelocity, MlpVelocity
from ffcore_vsd.objective import VsdCorrector

STEPS = (25, 50, 100, 200, 400, 800, 1600)
POINTS = 2000
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "convergence.png"

GAUSSIAN = Gaussian([1.0, -2.0], 0.5)
MIXTURE = GaussianMixture(
    [[2 * math.cos(angle), 2 * math.sin(angle)] for angle in (0.3, 2.4, 4.5)], 0.4
)


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """A teacher of plane vectors, and whether it is distilled with correction."""

    teacher: Gaussian | GaussianMixture
    corrected: bool

    def distillation(self) -> Distillation:
        """Return the run, in its first step."""
        torch.manual_seed(0)
        table = Optimizer(learning_rate=3e-3, warmup=20, schedule="cosine")
        student = MlpAverageVelocity(2, 0, width=128, depth=3)
        online = MlpVelocity(2, 0, width=128, depth=3)
        corrector = VsdCorrector(online=online, online_optimizer=Optimizer(learning_rate=3e-3))
        return Distillation(
            teacher=self.teacher,
            student=student,
            predictor=FreeFlowPredictor(),
            corrector=corrector if self.corrected else None,
            balancer=AdaptiveBalancer(correction=0.25),
            optimizer=table,
            steps=STEPS[-1],
            batch=256,
            decay=0.98,
        )

    def exact(self, z: Tensor) -> Tensor:
        """Return f*(z, 1)."""
        ones = torch.ones(len(z))
        condition = self.teacher.conditions.draw(Draws(0, 0, 0, len(z)))
        if isinstance(self.teacher, Gaussian):
            return self.teacher.flow_map(z, ones, ones, condition)
        return self.teacher.flow_map(z, 1.0, condition)


CASES = {
    "Gaussian, prediction": Case(teacher=GAUSSIAN, corrected=False),
    "Gaussian, prediction and correction": Case(teacher=GAUSSIAN, corrected=True),
    "mixture, prediction": Case(teacher=MIXTURE, corrected=False),
    "mixture, prediction and correction": Case(teacher=MIXTURE, corrected=True),
}


def errors(case: Case) -> Iterator[tuple[int, float]]:
    """Yield the relative error of the one-step map after each of STEPS."""
    draws = Draws(1, 0, 0, POINTS)
    z = draws.normal("z", (2,))
    exact, condition = case.exact(z), case.teacher.conditions.draw(draws)
    distillation = case.distillation()
    for report in train(distillation, log_every=STEPS[0]):
        if report.step in STEPS:
            with torch.no_grad():
                found = generate(distillation.average, z, condition)
            yield report.step, float((found - exact).norm() / (exact - z).norm())
