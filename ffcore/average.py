"""A moving average of a network's weights, for evaluation."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def averaged_copy(network: Network) -> Network:
    """Return an independent copy of `network` that holds no gradient, to be fed by `update`."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `network`: average ← d · average + (1 − d) · network.

    d is `decay`, but (1 + step) / (10 + step) at most, so that early weights are soon forgotten
    (the usual warm-up; `step` counts from 0). Buffers are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight=1.0 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)
