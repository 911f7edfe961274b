"""Features without a network."""

from __future__ import annotations

from torch import Tensor

from ffcore import Features


class Raw(Features):
    """The sample itself, flattened: pixels, latents or vectors."""

    name = "raw"

    def forward(self, samples: Tensor) -> Tensor:
        """Return Float[B, d] of samples Float[B, *S]."""
        return samples.flatten(1)
