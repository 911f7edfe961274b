"""A SiT teacher from a weights file."""

from __future__ import annotations

import attrs

from ffcore.interfaces import ConditionSource, FrozenTeacher, Labels, Unconditional
from ffcore.weights import Weights, WeightsError, read_weights
from ffcore_sit.tables import Sizes
from ffcore_sit.velocity import SiTVelocity, size_of


def sit_teacher(reference: str | None, sizes: Sizes | None) -> FrozenTeacher:
    """Return a SiT: trained if `reference` names its weights, newly initialised otherwise.

    Raises WeightsError where sizes are given neither here nor in the file, where both are given
    and differ, and where the weights do not fit.
    """
    weights = read_weights(reference) if reference else None
    chosen = sizes if weights is None else _sizes(weights, sizes)
    assert chosen is not None
    velocity = SiTVelocity(size_of(chosen))
    if weights is not None:
        weights.load_into(velocity.transformer)
    conditions: ConditionSource = Unconditional()
    if chosen.classes is not None:
        conditions = Labels(chosen.classes, null_label=chosen.classes)
    shape = (chosen.channels, chosen.input_size, chosen.input_size)
    return FrozenTeacher(velocity, shape, conditions)


def _sizes(weights: Weights, given: Sizes | None) -> Sizes:
    """Return the sizes that the file says, or else those given."""
    tree = weights.config.get("sit")
    if tree is None:
        if given is None:
            raise WeightsError(f"{weights.source} does not say its sizes: add [teacher.sizes]")
        return given
    try:
        stored = Sizes(**tree)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{weights.source} describes no SiT: {error}") from None
    if given is not None and given != stored:
        found, said = attrs.asdict(stored), attrs.asdict(given)
        raise WeightsError(f"{weights.source} holds a SiT of {found}, the recipe says {said}")
    return stored
