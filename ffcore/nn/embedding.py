"""Embeddings of scalars and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(values: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Return cosines then sines of `values` at geometrically spaced frequencies.

    Args:
        values: Float[N].
        width: even; the first half are cosines.
        max_period: the slowest frequency is 1 / max_period, the fastest 1 radian per unit.

    Returns:
        Float[N, width] in the dtype of `values`, but at least float32.
    """
    half = width // 2
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    index = torch.arange(half, dtype=values.dtype, device=values.device)
    angles = values[:, None] * torch.exp(-math.log(max_period) / half * index)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_sinusoids(side: int, width: int) -> Tensor:
    """Return the fixed position embedding of a side × side grid, row by row: Float[side², width].

    The first half of the channels encodes the column, the second half the row, each as sines then
    cosines (the layout of MAE's 2-D position embedding, which DiT and SiT use).
    """
    half = width // 2
    line = torch.arange(side, dtype=torch.float64)
    embedded = sinusoids(line, half)
    cosines, sines = embedded.chunk(2, dim=1)
    axis = torch.cat([sines, cosines], dim=1)  # [side, half]
    columns = axis[None].expand(side, side, half)
    rows = axis[:, None].expand(side, side, half)
    return torch.cat([columns, rows], dim=2).reshape(side * side, width).float()


class ScalarEmbedder(nn.Module):
    """Embeds a scalar per sample (a time, a duration, a guidance scale): sinusoids, then an MLP."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        first, last = nn.Linear(frequencies, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, values: Tensor) -> Tensor:
        """Embed Float[B] as Float[B, width]."""
        embedded = sinusoids(values, self.frequencies)
        out: Tensor = self.mlp(embedded.to(next(self.mlp.parameters()).dtype))
        return out
