"""Low-rank adaptation (LoRA; Hu et al., 2106.09685): train a network by few numbers.

A trained layer W stays as it is, and B A, of rank r, is learnt beside it:

    y = W x + b + B A x,    A: [r, in],  B: [out, r].

B starts from zero, so that the network is at first what it was.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


class LowRankLinear(nn.Module):
    """A linear layer that is frozen, and low-rank factors A and B that learn beside it.

    Args:
        base: the layer; frozen in place.
        rank: r, at least 1.

    The factors have the device and dtype of `base`. They are drawn from the global random state
    of the CPU, so that they are the same on every device. Raises ValueError for a
    rank that is impossible.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of low-rank factors is at least 1, found {rank}")
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_empty(base.out_features, rank))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again: A uniform in ±1/√in (Kaiming's, as for a new layer), B zero."""
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
        """W + B A, Float[out, in]: for owners that read a layer instead of calling it.

        `nn.MultiheadAttention` does so, and networks that read a layer's dtype. It is
        computed at each reading; to write into it changes nothing.
        """
        return self.base.weight + self.B @ self.A

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's, Float[out]."""
        return self.base.bias


def with_lora(network: Network, rank: int) -> Network:
    """Adapt a trained network in place: freeze it, with low-rank factors to train; return it.

    Every `nn.Linear` within it becomes a `LowRankLinear`; one that is used in two places becomes
    one that is used in both. All else is frozen: convolutions, embeddings, norms, biases.

    Two kinds of layer stay whole, and train with all their weights and biases:

    - a layer of any type whose weight is all zero (an embedding or a head that starts without
      effect): it has learnt nothing that could be adapted. A weight on the meta device has no
      values, and counts as learnt, unless `ZerosOnMeta` saw it set to zero;
    - a linear layer whose smaller side is at most `rank`: factors of that rank reach every
      update, and hold more numbers than the layer.

    Args:
        network: trained. It calls its layers as submodules, or reads their `weight` and `bias`;
            a reference to a layer that it keeps elsewhere, as in a plain list, is not replaced.
        rank: r, at least 1.

    Raises ValueError, and changes nothing, for an impossible rank, for a network that has
    low-rank factors already, and where there is no layer to adapt.
    """
    modules = list(network.modules())
    if any(isinstance(module, LowRankLinear) for module in modules):
        raise ValueError(f"{type(network).__name__} has low-rank factors already")
    # The network itself cannot be replaced within it.
    linear = [module for module in modules[1:] if isinstance(module, nn.Linear)]
    zero = [module for module in modules if _is_zero(module)]
    small = [layer for layer in linear if min(layer.in_features, layer.out_features) <= rank]
    learnt = [layer for layer in linear if layer not in {*zero, *small}]
    if not learnt:
        raise ValueError(
            f"{type(network).__name__} has no linear layer that rank {rank} could adapt, of "
            f"{len(linear)} linear layers within it: a layer's sides must be above the rank, and "
            f"its weight not all zero. Choose a smaller rank, or train the network whole"
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
    """Within it, a tensor on the meta device that `zero_` or `nn.init.zeros_` sets to zero counts
    as zero in `with_lora`, until it is written to again.

    So that a network of shapes alone has as many numbers to train as the real one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and leave a mark on what it has set to zero."""
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
