"""The flow map f = z + δ F, and the identity by which it is one: F + δ ∂_δ F = u(f, 1 − δ)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import GaussianCase, Stream, seeds, shapes
from networks import ExactStudent, FunctionStudent
from torch import Tensor

from ffcore.flow.exact import Gaussian
from ffcore.flow.flow_map import generate, generating_velocity, push
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition

AverageVelocity = Callable[[Gaussian, Tensor, Tensor, Condition], Tensor]
Combination = Callable[[Tensor, Tensor, Tensor], Tensor]


def d_delta(function: Callable[[Tensor], Tensor], delta: Tensor) -> Tensor:
    """∂_δ by forward mode, which the samples of a batch do not mix."""
    derivative: Tensor = torch.func.jvp(function, (delta,), (torch.ones_like(delta),))[1]
    return derivative


def is_the_flow_map(
    case: GaussianCase,
    average_velocity: AverageVelocity = Gaussian.average_velocity,
    v_G: Combination = generating_velocity,
    f: Combination = push,
    time: Callable[[Tensor], Tensor] = lambda delta: 1 - delta,
) -> None:
    """F + δ ∂_δ F = u(f(z, δ), 1 − δ), to 1e-10."""

    def average(delta: Tensor) -> Tensor:
        return average_velocity(case.teacher, case.z, delta, case.condition)

    F, d_F = average(case.delta), d_delta(average, case.delta)
    u = case.teacher(f(case.z, F, case.delta), time(case.delta), case.condition)
    torch.testing.assert_close(v_G(F, d_F, case.delta), u, rtol=1e-10, atol=1e-10)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_the_exact_gaussian_map_obeys_the_flow_map_identity(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    is_the_flow_map(GaussianCase.of(seed, shape, conditional))


def cancelling(teacher: Gaussian, z: Tensor, delta: Tensor, condition: Condition) -> Tensor:
    f = teacher.flow_map(z, torch.ones_like(delta), delta, condition)
    return (f - z) / expand_like(delta, z)


WRONG = {
    "F − δ ∂F": {"v_G": lambda F, d_F, delta: push(F, -d_F, delta)},
    "F + ∂F": {"v_G": lambda F, d_F, delta: F + d_F},
    "F alone": {"v_G": lambda F, d_F, delta: F},
    "u at z": {"f": lambda z, F, delta: z},
    "u at z + F": {"f": lambda z, F, delta: z + F},
    "u at time δ": {"time": lambda delta: delta},
    "(f − z) / δ as it stands": {"average_velocity": cancelling},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_identity_would_be_seen(wrong: dict[str, AverageVelocity | Combination]) -> None:
    with pytest.raises(AssertionError):
        is_the_flow_map(GaussianCase.of(0), **wrong)


@given(seed=seeds, shape=shapes)
def test_no_duration_moves_nothing(seed: int, shape: tuple[int, ...]) -> None:
    z = Stream(seed).normal(4, *shape)
    student = FunctionStudent(lambda z, delta: torch.exp(z) + expand_like(delta, z))
    assert torch.equal(generate(student, z, Condition(size=4), 0.0), z)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_one_step_of_the_exact_student_is_a_sample_of_the_data(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    case = GaussianCase.of(seed, shape, conditional)
    rows = torch.zeros(12, dtype=torch.long) if case.condition.label is None else None
    rows = case.condition.label if rows is None else rows
    mean, scale = case.teacher.mean[rows], case.teacher.scale[rows]
    found = generate(ExactStudent(case.teacher), case.z, case.condition)
    expected = mean + expand_like(scale, case.z) * case.z
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_student_that_is_off_does_not_make_samples_of_the_data() -> None:
    case = GaussianCase.of(0)
    exact = generate(ExactStudent(case.teacher), case.z, case.condition)
    off = generate(ExactStudent(case.teacher, offset=0.5), case.z, case.condition)
    torch.testing.assert_close(off, exact + 0.5, rtol=1e-12, atol=1e-12)


def test_one_duration_for_all_is_the_same_duration_for_each() -> None:
    case = GaussianCase.of(1)
    student = ExactStudent(case.teacher)
    each = generate(student, case.z, case.condition, torch.full((12,), 0.3, dtype=torch.float64))
    assert torch.equal(generate(student, case.z, case.condition, 0.3), each)


@given(seed=seeds, shape=shapes, conditional=st.booleans(), steps=st.integers(1, 7))
def test_an_exact_student_from_anywhere_arrives_in_any_number_of_steps(
    seed: int, shape: tuple[int, ...], conditional: bool, steps: int
) -> None:
    case = GaussianCase.of(seed, shape, conditional)
    student = ExactStudent(case.teacher, starts_at="anywhere")
    found = generate(student, case.z, case.condition, case.delta, steps=steps)
    exact = case.teacher.flow_map(case.z, case.ones, case.delta, case.condition)
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_equal_and_end_at_the_duration(dtype: torch.dtype) -> None:
    asked: list[tuple[float, float]] = []

    class Recording(ExactStudent):
        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            asked.append((float(t[0]), float(delta[0])))
            assert (delta <= t).all()
            return x_t

    student = Recording(Gaussian([0.0]), starts_at="anywhere")
    z = torch.ones(1, 1, dtype=dtype)
    assert float(generate(student, z, Condition(size=1), steps=4)) == 1.25**4
    assert asked == [(1.0, 0.25), (0.75, 0.25), (0.5, 0.25), (0.25, 0.25)]
    for steps in range(1, 60):  # 1 / steps is rounded
        generate(student, z, Condition(size=1), steps=steps)
    asked.clear()
    generate(student, z, Condition(size=1), 0.5, steps=2)
    assert asked == [(1.0, 0.25), (0.75, 0.25)]


@pytest.mark.parametrize(
    ("starts_at", "steps", "message"),
    [("prior", 2, "starts only at the prior"), ("anywhere", 0, "at least 1"), ("prior", 0, "1")],
)
def test_steps_that_a_student_cannot_make_are_refused(
    starts_at: Any, steps: int, message: str
) -> None:
    student = ExactStudent(Gaussian([0.0]), starts_at=starts_at)
    with pytest.raises(ValueError, match=message):
        generate(student, torch.zeros(1, 1), Condition(size=1), steps=steps)


def test_samples_carry_the_gradient_of_the_student() -> None:
    student = FunctionStudent(lambda z, delta: z)
    generate(student, torch.ones(2, 3), Condition(size=2)).sum().backward()
    assert student.scale.grad is not None
    assert float(student.scale.grad) == 6.0


def test_a_condition_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of the size of z, 4, found 5"):
        generate(ExactStudent(Gaussian(torch.zeros(2), 1.0)), torch.zeros(4, 2), Condition(size=5))
