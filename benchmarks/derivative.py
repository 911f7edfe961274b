"""∂_δ F on the digits student: the error of finite differences, and the cost of each backend.

    python benchmarks/derivative.py [student.safetensors of a digits run]

Without a run, the student is the untrained one with its parameters perturbed. The truth is the
forward-mode derivative in float64. Costs are medians of interleaved runs in this process, in units
of one forward without gradient at the same batch; they include the forward and backward that carry
the gradient, since the one-sided difference shares that forward.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ffcore.build import build
from ffcore.derivative import Derivative
from ffcore.distill import Distillation
from ffcore.draws import Draws
from ffcore.recipe import load_recipe
from ffcore.weights import read_weights

BATCH, REPEATS = 96, 15
STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
ONE_SIDED = Derivative(backend="finite-difference", step=1e-3)
CENTRAL = Derivative(backend="finite-difference", step=1e-3, scheme="central")


class Case:
    """A student at a batch of points and durations."""

    def __init__(self, distillation: Distillation) -> None:
        draws = Draws(0, 0, 0, BATCH)
        self.student = distillation.student
        self.z = draws.normal("z", distillation.teacher.sample_shape)
        self.condition = distillation.teacher.conditions.draw(draws)
        self.delta = draws.uniform("delta")

    def forward(self, delta: Tensor) -> Tensor:
        """Return F in the dtype of `delta`."""
        output: Tensor = self.student(
            self.z.to(delta), torch.ones_like(delta), delta, self.condition
        )
        return output

    def derivative(self, derivative: Derivative, delta: Tensor, value: Tensor) -> Tensor:
        """Return ∂_δ F in the dtype of `delta`."""
        room = (delta, 1 - delta)
        return derivative(self.forward, (delta,), (torch.ones_like(delta),), value=value, room=room)

    def gradient(self, derivative: Derivative | None) -> None:
        """Do what a training step does: forward, derivative, backward."""
        output = self.forward(self.delta)
        if derivative is not None:
            self.derivative(derivative, self.delta, output)
        output.square().sum().backward()
        self.student.zero_grad(set_to_none=True)


def perturb(student: torch.nn.Module) -> None:
    """Move every parameter, so that F depends on δ."""
    for index, parameter in enumerate(student.parameters()):
        noise = Draws(0, 0, 0, 1).named("perturb", index).normal("p", tuple(parameter.shape))
        parameter.data.add_(0.05 * noise[0])


@torch.no_grad()
def print_errors(case: Case) -> None:
    """Print the relative error of each backend in float32."""
    case.student.double()
    double = case.delta.double()
    exact = case.derivative(Derivative(), double, case.forward(double))
    case.student.float()
    value = case.forward(case.delta)

    def error(derivative: Derivative) -> float:
        found = case.derivative(derivative, case.delta, value).double()
        return float((found - exact).norm() / exact.norm())

    print(f"relative error of ∂_δ F in float32 (jvp: {error(Derivative()):.1e})")
    print(f"{'step':>8}  {'one-sided':>10}  {'central':>10}")
    for step in STEPS:
        one_sided = error(Derivative(backend="finite-difference", step=step))
        central = error(Derivative(backend="finite-difference", step=step, scheme="central"))
        print(f"{step:8.0e}  {one_sided:10.1e}  {central:10.1e}")


def print_costs(case: Case) -> None:
    """Print what each backend costs, in forwards without gradient."""

    def plain() -> None:
        with torch.no_grad():
            case.forward(case.delta)

    cases: dict[str, Callable[[], None]] = {
        "forward without gradient": plain,
        "forward and backward": lambda: case.gradient(None),
        "… with one-sided difference": lambda: case.gradient(ONE_SIDED),
        "… with central difference": lambda: case.gradient(CENTRAL),
        "… with jvp": lambda: case.gradient(Derivative()),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPEATS):
        for name, run in cases.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    unit = statistics.median(times["forward without gradient"])
    print(f"\ncost in forwards, batch {BATCH}, {torch.get_num_threads()} threads")
    for name, measured in times.items():
        print(f"{name:<30} {statistics.median(measured) / unit:5.2f}")


def main() -> None:
    """Print both tables."""
    case = Case(build(load_recipe("digits.toml")).distillation)
    if len(sys.argv) > 1:
        read_weights(sys.argv[1]).load_into(case.student)
    else:
        perturb(case.student)
    print_errors(case)
    print_costs(case)


if __name__ == "__main__":
    main()
