"""Perceptrons of a point, a class or a vector, and a time, a duration or both.

Where it pays, each adds to the flow of a Gaussian what differs from it; see ffcore/nn/around.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ffcore.interfaces import Condition, Moments, Student, VelocityField
from ffcore.nn.around import AroundGaussian
from ffcore.nn.embedding import sinusoids

FREQUENCIES = 16
"""Sinusoids of a scalar."""
PROJECTIONS = 32
"""Random projections of a vector, for a student that starts at the prior.

They are for the plane, whose directions so few cover: in three dimensions they made samples less
sharp (docs/results.md). A student that starts anywhere has none: its objectives differentiate in
the vector as well, which they would make noisy."""
PLANE = 2
"""Most dimensions of a vector with projections."""


class _Perceptron(nn.Module):
    """Maps a vector, scalars in [0, 1], a class and a condition's vector to a vector.

    Each scalar enters as itself and as sinusoids of low to moderate frequency. The vector enters
    as itself and, with `projections`, as sinusoids of so many random projections (Tancik et al.,
    2006.10739), without which a map stays too smooth to part two modes.
    """

    projections: Tensor | None

    def __init__(
        self,
        dimension: int,
        classes: int,
        width: int,
        depth: int,
        scalars: int = 1,
        pooled: int = 0,
        projections: int = 0,
    ) -> None:
        super().__init__()
        self.pooled = nn.Linear(pooled, width, bias=False) if pooled else None
        self.label = nn.Embedding(classes + 1, width) if classes else None
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(dimension, projections, generator=generator)
        self.register_buffer("projections", random if projections else None)
        entering = dimension + 2 * projections + scalars * (FREQUENCIES + 1)
        self.enter = nn.Linear(entering, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.leave = nn.Linear(width, dimension)

    def forward(self, x: Tensor, condition: Condition, *scalars: Tensor) -> Tensor:
        entering = [x]
        if self.projections is not None:
            projected = x @ self.projections.to(x.dtype)
            entering += [projected.sin(), projected.cos()]
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
        out: Tensor = self.leave(nn.functional.silu(h))
        return out


class MlpAverageVelocity(Student):
    """A student for vectors, from scratch.

    Args:
        dimension: of the vectors.
        classes: of the conditions, 0 without labels.
        width, depth: units of a hidden layer, and their number.
        starts_at: see Student.
        pooled: length of a condition's vector, 0 without one.
        moments: of the teacher's data; by default mean 0 and spread 1. Only a student that starts
            at the prior uses them: MeanFlow on data ended worse around a Gaussian (three seeds,
            errors of 0.61 to 0.67 for 0.46 to 0.51 on a mixture).
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        width: int,
        depth: int,
        starts_at: Literal["prior", "anywhere"] = "prior",
        pooled: int = 0,
        moments: Moments | None = None,
    ) -> None:
        super().__init__()
        self.starts_at = starts_at
        self.around: AroundGaussian | None = None
        if starts_at == "prior":
            self.around = AroundGaussian(moments or Moments.standard((dimension,)))
        scalars = 1 if starts_at == "prior" else 2
        projections = PROJECTIONS if starts_at == "prior" and dimension <= PLANE else 0
        self.body = _Perceptron(dimension, classes, width, depth, scalars, pooled, projections)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        if self.around is None:
            out: Tensor = self.body(x_t, condition, t, delta).to(x_t.dtype)  # under autocast too
            return out
        t = torch.ones_like(delta)
        rest = self.body(self.around.entering(x_t, t), condition, delta)
        return self.around.average_velocity(x_t, t, delta, condition, rest)


class MlpVelocity(VelocityField):
    """A velocity for vectors, from scratch: g_ψ for a black-box teacher.

    The arguments are those of MlpAverageVelocity.
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        width: int,
        depth: int,
        pooled: int = 0,
        moments: Moments | None = None,
    ) -> None:
        super().__init__()
        self.around = AroundGaussian(moments or Moments.standard((dimension,)))
        self.body = _Perceptron(dimension, classes, width, depth, pooled=pooled)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        rest = self.body(self.around.entering(x_t, t), condition, t)
        return self.around.velocity(x_t, t, condition, rest)
