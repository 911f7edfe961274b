"""The cost of one row of a batch in a network, counted while the network computes it.

FLOPs are torch's own count of matrix products, convolutions and attention; a multiplication and an
addition are two. Element-wise operations are not counted. The count is of what torch executes, with
two consequences. Forward mode also multiplies by the zero tangents of weights, so a linear layer
costs three times its forward. Attention counts as in the math kernel, without the recomputation of
fused kernels in the backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ffcore.flow.dual import Dual
from ffcore.interfaces import Condition


@attrs.frozen(eq=False)
class Row:
    """A network and one row of its inputs, on the network's device."""

    network: nn.Module
    inputs: Mapping[str, Tensor]
    """Tensors of one row, in the order of `forward`."""
    condition: Condition

    @staticmethod
    def of(
        network: nn.Module, names: Sequence[str], sample_shape: Sequence[int], condition: Condition
    ) -> Row:
        """Make a row for `network`: `x_t` of the sample's shape, and the other `names` scalars."""
        tensors = (*network.parameters(), *network.buffers())
        device = next((each.device for each in tensors), torch.device("cpu"))
        shapes = {name: (1, *sample_shape) if name == "x_t" else (1,) for name in names}
        inputs = {name: torch.full(shape, 0.5, device=device) for name, shape in shapes.items()}
        return Row(network, inputs, condition.to(device))

    def forward(self, along: Sequence[str] = (), *, dual: bool = False) -> int:
        """Return the FLOPs of a forward, with the derivative along the named inputs if any.

        By torch's forward mode, or by dual numbers.
        """
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as count:
            if dual:
                moved = {name: self.inputs[name] for name in along}
                self._output({name: Dual(at, torch.ones_like(at)) for name, at in moved.items()})
            elif along:
                primals = tuple(self.inputs[name] for name in along)
                tangents = tuple(torch.ones_like(each) for each in primals)
                torch.func.jvp(
                    lambda *at: self._output(zip(along, at, strict=True)), primals, tangents
                )
            else:
                self._output()
        return int(count.get_total_flops())

    def backward(self) -> int:
        """Return the FLOPs of a backward to the parameters that require a gradient.

        If none does, the backward goes to `x_t`, as when gradients flow through a frozen network.
        """
        wanted: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        x_t = self.inputs["x_t"].clone().requires_grad_(not wanted)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            output = self._output({"x_t": x_t})
            with FlopCounterMode(display=False) as count:
                torch.autograd.grad(output.sum(), wanted or [x_t], allow_unused=True)
        return int(count.get_total_flops())

    def saved_bytes(self) -> int:
        """Return the bytes that a forward keeps for its backward: its activations.

        Every storage counts once, the network's own not at all. Attention counts as a fused kernel,
        which keeps no matrix of tokens by tokens.
        """
        own = {_storage(each) for each in (*self.network.parameters(), *self.network.buffers())}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[_storage(tensor)] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.enable_grad(), hooks, FusedAttention():
            output = self._output()
        del output
        return sum(each.untyped_storage().nbytes() for at, each in kept.items() if at not in own)

    def _output(self, changed: Any = ()) -> Tensor:
        output: Tensor = self.network(*{**self.inputs, **dict(changed)}.values(), self.condition)
        return output


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class FusedAttention(TorchFunctionMode):
    """Makes attention on the meta device keep only what a fused kernel keeps for its backward.

    By default that device uses the math kernel, which keeps the matrix of tokens by tokens. With a
    mask, or with fewer heads of keys than of queries, it still does.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace scaled_dot_product_attention by the fused operator; leave other functions."""
        kwargs = kwargs or {}
        plain = len(args) == 3 and not kwargs.keys() - {"scale", "is_causal"}
        if func is not functional.scaled_dot_product_attention or not (plain and args[0].is_meta):
            return func(*args, **kwargs)
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        return fused(*args, None, True, **kwargs)[0]
