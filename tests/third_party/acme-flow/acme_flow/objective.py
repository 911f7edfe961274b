"""A predictor without derivatives: average velocities add up.

Over a duration δ the average velocity is the mean of those over its halves,

    F(z, δ) = ½ F(z, δ/2) + ½ w,   w the teacher's from f(z, δ/2) at time 1 − δ/2, over δ/2.

An error at δ/2 arrives at δ at half its size, so that the truth is the only fixed point.
"""

import torch
from torch import Tensor

from ffcore import Condition, Gap, Gaps, PredictorObjective, Teacher, TimeDistribution, push
from ffcore.interfaces import Batch, Networks


class HalvesPredictor(PredictorObjective):
    """Gap F(z, δ) − ½ (F(z, δ/2) + w), with w by Heun's method in `steps` steps."""

    def __init__(self, delta: TimeDistribution | None = None, steps: int = 4) -> None:
        self.delta = delta or TimeDistribution()
        self.steps = steps

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return the one gap."""
        z, condition = batch.z, batch.condition
        delta = self.delta.draw(batch.draws, "delta").to(z)
        ones, half = torch.ones_like(delta), delta / 2
        output = networks.student(z, ones, delta, condition)  # F(z, δ), with gradient
        with torch.no_grad():
            first = networks.student(z, ones, half, condition)
            middle = push(z, first, half)
            second = self._average(networks.teacher, middle, 1 - half, half, condition)
            target = (first + second) / 2
        return Gaps(gaps=(Gap(output=output, gap=output.detach() - target),))

    def _average(
        self, teacher: Teacher, x: Tensor, t: Tensor, duration: Tensor, condition: Condition
    ) -> Tensor:
        """Return the teacher's average velocity from x at t over a duration, Float[B, *S]."""
        step, total = duration / self.steps, torch.zeros_like(x)
        for _ in range(self.steps):
            r = (t - step).clamp(min=0)
            u_t = teacher(x, t, condition)
            u = (u_t + teacher(push(x, u_t, step), r, condition)) / 2
            x, t, total = push(x, u, step), r, total + u
        return total / self.steps
