"""Hypothesis strategies for your own tests (extra `testing`).

    @given(teacher=exact_teachers(), seed=seeds())
    def test_mine(teacher, seed): ...

Hypothesis draws a seed and torch makes the tensors: fast, and a failing example is a number.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.interfaces import Batch, Condition, Student, Teacher
from ffcore.testing import process
from ffcore.testing.small import SmallStudent

SHAPES = ((1,), (2,), (5,), (1, 4, 4), (4, 8, 8))


def seeds() -> SearchStrategy[int]:
    """Seeds in [0, 2³¹)."""
    return st.integers(0, 2**31 - 1)


def shapes() -> SearchStrategy[tuple[int, ...]]:
    """Shapes *S of one sample: small vectors and images."""
    return st.sampled_from(SHAPES)


def draws(*, size: SearchStrategy[int] | None = None) -> SearchStrategy[Draws]:
    """Random streams for a batch of 1 to 9 samples, or of `size`."""
    sizes = st.integers(1, 9) if size is None else size
    return st.builds(
        lambda seed, step, count: Draws(seed=seed, step=step, start=0, stop=count),
        seeds(),
        st.integers(0, 1000),
        sizes,
    )


def times(size: int, *, low: float = 0.0, high: float = 1.0) -> SearchStrategy[Tensor]:
    """Times in [low, high], Float[size]; both ends are drawn often."""
    one = st.one_of(st.sampled_from((low, high)), st.floats(low, high))
    return st.lists(one, min_size=size, max_size=size).map(
        lambda drawn: torch.tensor(drawn, dtype=torch.float32)
    )


def durations(t: Tensor) -> SearchStrategy[Tensor]:
    """Durations in [0, t] of each sample, Float[B]; both ends are drawn often."""
    return times(len(t)).map(lambda share: share * t)


def conditions(teacher: Teacher, size: int) -> SearchStrategy[Condition]:
    """Conditions of `size` samples that the teacher accepts."""
    return seeds().map(lambda seed: teacher.conditions.draw(Draws(seed, 0, 0, size)))


def exact_teachers() -> SearchStrategy[Gaussian | GaussianMixture]:
    """Teachers with a known velocity: a Gaussian or a mixture, with or without classes, in 1 to 4
    dimensions."""

    def gaussian(seed: int, dimension: int, scale: float) -> Gaussian:
        return Gaussian(_normal(seed, dimension), scale)

    def mixture(seed: int, dimension: int, scale: float, labelled: bool) -> GaussianMixture:
        labels = [0, 1, 1] if labelled else None
        return GaussianMixture(2 * _normal(seed, 3, dimension), scale, labels=labels)

    dimension, scale = st.integers(1, 4), st.floats(0.1, 2.0)
    return st.one_of(
        st.builds(gaussian, seeds(), dimension, scale),
        st.builds(mixture, seeds(), dimension, scale, st.booleans()),
    )


def small_students(teacher: Teacher) -> SearchStrategy[Student]:
    """Students with random weights for a teacher; they start anywhere and read all their inputs."""

    def make(seed: int) -> Student:
        with process.seed_torch(seed):
            return SmallStudent.of(teacher)

    return seeds().map(make)


def batches(teacher: Teacher) -> SearchStrategy[Batch]:
    """Batches for an objective, without data."""

    def make(streams: Draws) -> Batch:
        return Batch(
            z=streams.normal("z", teacher.sample_shape),
            condition=teacher.conditions.draw(streams.named("condition")),
            draws=streams,
        )

    return draws().map(make)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
