"""Inputs made from a seed, in float64: noise, durations, exact teachers and their conditions."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition

seeds = st.integers(0, 2**31 - 1)
shapes = st.sampled_from([(1,), (2,), (5,), (2, 3), (1, 2, 2)])
DELTAS = (0.0, 1e-9, 1e-3, 0.5, 1.0)
"""Durations that every batch holds besides drawn ones: the ends, and where (f − z) / δ cancels."""


class Stream:
    """Tensors of one seed, each call the next of them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * drawn

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator)


@attrs.frozen(eq=False)
class GaussianCase:
    """An exact Gaussian teacher, and a batch of prior noise and durations for it."""

    teacher: Gaussian
    z: Tensor
    delta: Tensor
    condition: Condition

    @staticmethod
    def of(
        seed: int, shape: tuple[int, ...] = (3,), conditional: bool = False, batch: int = 12
    ) -> "GaussianCase":
        stream = Stream(seed)
        rows = (4,) if conditional else ()
        mean, scale = 2 * stream.normal(*rows, *shape), stream.uniform(0.1, 3.0, *rows)
        fixed = torch.tensor(DELTAS, dtype=torch.float64)
        return GaussianCase(
            teacher=Gaussian(mean, scale, conditional=conditional),
            z=stream.normal(batch, *shape),
            delta=torch.cat([fixed, stream.uniform(0, 1, batch - len(fixed))]),
            condition=Condition(
                size=batch, label=stream.integers(4, batch) if conditional else None
            ),
        )

    @property
    def ones(self) -> Tensor:
        return torch.ones_like(self.delta)


@attrs.frozen(eq=False)
class MixtureCase:
    """A Gaussian mixture, and a batch of points and times in [0.05, 0.95] for it."""

    teacher: GaussianMixture
    x: Tensor
    t: Tensor
    condition: Condition

    @staticmethod
    def of(
        seed: int, shape: tuple[int, ...] = (2,), conditional: bool = False, batch: int = 8
    ) -> "MixtureCase":
        stream = Stream(seed)
        labels = [0, 1, 2, 0, 1] if conditional else None
        return MixtureCase(
            teacher=GaussianMixture(
                2 * stream.normal(5, *shape),
                stream.uniform(0.2, 1.5, 5),
                stream.uniform(0.2, 2.0, 5),
                labels,
            ),
            x=stream.normal(batch, *shape),
            t=stream.uniform(0.05, 0.95, batch),
            # Label 3 is the null label: the whole mixture.
            condition=Condition(
                size=batch, label=stream.integers(4, batch) if conditional else None
            ),
        )


def velocity_of_score(score: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The velocity of the marginal with this score, by x_t = (1 − t) x + t n; t in [0, 1)."""
    t = expand_like(t, x_t)
    return (x_t + t * score) / (1 - t)


def slope(x: list[float], y: list[float]) -> float:
    """The slope of log y against log x by least squares: the order of an error in its step."""
    a, b = torch.tensor([x, y], dtype=torch.float64).log()
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a @ a))
