"""The flow map and its average velocity.

f(x, t, δ) = x + δ F(x, t, δ) moves a point at time t along the flow to time t − δ. FreeFlow only
needs f(z, δ) from the prior, t = 1 (Tong et al., 2511.19428). It is the flow map of u if and only
if its generating velocity v_G = ∂_δ f = F + δ ∂_δ F equals u(f, 1 − δ) at every δ. From anywhere,
f is the flow map if and only if F + δ D F = u(x, t), where D is the derivative along (−u, 1, 1) of
(x, t, δ): the start moves back along the flow while the end stays (Geng et al., 2505.13447).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Student


def push(x: Tensor, average_velocity: Tensor, delta: Tensor) -> Tensor:
    """Return f = x + δ F; x and F are Float[B, *S], delta is Float[B]."""
    return x + expand_like(delta, x).to(x.dtype) * average_velocity


def generating_velocity(average_velocity: Tensor, d_delta: Tensor, delta: Tensor) -> Tensor:
    """Return v_G = F + δ ∂_δ F; F and ∂_δ F are Float[B, *S], delta is Float[B]."""
    return push(average_velocity, d_delta, delta)


def generate(
    student: Student,
    z: Tensor,
    condition: Condition,
    delta: float | Tensor = 1.0,
    *,
    steps: int = 1,
) -> Tensor:
    """Map prior noise over a duration: f(z, δ). At δ = 1 this gives samples.

    Args:
        student: called in its current mode; the caller decides about gradients.
        z: prior noise, Float[B, *S].
        condition: of size B.
        delta: one duration in [0, 1], or one for each sample, Float[B].
        steps: number of steps of equal length.

    Returns:
        Float[B, *S].

    Raises ValueError for a number of steps that the student cannot make, and for a condition of
    another size.
    """
    check_steps(student, steps)
    if condition.size != len(z):
        raise ValueError(
            f"condition: must be of the size of z, {len(z)}, found {condition.size}: use "
            f"Condition(size={len(z)}, …)"
        )
    ones = torch.ones(len(z), dtype=z.dtype, device=z.device)
    length = ones * delta / steps
    x = z
    for step in range(steps):
        t = torch.maximum(1 - step * length, length)  # rounding could start the last below it
        x = push(x, student(x, t, length, condition), length)
    return x


def check_steps(student: Student, steps: int) -> None:
    """Raise ValueError unless `student` can make `steps` steps: 1, or any number from anywhere."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if steps > 1 and student.starts_at != "anywhere":
        raise ValueError(
            f"this student starts only at the prior and makes 1 step, not {steps}: for more, train "
            'one with student.starts_at = "anywhere"'
        )
