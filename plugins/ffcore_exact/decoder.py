"""The decoder of samples that are images already."""

from __future__ import annotations

from torch import Tensor

from ffcore.interfaces import Decoder


class Identity(Decoder):
    """Hands samples on as they are: pixels in [−1, 1], or whatever else they may be."""

    def forward(self, samples: Tensor) -> Tensor:
        """Return the samples in float32."""
        return samples.float()
