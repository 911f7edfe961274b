"""The derivative of a network's output along a direction of its inputs, without a graph.

FreeFlow needs ∂_δ F, MeanFlow the derivative along (−u, 1, 1) of (x_t, t, δ). Two backends:
"jvp", exact, by forward-mode differentiation; and "finite-difference", which works with any
network, attention kernel or compiler, and shares the forward that carries the gradient. Under
autocast finite differences leave it, since they would be nothing but rounding there.
Neither ever runs in grad mode: the gradient flows through a plain forward of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ffcore.draws import Draws
from ffcore.interfaces import Condition, Student
from ffcore.path import expand_like

Backend = Literal["jvp", "finite-difference"]
Scheme = Literal["one-sided", "central"]
Function = Callable[..., Tensor]


@attrs.frozen(kw_only=True)
class Derivative:
    """How to differentiate.

    Args:
        backend: see the module.
        step: length of the finite difference, in units of time. Error: O(step) one-sided,
            O(step²) central, plus rounding of order eps / step.
        scheme: "one-sided" costs one evaluation, "central" two.
    """

    backend: Backend = "jvp"
    step: float = 1e-3
    scheme: Scheme = "one-sided"

    @torch.no_grad()
    def __call__(
        self,
        function: Function,
        primals: Sequence[Tensor],
        tangents: Sequence[Tensor],
        *,
        value: Tensor,
        room: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return d/dh function(primals + h tangents) at h = 0, per sample.

        Args:
            function: of as many tensors as there are primals, batch first.
            primals: where; each Float[B, …].
            tangents: along which direction; each shaped as its primal.
            value: function(*primals), which the caller has already. Float[B, *S].
            room: how far (behind, ahead) h may go without leaving the function's domain, Float[B]
                each, ≥ 0. The finite difference turns around or shortens its step there.

        Returns:
            Float[B, *S], without gradient.
        """
        if self.backend == "jvp":
            return jvp(function, primals, tangents)
        device = value.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                value = function(*primals) if self.scheme == "one-sided" else value
                return self(function, primals, tangents, value=value, room=room)
        value, (behind, ahead) = value.detach(), room

        def at(h: Tensor) -> Tensor:
            moved = (
                p + expand_like(h, p).to(p.dtype) * v
                for p, v in zip(primals, tangents, strict=True)
            )
            return function(*moved)

        if self.scheme == "one-sided":
            h = torch.where(ahead >= self.step, self.step, -self.step)
            return (at(h) - value) / expand_like(h, value).to(value.dtype)
        ahead, behind = ahead.clamp(max=self.step), behind.clamp(max=self.step)
        span = expand_like(ahead + behind, value).to(value.dtype)
        return (at(ahead) - at(-behind)) / span


@torch.no_grad()
def jvp(function: Function, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """Return the forward-mode derivative.

    Attention runs on the math kernel meanwhile: the fused ones have no forward mode (torch 2.13).
    """
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jvp(function, tuple(primals), tuple(tangents))
    derivative: Tensor = found[1]
    return derivative


class DerivativeMismatch(ValueError):
    """The backends disagree, or the one chosen does not work, on the student at hand."""


def self_check(
    student: Student,
    derivative: Derivative,
    x: Tensor,
    condition: Condition,
    draws: Draws,
    tolerance: float = 0.05,
    *,
    velocity: Tensor | None = None,
) -> float | None:
    """Compare the chosen backend's ∂_δ F with the other backend's, on a few samples.

    From the prior; or, given a `velocity` of each sample, from drawn times, and ∂_t F and the
    derivative along `velocity` too. The check runs on a copy of the student whose parameters are
    perturbed, since a new student often does not depend on δ yet, and then any backend is right.

    Returns:
        ‖chosen − other‖ / ‖other‖, the greatest of those compared, or None where only finite
        differences work on this student.

    Raises:
        DerivativeMismatch: where they differ by more than `tolerance`, or "jvp" is chosen and the
            student has no forward mode.
        ValueError: where the student's output is not finite.
    """
    probe = copy.deepcopy(student).requires_grad_(False)
    for index, parameter in enumerate(probe.parameters()):
        noise = draws.named("self-check", index).normal("parameter", tuple(parameter.shape))
        parameter.add_(0.05 * noise[0].to(parameter))
    ones = torch.ones(len(x), device=x.device, dtype=x.dtype)
    t = ones if velocity is None else 0.1 + 0.8 * draws.named("self-check").uniform("t").to(x)
    delta = t * (0.1 + 0.8 * draws.uniform("self-check").to(x))
    inputs = {"x": x, "t": t, "δ": delta}

    def compared(name: str, tangent: Tensor, behind: Tensor, ahead: Tensor) -> float | None:
        def function(moved: Tensor) -> Tensor:
            output: Tensor = probe(*(inputs | {name: moved}).values(), condition)
            return output

        return _compared(
            name, function, derivative, inputs[name], tangent, (behind, ahead), tolerance
        )

    errors = [compared("δ", ones, delta, t - delta)]
    if velocity is not None:
        errors += [compared("t", ones, t - delta, 1 - t), compared("x", velocity, ones, ones)]
    found = [each for each in errors if each is not None]
    return max(found) if len(found) == len(errors) else None


def _compared(
    name: str,
    function: Callable[[Tensor], Tensor],
    derivative: Derivative,
    value: Tensor,
    tangent: Tensor,
    room: tuple[Tensor, Tensor],
    tolerance: float,
) -> float | None:
    """Return how the backends differ on a function of the input `name`; see self_check."""
    other = attrs.evolve(
        derivative,
        backend="jvp" if derivative.backend == "finite-difference" else "finite-difference",
        scheme="central",
    )
    found: dict[str, Tensor] = {}
    for each in (derivative, other):
        try:
            with torch.no_grad():
                output = function(value)
            found[each.backend] = each(function, (value,), (tangent,), value=output, room=room)
        except (NotImplementedError, RuntimeError) as error:
            if each.backend == derivative.backend:
                raise DerivativeMismatch(
                    f'derivative "{each.backend}" fails on this student: {error}\n'
                    'Choose derivative = "finite-difference", which works with every network.'
                ) from error
            return None
    reference = found[other.backend]
    with torch.no_grad():
        moves = not torch.equal(function(0 * value), output)
    if moves and not any(each.any() for each in found.values()):
        raise DerivativeMismatch(
            f"the student depends on {name}, and its derivative is zero: it takes {name} in jumps, "
            "as a rounded or an integer time would make it"
        )
    error_norm = (found[derivative.backend] - reference).norm() / reference.norm().clamp(min=1e-30)
    _check_finite(output)
    if not error_norm <= tolerance:
        raise DerivativeMismatch(
            f"the derivative backends disagree on this student: ‖{derivative.backend} − "
            f"{other.backend}‖ is {error_norm:.1%} of the latter, and {tolerance:.0%} is allowed. "
            f"The finite difference used step {derivative.step:g}: try another step; if that does "
            f"not help, the student is not differentiable in {name}."
        )
    return float(error_norm)


def _check_finite(output: Tensor) -> None:
    if not output.isfinite().all():
        raise ValueError(
            "the student's output is NaN or infinite: look at the weights that it starts from, its "
            "own or the teacher's. It was asked with its weights perturbed by 0.05."
        )
