"""A copy of any teacher's network as a student: its own time input carries the duration.

F(z, δ) = u(z, t(δ) | c), where u is the copy and t falls linearly from `late` at δ = 0 to `early`
at δ = 1. It is a parametrisation: training teaches the network what its times mean. If u is the
network's own answer, all times serve, and the copy starts right at δ = 0: F(z, 0) = u(z, 1).

Two things make other times hard to learn. If u is computed from noise, data or a score, the
network's answer and its gradient are magnified near an end of time. And networks embed an index of
0 to 999 with waves of up to one radian a step: over all of them, δ ∂F/∂δ is mostly such waves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffcore.flow.convert import ConvertedVelocity
from ffcore.interfaces import Condition, Student, VelocityField

LIMIT = 2.0
"""Greatest magnification of the network's answer at the times of a student."""
UNITS = 25.0
"""Greatest change of a converted network's own time between these times."""
GRID = 1001
"""Times at which the magnification is computed."""


class CopiedStudent(Student):
    """F(x_t, δ | c) = u(x_t, late + (early − late) δ | c).

    Args:
        velocity: u, which trains.
        times: (early, late), in [0, 1].
    """

    starts_at = "prior"

    def __init__(self, velocity: VelocityField, times: tuple[float, float]) -> None:
        super().__init__()
        self.velocity = velocity
        self.times = times

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        del t
        early, late = self.times
        output: Tensor = self.velocity(x_t, late + (early - late) * delta, condition)
        return output


def learnable_times(velocity: VelocityField) -> tuple[float, float]:
    """Return the latest times at which the velocity can be learnt, as LIMIT and UNITS say.

    Raises ValueError if there are no two such times.
    """
    t = torch.linspace(0, 1, GRID, dtype=torch.float64)
    fit = t[velocity.magnification(t) <= LIMIT]
    if len(fit) < 2:
        raise ValueError(
            f"the teacher's network is magnified more than {LIMIT:g} times at every time: set "
            "student.times"
        )
    if isinstance(velocity, ConvertedVelocity):
        own = velocity.relation.time(fit.clamp(*velocity.relation.trained))
        fit = fit[(own - own[-1]).abs() <= UNITS]
    return float(fit[0]), float(fit[-1])
