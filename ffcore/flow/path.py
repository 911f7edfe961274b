"""The path between data and noise, and its velocity.

x_t = (1 − t) x + t n, with n ~ N(0, I): t = 0 is data, t = 1 the prior. The velocity is
u = E[x − n | x_t], so dx/dt = −u. With it x = x_t + t u and n = x_t − (1 − t) u in conditional
mean, and the score is ∇ log p_t(x_t) = −E[n | x_t] / t.
"""

from __future__ import annotations

from torch import Tensor


def expand_like(values: Tensor, x: Tensor) -> Tensor:
    """Return per-sample `values`, Float[B], with trailing dimensions of one, to multiply with x."""
    return values.view(-1, *[1] * (x.ndim - 1))


def interpolate(x: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """Return x_t = (1 − t) x + t n; x and n are Float[B, *S], t is Float[B]."""
    t = expand_like(t, x).to(x.dtype)
    return (1 - t) * x + t * n
