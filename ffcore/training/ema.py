"""The exponential moving average (EMA) of a network's weights, for evaluation."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ffcore.system.distributed import local
from ffcore.training.tensors import copied, in_parameters

Network = TypeVar("Network", bound=nn.Module)


def ema_copy(network: Network) -> Network:
    """Return an independent copy of `network` without gradients, for `update`.

    Its tensors share memory with each other as the network's do.
    """
    try:
        return copy.deepcopy(network, copied(network)).requires_grad_(False).eval()
    except RuntimeError as error:
        raise ValueError(
            f"{type(network).__name__} cannot be copied, so it has no EMA: it holds a scripted "
            f"module, or a tensor that is the result of a computation. Use plain modules ({error})"
        ) from error


@torch.no_grad()
def begin(ema: nn.Module, network: nn.Module) -> None:
    """Give `ema` the weights and buffers of `network`; each process copies its own shards."""
    for kind in (nn.Module.parameters, nn.Module.buffers):
        for old, now in zip(local(kind(ema)), local(kind(network)), strict=True):
            old.copy_(now)


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
    weights; `step` counts from 0. Buffers and integers are copied, unless they are in the memory
    of a parameter. Each process updates its own shards. If `finite`, a bool on the device, is
    false, nothing changes.
    """
    decay = min(decay, (1 + step) / (10 + step))
    kept, new = local(ema.parameters()), local(network.parameters())
    fixed = [each for each in zip(kept, new, strict=True) if not _has_mean(each[0])]
    kept, new = [*filter(_has_mean, kept)], [*filter(_has_mean, new)]
    if finite is None:
        torch._foreach_lerp_(kept, new, weight=1.0 - decay)
    else:
        dtypes = {each.dtype for each in kept}
        weights = {dtype: (1.0 - decay) * finite.to(dtype) for dtype in dtypes}
        torch._foreach_lerp_(kept, new, [weights[each.dtype] for each in kept])
    within = in_parameters(ema)
    buffers = zip(ema.buffers(), network.buffers(), strict=True)
    for old, now in (*fixed, *(each for each in buffers if id(each[0]) not in within)):
        old.copy_(now if finite is None else torch.where(finite, now, old))


def _has_mean(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
