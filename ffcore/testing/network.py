"""The common parts of the laws of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ffcore.interfaces import Labels
from ffcore.testing.answers import arguments
from ffcore.testing.case import Case
from ffcore.testing.law import require

ROUNDING = 1e-4
"""Relative difference of float32 results that differ only in the order of their sums."""
ENDS = (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0)
"""Times or durations to test."""


def states_shape(live: Any) -> None:
    """Require that `sample_shape` is a tuple of positive integers."""
    shape = live.sample_shape
    require(
        isinstance(shape, tuple) and shape and all(type(n) is int and n > 0 for n in shape),
        f"sample_shape is {shape!r}",
    )


def finite(case: Case, live: Any, ends: Iterable[float] = ENDS) -> None:
    """Require a finite output at these times or durations."""
    for at in ends:
        with torch.no_grad():
            found = live(*arguments(case, live, at=at))
        count = int((~found.isfinite()).sum())
        require(not count, f"at {at:g}, {count} of {found.numel()} numbers are not finite")


def all_inputs_read(case: Case, live: Any) -> None:
    """Require that the output changes with every input of the case, for perturbed weights."""
    network = perturb(live)
    inputs = arguments(case, network)
    with torch.no_grad():
        output = network(*inputs)
        for what, other in _others(case, live, inputs):
            moves = not torch.equal(output, network(*other))
            require(moves, f"even with perturbed weights, it does not read {what}")


def perturb(network: nn.Module) -> Any:
    """Return a copy with slightly perturbed parameters: a new network often ignores an input.

    It is in eval mode, so that randomness of the training mode does not look like reading.
    """
    copied = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * noise.to(parameter))
    return copied


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖, or ‖found‖ if `wanted` is zero."""
    found, wanted = (each.detach().double().nan_to_num() for each in (found, wanted))
    return float((found - wanted).norm() / (wanted.norm() or 1.0))


def _others(
    case: Case, live: Any, inputs: tuple[Any, ...]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the name of each argument, and the arguments with that one changed."""
    x_t, *times, condition = inputs
    yield "its points", (x_t + 1, *times, condition)
    last = "its duration" if case.role == "student" else "its time"
    yield last, (x_t, *times[:-1], times[-1] / 2, condition)
    source = case.teacher(live).conditions
    if isinstance(source, Labels) and source.classes > 1:
        label = (condition.label + 1) % source.classes
        yield "its label", (x_t, *times, attrs.evolve(condition, label=label))
    drawn = source.draw(case.draws(step=1).named("condition")).tensors()
    for name in ("embedding", "pooled", "image"):
        if name in drawn and not torch.equal(drawn[name], getattr(condition, name)):
            other = attrs.evolve(condition, **{name: drawn[name]})
            yield f"its {name}", (x_t, *times, other)
    if condition.guidance is not None and case.role != "teacher":
        other = attrs.evolve(condition, guidance=condition.guidance + 0.5)
        yield "γ, although the recipe gives a range", (x_t, *times, other)
