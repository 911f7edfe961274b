"""Laws of data sources."""

from __future__ import annotations

from typing import Any

import torch

from ffcore.interfaces import Condition, Labels
from ffcore.testing import network
from ffcore.testing.answers import indices_of
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import ask_only_where, law, require


@law("data", 1)
def states_its_size(case: Case, live: Any) -> None:
    """`len` is at least 1, and `sample_shape` is a tuple of positive integers."""
    del case
    require(len(live) >= 1, f"it has {len(live)} samples")
    network.states_shape(live)


@law("data", 2)
def gives_samples(case: Case, live: Any) -> None:
    """`read` returns one sample for each index, of shape `sample_shape`, finite, in float32."""
    found, _ = live.read(indices_of(live), case.draws().named("data"))
    wanted = (SIZE, *live.sample_shape)
    require(found.shape == wanted, f"samples are {tuple(found.shape)}, not {wanted}")
    require(found.dtype == torch.float32, f"samples are {found.dtype}")
    require(found.isfinite().all(), "samples are not finite")


@law("data", 3)
def gives_conditions_that_the_teacher_understands(case: Case, live: Any) -> None:
    """`read` returns one unguided condition for each sample. If the teacher has classes, it
    returns labels, and each is one of them."""
    _, condition = live.read(indices_of(live), case.draws().named("data"))
    require(isinstance(condition, Condition), f"the condition is a {type(condition).__name__}")
    require(condition.size == SIZE, f"{condition.size} conditions for {SIZE} samples")
    require(condition.guidance is None, "a condition has a guidance scale")
    source = case.teacher(live).conditions
    if isinstance(source, Labels):
        label = condition.label
        require(label is not None, "the teacher has classes, but there are no labels")
        require(
            label.dtype == torch.int64 and 0 <= int(label.min()) <= int(label.max()),
            f"labels are {label.tolist()} of {label.dtype}",
        )
        require(int(label.max()) < source.classes, f"label {int(label.max())} is not a class")


@law("data", 4)
def reads_a_sample_by_its_index_alone(case: Case, live: Any) -> None:
    """A sample and its condition depend on its own index and draws alone, because ranks and
    micro-batches read parts of a batch."""
    indices, draws = indices_of(live), case.draws().named("data")
    whole, conditions = live.read(indices, draws)
    whole = whole.clone()
    for part in (slice(0, 1), slice(2, SIZE)):
        found, condition = live.read(indices[part], draws[part])
        require(torch.equal(found, whole[part]), "a sample depends on which others are read")
        wanted, had = conditions[part].tensors(), condition.tensors()
        same = wanted.keys() == had.keys() and all(
            torch.equal(value, had[name]) for name, value in wanted.items()
        )
        require(same, "a condition depends on which others are read")


@law("data", 5)
def leaves_its_inputs_alone(case: Case, live: Any) -> None:
    """`read` changes neither the indices nor samples that it returned before."""
    indices = indices_of(live)
    kept = indices.clone()
    found, _ = live.read(indices, case.draws().named("data"))
    require(torch.equal(indices, kept), "it changed the indices")
    again, before = found.clone(), found
    found, _ = live.read(indices.flip(0), case.draws(step=1).named("data"))
    found.zero_()
    require(torch.equal(before, again), "it changed samples that were read before")


@law("data", 6)
def has_more_than_one_sample(case: Case, live: Any) -> None:
    """Different indices give different samples."""
    ask_only_where(len(live) > 1, "it has one sample")
    draws = case.draws(2).named("data")
    ends = (0, len(live) - 1)
    first, last = (live.read(torch.tensor([i, i]), draws)[0].clone() for i in ends)
    require(not torch.equal(first, last), "the first and the last sample are the same")
