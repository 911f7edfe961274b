"""∂_δ F: the error of finite differences by their step, and each backend's cost and error.

    python benchmarks/speed/derivative.py [--student STUDENT.safetensors] [--case digits] …

The truth is torch's forward mode in float64. A cost is the time, taken in turns in this process, of
all that a training step does with the derivative: the forward that carries the gradient, the
derivative, the backward; in units of one forward without gradient of the same rows and dtype in the
same round, as ratio.py has it. Memory is what is kept for that backward, in units of what a forward
alone keeps, and what a derivative needs meanwhile and drops, its own matrices included (`beside`,
in MiB).

Without a student, the networks have random weights, none of them zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import attrs
import click
import torch
from cases import distillation
from ratio import Ratio
from timing import Peak, Saved, in_turn, machine, table
from torch import Tensor

from ffcore.flow.derivative import Derivative
from ffcore.interfaces import Student
from ffcore.system.allocator import keep_freed_memory
from ffcore.system.weights import read_weights
from ffcore.training.distillation import Distillation

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
DIFFERENCE = Derivative(backend="finite-difference")
BACKENDS = {
    "dual": Derivative(backend="dual"),
    "jvp": Derivative(backend="jvp"),
    "one-sided difference": DIFFERENCE,
    "central difference": attrs.evolve(DIFFERENCE, scheme="central"),
}
ROWS = {"digits": 64, "S/2@128": 8, "S/2@256": 4, "S/2@512": 1}


class Case:
    """A student at a batch of points and durations."""

    def __init__(self, run: Distillation, rows: int, dtype: torch.dtype = torch.float32) -> None:
        draws = run.draws("derivative")[:rows]
        self.student: Student = run.student
        self.z = draws.normal("z", run.teacher.sample_shape)
        self.condition = run._with_guidance(run.teacher.conditions.draw(draws), draws)
        self.delta = draws.uniform("delta")
        self.dtype = dtype

    def forward(self, delta: Tensor) -> Tensor:
        """Return F in the dtype of the points."""
        ones = torch.ones_like(self.delta)
        return cast(Tensor, self.student(self.z, ones, delta, self.condition))

    def autocast(self) -> torch.autocast:
        """Return what surrounds a forward: bfloat16 for networks, where that is the dtype."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def pair(self, derivative: Derivative) -> tuple[Tensor, Tensor]:
        """Return F and ∂_δ F, under autocast where the dtype is a short one."""
        delta = self.delta
        with self.autocast():
            return derivative.with_value(
                self.forward, (delta,), (torch.ones_like(delta),), room=(delta, 1 - delta)
            )

    def exact(self) -> Tensor:
        """Return ∂_δ F in float64."""
        double = copy.copy(self)
        double.student = copy.deepcopy(self.student).double()
        double.z, double.delta, double.dtype = self.z.double(), self.delta.double(), torch.float64
        double.condition = attrs.evolve(
            self.condition, guidance=cast(Tensor, self.condition.guidance).double()
        )
        with torch.no_grad():
            return double.pair(Derivative(backend="jvp"))[1]

    def gradient(self, derivative: Derivative | None) -> None:
        """Do what a training step does: forward, derivative, backward."""
        if derivative is None:
            with self.autocast():
                output = self.forward(self.delta)
        else:
            output = self.pair(derivative)[0]
        output.square().sum().backward()
        self.student.zero_grad(set_to_none=True)

    @torch.no_grad()
    def plain(self) -> None:
        """Make a forward without gradient."""
        with self.autocast():
            self.forward(self.delta)

    @torch.no_grad()
    def error(self, derivative: Derivative, exact: Tensor) -> float:
        """Return the relative error of ∂_δ F."""
        return float((self.pair(derivative)[1].double() - exact).norm() / exact.norm())


def print_errors(case: Case) -> None:
    """Print the relative error of finite differences by their step."""
    exact = case.exact()
    jvp, dual = (case.error(BACKENDS[name], exact) for name in ("jvp", "dual"))
    print(f"\nRelative error of ∂_δ F in float32 (dual: {dual:.1e}, jvp: {jvp:.1e}):\n")
    row = table("step", "one-sided", "central")
    for step in STEPS:
        one, two = (
            case.error(attrs.evolve(DIFFERENCE, step=step, scheme=scheme), exact)
            for scheme in ("one-sided", "central")
        )
        row(f"{step:.0e}", f"{one:.1e}", f"{two:.1e}")


def print_costs(name: str, case: Case, rounds: int, row: Callable[..., None]) -> None:
    """Print what each backend costs, and how far it is off."""
    works: dict[str, Callable[[], Any]] = {"plain": case.plain, "none": lambda: case.gradient(None)}
    for backend, derivative in BACKENDS.items():
        works[backend] = partial(case.gradient, derivative)
    taken = in_turn(works, rounds)
    exact = case.exact()
    kept, beside = {}, {}
    for backend, work in works.items():
        with (saved := Saved(case.student)).watched():
            work()
        kept[backend] = saved.most
        with Peak() as peak, torch.no_grad():
            if backend in BACKENDS:
                case.pair(BACKENDS[backend])
            else:
                case.plain()
        beside[backend] = peak.most
    tokens = case.z.shape[-1] // 2
    for backend in ("none", *BACKENDS):
        exactness = case.error(BACKENDS[backend], exact) if backend in BACKENDS else None
        row(
            name.partition("@")[0],
            tokens**2,
            str(case.dtype).removeprefix("torch."),
            backend,
            f"{Ratio.of(taken[backend], taken['plain']):.2f}",
            f"{kept[backend] / kept['none']:.2f}",
            f"{max(0, beside[backend] - beside['plain']) / 2**20:.0f}",
            "" if exactness is None else f"{exactness:.1e}",
        )


@click.command()
@click.option("--student", help="Of a run of digits_guided.toml; else random weights.")
@click.option("--case", "cases", multiple=True, default=tuple(ROWS))
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"))
@click.option("--rounds", default=7, show_default=True)
def main(student: str | None, cases: tuple[str, ...], dtypes: tuple[str, ...], rounds: int) -> None:
    """Print the tables."""
    print(f"# The derivative\n\n{machine()}")
    digits = distillation("digits")
    if student:
        read_weights(student).load_into(digits.student)
    print_errors(Case(digits, 96))
    print()
    row = table("network", "tokens", "dtype", "derivative", "forwards", "kept", "beside", "error")
    with keep_freed_memory():
        for name in cases:
            run = digits if name == "digits" else distillation(name)
            for dtype in dtypes:
                case = Case(run, ROWS.get(name, 4), getattr(torch, dtype))
                print_costs(name, case, rounds, row)


if __name__ == "__main__":
    main()
