"""The transformer as an average velocity: a velocity's body with an embedding of δ."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ffcore.interfaces import Condition, Student
from ffcore.nn.size import TransformerSize
from ffcore.nn.velocity import TransformerVelocity, silent_embedder

Start = Literal["euler", "teacher-time"]


class TransformerStudent(Student):
    """F(x_t, t, δ | label, γ): a velocity u with an embedding of δ whose last layer starts at zero.

    Before training, with start "euler", F equals u(x_t, t) for every δ; if it starts only at the
    prior, t is 1. With "teacher-time", F equals the network's output for the time 1 − δ at the
    prior's scale: u(z, 1 − δ) if c_in is 1. At δ = 0 both are u(z, 1). γ has no effect yet.

    Raises ValueError for "teacher-time" from anywhere, because F then reads t.
    """

    def __init__(
        self,
        velocity: TransformerVelocity,
        start: Start = "euler",
        starts_at: Literal["prior", "anywhere"] = "prior",
    ) -> None:
        super().__init__()
        if start == "teacher-time" and starts_at == "anywhere":
            raise ValueError('a student that starts anywhere reads t: its start must be "euler"')
        self.velocity = velocity
        self.start = start
        self.starts_at = starts_at
        with torch.device(next(velocity.parameters()).device):
            self.delta_embedder = silent_embedder(velocity.size.width)

    @property
    def size(self) -> TransformerSize:
        """The sizes of the transformer."""
        return self.velocity.size

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        at = t if self.starts_at == "anywhere" else torch.ones_like(delta)
        time = at if self.start == "euler" else 1 - delta
        c = self.velocity.embedding(time, condition) + self.delta_embedder(delta)
        return self.velocity.output(x_t, at, c)
