"""Perceptrons on (point, time or duration, class)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.interfaces import Condition, Student, VelocityField
from ffcore.nn.embedding import sinusoids

FREQUENCIES = 16


class _Perceptron(nn.Module):
    """Maps a vector, a scalar in [0, 1] and a class to a vector.

    The scalar enters as sinusoids of slow to moderate frequency and as itself.
    """

    def __init__(self, dimension: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.label = nn.Embedding(classes + 1, width) if classes else None
        sizes = [dimension + FREQUENCIES + 1] + [width] * depth
        self.enter = nn.Linear(sizes[0], width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.leave = nn.Linear(width, dimension)

    def forward(self, x: Tensor, scalar: Tensor, condition: Condition) -> Tensor:
        waves = sinusoids(4 * scalar, FREQUENCIES, max_period=16.0).to(x.dtype)
        h = self.enter(torch.cat([x, scalar[:, None].to(x.dtype), waves], dim=1))
        if self.label is not None:
            h = h + self.label(condition.label)
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        out: Tensor = self.leave(nn.functional.silu(h)).to(x.dtype)  # under autocast too
        return out


class MlpAverageVelocity(Student):
    """A student for vectors, started from scratch."""

    starts_at = "prior"

    def __init__(self, dimension: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.body = _Perceptron(dimension, classes, width, depth)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        del t
        out: Tensor = self.body(x_t, delta, condition)
        return out


class MlpVelocity(VelocityField):
    """A velocity for vectors, started from scratch: g_ψ for a black-box teacher."""

    def __init__(self, dimension: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.body = _Perceptron(dimension, classes, width, depth)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        out: Tensor = self.body(x_t, t, condition)
        return out
