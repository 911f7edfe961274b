"""Low-rank adaptation (LoRA; Hu et al., 2106.09685): train few parameters of a network.

A trained layer W is frozen, and B A, of rank r, learns beside it:

    y = W x + b + B A x,    A: [r, in],  B: [out, r].

B starts at zero, so the network does not change at first.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


class LowRankLinear(nn.Module):
    """A frozen linear layer with low-rank factors A and B that learn.

    Args:
        base: the layer; frozen in place.
        rank: r, at least 1.

    The factors have the device and dtype of `base`. They are drawn from the CPU's global random
    state, so they are the same on every device. Raises ValueError for an impossible rank.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of low-rank factors must be at least 1, found {rank}")
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_empty(base.out_features, rank))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset A to uniform in ±1/√in (Kaiming's, as in a new layer) and B to zero."""
        bound = self.A.shape[1] ** -0.5
        self.A.copy_(torch.empty(self.A.shape, device="cpu").uniform_(-bound, bound))
        self.B.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map Float[..., in] to Float[..., out]."""
        update = functional.linear(functional.linear(x, self.A), self.B)
        out: Tensor = self.base(x) + update
        return out

    @property
    def weight(self) -> Tensor:
        """W + B A, Float[out, in], for owners that read the weight instead of calling the layer.

        `nn.MultiheadAttention` does, and so do networks that read a layer's dtype. It is computed
        at each access; writing into it has no effect.
        """
        return self.base.weight + self.B @ self.A

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias, Float[out]."""
        return self.base.bias


def with_lora(network: Network, rank: int) -> Network:
    """Adapt a trained network in place, and return it: freeze it and add low-rank factors to train.

    Every `nn.Linear` in it becomes a `LowRankLinear`; a shared layer stays shared. All else is
    frozen: convolutions, embeddings, norms, biases.

    Two kinds of layer train all their weights and biases instead:

    - a layer of any type whose weight is zero, such as an embedding or a head that starts without
      effect: it has learnt nothing to adapt. A weight on the meta device has no values and counts
      as learnt, unless `ZerosOnMeta` saw it set to zero;
    - a linear layer whose smaller side is at most `rank`: factors of that rank can express every
      update, and have more parameters than the layer.

    Args:
        network: a trained network. It must call its layers as submodules, or read their `weight`
            and `bias`; references elsewhere, as in a plain list, are not replaced.
        rank: r, at least 1.

    Raises ValueError, and changes nothing, for an impossible rank, for a network that already has
    low-rank factors, and if there is no layer to adapt.
    """
    modules = list(network.modules())
    if any(isinstance(module, LowRankLinear) for module in modules):
        raise ValueError(f"{type(network).__name__} already has low-rank factors")
    # The network itself cannot be replaced.
    linear = [module for module in modules[1:] if isinstance(module, nn.Linear)]
    zero = [module for module in modules if _is_zero(module)]
    small = [layer for layer in linear if min(layer.in_features, layer.out_features) <= rank]
    learnt = [layer for layer in linear if layer not in {*zero, *small}]
    if not learnt:
        raise ValueError(
            f"rank {rank} can adapt none of the {len(linear)} linear layers in "
            f"{type(network).__name__}: a layer's sides must be above the rank, and its weight not "
            "all zero. Use a smaller rank, or train all weights"
        )
    adapted = {layer: LowRankLinear(layer, rank) for layer in learnt}
    network.requires_grad_(False)
    for layer in [*zero, *small]:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(True)
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Linear) and module in adapted:
            network.set_submodule(path, adapted[module])
    return network


class ZerosOnMeta(TorchFunctionMode):
    """In this block, a tensor on the meta device that `zero_` or `nn.init.zeros_` sets to zero
    counts as zero in `with_lora`, until it is written to again.

    So a network on the meta device has as many trainable parameters as the real one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and mark the tensor that it sets to zero."""
        found = func(*args, **(kwargs or {}))
        if func is Tensor.zero_:
            found.zero_at_version = found._version
        return found


def _is_zero(module: nn.Module) -> bool:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return False
    if weight.is_meta:
        return getattr(weight, "zero_at_version", None) == weight._version
    return not bool(weight.any())
