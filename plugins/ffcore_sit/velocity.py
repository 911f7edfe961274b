"""The SiT transformer as a velocity field in our convention.

SiT's own time is 0 at noise and 1 at data, and its output is data − noise: our velocity, at
t_SiT = 1 − t. The raw time, not a multiple of it, enters the embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from ffcore.interfaces import Condition, Labels, Teacher, VelocityField
from ffcore.nn.transformer import Transformer, TransformerSize

if TYPE_CHECKING:
    from ffcore_sit.tables import Sizes


class SiTVelocity(VelocityField):
    """u(x_t, t | label)."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.transformer = Transformer(size)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        c = self.transformer.t_embedder(1 - t) + self.label_embedding(condition)
        velocity: Tensor = self.transformer(x_t, c)
        return velocity

    def label_embedding(self, condition: Condition) -> Tensor | float:
        """Return the embedding of the labels, Float[B, D]; 0 for an unconditional network."""
        if self.transformer.y_embedder is None:
            return 0.0
        embedding: Tensor = self.transformer.y_embedder(condition.label)
        return embedding


def size_of(sizes: Sizes) -> TransformerSize:
    """Return the transformer's sizes that a recipe's table describes."""
    return TransformerSize(out_channels=sizes.channels, **attrs.asdict(sizes))


def new_velocity(sizes: Sizes, teacher: Teacher) -> SiTVelocity:
    """Return an untrained network for the samples and classes of `teacher`; it starts from zero.

    Raises ValueError where the sizes do not suit the teacher.
    """
    shape = (sizes.channels, sizes.input_size, sizes.input_size)
    if shape != teacher.sample_shape:
        raise ValueError(f"sizes are for samples {shape}, the teacher's are {teacher.sample_shape}")
    source = teacher.conditions
    classes = source.classes if isinstance(source, Labels) else None
    if sizes.classes != classes:
        raise ValueError(f"sizes.classes is {sizes.classes}, the teacher has {classes}")
    return SiTVelocity(size_of(sizes))
