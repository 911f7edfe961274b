"""The derivative of a network along a direction: exact, by differences, and the check of both."""

from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
import torch
from hypothesis import given
from inputs import Stream, seeds, shapes, slope
from networks import FunctionStudent
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative, DerivativeMismatch, backend_for, jvp, self_check
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Student
from ffcore.nn.transformer import Attention

Backend = Callable[..., Tensor]


def wave(x: Tensor, delta: Tensor) -> Tensor:
    """Only defined for δ in [0, 1], as a student is."""
    assert ((delta >= 0) & (delta <= 1)).all(), "δ is outside [0, 1]"
    return torch.sin(3 * expand_like(delta, x) + x)


def d_wave(x: Tensor, delta: Tensor, dx: Tensor, d_delta: Tensor) -> Tensor:
    return torch.cos(3 * expand_like(delta, x) + x) * (3 * expand_like(d_delta, x) + dx)


# Forward mode.


def is_the_derivative(backend: Backend, seed: int, shape: tuple[int, ...]) -> None:
    """Along any direction of several inputs at once."""
    stream = Stream(seed)
    primals = stream.normal(6, *shape), stream.uniform(0, 1, 6)
    tangents = stream.normal(6, *shape), stream.normal(6)
    found = backend(wave, primals, tangents)
    torch.testing.assert_close(found, d_wave(*primals, *tangents), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad


@given(seed=seeds, shape=shapes)
def test_forward_mode_is_the_analytic_derivative(seed: int, shape: tuple[int, ...]) -> None:
    is_the_derivative(jvp, seed, shape)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda function, primals, tangents: jvp(
            function, primals, (torch.zeros_like(tangents[0]), tangents[1])
        ),
        lambda function, primals, tangents: jvp(
            function, primals, (tangents[0], torch.ones_like(tangents[1]))
        ),
        lambda function, primals, tangents: function(*primals),
    ],
    ids=["x held", "unit tangent", "the value"],
)
def test_another_derivative_would_be_seen(wrong: Backend) -> None:
    with pytest.raises(AssertionError):
        is_the_derivative(wrong, 0, (3,))


def test_forward_mode_passes_through_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, qk_norm=True).double()
    x, dx = Stream(0).normal(2, 5, 8), Stream(1).normal(2, 5, 8)
    h = 1e-5
    with torch.no_grad():
        difference = (attention(x + h * dx) - attention(x - h * dx)) / (2 * h)
    # O(h²), and rounding of order 1e-16 / h
    torch.testing.assert_close(jvp(attention, (x,), (dx,)), difference, rtol=1e-7, atol=1e-8)


# Finite differences.


def differentiate(derivative: Derivative, delta: float, x: Tensor) -> Tensor:
    durations = torch.full((len(x),), delta, dtype=torch.float64)

    def function(d: Tensor) -> Tensor:
        return wave(x, d)

    return derivative(
        function,
        (durations,),
        (torch.ones_like(durations),),
        value=wave(x, durations),
        room=(durations, 1 - durations),
    )


def order(
    scheme: str, delta: float, backend: Callable[[Derivative, float, Tensor], Tensor]
) -> float:
    """The order at which the finite difference converges to the analytic derivative."""
    x = Stream(0).normal(20, 2)
    durations = torch.full((20,), delta, dtype=torch.float64)
    exact = d_wave(x, durations, 0 * x, torch.ones_like(durations))
    steps = [2.0**-k for k in range(5, 11)]
    errors = [
        float(
            (
                backend(Derivative(backend="finite-difference", step=h, scheme=scheme), delta, x)
                - exact
            ).norm()
        )
        for h in steps
    ]
    return slope(steps, errors)


ORDERS = [
    ("one-sided", 0.0, 1),
    ("one-sided", 0.4, 1),
    ("one-sided", 1.0, 1),  # turns around
    ("central", 0.4, 2),
    ("central", 0.0, 1),  # shortens to one side
    ("central", 1.0, 1),
]


@pytest.mark.parametrize(("scheme", "delta", "expected"), ORDERS)
def test_finite_differences_converge_at_their_order(
    scheme: str, delta: float, expected: int
) -> None:
    assert order(scheme, delta, differentiate) == pytest.approx(expected, abs=0.05)


