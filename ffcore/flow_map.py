"""The flow map and its average velocity.

f(x, t, δ) = x + δ F(x, t, δ) carries a point at time t to time t − δ along the flow. From the
prior (t = 1) f(z, δ) is all that FreeFlow needs (Tong et al., 2511.19428). It is the flow map of u
if and only if its generating velocity v_G = ∂_δ f = F + δ ∂_δ F equals u(f, 1 − δ) at every δ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffcore.interfaces import Condition, Student
from ffcore.path import expand_like


def push(x: Tensor, average_velocity: Tensor, delta: Tensor) -> Tensor:
    """Return f = x + δ F; x and F are Float[B, *S], delta is Float[B]."""
    return x + expand_like(delta, x).to(x.dtype) * average_velocity


def generating_velocity(average_velocity: Tensor, d_delta: Tensor, delta: Tensor) -> Tensor:
    """Return v_G = F + δ ∂_δ F; F and ∂_δ F are Float[B, *S], delta is Float[B]."""
    return push(average_velocity, d_delta, delta)


def generate(
    student: Student, z: Tensor, condition: Condition, delta: float | Tensor = 1.0
) -> Tensor:
    """Map prior noise over a duration: f(z, δ); one-step samples at δ = 1.

    Args:
        student: evaluated as it is (its mode and gradient tracking are the caller's).
        z: prior noise, Float[B, *S].
        condition: of size B.
        delta: one duration in [0, 1], or one for each sample, Float[B].

    Returns:
        Float[B, *S].
    """
    ones = torch.ones(len(z), dtype=z.dtype, device=z.device)
    durations = ones * delta
    return push(z, student(z, ones, durations, condition), durations)
