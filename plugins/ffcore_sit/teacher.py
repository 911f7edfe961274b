"""A SiT teacher from a weights file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore.interfaces import ConditionSource, FrozenTeacher, Labels, Unconditional
from ffcore.nn.transformer import TransformerSize
from ffcore.weights import WeightsError, read_weights
from ffcore_sit.velocity import SiTVelocity

if TYPE_CHECKING:
    from ffcore_sit.tables import Sizes


def sit_teacher(reference: str | None, sizes: Sizes | None) -> FrozenTeacher:
    """Return a SiT: trained if `reference` names its weights, newly initialised otherwise.

    Raises WeightsError where sizes are given neither here nor in the file, where both are given
    and differ, and where the weights do not fit.
    """
    weights = read_weights(reference) if reference else None
    given = attrs.asdict(sizes) if sizes else None
    stored = weights.config.get("sit") if weights else None
    if weights and given and stored and given != stored:
        raise WeightsError(f"{weights.source} holds a SiT of {stored}, the recipe says {given}")
    chosen = given or stored
    if chosen is None:
        raise WeightsError(f"{reference} does not say its sizes: add a table teacher.sizes")
    velocity = SiTVelocity(TransformerSize(out_channels=chosen["channels"], **chosen))
    if weights:
        weights.load_into(velocity.transformer)
    classes = chosen["classes"]
    conditions: ConditionSource = (
        Labels(classes, null_label=classes) if classes else Unconditional()
    )
    shape = (chosen["channels"], chosen["input_size"], chosen["input_size"])
    return FrozenTeacher(velocity, shape, conditions)
