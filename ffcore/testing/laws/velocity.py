"""Laws of networks: the velocities that an objective may train beside the student."""

from __future__ import annotations

from typing import Any

from ffcore.testing import network
from ffcore.testing.case import Case
from ffcore.testing.law import ask_only_where, law


@law("network", 1)
def keeps_shape_and_dtype(case: Case, live: Any) -> None:
    """A velocity has the shape and dtype of its points, under autocast too."""
    network.shape_and_dtype(case, live)


@law("network", 2)
def is_finite_at_both_ends(case: Case, live: Any) -> None:
    """A velocity is finite at every time, t = 0 and t = 1 among them."""
    network.finite(case, live)


@law("network", 3)
def is_independent_of_the_batch(case: Case, live: Any) -> None:
    """What a sample is answered does not depend on the rest of the batch."""
    network.independent(case, live)


@law("network", 4)
def leaves_its_inputs_alone(case: Case, live: Any) -> None:
    """No input is written to."""
    network.inputs_unchanged(case, live)


@law("network", 5)
def trains_every_parameter(case: Case, live: Any) -> None:
    """A gradient reaches every parameter that asks for one: distributed training waits for all."""
    network.every_parameter_trained(case, live)


@law("network", 6)
def reads_what_it_is_given(case: Case, live: Any) -> None:
    """Once it is trained, a velocity is another one at another point, at another time, for another
    class and, where the recipe gives a range, at another γ."""
    network.all_inputs_read(case, live)


@law("network", 7)
def takes_no_guidance_for_one(case: Case, live: Any) -> None:
    """Where the recipe gives a range of γ, a condition without γ means γ = 1."""
    ask_only_where(case.setting.guidance_range, "no recipe gives it a range of γ")
    network.unguided_at_one(case, live)
