"""The path: x_t = (1 − t) x + t n, velocity u = E[x − n | x_t]."""

import pytest
import torch
from hypothesis import given
from inputs import Stream, seeds, shapes

from ffcore.flow.path import expand_like, interpolate


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


@given(seed=seeds, shape=shapes)
def test_data_and_noise_lie_along_the_velocity(seed: int, shape: tuple[int, ...]) -> None:
    stream = Stream(seed)
    x, n, t = stream.normal(6, *shape), stream.normal(6, *shape), stream.uniform(0, 1, 6)
    x_t, u = interpolate(x, n, t), x - n
    torch.testing.assert_close(x_t + expand_like(t, x) * u, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_t - expand_like(1 - t, x) * u, n, rtol=1e-12, atol=1e-12)
