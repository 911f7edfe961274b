"""Networks that start from the flow of a Gaussian with the data's mean and spread.

The flow of N(mean, spread² I) is known (ffcore/flow/exact.py). A network adds only what differs, in
units of the spread; so data of any place and scale train alike. This is the idea of Karras et al.
(2206.00364): inputs and outputs of unit variance, and a skip connection for what is known.
"""

from __future__ import annotations

from torch import Tensor, nn

from ffcore.flow.exact import Gaussian, spread_at
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Moments


class AroundGaussian(nn.Module):
    """The flow of N(mean, spread² I), and the scales of what differs from it.

    Mean and spread are stored with a network's weights, and do not train.
    """

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.gaussian = Gaussian(moments.mean, moments.spread)

    def entering(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return points in units of their spread at their time, around their mean."""
        mean = self.gaussian.mean[0].to(x_t.dtype)
        return (x_t - expand_like(1 - t, x_t) * mean) / expand_like(self._spread(t), x_t)

    def velocity(self, x_t: Tensor, t: Tensor, condition: Condition, rest: Tensor) -> Tensor:
        """Return the Gaussian's velocity plus a network's answer, in the data's units."""
        known: Tensor = self.gaussian(x_t, t, condition)
        return known + self._scaled(x_t, t, rest)

    def average_velocity(
        self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition, rest: Tensor
    ) -> Tensor:
        """Return the Gaussian's average velocity plus a network's answer, in the data's units."""
        return self.gaussian.average_velocity(x_t, delta, condition, t) + self._scaled(x_t, t, rest)

    def _spread(self, t: Tensor) -> Tensor:
        return spread_at(t, self.gaussian.scale[0].to(t.dtype))

    def _scaled(self, x_t: Tensor, t: Tensor, rest: Tensor) -> Tensor:
        """Return an answer in units of the standard deviation of x − n given x_t."""
        spread = self.gaussian.scale[0].to(t.dtype)
        return expand_like(spread / self._spread(t), x_t) * rest.to(x_t.dtype)
