"""The transformer as an average velocity: a velocity's body, and an embedding of δ."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ffcore.interfaces import Condition, Student
from ffcore.nn.size import TransformerSize
from ffcore.nn.velocity import TransformerVelocity, silent_embedder

Start = Literal["euler", "teacher-time"]


class TransformerStudent(Student):
    """F(z, δ | label, γ), from a velocity u and an embedding of δ whose last layer starts at zero.

    Before training F equals u(z, 1) with start "euler", and the network's output for the time 1 − δ
    at the scale of the prior with "teacher-time": u(z, 1 − δ) where c_in is 1. At δ = 0 both are
    u(z, 1). γ has no effect yet: F is the same for every scale.
    """

    starts_at = "prior"

    def __init__(self, velocity: TransformerVelocity, start: Start = "euler") -> None:
        super().__init__()
        self.velocity = velocity
        self.start = start
        with torch.device(next(velocity.parameters()).device):
            self.delta_embedder = silent_embedder(velocity.size.width)

    @property
    def size(self) -> TransformerSize:
        """The sizes of the transformer."""
        return self.velocity.size

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        del t  # always 1
        prior = torch.ones_like(delta)
        time = prior if self.start == "euler" else 1 - delta
        c = self.velocity.embedding(time, condition) + self.delta_embedder(delta)
        return self.velocity.output(x_t, prior, c)
