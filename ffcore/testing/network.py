"""Checks that the laws of several roles share: all that are networks called by `forward`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ffcore.interfaces import Labels
from ffcore.testing.answers import arguments, sliced, tensors
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import require

ROUNDING = 1e-4
"""Relative, of float32 results that are the same but for the order of their sums."""
ENDS = (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0)
"""Times, or durations, from end to end."""


def shape_and_dtype(case: Case, live: Any) -> None:
    """Require that the output has the shape and dtype of the points, under autocast too."""
    inputs = arguments(case, live)
    for precision in ("float32", "autocast to bfloat16"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, precision != "float32"):
            found = live(*inputs)
        require(
            isinstance(found, Tensor) and found.shape == inputs[0].shape,
            f"it answers {_described(found)} to points {tuple(inputs[0].shape)}",
        )
        require(
            found.dtype == inputs[0].dtype,
            f"in {precision} it answers {found.dtype} to points of {inputs[0].dtype}",
        )


def finite(case: Case, live: Any, ends: Iterable[float] = ENDS) -> None:
    """Require that the output is finite at these times, or durations."""
    for at in ends:
        with torch.no_grad():
            found = live(*arguments(case, live, at=at))
        count = int((~found.isfinite()).sum())
        require(not count, f"at {at:g}, {count} of {found.numel()} numbers are not finite")


def independent(case: Case, live: Any) -> None:
    """Require that the output of a sample is the same with others beside it and without."""
    inputs = arguments(case, live)
    with torch.no_grad():
        together = live(*inputs)
        for part in (slice(0, 1), slice(1, SIZE), slice(SIZE - 2, SIZE)):
            difference = relative(live(*sliced(inputs, part)), together[part])
            require(
                difference <= ROUNDING,
                f"samples {part.start} to {part.stop - 1} of a batch of {SIZE} are answered "
                f"otherwise alone, by {difference:.1e} of the answer",
            )


def inputs_unchanged(case: Case, live: Any) -> None:
    """Require that no input is written to."""
    inputs = arguments(case, live)
    before = [each.clone() for each in tensors(inputs)]
    with torch.no_grad():
        live(*inputs)
    for given, kept in zip(tensors(inputs), before, strict=True):
        require(torch.equal(given, kept), f"an input of shape {tuple(given.shape)} was written to")


def every_parameter_trained(case: Case, live: Any) -> None:
    """Require a gradient for every parameter that asks for one, away from the initial weights."""
    network = perturbed(live)
    output = network(*arguments(case, network))
    require(output.requires_grad, "the output carries no gradient")
    asking = {name: each for name, each in network.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(output.square().sum(), list(asking.values()), allow_unused=True)
    idle = [name for name, each in zip(asking, gradients, strict=True) if each is None]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


def all_inputs_read(case: Case, live: Any) -> None:
    """Require that the output changes with every input that the case has, once it is trained."""
    network = perturbed(live)
    inputs = arguments(case, network)
    with torch.no_grad():
        output = network(*inputs)
        for what, other in _others(case, live, inputs):
            moves = not torch.equal(output, network(*other))
            require(moves, f"with weights away from the initial ones, it does not read {what}")


def unguided_at_one(case: Case, live: Any) -> None:
    """Require that no γ and γ = 1 are the same."""
    network = perturbed(live)
    *inputs, condition = arguments(case, network)
    none, one = (attrs.evolve(condition, guidance=each) for each in (None, torch.ones(SIZE)))
    with torch.no_grad():
        difference = relative(network(*inputs, none), network(*inputs, one))
    require(difference <= ROUNDING, f"without γ and at γ = 1 it differs by {difference:.1e}")


def perturbed(network: nn.Module) -> Any:
    """Return a copy whose parameters are a little off: a new network often ignores an input.

    It is in eval mode, so that what training mode does at random is not taken for reading.
    """
    copied = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * noise.to(parameter))
    return copied


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖; ‖found‖ where nothing is wanted."""
    found, wanted = (each.detach().double().nan_to_num() for each in (found, wanted))
    return float((found - wanted).norm() / (wanted.norm() or 1.0))


def _others(
    case: Case, live: Any, inputs: tuple[Any, ...]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the same arguments with one of them changed, and which."""
    x_t, *times, condition = inputs
    yield "its points", (x_t + 1, *times, condition)
    last = "its duration" if case.role == "student" else "its time"
    yield last, (x_t, *times[:-1], times[-1] / 2, condition)
    source = case.teacher(live).conditions
    if isinstance(source, Labels) and source.classes > 1:
        label = (condition.label + 1) % source.classes
        yield "its label", (x_t, *times, attrs.evolve(condition, label=label))
    if condition.guidance is not None and case.role != "teacher":
        other = attrs.evolve(condition, guidance=condition.guidance + 0.5)
        yield "γ, of which the recipe gives a range", (x_t, *times, other)


def _described(found: Any) -> str:
    return str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
