"""The mean and the spread of a teacher's data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.moments import moments_of
from ffcore.interfaces import Condition, VelocityField


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("place", [0.0, 5.0])
def test_a_gaussian_of_any_place_and_scale(scale: float, place: float) -> None:
    mean = scale * place * torch.tensor([1.0, -2.0, 0.5])
    found = moments_of(Gaussian(mean, scale)).moments
    torch.testing.assert_close(found.mean, mean, rtol=1e-3, atol=1e-4 * scale)
    assert found.spread == pytest.approx(scale, rel=0.08)


def test_the_spread_is_over_all_classes() -> None:
    """Two narrow classes at ±3: each has spread 0.1, together they have 3."""
    teacher = GaussianMixture([[3.0, 3.0], [-3.0, -3.0]], 0.1, labels=[0, 1])
    found = moments_of(teacher)
    assert found.moments.spread == pytest.approx(3.0, rel=0.05)
    assert float(found.moments.mean.abs().max()) < 0.5
    assert "spread 3" in found.sentence


@pytest.mark.parametrize(
    ("velocity", "why"),
    [
        (lambda x, t, c: 5 * t[:, None] - x, "the mean of its samples"),
        (lambda x, t, c: -x + 9 * torch.sin(40 * x), "of its samples"),
        (lambda x, t, c: x * torch.nan, "its samples have spread nan"),
    ],
    ids=["wrong mean", "stiff", "nan"],
)
def test_moments_that_disagree_are_discarded(velocity: object, why: str) -> None:
    found = moments_of(VelocityField.of(velocity, (2,)))  # type: ignore[arg-type]
    assert found.moments.spread == 1
    assert not found.moments.mean.any()
    assert why in found.sentence


def test_the_same_moments_in_every_process() -> None:
    def velocity(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return Gaussian([1.0, 2.0], 0.5)(x, t, condition)

    first, second = (moments_of(VelocityField.of(velocity, (2,))).moments for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert first.spread == second.spread
