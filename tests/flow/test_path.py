"""The path: x_t = (1 − t) x + t n, velocity u = E[x − n | x_t], score −E[n | x_t] / t."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from inputs import GaussianCase, Stream, seeds, shapes
from torch import Tensor

from ffcore.flow.path import expand_like, interpolate, score_to_velocity, velocity_to_score

Conversion = Callable[[Tensor, Tensor, Tensor], Tensor]


def test_time_zero_is_data_and_time_one_is_noise() -> None:
    stream = Stream(0)
    x, n = stream.normal(3, 2, 4), stream.normal(3, 2, 4)
    assert torch.equal(interpolate(x, n, torch.zeros(3)), x)
    assert torch.equal(interpolate(x, n, torch.ones(3)), n)


def test_each_sample_has_its_own_time() -> None:
    x, n = torch.zeros(2, 3), torch.ones(2, 3)
    x_t = interpolate(x, n, torch.tensor([0.25, 0.5]))
    assert torch.equal(x_t, torch.tensor([[0.25] * 3, [0.5] * 3]))


def test_the_path_keeps_the_dtype_of_its_samples() -> None:
    x = torch.zeros(2, 3, dtype=torch.float16)
    assert interpolate(x, x, torch.rand(2, dtype=torch.float64)).dtype == torch.float16


@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 4, 4)])
def test_values_per_sample_multiply_samples_of_any_shape(shape: tuple[int, ...]) -> None:
    values = torch.arange(5.0)
    expanded = expand_like(values, torch.zeros(5, *shape))
    assert expanded.shape == (5, *[1] * len(shape))
    assert torch.equal(expanded.flatten(), values)


def is_score_of_a_gaussian(conversion: Conversion, seed: int, shape: tuple[int, ...]) -> None:
    """The score of N(m_t, a_t² I) is −(x − m_t) / a_t²."""
    case = GaussianCase.of(seed, shape)
    t = Stream(seed + 1).uniform(0.05, 1.0, len(case.z))
    mean, scale = case.teacher.mean[0], case.teacher.scale[0]
    spread = expand_like((1 - t) ** 2 * scale**2 + t**2, case.z)
    score = -(case.z - expand_like(1 - t, case.z) * mean) / spread
    found = conversion(case.teacher(case.z, t, case.condition), case.z, t)
    # x and (1 − t) u nearly cancel at small t: 1 / 0.05 times their rounding, over a_t² ≥ 0.01.
    torch.testing.assert_close(found, score, rtol=1e-10, atol=1e-10)


@given(seed=seeds, shape=shapes)
def test_the_velocity_of_a_gaussian_gives_its_score(seed: int, shape: tuple[int, ...]) -> None:
    is_score_of_a_gaussian(velocity_to_score, seed, shape)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u, x, t: -velocity_to_score(u, x, t),
        lambda u, x, t: velocity_to_score(-u, x, t),
        lambda u, x, t: velocity_to_score(u, x, 1 - t),
        lambda u, x, t: -(x - u) / expand_like(t, x),
    ],
    ids=["sign", "velocity towards noise", "time reversed", "no 1 − t"],
)
def test_a_wrong_score_would_be_seen(wrong: Conversion) -> None:
    with pytest.raises(AssertionError):
        is_score_of_a_gaussian(wrong, 0, (3,))


def undoes_the_score(conversion: Conversion, seed: int, shape: tuple[int, ...]) -> None:
    stream = Stream(seed)
    u, x, t = stream.normal(6, *shape), stream.normal(6, *shape), stream.uniform(0.05, 0.95, 6)
    found = conversion(velocity_to_score(u, x, t), x, t)
    torch.testing.assert_close(found, u, rtol=1e-12, atol=1e-12)


@given(seed=seeds, shape=shapes)
def test_the_score_gives_back_the_velocity(seed: int, shape: tuple[int, ...]) -> None:
    undoes_the_score(score_to_velocity, seed, shape)


def test_a_conversion_that_does_not_undo_the_score_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        undoes_the_score(lambda s, x, t: (x + s) / expand_like(1 - t, x), 0, (3,))


@given(seed=seeds, shape=shapes)
def test_data_and_noise_lie_along_the_velocity(seed: int, shape: tuple[int, ...]) -> None:
    stream = Stream(seed)
    x, n, t = stream.normal(6, *shape), stream.normal(6, *shape), stream.uniform(0, 1, 6)
    x_t, u = interpolate(x, n, t), x - n
    torch.testing.assert_close(x_t + expand_like(t, x) * u, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_t - expand_like(1 - t, x) * u, n, rtol=1e-12, atol=1e-12)
