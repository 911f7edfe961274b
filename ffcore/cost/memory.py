"""Exact bytes of a network and its training state on one GPU.

Whole, as with DDP, every GPU holds everything. Sharded over N GPUs, as with fully_shard (FSDP2),
every tensor is split along its first dimension into N equal, padded parts, so each GPU holds
⌈d₀ / N⌉ rows of it; buffers stay whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from torch import Tensor, nn


@attrs.frozen(kw_only=True)
class Memory:
    """Bytes on one GPU that persist between steps."""

    weights: int = 0
    """Parameters and buffers."""
    gradients: int = 0
    optimizer: int = 0
    """AdamW's two moments."""
    ema: int = 0
    """The EMA: a copy of the weights."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.ema

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            optimizer=self.optimizer + other.optimizer,
            ema=self.ema + other.ema,
        )

    @staticmethod
    def of(
        network: nn.Module, *, learns: bool = False, has_ema: bool = False, gpus: int = 1
    ) -> Memory:
        """Count the bytes of `network`, in the dtypes that its tensors have.

        Args:
            network: on any device, meta included.
            learns: whether an optimizer updates its parameters that require a gradient.
            has_ema: whether it has an EMA.
            gpus: number of GPUs to shard over; 1 means whole.
        """
        weights = _parts(network.parameters(), gpus) + _parts(network.buffers(), 1)
        gradients = _parts((p for p in network.parameters() if p.requires_grad), gpus)
        return Memory(
            weights=weights,
            gradients=gradients if learns else 0,
            optimizer=2 * gradients if learns else 0,
            ema=weights if has_ema else 0,
        )


def _parts(tensors: Iterable[Tensor], gpus: int) -> int:
    return sum(
        _rows(each, gpus) * each[:1].nbytes if each.ndim else each.nbytes for each in tensors
    )


def _rows(tensor: Tensor, gpus: int) -> int:
    return -(-len(tensor) // gpus)
