"""Perceptrons of a point, a class or a vector, and a time, a duration or both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ffcore.interfaces import Condition, Student, VelocityField
from ffcore.nn.embedding import sinusoids

FREQUENCIES = 16


class _Perceptron(nn.Module):
    """Maps a vector, scalars in [0, 1], a class and a condition's vector to a vector.

    Each scalar enters as itself and as sinusoids of low to moderate frequency.
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        width: int,
        depth: int,
        scalars: int = 1,
        pooled: int = 0,
    ) -> None:
        super().__init__()
        self.pooled = nn.Linear(pooled, width, bias=False) if pooled else None
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.enter = nn.Linear(dimension + scalars * (FREQUENCIES + 1), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.leave = nn.Linear(width, dimension)

    def forward(self, x: Tensor, condition: Condition, *scalars: Tensor) -> Tensor:
        entering = [x]
        for scalar in scalars:
            waves = sinusoids(4 * scalar, FREQUENCIES, max_period=16.0)
            entering += [scalar[:, None].to(x.dtype), waves.to(x.dtype)]
        h = self.enter(torch.cat(entering, dim=1))
        if self.label is not None:
            h = h + self.label(condition.label)
        if self.pooled is not None:
            assert condition.pooled is not None
            h = h + self.pooled(condition.pooled.to(x.dtype))
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        out: Tensor = self.leave(nn.functional.silu(h)).to(x.dtype)  # under autocast too
        return out


class MlpAverageVelocity(Student):
    """A student for vectors, from scratch; `pooled` is the length of a condition's vector."""

    def __init__(
        self,
        dimension: int,
        classes: int,
        width: int,
        depth: int,
        starts_at: Literal["prior", "anywhere"] = "prior",
        pooled: int = 0,
    ) -> None:
        super().__init__()
        self.starts_at = starts_at
        scalars = 1 if starts_at == "prior" else 2
        self.body = _Perceptron(dimension, classes, width, depth, scalars, pooled)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        scalars = (delta,) if self.starts_at == "prior" else (t, delta)
        out: Tensor = self.body(x_t, condition, *scalars)
        return out


class MlpVelocity(VelocityField):
    """A velocity for vectors, from scratch: g_ψ for a black-box teacher."""

    def __init__(
        self, dimension: int, classes: int, width: int, depth: int, pooled: int = 0
    ) -> None:
        super().__init__()
        self.body = _Perceptron(dimension, classes, width, depth, pooled=pooled)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        out: Tensor = self.body(x_t, condition, t)
        return out
