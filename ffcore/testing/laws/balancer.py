"""Laws of balancers."""

from __future__ import annotations

from typing import Any

import torch

from ffcore.interfaces import Gap, Norms
from ffcore.testing.answers import NAMES, gap_of, norms_of
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import law, require

BATCHES = (1, 2, 3, 8, 256, 1000)
STEPS = (0, 1, 10_000)


@law("balancer", 1)
def splits_the_whole_batch(case: Case, live: Any) -> None:
    """`split` returns two sizes of at least 0 whose sum is the batch, the same at each call. It
    may raise ValueError for a batch that is too small; 256 is not."""
    del case
    for batch in BATCHES:
        for step in STEPS:
            try:
                found = live.split(batch, step)
            except ValueError as error:
                require(batch < 256, f"a batch of {batch} is refused: {error}")
                continue
            require(
                sum(found) == batch and min(found) >= 0,
                f"at step {step} a batch of {batch} is split into {found}",
            )
            again = live.split(batch, step)
            require(again == found, f"a batch of {batch} is split into {found}, then {again}")


@law("balancer", 2)
def weighs_every_sample(case: Case, live: Any) -> None:
    """`weights` returns one finite number of at least 0 per sample, without gradient."""
    del case
    for name in NAMES:
        gap = gap_of(name)
        gap.output.requires_grad_(True)
        found = live.weights(name, gap)
        require(found.shape == (SIZE,), f"weights are {tuple(found.shape)} for {SIZE} samples")
        require(found.isfinite().all() and (found >= 0).all(), f"weights are {found.tolist()}")
        require(not found.requires_grad, "weights have a gradient")


@law("balancer", 3)
def weighs_a_sample_by_itself(case: Case, live: Any) -> None:
    """A sample's weight depends neither on the rest of the batch nor on its position in it: ranks
    and micro-batches see parts of a batch."""
    del case
    for name in NAMES:
        gap = gap_of(name)
        whole = live.weights(name, gap)
        for what, rows in (("order", torch.arange(SIZE).flip(0)), ("rest", torch.arange(2, 4))):
            found = live.weights(name, Gap(output=gap.output[rows], gap=gap.gap[rows]))
            same = torch.allclose(found, whole[rows], rtol=1e-5, atol=0)
            require(same, f"weights of {name} depend on the {what} of the batch")


@law("balancer", 4)
def scales_every_objective(case: Case, live: Any) -> None:
    """`scale` returns a positive, finite scalar for each objective, for both and for either
    alone."""
    del case
    norms = norms_of()
    for asked in (norms, *({name: norms[name]} for name in NAMES)):
        found = live.scale(asked)
        require(found.keys() == asked.keys(), f"factors of {list(found)} for {list(asked)}")
        for name, factor in found.items():
            require(factor.ndim == 0, f"the factor of {name} has shape {tuple(factor.shape)}")
            require(factor.isfinite() and factor > 0, f"the factor of {name} is {float(factor)}")


@law("balancer", 5)
def scales_alike_on_every_rank(case: Case, live: Any) -> None:
    """Factors depend on the norms, which are means over all ranks, and not on a rank's own gaps:
    two ranks with half a batch each get the factors of one rank with all of it."""
    norms = norms_of()
    ranks = {"all": slice(None), "the first half": slice(0, 3), "the second half": slice(3, SIZE)}
    factors = {}
    for rank, rows in ranks.items():
        balancer = case.build()
        for name in NAMES:
            gap = gap_of(name)
            balancer.weights(name, Gap(output=gap.output[rows], gap=gap.gap[rows]))
        factors[rank] = balancer.scale(norms)
    for rank, found in factors.items():
        for name, factor in found.items():
            same = torch.equal(factor, factors["all"][name])
            require(same, f"the factor of {name} differs on a rank that saw {rank}")


@law("balancer", 6)
def bears_gaps_that_vanish(case: Case, live: Any) -> None:
    """If every gap is zero, weights and factors are finite: a student may be exact."""
    del case
    zero = torch.zeros(SIZE, 5)
    for name in NAMES:
        weights = live.weights(name, Gap(output=zero, gap=zero))
        require(weights.isfinite().all(), f"weights of {name} are not finite if gaps vanish")
    nothing = Norms(raw=torch.tensor(0.0), weighted=torch.tensor(0.0))
    for name, factor in live.scale(dict.fromkeys(NAMES, nothing)).items():
        require(factor.isfinite(), f"the factor of {name} is not finite if gaps vanish")
