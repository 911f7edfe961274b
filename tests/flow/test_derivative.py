"""The derivative of a network along a direction: exact, and by differences."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from inputs import Stream, seeds, shapes, slope
from torch import Tensor

from ffcore.flow.derivative import Derivative, jvp
from ffcore.flow.path import expand_like
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
        (Derivative(backend="dual"), 1),
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


def test_a_derivative_without_a_chosen_backend_is_refused() -> None:
    d = torch.full((3,), 0.5)
    with pytest.raises(ValueError, match='still "auto"'):
        Derivative()(torch.sin, (d,), (d,), value=d.sin(), room=(d, d))
    with pytest.raises(ValueError, match='still "auto"'):
        Derivative().with_value(torch.sin, (d,), (d,), room=(d, d))
