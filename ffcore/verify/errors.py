"""Errors over samples: absolute and relative, by quantiles."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

QUANTILES = (0.1, 0.5, 0.9)
LEAST = 1e-4
"""Smallest divisor of a relative error, in standard deviations of the prior: below it, the solver
and float32 cannot resolve a percent."""


@attrs.frozen(kw_only=True)
class Spread:
    """A summary of one number per sample."""

    rms: float
    low: float
    """The quantile of 10 %."""
    median: float
    high: float
    """The quantile of 90 %."""

    @staticmethod
    def of(values: Tensor) -> Spread:
        """Summarise Float[N], N ≥ 1."""
        values = values.detach().cpu().double()
        low, median, high = torch.quantile(
            values, torch.tensor(QUANTILES, dtype=torch.float64)
        ).tolist()
        return Spread(rms=float(values.square().mean().sqrt()), low=low, median=median, high=high)


@attrs.frozen(kw_only=True)
class Errors:
    """Errors of samples."""

    absolute: Spread
    """‖error‖ / √d."""
    relative: Spread | None
    """‖error‖ / ‖size‖ of the samples whose size is LEAST √d or more; None if there is none."""
    left_out: int
    """Number of the other samples."""

    @staticmethod
    def of(error: Tensor, size: Tensor) -> Errors:
        """Summarise the norms of N samples, both Float[N] and divided by √d; see `norm`."""
        moves = size >= LEAST
        some = bool(moves.any())
        return Errors(
            absolute=Spread.of(error),
            relative=Spread.of(error[moves] / size[moves]) if some else None,
            left_out=int((~moves).sum()),
        )


def norm(x: Tensor) -> Tensor:
    """Return ‖x‖ / √d of each sample, in float64 on the CPU: Float[B]."""
    return x.detach().flatten(1).cpu().double().square().mean(1).sqrt()
