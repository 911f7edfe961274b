"""The SiT transformer as a velocity field in our convention.

SiT's own time is 0 at noise and 1 at data, and its output is data − noise: our velocity, at
t_SiT = 1 − t. The raw time, not a multiple of it, enters the embedding.
"""

from __future__ import annotations

from torch import Tensor

from ffcore.interfaces import Condition, VelocityField
from ffcore.nn.transformer import Transformer, TransformerSize


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