def divided_by_the_nominal_step(derivative: Derivative, delta: float, x: Tensor) -> Tensor:
    d = torch.full((len(x),), delta, dtype=torch.float64)
    ahead, behind = (d + derivative.step).clamp(max=1), (d - derivative.step).clamp(min=0)
    return (wave(x, ahead) - wave(x, behind)) / (2 * derivative.step)


def without_turning(derivative: Derivative, delta: float, x: Tensor) -> Tensor:
    d = torch.full((len(x),), delta, dtype=torch.float64)
    return (wave(x, d + derivative.step) - wave(x, d)) / derivative.step


@pytest.mark.parametrize(
    ("scheme", "delta", "expected", "wrong"),
    [
        ("central", 1.0, 1, divided_by_the_nominal_step),
        ("one-sided", 1.0, 1, without_turning),
        ("central", 0.4, 2, without_turning),
    ],
    ids=["nominal step", "leaves the domain", "one side for two"],
)
def test_a_difference_of_another_order_would_be_seen(
    scheme: str, delta: float, expected: int, wrong: Callable[[Derivative, float, Tensor], Tensor]
) -> None:
    with pytest.raises(AssertionError):
        assert order(scheme, delta, wrong) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scheme", ["one-sided", "central"])
def test_each_sample_turns_around_for_itself(scheme: str) -> None:
    x, delta = Stream(0).normal(4, 2), torch.tensor([0.0, 0.3, 0.9995, 1.0], dtype=torch.float64)
    derivative = Derivative(backend="finite-difference", step=1e-3, scheme=scheme)

    def function(d: Tensor) -> Tensor:
        return wave(x, d)

    found = derivative(
        function, (delta,), (torch.ones(4).double(),), value=wave(x, delta), room=(delta, 1 - delta)
    )
    exact = d_wave(x, delta, 0 * x, torch.ones(4).double())
    torch.testing.assert_close(found, exact, rtol=0, atol=4.6e-3)  # |F''| / 2 · step ≤ 4.5e-3


@pytest.mark.parametrize(
    ("derivative", "calls"),
    [
        (Derivative(), 1),
        (Derivative(backend="jvp"), 1),
        (Derivative(backend="finite-difference"), 1),
        (Derivative(backend="finite-difference", scheme="central"), 2),
    ],
)
def test_a_derivative_costs_what_it_says_and_records_no_graph(
    derivative: Derivative, calls: int
) -> None:
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)
    modes = []

    def function(d: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return parameter * d[:, None] ** 2

    d = torch.full((3,), 0.5, dtype=torch.float64)
    value = parameter * d[:, None] ** 2
    found = derivative(function, (d,), (torch.ones_like(d),), value=value, room=(d, 1 - d))
    assert modes == [False] * calls
    assert not found.requires_grad
    assert torch.is_grad_enabled()
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1.1e-3)


# The check before training.

DRAWS = Draws(0, 0, 0, 8)
DUAL, JVP = Derivative(), Derivative(backend="jvp")
DIFFERENCE = Derivative(backend="finite-difference")
BACKENDS = pytest.mark.parametrize(
    "derivative", [DUAL, JVP, DIFFERENCE], ids=["dual", "jvp", "difference"]
)


def check(student: nn.Module, derivative: Derivative) -> float | None:
    z = Stream(0).normal(8, 3)
    return self_check(student, derivative, z, Condition(size=8), DRAWS)


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass


@BACKENDS
def test_the_check_passes_where_the_backends_agree(derivative: Derivative) -> None:
    error = check(FunctionStudent(wave), derivative)
    assert error is not None
    assert 0 < error < 2e-3  # |F''| / 2 · step, relative


@BACKENDS
@pytest.mark.parametrize(
    "function",
    [
        lambda z, delta: wave(z, delta.detach()),
        lambda z, delta: wave(z, (1000 * delta).floor() / 1000),
        lambda z, delta: wave(z, delta) + wave(z, delta.detach()),
    ],
    ids=["detached", "a thousand time steps", "half detached"],
)
def test_the_check_fails_a_student_that_is_not_differentiable(
    function: Callable[[Tensor, Tensor], Tensor], derivative: Derivative
) -> None:
    with pytest.raises(DerivativeMismatch, match="disagree"):
        check(FunctionStudent(function), derivative)


