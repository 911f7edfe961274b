"""The SiT transformer as an average velocity."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ffcore.interfaces import Condition, Student
from ffcore.nn.embedding import ScalarEmbedder
from ffcore_sit.velocity import SiTVelocity


class SiTAverageVelocity(Student):
    """F(z, δ, label): a trained SiT, and an embedding of δ whose last layer starts at zero.

    Before training F equals the velocity u of the SiT at (z, 1) with start "euler", and at
    (z, 1 − δ) with start "teacher-time". At δ = 0 both are exact.
    """

    starts_at = "prior"

    def __init__(
        self, velocity: SiTVelocity, start: Literal["euler", "teacher-time"] = "euler"
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.start = start
        self.delta_embedder = ScalarEmbedder(velocity.transformer.size.width)
        for parameter in self.delta_embedder.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        del t  # always 1
        transformer = self.velocity.transformer
        # SiT's own time is 1 − t: 0 at the prior, δ after a duration δ.
        time = torch.zeros_like(delta) if self.start == "euler" else delta
        c = transformer.t_embedder(time) + self.delta_embedder(delta)
        output: Tensor = transformer(x_t, c + self.velocity.label_embedding(condition))
        return output
