"""Stands for your own code: a U-Net that predicts noise, as published code has it.

It does not know ffcore. Its input is α x + σ n on the cosine schedule, its time a whole number from
0 (data) to 999 (noise), and its output the noise.
"""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

CLASSES = 10
NULL = CLASSES  # the label of "no class", which a tenth of the training samples get
TIMESTEPS = 1000


def alphas_cumprod() -> Tensor:
    """Return ᾱ = α² at timesteps 0 to 999: the cosine schedule (Nichol & Dhariwal, 2102.09672)."""
    share = torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    bar = ((share + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0).float()


def embed(timestep: Tensor, width: int) -> Tensor:
    """Return sines and cosines of the timesteps: Float[B, width]."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2).to(timestep) / (width // 2))
    angles = timestep[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class Block(nn.Module):
    """Two convolutions with a residual; the embedding shifts and scales between them."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.modulation = nn.Linear(embedding, 2 * out)
        self.norm = nn.GroupNorm(8, out)
        self.last = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map [B, channels, H, W] to [B, out, H, W]."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.last(functional.silu(h))
        return out


class UNet(nn.Module):
    """The noise in 8 × 8 images, given a timestep and a label."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        deep, embedding = 2 * width, 4 * width
        self.time = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(CLASSES + 1, embedding)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.fine = Block(width, width, embedding)
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(Block(deep, deep, embedding) for _ in range(2))
        self.up = nn.Conv2d(deep, width, 3, padding=1)
        self.join = Block(2 * width, width, embedding)
        self.norm = nn.GroupNorm(8, width)
        self.leave = nn.Conv2d(width + 1, 1, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Return the noise in x, [B, 1, 8, 8]."""
        c = functional.silu(self.time(embed(timestep, self.width)) + self.label(label))
        fine = self.fine(self.enter(x), c)
        h = self.down(fine)
        for block in self.middle:
            h = block(h, c)
        h = self.up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = functional.silu(self.norm(self.join(torch.cat([h, fine], 1), c)))
        out: Tensor = self.leave(torch.cat([h, x], 1))  # x itself: the norm forgets its size
        return out
