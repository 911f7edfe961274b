"""A moving average of a network's weights, for evaluation."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ffcore.system.distributed import local

Network = TypeVar("Network", bound=nn.Module)


def averaged_copy(network: Network) -> Network:
    """Return an independent copy of `network` that holds no gradient, to be fed by `update`."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update(
    average: nn.Module,
    network: nn.Module,
    decay: float,
    step: int,
    sound: Tensor | None = None,
) -> None:
    """Move `average` towards `network`: average ← d · average + (1 − d) · network.

    d is `decay`, but (1 + step) / (10 + step) at most, so that early weights are soon forgotten
    (the usual warm-up; `step` counts from 0). Buffers are copied. Sharded networks are averaged
    where their parts are. Where `sound`, a bool on the device, is false, all stays as it is.
    """
    decay = min(decay, (1 + step) / (10 + step))
    kept, new = local(average.parameters()), local(network.parameters())
    if sound is None:
        torch._foreach_lerp_(kept, new, weight=1.0 - decay)
    else:
        dtypes = {each.dtype for each in kept}
        weights = {dtype: (1.0 - decay) * sound.to(dtype) for dtype in dtypes}
        torch._foreach_lerp_(kept, new, [weights[each.dtype] for each in kept])
    for old, buffer in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(buffer if sound is None else torch.where(sound, buffer, old))
