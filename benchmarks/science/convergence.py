"""Distilling exact teachers: how the error of the one-step map falls with the steps.

    python benchmarks/science/convergence.py [picture.png]

FreeFlow's objectives from the teacher alone, and MeanFlow's from data, by data's velocity and by
the teacher's. The student is a perceptron from scratch, its one step compared with the teacher's
exact flow map from the same noise: in closed form for the Gaussian, by an adaptive solve for the
mixture. The error is ‖f(z, 1) − f*(z, 1)‖ / ‖f*(z, 1) − z‖, root mean square over 2,000 z, of the
student's average. tests/training/test_exact_teachers.py holds the lines to their slopes and ends.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.flow_map import generate
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import Condition, DataSource, PredictorObjective
from ffcore.training.distillation import Distillation
from ffcore.training.loop import train
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_meanflow.objective import MeanFlowPredictor
from ffcore_mlp.student import MlpAverageVelocity, MlpVelocity
from ffcore_vsd.objective import VsdCorrector

STEPS = (50, 100, 200, 400, 800, 1600, 3200)
POINTS = 2000
COLOURS = ("#1f5fbf", "#c2571a", "#2a8a4a", "#7a3fa0")
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "convergence.png"

GAUSSIAN = Gaussian([1.0, -2.0], 0.5)
MIXTURE = GaussianMixture(
    [[1.5 * math.cos(angle), 1.5 * math.sin(angle)] for angle in (0.3, 2.4, 4.5)], 0.6
)
TABLE = Optimizer(learning_rate=3e-3, warmup=20, schedule="cosine")


class Fresh(DataSource):
    """What a teacher is exact for, drawn anew each time."""

    sample_shape = (2,)

    def __init__(self, teacher: Gaussian | GaussianMixture) -> None:
        self.means, self.scales = (
            (teacher.mean, teacher.scale)
            if isinstance(teacher, Gaussian)
            else (teacher.means, teacher.scales)
        )

    def __len__(self) -> int:
        return 1

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return samples; see DataSource."""
        component = draws.integers("component", len(self.means))
        noise = draws.normal("noise", self.sample_shape)
        samples = self.means[component] + self.scales[component][:, None] * noise
        return samples, Condition(size=len(indices))


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """A teacher of plane vectors, how it is distilled, and whether with correction or from data."""

    teacher: Gaussian | GaussianMixture
    corrected: bool = False
    from_data: bool = False
    predictor: PredictorObjective = attrs.field(factory=FreeFlowPredictor)

    def distillation(self) -> Distillation:
        """Return the run, in its first step."""
        torch.manual_seed(0)
        starts_at: Literal["prior", "anywhere"] = "anywhere" if self.from_data else "prior"
        student = MlpAverageVelocity(2, 0, width=128, depth=3, starts_at=starts_at)
        online = MlpVelocity(2, 0, width=128, depth=3)
        corrector = VsdCorrector(online=online, online_updates=3, online_optimizer=TABLE)
        return Distillation(
            teacher=self.teacher,
            student=student,
            predictor=self.predictor,
            corrector=corrector if self.corrected else None,
            data=Fresh(self.teacher) if self.from_data else None,
            # These gaps are small, and a small ε would weigh but the smallest of them.
            balancer=AdaptiveBalancer(weight_epsilon=0.1),
            optimizer=TABLE,
            steps=STEPS[-1],
            batch=256,
            ema_decays=[0.98],
        )

    def exact(self, z: Tensor) -> Tensor:
        """Return f*(z, 1)."""
        ones = torch.ones(len(z))
        condition = self.teacher.conditions.draw(Draws(0, 0, 0, len(z)))
        return self.teacher.flow_map(z, ones, ones, condition)


def meanflow(teacher: Gaussian | GaussianMixture, velocity: Literal["data", "teacher"]) -> Case:
    """Return MeanFlow at uniform times, half of them unequal."""
    predictor = MeanFlowPredictor(velocity, times=TimeDistribution(), unequal=0.5)
    return Case(teacher=teacher, from_data=True, predictor=predictor)


CASES = {
    "Gaussian, prediction": Case(teacher=GAUSSIAN),
    "Gaussian, prediction and correction": Case(teacher=GAUSSIAN, corrected=True),
    "Gaussian, MeanFlow by data": meanflow(GAUSSIAN, "data"),
    "Gaussian, MeanFlow by the teacher": meanflow(GAUSSIAN, "teacher"),
    "mixture, prediction": Case(teacher=MIXTURE),
    "mixture, prediction and correction": Case(teacher=MIXTURE, corrected=True),
    "mixture, MeanFlow by data": meanflow(MIXTURE, "data"),
    "mixture, MeanFlow by the teacher": meanflow(MIXTURE, "teacher"),
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
                found = generate(distillation.ema, z, condition)
            yield report.step, float((found - exact).norm() / (exact - z).norm())


Line = Sequence[tuple[int, float]]


def slope(line: Line) -> float:
    """Return the slope of log error against log step, by least squares."""
    steps, found = torch.tensor(line, dtype=torch.float64).log().T
    steps, found = steps - steps.mean(), found - found.mean()
    return float((steps @ found) / (steps @ steps))


def draw(path: Path, lines: Mapping[str, Line]) -> None:
    """Write the lines as a PNG: a panel for each teacher, log error over log steps."""
    teachers = list(dict.fromkeys(name.split(", ")[0] for name in lines))
    figure = Figure(figsize=(3.6 * len(teachers), 2.8), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(teachers), squeeze=False)[0]
    for teacher, axis in zip(teachers, axes, strict=True):
        own = {name.split(", ")[1]: line for name, line in lines.items() if teacher in name}
        for (name, line), colour in zip(own.items(), COLOURS, strict=True):
            steps, found = zip(*line, strict=True)
            axis.loglog(steps, found, color=colour, linewidth=1.2, marker="o", ms=3, label=name)
        axis.set_title(f"{teacher} teacher", fontsize=9)
        axis.set_xlabel("training steps", fontsize=8)
        axis.set_ylabel("relative error of one step", fontsize=8)
        axis.set_xticks(STEPS, labels=[str(step) for step in STEPS])
        axis.minorticks_off()
        axis.grid(alpha=0.25, linewidth=0.4)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run every case; print the numbers and draw the picture."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    lines: dict[str, Line] = {}
    for name, case in CASES.items():
        begun = time.perf_counter()
        lines[name] = list(errors(case))
        seconds = time.perf_counter() - begun
        print(f"{name}: slope {slope(lines[name]):.2f}, {seconds:.0f} s")
        for step, error in lines[name]:
            print(f"  {step:5d}  {error:.4f}", flush=True)
    draw(path, lines)


if __name__ == "__main__":
    main()
