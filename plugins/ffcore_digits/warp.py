"""Random warps of images, for data augmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.path import expand_like

HALF_ANGLE = 0.1317
"""Tangent of half the greatest rotation at strength 1, 15 degrees."""
ZOOM = 0.15
"""Greatest enlargement at strength 1; reductions are as strong."""
SHIFT = 1.0
"""Greatest shift along either axis at strength 1, in pixels."""


def warp(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Rotate, zoom and shift each image about its centre; new pixels are background.

    Args:
        images: Float[B, C, H, W], background −1.
        strength: scale of the greatest amounts; 0 returns the images unchanged.
        draws: random streams for the B images. Each amount is uniform in ± its greatest.

    Returns:
        Float[B, C, H, W], interpolated bilinearly.
    """
    if strength == 0:
        return images

    def amount(purpose: str) -> Tensor:
        return expand_like(strength * (2 * draws.uniform(purpose) - 1), images[:, 0])

    # Arithmetic only: it rounds the same in a batch and in its slices; vectorised cosines do not.
    h, zoom = HALF_ANGLE * amount("rotation"), ZOOM * amount("zoom")
    scale = torch.where(zoom > 0, 1 + zoom, 1 / (1 - zoom.clamp(max=0)))
    cos, sin = (1 - h * h) / (1 + h * h), 2 * h / (1 + h * h)
    y, x = (_pixels(size) for size in images.shape[-2:])
    x, y = x[None, None, :], y[None, :, None]
    to = torch.stack(
        torch.broadcast_tensors(
            scale * (cos * x - sin * y) + 2 * SHIFT / images.shape[-1] * amount("columns"),
            scale * (sin * x + cos * y) + 2 * SHIFT / images.shape[-2] * amount("rows"),
        ),
        dim=-1,
    )
    return functional.grid_sample(images + 1, to, align_corners=False) - 1


def _pixels(size: int) -> Tensor:
    """Return the pixels' centres along an axis from −1 to 1."""
    return (2 * torch.arange(size) + 1) / size - 1
