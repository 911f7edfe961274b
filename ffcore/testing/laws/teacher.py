"""Laws of teachers."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from ffcore.flow.consistency import complaint, enough
from ffcore.flow.ode import likely_fault, noise_slope, points_wrongly
from ffcore.interfaces import VelocityField
from ffcore.testing import network
from ffcore.testing.answers import arguments
from ffcore.testing.case import Case
from ffcore.testing.law import ask_only_where, law, require
from ffcore.testing.laws.conditions import NoNull, draws_each_by_itself, null_for

SLOPED = 64
"""Number of noise samples that the slope of a velocity is measured on."""


@law("teacher", 1)
def is_frozen(case: Case, live: Any) -> None:
    """No parameter requires a gradient, and the teacher is in eval mode."""
    asking = [name for name, each in live.named_parameters() if each.requires_grad]
    require(not asking, f"parameters require a gradient: {', '.join(asking)}")
    inputs = arguments(case, live)
    with torch.no_grad():
        built, evaluating = live(*inputs), copy.deepcopy(live).eval()(*inputs)
    difference = (built - evaluating).abs().max()
    require(difference == 0, f"it is in training mode: eval mode differs by {difference:.1e}")


@law("teacher", 2)
def states_its_sample_shape(case: Case, live: Any) -> None:
    """`sample_shape` is a tuple of positive integers."""
    del case
    network.states_shape(live)


@law("teacher", 7)
def reads_what_it_is_given(case: Case, live: Any) -> None:
    """With perturbed weights, the velocity changes with the point, the time and, if there are
    classes, the class."""
    network.all_inputs_read(case, live)


@law("teacher", 8)
def draws_conditions_from_the_draws(case: Case, live: Any) -> None:
    """`conditions.draw` returns one unguided condition for each sample. A sample's condition does
    not depend on which part of the batch is drawn."""
    draws_each_by_itself(case, live.conditions)


@law("teacher", 9)
def has_a_null_condition_or_says_not(case: Case, live: Any) -> None:
    """`conditions.null` returns an unguided condition with the same fields and of the same size,
    which the teacher accepts, or raises ValueError if the teacher cannot be guided."""
    x, t, condition = arguments(case, live)
    try:
        null = null_for(live.conditions, condition)
    except NoNull:
        return
    with torch.no_grad():
        require(live(x, t, null).isfinite().all(), "the unconditional velocity is not finite")


@law("teacher", 10)
def copies_itself_to_train(case: Case, live: Any) -> None:
    """`trainable_copy` returns None or an independent float32 network with gradients on. The
    network starts at the teacher's velocity, or at zero if the teacher predicts something else."""
    copied = live.trainable_copy()
    ask_only_where(copied is not None, "it cannot be copied")
    require(isinstance(copied, VelocityField), f"the copy is a {type(copied).__name__}")
    inputs = arguments(case, live)
    parameters = dict(copied.named_parameters())
    idle = [name for name, each in parameters.items() if not each.requires_grad]
    require(parameters and not idle, f"the copy's gradients are off: {', '.join(idle) or 'all'}")
    other = {each.dtype for each in parameters.values()} - {torch.float32}
    require(not other, f"the copy has parameters in {', '.join(map(str, other))}")
    with torch.no_grad():
        before, answer = live(*inputs), copied(*inputs)
        off = network.relative(answer, before)
        require(off <= network.ROUNDING or not answer.any(), f"the copy is off by {off:.1e}")
        for parameter in parameters.values():
            parameter.add_(1.0)
        require(torch.equal(live(*inputs), before), "training the copy changes the teacher")


@law("teacher", 11)
def gives_its_copy_an_input_for_guidance(case: Case, live: Any) -> None:
    """With `takes_guidance`, the copy reads γ through an input that starts without effect, or
    ValueError is raised if the network cannot take γ."""
    ask_only_where(live.trainable_copy() is not None, "it cannot be copied")
    try:
        copied = live.trainable_copy(takes_guidance=True)
    except ValueError:
        return
    x, t, condition = arguments(case, live)
    guided = condition.at(2.0)
    with torch.no_grad():
        off = network.relative(copied(x, t, guided), live.trainable_copy()(x, t, condition))
        require(off <= network.ROUNDING, f"before training, γ has an effect of {off:.1e}")
        trained = network.perturb(copied)
        moves = not torch.equal(trained(x, t, guided), trained(x, t, condition))
    require(moves, "it does not read γ, whatever its weights")


@law("teacher", 12)
def keeps_what_its_table_says(case: Case, live: Any) -> None:
    """If a table has `sample_shape` or `guidable`, the live teacher agrees: recipes are checked by
    them before anything is built. A teacher is guidable if it has a null condition."""
    shape = getattr(case.table, "sample_shape", None)  # None: only the weights know it
    guidable = getattr(case.table, "guidable", None)
    ask_only_where(
        shape is not None or guidable is not None,
        "its table has neither sample_shape nor guidable",
    )
    if shape is not None:
        found = f"sample_shape of the table is {shape}, but the teacher's is {live.sample_shape}"
        require(tuple(shape) == live.sample_shape, found)
    if guidable is None:
        return
    try:
        live.conditions.null(live.conditions.draw(case.draws()))
    except ValueError as error:
        found = f"guidable of the table is {guidable!r}, but there is no null condition: {error}"
        require(not guidable, found)
    else:
        found = f"guidable of the table is {guidable!r}, but the teacher has a null condition"
        require(guidable, found)


@law("teacher", 13)
def points_from_noise_to_data(case: Case, live: Any) -> None:
    """At t = 1 the velocity changes by −1 per unit of noise, because u(n, 1) = E[x] − n. With the
    opposite sign or time direction, it rises. At other times it is the velocity of its own samples.
    Not checked for a network that seems untrained."""
    draws = case.draws(SLOPED)
    z = draws.normal("z", live.sample_shape)
    slope = noise_slope(live, z, live.conditions.draw(draws.named("condition")))
    require(
        not points_wrongly(slope),
        f"at t = 1 it changes with the noise by {slope:+.2f}, but an exact velocity by −1. "
        f"{likely_fault(slope)} (u points from noise to data, and t = 1 is noise)",
    )
    trained = abs(slope + 1) <= 0.5
    ask_only_where(
        trained, f"at t = 1 it changes with the noise by {slope:+.2f}: it seems untrained"
    )
    draws = case.draws(enough(math.prod(live.sample_shape))).named("samples")
    z = draws.normal("z", live.sample_shape)
    said = complaint(live, z, live.conditions.draw(draws.named("condition")), draws)
    require(said is None, f"{said}")