@BACKENDS
def test_the_check_fails_a_student_that_takes_its_time_in_jumps(derivative: Derivative) -> None:
    """Both backends may say 0 then, and agree, unless a difference straddles a jump."""
    with pytest.raises(DerivativeMismatch, match=r"may round|disagree"):
        check(FunctionStudent(lambda z, delta: wave(z, (4 * delta).floor() / 4)), derivative)


@BACKENDS
def test_the_check_lets_a_student_be_that_does_not_depend_on_time(derivative: Derivative) -> None:
    assert check(FunctionStudent(lambda z, delta: z + 0 * delta[:, None]), derivative) == 0


@BACKENDS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_check_tells_a_student_that_is_not_finite(derivative: Derivative, value: float) -> None:
    with pytest.raises(ValueError, match="the student's output is NaN or infinite"):
        check(FunctionStudent(lambda z, delta: value * wave(z, delta)), derivative)


def test_the_check_fails_a_step_that_is_too_long() -> None:
    with pytest.raises(DerivativeMismatch, match=r"step than 0\.1"):
        check(FunctionStudent(wave), attrs.evolve(DIFFERENCE, step=0.1))


def test_forward_mode_is_not_chosen_for_a_student_without_it() -> None:
    student = FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta)))
    with pytest.raises(DerivativeMismatch, match='Use derivative = "auto"'):
        check(student, JVP)


def test_differences_need_no_forward_mode() -> None:
    student = FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta)))
    assert check(student, DIFFERENCE) is None


def test_the_check_sees_through_a_student_that_starts_without_delta() -> None:
    """Its weight on δ is zero; a copy with other weights shows that δ is detached."""

    class Started(FunctionStudent):
        def __init__(self) -> None:
            super().__init__(lambda z, delta: z)
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            del t, condition
            return x_t + self.weight.to(x_t) * expand_like(delta.detach(), x_t)

    with pytest.raises(DerivativeMismatch):
        check(Started(), JVP)


def test_the_check_leaves_the_student_and_the_random_state_alone() -> None:
    student = FunctionStudent(wave).train()
    state = torch.get_rng_state()
    check(student, JVP)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert student.scale.requires_grad
    assert torch.equal(student.scale, torch.ones(1))


# What "auto" picks.


class OwnGradient(torch.autograd.Function):
    """scale · x, whose gradient is lost beside dual numbers, and which has no forward mode."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, x: Tensor) -> Tensor:
        ctx.x = x
        return scale.to(x) * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (gradient * ctx.x).sum()[None].float(), None


class Owned(FunctionStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        return cast(Tensor, OwnGradient.apply(self.scale, wave(x_t, delta)))


def of_tensors_alone(z: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(delta, Tensor)
    return wave(z, delta)


def refused(z: Tensor, delta: Tensor) -> Tensor:
    if not isinstance(delta, Tensor):
        raise ValueError("δ must be a tensor")
    return wave(z, delta)


def picked(student: Student) -> str:
    return backend_for(student, Stream(0).normal(2, 3), Condition(size=2))


@pytest.mark.parametrize(
    ("student", "backend"),
    [
        (FunctionStudent(wave), "dual"),
        (FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta))), "dual"),
        (FunctionStudent(of_tensors_alone), "jvp"),
        (FunctionStudent(refused), "jvp"),
        (FunctionStudent(lambda z, delta: wave(z, torch.as_tensor(delta))), "jvp"),
        (Owned(wave), "finite-difference"),
    ],
    ids=["plain", "own function", "asserts", "refuses", "converts", "own gradient"],
)
def test_the_first_backend_that_works_is_picked(student: Student, backend: str) -> None:
    assert picked(student) == backend
    derivative = Derivative(backend=cast(Any, backend))
    assert check(student, derivative) in (None, pytest.approx(0, abs=2e-3))


def test_a_lost_gradient_is_seen_where_dual_numbers_are_asked_for() -> None:
    with pytest.raises(DerivativeMismatch, match="another gradient"):
        check(Owned(wave), DUAL)


def test_an_error_of_the_student_s_own_is_not_taken_for_a_refusal() -> None:
    def broken(z: Tensor, delta: Tensor) -> Tensor:
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        picked(FunctionStudent(broken))
