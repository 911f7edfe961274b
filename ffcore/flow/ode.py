"""Carrying a point along a teacher's flow, dx/dδ = u(x, 1 − δ), as a Solver says.

The state is accumulated in float64, and the velocity computed in the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ffcore.flow.guidance import Guided
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, VelocityField

MOST_STEPS = 1000
"""That dopri5 may try; some 30 do at its usual tolerance, some 200 at 1e-10."""


class FlowError(Exception):
    """A flow that dopri5 cannot follow. One message, for a person."""


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

    Raises FlowError where dopri5 meets a velocity that is not finite, or cannot keep its tolerance.
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
    """Return how a velocity at t = 1 changes with the noise: the slope of its regression on z.

    Noise says nothing of the data, so that u(n, 1) = E[x] − n, guided or not: the slope is −1.

    Args:
        field: the velocity.
        z: at least two samples of prior noise, Float[B, *S].
        condition: of size B, of which the first is taken for all.
    """
    same = condition[torch.zeros(len(z), dtype=torch.long, device=z.device)]
    velocity = field(z, torch.ones_like(z.flatten(1)[:, 0]), same)
    n, u = (each.double().flatten(1) - each.double().flatten(1).mean(0) for each in (z, velocity))
    return float((u * n).sum() / n.square().sum())


def points_wrongly(slope: float) -> bool:
    """Whether a noise slope is one of a trained velocity, and not of one with our sign and time.

    It is +1 where the sign is the other, or where t = 0 is asked of exact velocities instead. One
    that follows the noise neither way, as new weights do not, or far too much, as a new DiT
    restated as a velocity does, is none that was trained: nothing can be said of it.
    """
    return 0.5 <= abs(slope) <= 10 and abs(slope + 1) > 0.5


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
        # The last step ends at `stop`; otherwise it would go beyond, and be interpolated.
        options={"step_t": durations[1:]},
    )
    return path[-1].to(x.dtype)


class _Derivative:
    """dx/dδ as torchdiffeq asks for it; it ends a way on which dopri5 does not get on."""

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
                "damaged, or the guidance scale be too large."
            )
        return velocity.double()

    def callback_step(self, delta: Tensor, state: Tensor, length: Tensor) -> None:
        """Take note of a step that is about to be tried; torchdiffeq calls it by this name."""
        del state
        self.steps += 1
        if self.steps > MOST_STEPS or not delta + length > delta:
            raise FlowError(
                f"dopri5 does not arrive within {MOST_STEPS} steps: it stands at "
                f"t = {self.start - float(delta):.6g}, and the tolerance {self.tolerance:g} asks "
                f"for a step of {float(length):.1g}. A velocity in {str(self.dtype)[6:]} is exact "
                f"to about {torch.finfo(self.dtype).eps:.0e} of its size: choose a larger "
                "tolerance (in recipes evaluation.solver.tolerance), or a solver of fixed steps."
            )


def _times(time: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


def _combine(state: Tensor, h: float, weights: Sequence[float], velocities: list[Tensor]) -> Tensor:
    for weight, velocity in zip(weights, velocities, strict=True):
        if weight:
            state = state + h * weight * velocity
    return state


class Counted(VelocityField):
    """A velocity field that counts its evaluations, one for each row.

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
