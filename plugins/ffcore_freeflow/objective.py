"""FreeFlow's predictor: the generating velocity of the student follows the teacher.

At the optimum F + δ ∂_δ F = u(f(z, δ), 1 − δ). The gap is v_G − u at the student's own point,
without gradient. Its inner product with F has the gradient of ½ ‖F − sg(u − δ ∂_δ F)‖².
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import choose, self_check
from ffcore.flow.duration import STOPS_FALLING, relative_gaps
from ffcore.flow.flow_map import generating_velocity, push
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import Batch, Gap, Gaps, Networks, PredictorObjective


class FreeFlowPredictor(PredictorObjective):
    """The data-free identity, from the prior: only δ carries a tangent, not z."""

    alarms = STOPS_FALLING

    def __init__(
        self, delta: TimeDistribution | None = None, derivative: Derivative | None = None
    ) -> None:
        self.delta = delta or TimeDistribution()
        self.derivative = derivative or Derivative()

    def self_check(self, networks: Networks, batch: Batch) -> str:
        """Check the derivative on this student; choose its backend if it is "auto"."""
        found = self_check(networks.student, self.derivative, batch.z, batch.condition, batch.draws)
        self.derivative = found.derivative
        return str(found)

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return one gap, v_G − u(f, 1 − δ)."""
        z, condition = batch.z, batch.condition
        delta = self.delta.draw(batch.draws, "delta").to(z)
        ones = torch.ones_like(delta)
        self.derivative = choose(self.derivative, networks.student, z, condition)

        def average_velocity(duration: Tensor) -> Tensor:
            output: Tensor = networks.student(z, ones, duration, condition)
            return output

        output, d_output = self.derivative.with_value(  # F, with gradient, and ∂_δ F
            average_velocity, (delta,), (ones,), room=(delta, 1 - delta)
        )
        with torch.no_grad():
            F = output.detach()
            v_G = generating_velocity(F, d_output, delta)
            u = networks.teacher(push(z, F, delta), 1 - delta, condition)
            numbers = relative_gaps(v_G - u, u, delta)
        return Gaps(gaps=(Gap(output=output, gap=v_G - u),), numbers=numbers)
