"""The residual of the flow-map identity, at each duration.

F + δ ∂_δ F = u(f, 1 − δ) at f = z + δ F (Tong et al., 2511.19428) holds at all δ if and only if f
is the flow map. The residual v_G − u is the departure of the student's flow per unit of time;
FreeFlow's predictor trains on its square.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ffcore.flow.backend import Backend
from ffcore.flow.derivative import Derivative, Function
from ffcore.flow.flow_map import generating_velocity, push
from ffcore.interfaces import Condition, Student, Teacher
from ffcore.verify.errors import norm

STEP = 5e-3
"""Step of the finite difference. In float32 its rounding error is about 1e-4 ‖F‖ and its truncation
error STEP²/3 ∂³_δ F. A shorter step rounds worse, a longer one truncates more."""


@attrs.frozen(kw_only=True, eq=False)
class Residual:
    """The identity at one duration, of B samples; norms are divided by √d."""

    end: Tensor
    """f(z, δ), Float[B, *S]."""
    gap: Tensor
    """‖v_G − u‖, Float[B]."""
    velocity: Tensor
    """‖u‖, Float[B]."""
    uncertainty: Tensor
    """Change of v_G when the finite difference's step doubles, Float[B]; 0 if the derivative is
    exact."""


@torch.no_grad()
def residual(
    student: Student,
    teacher: Teacher,
    z: Tensor,
    condition: Condition,
    delta: float,
    backend: Backend,
) -> Residual:
    """Return the identity's residual at (z, δ).

    Args:
        student, teacher: the teacher guided by the scale in the condition.
        z: prior noise, Float[B, *S].
        condition: of size B.
        delta: at least 4 STEP.
        backend: from `ffcore.flow.derivative_check.backend_for`.
    """
    ones = torch.ones(len(z), dtype=z.dtype, device=z.device)
    duration = delta * ones

    def average_velocity(duration: Tensor) -> Tensor:
        output: Tensor = student(z, ones, duration, condition)
        return output

    if backend == "finite-difference":
        F = average_velocity(duration)
        d_output, again = _differences(average_velocity, duration, F)
    else:
        F, d_output = Derivative(backend=backend).with_value(
            average_velocity, (duration,), (ones,), room=(duration, 1 - duration)
        )
        again = d_output
    v_G = generating_velocity(F, d_output, duration)
    end = push(z, F, duration)
    u = teacher(end, 1 - duration, condition)
    return Residual(
        end=end,
        gap=norm(v_G - u),
        velocity=norm(u),
        uncertainty=delta * norm(d_output - again),
    )


def _differences(F: Function, duration: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂_δ F to second order by a step, and by a step twice as long.

    From the point itself and two behind it, so that it is the same formula at δ = 1, beyond which
    no student is defined.
    """
    one, two, four = (F(duration - behind * STEP) for behind in (1, 2, 4))
    return (
        (3 * here - 4 * one + two) / (2 * STEP),
        (3 * here - 4 * two + four) / (4 * STEP),
    )
