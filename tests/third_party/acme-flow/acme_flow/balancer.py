"""Pseudo-Huber weights: for large gaps, the loss grows as the gap and not as its square."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ffcore import Balancer, Gap
from ffcore.interfaces import Norms, Objective


class HuberBalancer(Balancer):
    """Weight c / √(‖gap‖²/d + c²), so that weight · ‖gap‖/√d stays below c; both objectives count
    alike."""

    def __init__(self, bound: float = 1.0, correction: float = 0.25) -> None:
        self.bound = bound
        self.correction = correction

    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return the sizes, the correction's rounded down."""
        del step
        correction = int(batch * self.correction)
        return batch - correction, correction

    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        """Return the weight of each sample, the same law for either objective."""
        del objective
        return self.bound * (gap.norm() ** 2 + self.bound**2).rsqrt()

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        """Return 1 for each."""
        return {name: torch.ones_like(norm.raw) for name, norm in norms.items()}
