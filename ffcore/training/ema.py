"""The exponential moving average (EMA) of a network's weights, for evaluation."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ffcore.system.distributed import local

Network = TypeVar("Network", bound=nn.Module)


def ema_copy(network: Network) -> Network:
    """Return an independent copy of `network` without gradients, for `update`."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update(
    ema: nn.Module,
    network: nn.Module,
    decay: float,
    step: int,
    finite: Tensor | None = None,
) -> None:
    """Move `ema` towards `network`: ema ← d · ema + (1 − d) · network.

    d is min(`decay`, (1 + step) / (10 + step)): the usual warm-up, which quickly forgets early
    weights; `step` counts from 0. Buffers are copied. Each process updates its own shards. If
    `finite`, a bool on the device, is false, nothing changes.
    """
    decay = min(decay, (1 + step) / (10 + step))
    kept, new = local(ema.parameters()), local(network.parameters())
    if finite is None:
        torch._foreach_lerp_(kept, new, weight=1.0 - decay)
    else:
        dtypes = {each.dtype for each in kept}
        weights = {dtype: (1.0 - decay) * finite.to(dtype) for dtype in dtypes}
        torch._foreach_lerp_(kept, new, [weights[each.dtype] for each in kept])
    for old, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        old.copy_(buffer if finite is None else torch.where(finite, buffer, old))
