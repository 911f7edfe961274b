"""DDP, FSDP2, activation checkpointing and torch.compile for one network.

"ddp": every process holds every network, and the backward pass averages gradients (Li et al.,
2006.15704). "fsdp": every process holds a shard of every network, and a call gathers it unit by
unit (FSDP2; Zhao et al., 2304.11277). Both hook a network's `forward`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ffcore.flow.dual import values_only

Strategy = Literal["ddp", "fsdp"]


def units(network: nn.Module) -> list[nn.Module]:
    """Return the repeated parts of a network: the items of its outermost `nn.ModuleList`s.

    Each is sharded, recomputed and compiled separately. Of an item that cannot be called, such as
    another list, its own items are the parts. A network without any is a single unit.
    """

    def walk(module: nn.Module, repeated: bool) -> Iterator[nn.Module]:
        for child in module.children():
            if not repeated or type(child).forward is nn.Module.forward:
                yield from walk(child, repeated or isinstance(child, nn.ModuleList))
            elif next(child.parameters(), None) is not None:
                yield child

    return list(dict.fromkeys(walk(network, False))) or [network]


def recompute(network: nn.Module) -> None:
    """Recompute each unit's activations in the backward pass instead of storing them.

    Chen et al., 1604.06174. Costs a forward; stores one activation per unit.
    """
    for unit in units(network):
        unit.forward = functools.partial(_recompute, unit.forward)


def _recompute(forward: Callable[..., Any], /, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    work = functools.partial(forward, **named)  # a name may be one of `checkpoint`'s own
    if torch.compiler.is_compiling():  # the compiler already omits what no gradient needs
        return checkpoint(work, *inputs, use_reentrant=False)
    return checkpoint(work, *inputs, use_reentrant=False, context_fn=_once_for_tangents)


def _once_for_tangents() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a unit's forward and of its recomputation, which needs no tangents."""
    return nullcontext(), values_only()


def compile_units(network: nn.Module) -> None:
    """Compile each unit in place; equal units are compiled once."""
    for unit in units(network):
        unit.compile()


def shard(network: nn.Module, device: str) -> None:
    """Shard a network's parameters over all processes, in place, one unit at a time (FSDP2)."""
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    for unit in units(network):
        if unit is not network:
            fully_shard(unit, mesh=mesh)
    fully_shard(network, mesh=mesh)


def cut_again(network: nn.Module) -> None:
    """Reshard what a call gathered, if no backward pass has done so.

    Until then, the parameters outside the units are whole, and no EMA can follow them.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Replicated(DistributedDataParallel):
    """A network whose gradients are averaged over all processes."""

    def __getattr__(self, name: str) -> Any:
        """Return the network's attribute if this wrapper has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def replicate(network: nn.Module, *, keeps_gradients: bool) -> Replicated:
    """Return a wrapper whose backward averages gradients over all processes.

    `keeps_gradients`: whether gradients are kept between backward passes, and so must not share
    the communication buffers' memory.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    # Buffers are constants here. torch 2.13 has a new name for this option.
    leave = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {leave: False, "gradient_as_bucket_view": not keeps_gradients}
    return Replicated(network, **options)


def silent(network: nn.Module, quiet: bool) -> AbstractContextManager[None]:
    """Do not average a replicated network's gradients in this block, if `quiet`.

    A later backward averages the accumulated gradient. Sharded networks always average: they never
    hold a whole gradient.
    """
    if quiet and isinstance(network, Replicated):
        context: AbstractContextManager[None] = network.no_sync()
        return context
    return nullcontext()
