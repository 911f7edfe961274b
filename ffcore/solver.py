"""Integrating a teacher's flow: dx/dδ = u(x, 1 − δ), by fixed steps.

Explicit Runge–Kutta methods on a uniform grid, each a table of stages. The state is accumulated
in float64, and the velocity computed in the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from ffcore.interfaces import Condition, VelocityField

Method = Literal["euler", "heun", "midpoint", "rk4"]


@attrs.frozen
class Tableau:
    """An explicit Runge–Kutta method: stage i is at nodes[i], from the stages before it."""

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUS: dict[Method, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "midpoint": Tableau(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "rk4": Tableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}


@torch.no_grad()
def integrate(
    field: VelocityField,
    x: Tensor,
    condition: Condition,
    *,
    steps: int,
    method: Method = "heun",
    start: float = 1.0,
    stop: float = 0.0,
) -> Tensor:
    """Carry x along the flow from time `start` down to `stop`, in `steps` equal steps.

    Args:
        field: the velocity; evaluated len(tableau.nodes) times a step.
        x: Float[B, *S].
        condition: of size B.
        steps: at least 1.
        method: "euler" (order 1), "heun", "midpoint" (2) or "rk4" (4).
        start, stop: times, 1 ≥ start ≥ stop ≥ 0.

    Returns:
        Float[B, *S], in the dtype of x.
    """
    tableau = TABLEAUS[method]
    h = (start - stop) / steps
    state = x.double()
    for step in range(steps):
        t = start - step * h
        velocities: list[Tensor] = []
        for node, stage in zip(tableau.nodes, tableau.stages, strict=True):
            point = _combine(state, h, stage, velocities).to(x.dtype)
            # The grid's last point is `stop` itself, not what rounding makes of it.
            time = stop if step == steps - 1 and node == 1.0 else t - node * h
            times = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
            velocities.append(field(point, times, condition).double())
        state = _combine(state, h, tableau.weights, velocities)
    return state.to(x.dtype)


def _combine(state: Tensor, h: float, weights: Sequence[float], velocities: list[Tensor]) -> Tensor:
    for weight, velocity in zip(weights, velocities, strict=True):
        if weight:
            state = state + h * weight * velocity
    return state
