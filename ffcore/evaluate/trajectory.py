"""The trajectory error of a flow map f(z, δ) against its teacher's ODE, from the same noise."""

from __future__ import annotations

import attrs
import torch

from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.stream import Progress, silent
from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.interfaces import Student, Teacher

DELTAS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_TRAJECTORIES = 256


@torch.no_grad()
def trajectory_error(
    student: Student,
    teacher: Teacher,
    measurement: Measurement,
    progress: Progress = silent,
) -> dict[float, float]:
    """Return the relative error of the flow map for each δ, against the teacher's ODE.

    Each eighth of the way takes an eighth of the measurement's solver steps, at least 8.
    """
    error = dict.fromkeys(DELTAS, 0.0)
    moved = dict.fromkeys(DELTAS, 0.0)
    steps = max(8, measurement.solver.steps // len(DELTAS))
    solver = attrs.evolve(measurement.solver, steps=steps, last_step="full")
    for z, condition in prior(teacher, measurement, "trajectory", _TRAJECTORIES):
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
            error[delta] += float((found - state).double().square().sum())
            moved[delta] += float((state - z).double().square().sum())
            before = delta
            progress("trajectory error", index + 1, len(DELTAS))
    tiny = torch.finfo(torch.float64).tiny  # a teacher that moves nothing
    return {delta: (error[delta] / max(moved[delta], tiny)) ** 0.5 for delta in DELTAS}
