"""Integration of a teacher's flow dx/dδ = u(x, 1 − δ) with a Solver.

The state is accumulated in float64; the velocity is computed in the input's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ffcore.flow.guidance import Guided
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, VelocityField

MOST_STEPS = 1000
"""Most steps of dopri5; about 30 are enough at its default tolerance, about 200 at 1e-10."""


class FlowError(Exception):
    """A flow that dopri5 cannot follow. The message is for the user."""


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
    """Move x along the flow from time `start` down to `stop`.

    With a fixed-step solver, a sample's path depends on that sample alone. dopri5 chooses its steps
    for the whole batch.

    Args:
        field: the velocity.
        x: Float[B, *S].
        condition: of size B.
        solver: default 64 Heun steps.
        start, stop: times, 1 ≥ start ≥ stop ≥ 0.

    Returns:
        Float[B, *S], in the dtype of x.

    Raises FlowError if dopri5 meets a velocity that is not finite or cannot keep its tolerance.
    """
    solver = solver or Solver()
    if solver.method == "dopri5":
        return _adaptively(field, x, condition, solver, start, stop)
    state = x.double()
    for step in solver.grid(start, stop):
        velocity, gated = field, condition
        if solver.gate == "step" and isinstance(field, Guided):
            velocity, gated = field.gated_at(step.times[0], condition)
        found: list[Tensor] = []
        for time, stage in zip(step.times, step.tableau.stages, strict=True):
            point = _combine(state, step.length, stage, found).to(x.dtype)
            found.append(velocity(point, _times(time, point), gated).double())
        state = _combine(state, step.length, step.tableau.weights, found)
    return state.to(x.dtype)


@torch.no_grad()
def noise_slope(field: VelocityField, z: Tensor, condition: Condition) -> float:
    """Return the slope of a velocity's regression on the noise z at t = 1.

    Noise is independent of the data, so u(n, 1) = E[x] − n, guided or not: the slope is −1.

    Args:
        field: the velocity.
        z: at least two samples of prior noise, Float[B, *S].
        condition: of size B; the first condition is used for all samples.
    """
    same = condition[torch.zeros(len(z), dtype=torch.long, device=z.device)]
    velocity = field(z, torch.ones_like(z.flatten(1)[:, 0]), same)
    n, u = (each.double().flatten(1) - each.double().flatten(1).mean(0) for each in (z, velocity))
    return float((u * n).sum() / n.square().sum())


def points_wrongly(slope: float) -> bool:
    """Whether a noise slope belongs to a trained velocity with the wrong sign or time direction.

    It is +1 for a flipped sign or, with exact velocities, for a flipped time. A slope near 0 (as of
    new weights) or a very large one (as of a new DiT) belongs to an untrained velocity: then
    nothing is known.
    """
    return 0.5 <= abs(slope) <= 10 and abs(slope + 1) > 0.5


def likely_fault(slope: float) -> str:
    """Return what is likely wrong with a velocity that `points_wrongly`, for its author."""
    if slope > 0:
        return "The sign or the time direction may be flipped"
    return (
        "The sign is right, but not the size: the velocity may have another scale, or a noise "
        "prediction is divided by too small a number near t = 1"
    )


def _adaptively(
    field: VelocityField, x: Tensor, condition: Condition, solver: Solver, start: float, stop: float
) -> Tensor:
    from torchdiffeq import odeint

    if start == stop:
        return x
    durations = torch.tensor([0.0, start - stop], dtype=torch.float64, device=x.device)
    tolerance = solver.tolerance
    path: Tensor = odeint(
        _Derivative(field, condition, tolerance, start, x.dtype),
        x.double(),
        durations,
        rtol=tolerance,
        atol=tolerance,
        method="dopri5",
        # The last step ends at `stop`; otherwise it would go beyond and be interpolated.
        options={"step_t": durations[1:]},
    )
    return path[-1].to(x.dtype)


class _Derivative:
    """dx/dδ for torchdiffeq. Raises FlowError if dopri5 makes no progress."""

    def __init__(
        self,
        field: VelocityField,
        condition: Condition,
        tolerance: float,
        start: float,
        dtype: torch.dtype,
    ) -> None:
        self.field = field
        self.condition = condition
        self.tolerance = tolerance
        self.start = start
        self.dtype = dtype
        self.steps = 0

    def __call__(self, delta: Tensor, state: Tensor) -> Tensor:
        point, time = state.to(self.dtype), self.start - float(delta)
        velocity: Tensor = self.field(point, _times(time, point), self.condition)
        if not velocity.isfinite().all():
            raise FlowError(
                f"dopri5: the velocity is not finite at t = {time:.6g}. The weights may be "
                "damaged, or the guidance scale may be too large."
            )
        return velocity.double()

    def callback_step(self, delta: Tensor, state: Tensor, length: Tensor) -> None:
        """Count a step; torchdiffeq calls a method of this name before each step."""
        del state
        self.steps += 1
        if self.steps > MOST_STEPS or not delta + length > delta:
            raise FlowError(
                f"dopri5 does not finish within {MOST_STEPS} steps: it is at "
                f"t = {self.start - float(delta):.6g}, and the tolerance {self.tolerance:g} needs "
                f"a step of {float(length):.1g}. A velocity in {str(self.dtype)[6:]} is exact to "
                f"about {torch.finfo(self.dtype).eps:.0e} of its size: use a larger tolerance "
                "(in recipes evaluation.solver.tolerance) or a solver with fixed steps."
            )


def _times(time: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


def _combine(state: Tensor, h: float, weights: Sequence[float], velocities: list[Tensor]) -> Tensor:
    for weight, velocity in zip(weights, velocities, strict=True):
        if weight:
            state = state + h * weight * velocity
    return state
