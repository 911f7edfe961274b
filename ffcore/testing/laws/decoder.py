"""Laws of decoders."""

from __future__ import annotations

from typing import Any

import torch

from ffcore.testing.answers import arguments
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import Broken, law, require

SHAPES = ((3,), (2, 5), (7, 3, 5), (1, 2, 4, 4))
"""Shapes of samples; a decoder can decode few of them."""


@law("decoder", 1)
def gives_images(case: Case, live: Any) -> None:
    """Images are finite float32 [B, C, H, W], one for each sample. Samples that cannot be images
    may keep their shape."""
    inputs = arguments(case, live)
    with torch.no_grad():
        found = live(*inputs)
    require(len(found) == SIZE, f"{len(found)} images for {SIZE} samples")
    require(found.ndim == 4 or found.shape == inputs[0].shape, f"images are {tuple(found.shape)}")
    require(found.dtype == torch.float32, f"images are {found.dtype}")
    require(found.isfinite().all(), "images are not finite")


@law("decoder", 4)
def distinguishes_samples(case: Case, live: Any) -> None:
    """Different samples give different images."""
    with torch.no_grad():
        found = live(*arguments(case, live))
    require(bool((found != found[:1]).any()), "every sample gives the same image")


@law("decoder", 5)
def refuses_what_it_cannot_decode(case: Case, live: Any) -> None:
    """For samples of a shape that it cannot decode, it raises ValueError and nothing else."""
    del case
    for shape in SHAPES:
        try:
            with torch.no_grad():
                live(torch.zeros(2, *shape))
        except ValueError:
            continue
        except Exception as error:
            found = f"{type(error).__name__} for samples of shape {shape}: {error}"
            raise Broken(f"it raised {found}") from error
