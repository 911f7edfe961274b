"""FreeFlow's balancer: power-law weights within prediction, and λ between the two objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ffcore.interfaces import Balancer, Gap, Norms, Objective
from ffcore_freeflow.defaults import (
    ALPHA,
    CORRECTION,
    LAMBDA_ON,
    POWER,
    SCALE_EPSILON,
    WEIGHT_EPSILON,
)


class AdaptiveBalancer(Balancer):
    """Weight 1 / (‖Δ_G‖²/d + ε)^k on prediction; λ = α E‖Δ_G‖ / (E‖Δ_N‖ + ε) on correction.

    λ scales the correction to the size of the weighted prediction gap, or with
    `lambda_on = "raw"` of the unweighted one.
    """

    def __init__(
        self,
        *,
        correction: float = CORRECTION,
        correction_from: int = 0,
        alpha: float = ALPHA,
        power: float = POWER,
        weight_epsilon: float = WEIGHT_EPSILON,
        scale_epsilon: float = SCALE_EPSILON,
        lambda_on: Literal["weighted", "raw"] = LAMBDA_ON,
    ) -> None:
        self.correction = correction
        self.correction_from = correction_from
        self.alpha = alpha
        self.power = power
        self.weight_epsilon = weight_epsilon
        self.scale_epsilon = scale_epsilon
        self.lambda_on = lambda_on

    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return the sizes, in whole samples; a nonzero share is never rounded to 0.

        Raises ValueError if both objectives must share a batch of 1.
        """
        if step < self.correction_from or self.correction == 0:
            return batch, 0
        if self.correction < 1 and batch < 2:
            raise ValueError("a batch of 1 cannot be split between prediction and correction")
        least, most = (1, batch - 1) if self.correction < 1 else (0, batch)
        correction = min(max(round(batch * self.correction), least), most)
        return batch - correction, correction

    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        """Return 1 / (‖Δ‖²/d + ε)^k for prediction, 1 for correction."""
        norm = gap.norm()
        if objective == "correction":
            return torch.ones_like(norm)
        return (norm**2 + self.weight_epsilon) ** -self.power

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        """Return 1 for prediction and λ for correction; 1 for a single objective."""
        factors: dict[Objective, Tensor] = {
            name: torch.ones_like(norm.raw) for name, norm in norms.items()
        }
        if len(norms) == 2:
            prediction, correction = norms["prediction"], norms["correction"]
            numerator = prediction.weighted if self.lambda_on == "weighted" else prediction.raw
            factors["correction"] = self.alpha * numerator / (correction.raw + self.scale_epsilon)
        return factors
