"""Carrying a point along a teacher's flow, dx/dδ = u(x, 1 − δ), as a Solver says.

The state is accumulated in float64, and the velocity computed in the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ffcore.guidance import Guided
from ffcore.interfaces import Condition, VelocityField
from ffcore.solver import Solver


@torch.no_grad()
def integrate(
    field: VelocityField,
    x: Tensor,
    condition: Condition,
    solver: Solver | None = None,
    *,
    start: float = 1.0,
    stop: float = 0.0,
) -> Tensor:
    """Carry x along the flow from time `start` down to `stop`.

    With a fixed-step solver a sample's path depends on that sample alone; dopri5 chooses its
    steps for the whole batch.

    Args:
        field: the velocity.
        x: Float[B, *S].
        condition: of size B.
        solver: by default 64 Heun steps.
        start, stop: times, 1 ≥ start ≥ stop ≥ 0.

    Returns:
        Float[B, *S], in the dtype of x.
    """
    solver = solver or Solver()
    if solver.method == "dopri5":
        return _adaptively(field, x, condition, solver, start, stop)
    state = x.double()
    for step in solver.grid(start, stop):
        velocity, gated = field, condition
        if solver.gate == "step" and isinstance(field, Guided):
            velocity, gated = field.decided_at(step.times[0], condition)
        found: list[Tensor] = []
        for time, stage in zip(step.times, step.tableau.stages, strict=True):
            point = _combine(state, step.length, stage, found).to(x.dtype)
            found.append(velocity(point, _times(time, point), gated).double())
        state = _combine(state, step.length, step.tableau.weights, found)
    return state.to(x.dtype)


def _adaptively(
    field: VelocityField, x: Tensor, condition: Condition, solver: Solver, start: float, stop: float
) -> Tensor:
    from torchdiffeq import odeint

    if start == stop:
        return x

    def derivative(delta: Tensor, state: Tensor) -> Tensor:
        point = state.to(x.dtype)
        velocity: Tensor = field(point, _times(start - float(delta), point), condition)
        return velocity.double()

    durations = torch.tensor([0.0, start - stop], dtype=torch.float64, device=x.device)
    tolerance = solver.tolerance
    path: Tensor = odeint(
        derivative,
        x.double(),
        durations,
        rtol=tolerance,
        atol=tolerance,
        method="dopri5",
        # The last step ends at `stop`; otherwise it would go beyond, and be interpolated.
        options={"step_t": durations[1:]},
    )
    return path[-1].to(x.dtype)


def _times(time: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


def _combine(state: Tensor, h: float, weights: Sequence[float], velocities: list[Tensor]) -> Tensor:
    for weight, velocity in zip(weights, velocities, strict=True):
        if weight:
            state = state + h * weight * velocity
    return state


class Counted(VelocityField):
    """A velocity field that counts its evaluations, one for each row it is asked for.

    Around the *base* network, `evaluations / samples` is the NFE of a sample.
    """

    def __init__(self, field: VelocityField) -> None:
        super().__init__()
        self.field = field
        self.evaluations = 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the field's velocity, and count."""
        self.evaluations += len(x_t)
        velocity: Tensor = self.field(x_t, t, condition)
        return velocity
