"""The derivative of a network's output along a direction of its inputs, without a graph.

FreeFlow needs ∂_δ F; MeanFlow needs the derivative along (−u, 1, 1) of (x_t, t, δ). Three backends:

- "dual": exact, in the forward that carries the gradient (ffcore/flow/dual.py);
- "jvp": exact, with torch's forward mode in a separate pass;
- "finite-difference": works with any network, attention kernel or compiler, and reuses the forward.
  It turns autocast off, because in low precision it would be mostly rounding.

"auto" is the first that works on the student. Tangents have no graph: the gradient flows through
the output alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ffcore.draws import Draws
from ffcore.flow.backend import BACKENDS, SCHEME, STEP, Backend, Scheme
from ffcore.flow.dual import Dual
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Context, Student

Function = Callable[..., Tensor]


@attrs.frozen(kw_only=True)
class Derivative:
    """A method to differentiate.

    Args:
        backend: see the module's docstring.
        step: step of the finite difference, in units of time. The error is O(step) one-sided and
            O(step²) central, plus rounding of order eps / step.
        scheme: "one-sided" costs one evaluation, "central" two.
    """

    backend: Backend = attrs.field(default="dual", validator=attrs.validators.in_(BACKENDS))
    step: float = STEP
    scheme: Scheme = SCHEME

    @staticmethod
    def of(table: Any, context: Context) -> Derivative:
        """Return the derivative in an objective's table (keys of ffcore/flow/backend.py)."""
        return Derivative(
            backend=choose_backend(table.derivative, context),
            step=table.derivative_step,
            scheme=table.derivative_scheme,
        )

    def with_value(
        self,
        function: Function,
        primals: Sequence[Tensor],
        tangents: Sequence[Tensor],
        *,
        room: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return function(primals), and d/dh function(primals + h tangents) at h = 0, per sample.

        Args:
            function: takes as many tensors as there are primals, batch first; with "dual", it
                gets dual numbers.
            primals: the point; each Float[B, …].
            tangents: the direction; each of its primal's shape.
            room: how far h may go (behind, ahead) within the function's domain, Float[B] ≥ 0
                each. The finite difference reverses or shortens its step accordingly.

        Returns:
            Float[B, *S] each, the first with gradient, the second without.
        """
        if self.backend == "dual":
            return dual(function, primals, tangents)
        value = function(*primals)
        return value, self(function, primals, tangents, value=value, room=room)

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
        """Return only the derivative, for a caller that has the `value`; see with_value."""
        if self.backend == "dual":
            return dual(function, primals, tangents)[1]
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


def dual(
    function: Function, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the value, with gradient, and the derivative, without; see ffcore.flow.dual."""
    found = function(*map(Dual, primals, tangents))
    if isinstance(found, Dual):
        return found.value, found.tangent
    return found, torch.zeros_like(found).detach()


@torch.no_grad()
def jvp(function: Function, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """Return the forward-mode derivative.

    Attention uses the math kernel, because the fused ones have no forward mode (torch 2.13).
    """
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jvp(function, tuple(primals), tuple(tangents))
    derivative: Tensor = found[1]
    return derivative


_REFUSALS = (RuntimeError, TypeError, AttributeError, ValueError, AssertionError)
"""Errors of a network that does not accept dual numbers or has no forward mode."""


def backend_for(student: Student, x: Tensor, condition: Condition) -> Backend:
    """Return the first of BACKENDS that works on this student: exact before approximate, cheap
    before expensive.

    Args:
        student: on any device, including meta.
        x: prior noise for a few samples on that device, Float[B, *S].
        condition: of size B.

    Raises the student's error if an ordinary call fails.
    """
    ones = torch.ones(len(x), device=x.device, dtype=x.dtype)
    anywhere = student.starts_at == "anywhere"
    primals = (x, ones, ones / 2) if anywhere else (ones / 2,)
    fixed = () if anywhere else (x, ones)

    def output(*moved: Tensor) -> Tensor:
        found: Tensor = student(*fixed, *moved, condition)
        return found

    tangents = tuple(map(torch.ones_like, primals))
    with torch.enable_grad():
        plain = output(*primals)
    for backend in BACKENDS[:-1]:
        try:
            with torch.enable_grad():
                value, _ = Derivative(backend=backend).with_value(
                    output, primals, tangents, room=(ones, ones)
                )
            _check_gradient(student, value, plain)
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS:
            continue
        return backend
    return BACKENDS[-1]


def choose_backend(choice: str, context: Context) -> Backend:
    """Return the backend for a recipe's key: for "auto", `backend_for` the student.

    If `context` has no student yet, "auto" is the first of BACKENDS.
    """
    if choice != "auto":
        return cast(Backend, choice)
    student, teacher = context.student, context.teacher
    if student is None or teacher is None:
        return BACKENDS[0]
    parameter = next(student.parameters(), torch.zeros(()))
    draws = Draws(0, 0, 0, 2)
    condition = teacher.conditions.draw(draws)
    if context.guidance_range is not None:
        condition = condition.at(context.guidance_range[0])
    x = draws.normal("z", teacher.sample_shape).to(parameter.device)
    return backend_for(student, x, condition.to(parameter.device))


def _check_gradient(student: Student, value: Tensor, plain: Tensor) -> None:
    """Raise NotImplementedError if an output computed with its derivative has another gradient.

    A function that computes its own gradient (torch.autograd.Function) loses it with dual numbers.
    """
    parameters = [each for each in student.parameters() if each.requires_grad]
    if not parameters:
        return
    gradients, others = (
        torch.autograd.grad(
            each.square().sum(),
            parameters,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        if each.requires_grad
        else [torch.zeros_like(parameter) for parameter in parameters]
        for each in (value, plain)
    )
    if any(each.is_meta for each in gradients):
        return
    for found, wanted in zip(gradients, others, strict=True):
        if (found - wanted).norm() > 0.01 * wanted.norm():
            raise NotImplementedError("its output has another gradient with dual numbers")


class DerivativeMismatch(ValueError):
    """The backends disagree on this student, or the chosen one does not work."""


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
    """Compare the chosen backend's ∂_δ F with another backend's, on a few samples.

    It starts at the prior. With a `velocity` for each sample, it starts at random times and also
    compares ∂_t F and the derivative along `velocity`. It uses a copy of the student with perturbed
    parameters: a new student often does not depend on δ, and then every backend is right.

    Returns:
        The greatest ‖chosen − other‖ / ‖other‖, or None if only finite differences work on this
        student.

    Raises:
        DerivativeMismatch: if they differ by more than `tolerance`, the chosen one does not work
            on the student, or "dual" changes the output's gradient.
        ValueError: if the student's output is not finite.
    """
    probe = copy.deepcopy(student)
    for index, parameter in enumerate(probe.parameters()):
        noise = draws.named("self-check", index).normal("parameter", tuple(parameter.shape))
        parameter.data.add_(0.05 * noise[0].to(parameter))
    ones = torch.ones(len(x), device=x.device, dtype=x.dtype)
    t = ones if velocity is None else 0.1 + 0.8 * draws.named("self-check").uniform("t").to(x)
    delta = t * (0.1 + 0.8 * draws.uniform("self-check").to(x))
    inputs = {"x": x, "t": t, "δ": delta}

    def compare(name: str, tangent: Tensor, behind: Tensor, ahead: Tensor) -> float | None:
        def function(moved: Tensor) -> Tensor:
            output: Tensor = probe(*(inputs | {name: moved}).values(), condition)
            return output

        return _compare(
            name, probe, function, derivative, inputs[name], tangent, (behind, ahead), tolerance
        )

    errors = [compare("δ", ones, delta, t - delta)]
    if velocity is not None:
        errors += [compare("t", ones, t - delta, 1 - t), compare("x", velocity, ones, ones)]
    found = [each for each in errors if each is not None]
    return max(found) if len(found) == len(errors) else None


def _compare(
    name: str,
    probe: Student,
    function: Callable[[Tensor], Tensor],
    derivative: Derivative,
    value: Tensor,
    tangent: Tensor,
    room: tuple[Tensor, Tensor],
    tolerance: float,
) -> float | None:
    """Return the backends' relative difference for the input `name`; see self_check."""
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
            if each.backend == "dual":
                with torch.enable_grad():
                    beside, _ = each.with_value(function, (value,), (tangent,), room=room)
                    _check_gradient(probe, beside, function(value))
        except _REFUSALS as error:
            if each.backend == derivative.backend:
                raise DerivativeMismatch(
                    f'derivative "{each.backend}" fails on this student: {error}\n'
                    'Use derivative = "auto", or "finite-difference", which works with every '
                    "network."
                ) from error
            return None
    reference = found[other.backend]
    with torch.no_grad():
        moves = not torch.equal(function(0 * value), output)
    if moves and not any(each.any() for each in found.values()):
        raise DerivativeMismatch(
            f"the student depends on {name}, but its derivative is zero: it may round {name} or "
            "convert it to an integer"
        )
    error_norm = (found[derivative.backend] - reference).norm() / reference.norm().clamp(min=1e-30)
    _check_finite(output)
    if not error_norm <= tolerance:
        raise DerivativeMismatch(
            f"the derivative backends disagree on this student: ‖{derivative.backend} − "
            f"{other.backend}‖ is {error_norm:.1%} of the latter, but at most {tolerance:.0%} is "
            f"allowed. Try another finite-difference step than {derivative.step:g}. If that does "
            f"not help, the student is not differentiable in {name}."
        )
    return float(error_norm)


def _check_finite(output: Tensor) -> None:
    if not output.isfinite().all():
        raise ValueError(
            "the student's output is NaN or infinite (with weights perturbed by 0.05): check the "
            "weights that it starts from, its own or the teacher's."
        )
