"""DDP, FSDP2, activation checkpointing and torch.compile for one network.

"ddp": every process holds every network, and the backward pass averages gradients (Li et al.,
2006.15704). "fsdp": every process holds a shard of every network, and a call gathers it unit by
unit (FSDP2; Zhao et al., 2304.11277). Both hook a network's `forward`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from ffcore.flow.dual import values_only
from ffcore.training.tensors import name_in, overlapping

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


def shard(network: nn.Module, device: str, name: str, call: Callable[[], object] | None) -> None:
    """Shard a network's parameters over all processes, in place, one unit at a time (FSDP2).

    Units that share a parameter are sharded with the rest of the network. FSDP2 shards neither
    numbers without dimensions nor complex ones, and only one dtype in a unit: every process keeps
    the other parameters whole (ffcore/training/learner.py averages their gradients).

    Args:
        network: the network.
        device: its device.
        name: its name, for messages.
        call: calls the network on a few samples, to find weights that no call will gather.

    Raises ValueError for such weights, and for a buffer in the memory of a parameter, which would
    not follow it into shards.
    """
    for each, buffer in overlapping(network):
        first, second = (name_in(network, tensor) for tensor in (each, buffer))
        raise ValueError(
            f"{name}: the parameter {first} and the buffer {second} are in the same memory, but "
            "strategy 'fsdp' would take them apart: use 'ddp', or compute the buffer in forward"
        )
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    whole = dict(network.named_parameters())
    alone = _separate_units(network)
    left = set(whole.values())
    kept: set[nn.Parameter] = set()
    for unit in (*alone.values(), network):
        own = left & set(unit.parameters())
        left -= own
        kept |= own - set(_largest_part(own))
        unit.register_forward_hook(_reach_gathered)
        fully_shard(unit, mesh=mesh, ignored_params=kept)
    if call is None:
        return
    replaced = {id(each): key for key, each in whole.items() if each not in kept}
    with _Gathered(name, alone, replaced), torch.no_grad():
        call()
    cut_again(network)


def _separate_units(network: nn.Module) -> dict[str, nn.Module]:
    """Return the units, by name, that share no parameter with another part of the network."""
    found = {id(unit): unit for unit in units(network) if unit is not network}
    homes: dict[int, set[int]] = {}
    for key, each in network.named_parameters(remove_duplicate=False):
        path = [network.get_submodule(key[:end]) for end in _ends(key)]
        home = next((id(module) for module in path if id(module) in found), 0)
        homes.setdefault(id(each), set()).add(home)
    for several in homes.values():
        if len(several) > 1:
            found = {key: unit for key, unit in found.items() if key not in several}
    names = {id(module): name for name, module in network.named_modules()}
    return {names[key]: unit for key, unit in found.items()}


def _largest_part(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return those that FSDP2 can shard together: of the dtype with the most numbers."""
    parts: dict[torch.dtype, list[nn.Parameter]] = {}
    for each in parameters:
        if each.dim() and each.is_floating_point():
            parts.setdefault(each.dtype, []).append(each)
    return max(parts.values(), key=lambda part: sum(each.numel() for each in part), default=[])


def _ends(key: str) -> list[int]:
    return [index for index, letter in enumerate(key) if letter == "."]


class _Gathered(TorchFunctionMode):
    """Raises ValueError if a function gets weights that the call of a unit would have gathered."""

    def __init__(
        self, name: str, alone: Mapping[str, nn.Module], replaced: Mapping[int, str]
    ) -> None:
        super().__init__()
        self.name, self.replaced = name, replaced
        self.sharded = {
            id(each): key
            for key, unit in alone.items()
            for each in unit.parameters()
            if isinstance(each, DTensor)
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function; look at its arguments if it fails or computes a tensor."""
        wrong = next(filter(None, map(self._wrong, pytree.tree_leaves((args, kwargs)))), "")
        try:
            found = func(*args, **(kwargs or {}))
        except RuntimeError:
            if wrong:
                raise ValueError(wrong) from None
            raise
        if wrong and any(isinstance(each, Tensor) for each in pytree.tree_leaves(found)):
            raise ValueError(wrong)
        return found

    def _wrong(self, given: object) -> str:
        if (unit := self.sharded.get(id(given))) is not None:
            return (
                f"{self.name} uses the weights of {unit} without calling it, so that strategy "
                "'fsdp' cannot gather them: call the module, or use 'ddp'"
            )
        if (key := self.replaced.get(id(given))) is not None:
            return (
                f"{self.name} also keeps its parameter {key} elsewhere than in its module, where "
                "strategy 'fsdp' cannot replace it by a shard: use 'ddp'"
            )
        return ""


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


class _Reach(torch.autograd.Function):
    """The identity of a tensor, with edges to parameters on which it may not depend.

    Along these edges flows a gradient of zero, or none, which costs nothing.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, zero: bool, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters if zero else [None] * len(parameters)
        return output.detach()  # in the same memory, but no view

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        zeros = ((None if p is None else p.new_zeros(()).expand_as(p)) for p in ctx.parameters)
        return gradient, None, *zeros


def reach(network: nn.Module, total: Tensor) -> Tensor:
    """Return `total`, from which the backward pass reaches every parameter of a replicated network.

    DistributedDataParallel waits for a gradient of each; those that `total` does not depend on
    count as zero.
    """
    if not isinstance(network, Replicated):
        return total
    trained = [each for each in network.parameters() if each.requires_grad]
    reached: Tensor = _Reach.apply(total, False, *trained)  # type: ignore[no-untyped-call]
    return reached


def _reach_gathered(unit: nn.Module, inputs: object, output: Any) -> Any:
    """Let the output of a sharded unit reach all its parameters: a hook of its forward.

    All processes average the gradients of the same parameters, although a unit may use some of
    them in one process only, for example for a label that no sample of another process has.
    """
    del inputs
    trained = [
        each for each in unit.parameters() if each.requires_grad and not isinstance(each, DTensor)
    ]
    leaves, form = pytree.tree_flatten(output)
    for index, each in enumerate(leaves):
        if isinstance(each, Tensor) and each.requires_grad:
            leaves[index] = _Reach.apply(each, True, *trained)  # type: ignore[no-untyped-call]
            return pytree.tree_unflatten(leaves, form)
    return output


def silent(network: nn.Module, quiet: bool) -> AbstractContextManager[None]:
    """Do not average a replicated network's gradients in this block, if `quiet`.

    A later backward averages the accumulated gradient. Sharded networks always average: they never
    hold a whole gradient.
    """
    if quiet and isinstance(network, Replicated):
        context: AbstractContextManager[None] = network.no_sync()
        return context
    return nullcontext()
