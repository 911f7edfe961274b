"""The trajectory error of a flow map f(z, δ) against its teacher's ODE, from the same noise."""

from __future__ import annotations

import math

import attrs
import numpy as np
import torch
from torch import Tensor

from ffcore.evaluate.distribution import DRAWS, draws_of
from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.stream import Progress, silent
from ffcore.evaluate.verdict import Estimate
from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.interfaces import Student, Teacher

DELTAS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
TRAJECTORIES = 256
"""Number of noises behind each trajectory error."""
SOLVED = 64
"""Number of noises behind the solver's error."""


@torch.no_grad()
def trajectory_error(
    student: Student,
    teacher: Teacher,
    measurement: Measurement,
    progress: Progress = silent,
) -> dict[float, Estimate | None]:
    """Return the relative error of the flow map for each δ, against the teacher's ODE.

    It is None for a teacher that moves nothing. Each eighth of the way takes an eighth of the
    measurement's solver steps, at least 8.
    """
    steps = max(8, measurement.solver.steps // len(DELTAS))
    solver = attrs.evolve(measurement.solver, steps=steps, last_step="full")
    total = TRAJECTORIES
    error, moved = torch.zeros(2, len(DELTAS), total, dtype=torch.float64)
    done = 0
    for z, condition in prior(teacher, measurement, "trajectory", total):
        here = slice(done, done + len(z))
        state, before = z, 0.0
        for index, delta in enumerate(DELTAS):
            state = integrate(
                teacher,
                state,
                condition,
                solver,
                start=1 - before,
                stop=1 - delta,
            )
            found = generate(student, z, condition, delta)
            error[index, here] = _squares(found - state)
            moved[index, here] = _squares(state - z)
            before = delta
            progress("trajectory error", done + (index + 1) * len(z) // len(DELTAS), total)
        done += len(z)
    return {delta: _relative(error[index], moved[index]) for index, delta in enumerate(DELTAS)}


@torch.no_grad()
def solver_error(teacher: Teacher, measurement: Measurement, progress: Progress = silent) -> float:
    """Return the error of the measurement's solver at δ = 1, relative to the teacher's way.

    It is the root mean square difference from twice as many steps; the true error is at least as
    large, and at most twice that (order 1). For dopri5 it is the difference from ten times the
    tolerance, which is larger than the error.
    """
    solver = measurement.solver
    other = (
        attrs.evolve(solver, tolerance=10 * solver.tolerance)
        if solver.method == "dopri5"
        else attrs.evolve(solver, steps=2 * solver.steps)
    )
    error = moved = 0.0
    done = 0
    for z, condition in prior(teacher, measurement, "trajectory", SOLVED):
        here, there = (integrate(teacher, z, condition, each) for each in (solver, other))
        error += float(_squares(here - there).sum())
        moved += float(_squares(there - z).sum())
        progress("solver error", done := done + len(z), SOLVED)
    return math.sqrt(error / max(moved, torch.finfo(torch.float64).tiny))


def _squares(difference: Tensor) -> Tensor:
    return difference.flatten(1).double().square().sum(1).cpu()


def _relative(error: Tensor, moved: Tensor) -> Estimate | None:
    """Return the root of the ratio of two sums, with an interval from independent draws; None if
    the second is 0."""
    if not moved.any():
        return None
    tiny = torch.finfo(torch.float64).tiny  # of the few noises that move
    draw = draws_of(len(error))
    kept = [torch.ones(len(error), dtype=torch.bool), *(draw != each for each in range(DRAWS))]
    found = [float(error[here].sum() / moved[here].sum().clamp(min=tiny)) ** 0.5 for here in kept]
    return Estimate.of(np.array(found))
