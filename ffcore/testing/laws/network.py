"""Laws shared by the roles whose components are networks."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.testing import network
from ffcore.testing.answers import arguments, slice_inputs, tensors
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import ask_only_where, law, require


@law("teacher", 3)
@law("student", 2)
@law("network", 1)
def keeps_shape_and_dtype(case: Case, live: Any) -> None:
    """The output has the shape and dtype of the points."""
    inputs = arguments(case, live)
    with torch.no_grad():
        found = live(*inputs)
    shaped = isinstance(found, Tensor)
    what = str(tuple(found.shape)) if shaped else type(found).__name__
    require(
        shaped and found.shape == inputs[0].shape,
        f"it returns {what} for points {tuple(inputs[0].shape)}",
    )
    require(
        found.dtype == inputs[0].dtype,
        f"it returns {found.dtype} for points of {inputs[0].dtype}",
    )


@law("teacher", 4)
@law("network", 2)
def is_finite_at_both_ends(case: Case, live: Any) -> None:
    """The velocity is finite at every time, including t = 0 and t = 1."""
    network.finite(case, live)


@law("teacher", 5)
@law("student", 5)
@law("network", 3)
@law("features", 3)
@law("decoder", 2)
def is_independent_of_the_batch(case: Case, live: Any) -> None:
    """The output for a sample does not depend on the rest of the batch."""
    inputs = arguments(case, live)
    with torch.no_grad():
        together = live(*inputs)
        for part in (slice(0, 1), slice(1, SIZE), slice(SIZE - 2, SIZE)):
            difference = network.relative(live(*slice_inputs(inputs, part)), together[part])
            require(
                difference <= network.ROUNDING,
                f"outputs for samples {part.start} to {part.stop - 1} of a batch of {SIZE} differ "
                f"from those without the rest, by {difference:.1e} of the output",
            )


@law("teacher", 6)
@law("student", 6)
@law("network", 4)
@law("features", 4)
@law("decoder", 3)
def leaves_its_inputs_alone(case: Case, live: Any) -> None:
    """A call changes none of its inputs."""
    inputs = arguments(case, live)
    before = [each.clone() for each in tensors(inputs)]
    with torch.no_grad():
        live(*inputs)
    for given, kept in zip(tensors(inputs), before, strict=True):
        require(torch.equal(given, kept), f"it changed an input of shape {tuple(given.shape)}")


@law("student", 9)
@law("network", 5)
def trains_every_parameter(case: Case, live: Any) -> None:
    """With perturbed weights, a gradient reaches every parameter that requires one: distributed
    training waits for all."""
    trained = network.perturb(live)
    output = trained(*arguments(case, trained))
    require(output.requires_grad, "the output has no gradient")
    asking = {name: each for name, each in trained.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(output.square().sum(), list(asking.values()), allow_unused=True)
    idle = [name for name, each in zip(asking, gradients, strict=True) if each is None]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


@law("student", 10)
@law("network", 6)
def reads_what_it_is_given(case: Case, live: Any) -> None:
    """With perturbed weights, the output changes with the point, the time or duration, the class
    and, if the recipe gives a range, γ."""
    network.all_inputs_read(case, live)


@law("student", 11)
@law("network", 7)
def takes_no_guidance_for_one(case: Case, live: Any) -> None:
    """If the recipe gives a range of γ, a condition without γ means γ = 1."""
    ask_only_where(case.setting.guidance_range, "it cannot take a range of γ")
    trained = network.perturb(live)
    *inputs, condition = arguments(case, trained)
    none = trained(*inputs, attrs.evolve(condition, guidance=None))
    difference = network.relative(none, trained(*inputs, condition.at(1.0)))
    require(difference <= network.ROUNDING, f"without γ it differs from γ = 1 by {difference:.1e}")
