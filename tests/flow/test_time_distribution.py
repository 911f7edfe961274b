"""The distributions of times and durations."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.keys import ImpossibleValue

Draw = Callable[[TimeDistribution, Draws], Tensor]
N = 40_000


def draw_delta(distribution: TimeDistribution, draws: Draws) -> Tensor:
    return distribution.draw(draws, "delta")


@st.composite
def distributions(draw: st.DrawFn) -> TimeDistribution:
    ends = draw(st.tuples(st.floats(0, 1), st.floats(0, 1)))
    low, high = sorted(ends)
    assume(low < high)
    return TimeDistribution(
        distribution=draw(st.sampled_from(["uniform", "logit-normal"])),
        location=draw(st.floats(-20, 20)),
        scale=draw(st.floats(0.1, 20)),
        low=low,
        high=high,
        at_one=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )


def stays_within(draw: Draw, distribution: TimeDistribution, seed: int) -> None:
    """In [low, high], as float32 has them, and never outside [0, 1]."""
    found = draw(distribution, Draws(seed, 0, 0, 64))
    low, high = torch.tensor([distribution.low, distribution.high])
    assert found.shape == (64,)
    assert (found >= low).all()
    assert (found <= high).all()


@given(distribution=distributions(), seed=st.integers(0, 2**31))
def test_a_distribution_stays_within_its_ends(distribution: TimeDistribution, seed: int) -> None:
    stays_within(draw_delta, distribution, seed)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda distribution, draws: draws.uniform("delta"),
        lambda distribution, draws: distribution.low + distribution.high * draws.uniform("delta"),
        lambda distribution, draws: (
            distribution.low + distribution.location + distribution.scale * draws.normal("delta")
        ),
    ],
    ids=["not squeezed", "high for the width", "no sigmoid"],
)
def test_a_distribution_that_leaves_its_ends_would_be_seen(wrong: Draw) -> None:
    with pytest.raises(AssertionError):
        stays_within(wrong, TimeDistribution(distribution="logit-normal", low=0.3, high=0.8), 0)


def has_its_moments(
    draw: Draw, distribution: TimeDistribution, mean: float, deviation: float
) -> None:
    """Within 5 σ of the estimates, the ends (and the logit-normal's sigmoid) undone."""
    value = (draw(distribution, Draws(0, 0, 0, N)).double() - distribution.low) / (
        distribution.high - distribution.low
    )
    value = value if distribution.distribution == "uniform" else value.logit()
    assert abs(float(value.mean()) - mean) < 5 * deviation / N**0.5
    # The deviation's own, at most (that of a normal; a uniform's is less): σ / √2N.
    assert abs(float(value.std()) - deviation) < 5 * deviation / (2 * N) ** 0.5


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.6)])
def test_the_distributions_are_what_they_are_called(low: float, high: float) -> None:
    has_its_moments(draw_delta, TimeDistribution(low=low, high=high), 0.5, 12**-0.5)
    normal = TimeDistribution(
        distribution="logit-normal", location=0.8, scale=0.7, low=low, high=high
    )
    has_its_moments(draw_delta, normal, 0.8, 0.7)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda distribution, draws: 1 - distribution.draw(draws, "delta"),
        lambda distribution, draws: TimeDistribution(
            distribution="logit-normal", location=0.8
        ).draw(draws, "delta"),
        lambda distribution, draws: draws.uniform("delta"),
    ],
    ids=["reversed", "another scale", "uniform"],
)
def test_another_distribution_would_be_seen(wrong: Draw) -> None:
    distribution = TimeDistribution(distribution="logit-normal", location=0.8, scale=0.7)
    with pytest.raises(AssertionError):
        has_its_moments(wrong, distribution, 0.8, 0.7)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_draws_is_exactly_the_greatest_value(share: float) -> None:
    distribution = TimeDistribution(high=0.75, at_one=share)
    at_high = (draw_delta(distribution, Draws(0, 0, 0, N)) == 0.75).double().mean()
    assert abs(float(at_high) - share) <= 5 * (share * (1 - share) / N) ** 0.5


def test_the_share_leaves_the_other_draws_as_they_were() -> None:
    draws = Draws(0, 0, 0, 1000)
    some, none = (
        draw_delta(TimeDistribution(at_one=0.5), draws),
        draw_delta(TimeDistribution(), draws),
    )
    kept = some < 1
    assert 0 < int(kept.sum()) < 1000
    assert torch.equal(some[kept], none[kept])


def test_the_share_is_drawn_for_each_purpose_anew() -> None:
    distribution, draws = TimeDistribution(at_one=0.5), Draws(0, 0, 0, N)
    both = (
        ((distribution.draw(draws, "delta") == 1) & (distribution.draw(draws, "r") == 1))
        .double()
        .mean()
    )
    assert abs(float(both) - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


@given(distribution=distributions(), cut=st.integers(0, 64))
def test_a_sample_s_time_does_not_depend_on_the_cut_of_the_batch(
    distribution: TimeDistribution, cut: int
) -> None:
    whole = Draws(0, 0, 0, 64)
    parts = torch.cat(
        [draw_delta(distribution, whole[:cut]), draw_delta(distribution, whole[cut:])]
    )
    assert torch.equal(parts, draw_delta(distribution, whole))


@pytest.mark.parametrize(
    "impossible",
    [{"low": -0.1}, {"high": 1.1}, {"scale": 0.0}, {"at_one": 1.2}, {"location": float("inf")}],
    ids=str,
)
def test_impossible_values_are_refused(impossible: dict[str, float]) -> None:
    with pytest.raises(ImpossibleValue):
        TimeDistribution(**impossible)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.6, 0.4)])
def test_the_least_value_is_below_the_greatest(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low must be below high"):
        TimeDistribution(low=low, high=high)
