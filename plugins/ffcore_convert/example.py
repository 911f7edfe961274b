"""A small untrained network, for examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.interfaces import Condition


class Network(nn.Module):
    """Vectors of two numbers with one of three classes or none."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 8)
        self.layers = nn.Sequential(nn.Linear(11, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return the prediction at points x and times [B]."""
        found: Tensor = self.layers(torch.cat([x, time[:, None], self.label(condition.label)], 1))
        return found


def network() -> Network:
    """Return a new network."""
    return Network()
