"""Feature spaces, and the Fréchet distance in them."""

from collections.abc import Callable

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import Stream, seeds
from torch import Tensor, nn

from ffcore.evaluate.metrics import Moments, Statistics, frechet_distance
from ffcore.interfaces import VelocityField
from ffcore.system.weights import UNKNOWN, fingerprint
from ffcore_exact.features import Raw

Distance = Callable[[Statistics, Statistics], float]


def test_raw_features_are_the_samples_flattened() -> None:
    samples = Stream(0).normal(3, 2, 4)
    assert torch.equal(Raw()(samples), samples.view(3, 8))


@settings(max_examples=20)
@given(seed=seeds, size=st.integers(1, 5))
def test_statistics_are_the_mean_and_the_unbiased_covariance(seed: int, size: int) -> None:
    features = Stream(seed).normal(20, size)
    found = Statistics.of(features.float())
    rows = features.float().double().numpy()
    centred = rows - rows.mean(0)
    np.testing.assert_allclose(found.mu, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sigma, centred.T @ centred / 19, rtol=1e-12, atol=1e-12)
    assert (found.mu.dtype, found.sigma.dtype) == (np.float64, np.float64)


def streamed(features: Tensor, sizes: list[int], moments: type = Moments) -> Statistics:
    found = moments()
    for block in features.split(sizes):
        found.add(block)
    assert found.count == len(features)
    return found.statistics()


@settings(max_examples=30)
@given(
    seed=seeds,
    size=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_moments_of_blocks_are_those_of_the_whole(seed, size, sizes, offset) -> None:
    features = Stream(seed).normal(sum(sizes), size) + offset
    found, whole = streamed(features, sizes), Statistics.of(features)
    np.testing.assert_allclose(found.mu, whole.mu, rtol=1e-12, atol=1e-12)
    # A deviation from a mean of 1000 has lost 3 digits before anybody adds.
    np.testing.assert_allclose(found.sigma, whole.sigma, rtol=1e-12, atol=1e-12 * (1 + offset))


class Sums(Moments):
    """Moments by plain sums, whose difference cancels."""

    def add(self, features: Tensor) -> None:
        self.count += len(features)
        self.mean = self.mean + features.sum(0)
        self.scatter = self.scatter + features.T @ features

    def statistics(self) -> Statistics:
        mu = self.mean / self.count
        sigma = (self.scatter - self.count * torch.outer(mu, mu)) / (self.count - 1)
        return Statistics(mu.numpy(), sigma.numpy())


def test_moments_that_cancel_would_be_seen() -> None:
    features = 1e6 + Stream(0).normal(1000, 3)
    whole = Statistics.of(features).sigma
    assert abs(streamed(features, [100] * 10).sigma - whole).max() < 1e-9
    assert abs(streamed(features, [100] * 10, Sums).sigma - whole).max() > 1e-6


def statistics(seed: int, size: int) -> Statistics:
    stream = Stream(seed)
    root = stream.normal(size, size) + torch.eye(size)
    return Statistics(stream.normal(size).numpy(), (root @ root.T).numpy())


def by_eigenvalues(a: Statistics, b: Statistics) -> float:
    """tr (Σ_a Σ_b)^½ by the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½, which are the same."""
    values, vectors = np.linalg.eigh(a.sigma)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.sigma @ root).clip(0)).sum()
    difference = a.mu - b.mu
    return float(difference @ difference + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross)


def is_the_frechet_distance(distance: Distance, seed: int, size: int) -> None:
    a, b = statistics(seed, size), statistics(seed + 1, size)
    # Square roots of matrices that may be ill-conditioned; the distance is of order `size`.
    assert distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-6, abs=1e-6)


@settings(max_examples=30)
@given(seed=seeds, size=st.integers(1, 6))
def test_the_frechet_distance_is_what_numpy_makes_of_its_formula(seed: int, size: int) -> None:
    is_the_frechet_distance(frechet_distance, seed, size)


@settings(max_examples=20)
@given(seed=seeds, size=st.integers(1, 6))
def test_between_isotropic_gaussians_the_distance_is_in_closed_form(seed: int, size: int) -> None:
    """‖μ_a − μ_b‖² + d (s_a − s_b)²."""
    stream = Stream(seed)
    mu, s = stream.normal(2, size).numpy(), stream.uniform(0.1, 3, 2).numpy()
    a, b = (Statistics(mu[i], s[i] ** 2 * np.eye(size)) for i in (0, 1))
    expected = ((mu[0] - mu[1]) ** 2).sum() + size * (s[0] - s[1]) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: frechet_distance(a, b) - ((a.mu - b.mu) ** 2).sum(),
        lambda a, b: ((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma + b.sigma),
        lambda a, b: frechet_distance(
            attrs.evolve(a, sigma=np.diag(np.diag(a.sigma))),
            attrs.evolve(b, sigma=np.diag(np.diag(b.sigma))),
        ),
        lambda a, b: frechet_distance(a, b) ** 0.5,
    ],
    ids=["no means", "no cross term", "no correlation", "root"],
)
def test_another_distance_would_be_seen(wrong: Distance) -> None:
    with pytest.raises(AssertionError):
        is_the_frechet_distance(wrong, 0, 3)


def test_the_distance_to_itself_is_nothing() -> None:
    a = statistics(0, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_a_fingerprint_tells_networks_apart() -> None:
    torch.manual_seed(0)
    network, twin, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).half()
    twin.load_state_dict(network.state_dict())
    other.load_state_dict(network.state_dict())
    assert fingerprint(network) == fingerprint(twin)
    with torch.no_grad():
        twin.bias[0] += 1e-6
    assert len({fingerprint(each) for each in (network, twin, other, nn.Bilinear(1, 1, 1))}) == 4


def test_a_fingerprint_holds_for_every_dtype_and_layout() -> None:
    network = nn.Module()
    network.register_buffer("labels", torch.arange(3))
    network.register_buffer("short", torch.ones(2, 3, dtype=torch.bfloat16).T)
    network.register_buffer("scalar", torch.tensor(1.0))
    network.register_buffer("empty", torch.zeros(0, 3))
    assert len(fingerprint(network)) == 64


def test_a_plain_function_cannot_be_recognised() -> None:
    assert fingerprint(VelocityField.of(lambda x, t, c: -x, (2,))) == UNKNOWN
    assert fingerprint(Raw()) != UNKNOWN
