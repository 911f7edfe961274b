"""The decoder for samples that are already images."""

from __future__ import annotations

from torch import Tensor

from ffcore.interfaces import Decoder


class Identity(Decoder):
    """Returns samples unchanged, whether they are images or not."""

    def forward(self, samples: Tensor) -> Tensor:
        """Return the samples in float32."""
        return samples.float()
