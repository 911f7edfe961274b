"""The mean and the spread of a teacher's data, from a few samples that it solves itself."""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.guidance import remove_guidance
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Moments, Teacher

STEPS = 24
"""Heun steps; the spread is measured again with twice as many."""
_FARTHEST = 7.0
"""Largest |log σ/α| of a step's end. So the steps resolve data of spread 0.01 and of spread 100."""
_NUMBERS = 2**20
"""Most numbers in all samples together."""
_ALIKE = 0.05
"""Spreads of both solvers that differ by less, relative to the larger, agree."""


@attrs.frozen(kw_only=True)
class Found:
    """What the samples say."""

    moments: Moments
    sentence: str
    """For the user, without a full stop."""


@torch.no_grad()
def moments_of(teacher: Teacher, samples: int = 512) -> Found:
    """Measure the mean and the spread of an unguided teacher's data.

    At t = 1 the velocity is E[x] − z, so u(z, 1) + z gives the mean almost without noise. The
    samples must have the same mean, and twice the steps the same spread. Moments that disagree are
    discarded: the result is then mean 0 and spread 1.

    Args:
        teacher: guidance is removed.
        samples: most samples to solve; fewer for large ones.
    """
    try:
        return _measured(remove_guidance(teacher), samples)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        # The checks of the networks say what is wrong with such a teacher, and refuse it.
        return _unknown(tuple(teacher.sample_shape), str(error))


def _measured(field: Teacher, samples: int) -> Found:
    shape = tuple(field.sample_shape)
    number = max(32, min(samples, _NUMBERS // math.prod(shape)))
    draws = Draws(0, 0, 0, number).named("moments")
    like = next((each for each in field.parameters()), torch.zeros(()))
    z = draws.normal("z", shape).to(like.device)
    condition = field.conditions.draw(draws).to(like.device)
    ones = torch.ones(number, device=z.device)
    velocity = field(z, ones, condition)
    if velocity.shape != z.shape:
        return _unknown(shape, f"it answers with shape {tuple(velocity.shape)}")
    mean = (velocity + z).double().mean(0)
    spreads, means = [], []
    for steps in (STEPS, 2 * STEPS):
        x = _solved(field, z, condition, steps).double()
        means.append(x.mean(0))
        spreads.append(float((x - mean).square().mean().sqrt()))
    if (why := _disagree(mean, means, spreads, number)) is not None:
        return _unknown(shape, why)
    size = float(mean.square().mean().sqrt())
    return Found(
        moments=Moments(mean=mean.float().cpu(), spread=spreads[1]),
        sentence=f"the teacher's data have a mean of size {size:.3g} and spread {spreads[1]:.3g}, "
        f"from {number} of its samples: networks from scratch start from these",
    )


def _unknown(shape: tuple[int, ...], why: str) -> Found:
    return Found(
        moments=Moments.standard(shape),
        sentence=f"the teacher's mean and spread are not known: {why}. Student and g_ψ start from "
        "mean 0 and spread 1",
    )


def _solved(field: Teacher, z: Tensor, condition: Condition, steps: int) -> Tensor:
    """Return samples by Heun steps of equal length in log σ/α = log t/(1 − t), the last by Euler.

    Such steps see all scales alike, which steps of equal length in t do not.
    """
    times = torch.sigmoid(torch.linspace(_FARTHEST, -_FARTHEST, steps - 1, dtype=torch.float64))
    times = torch.cat([torch.ones(1), times, torch.zeros(1)]).to(z)
    ones = torch.ones(len(z), device=z.device)
    x = z
    for begin, end in pairwise(times):
        u = field(x, begin * ones, condition)
        length = expand_like((begin - end) * ones, x)
        there = x + length * u
        if end > 0:
            u = (u + field(there, end * ones, condition)) / 2
        x = x + length * u
    return x


def _disagree(mean: Tensor, means: list[Tensor], spreads: list[float], number: int) -> str | None:
    """Return what speaks against the moments, None if nothing does."""
    if not all(map(math.isfinite, spreads)) or min(spreads) <= 0:
        return f"its samples have spread {spreads[0]:.3g} and {spreads[1]:.3g}"
    if abs(spreads[0] - spreads[1]) > _ALIKE * max(spreads):
        return (
            f"the spread of its samples is {spreads[0]:.3g} in {STEPS} Heun steps and "
            f"{spreads[1]:.3g} in {2 * STEPS}"
        )
    off = float((means[1] - mean).square().mean().sqrt())
    if not off <= spreads[1] * (_ALIKE + 3 / math.sqrt(number)):
        return f"the mean of its samples and that of its velocity at t = 1 differ by {off:.3g}"
    return None
