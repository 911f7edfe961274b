"""The parameters and buffers of a network that trains: which ones can be updated and stored.

Different tensors may share memory, as views of one. Tied weights, one parameter of several modules,
are a single tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ffcore.system.distributed import local
from ffcore.training.network_check import check_values


def shared(network: nn.Module) -> list[list[Tensor]]:
    """Return the network's parameters and buffers that share a storage with others, by storage."""
    return [group for group in _by_storage(network) if len(group) > 1]


def _by_storage(network: nn.Module) -> list[list[Tensor]]:
    groups: dict[int, dict[int, Tensor]] = {}
    for each in (*network.parameters(), *network.buffers()):
        (held,) = local([each])
        groups.setdefault(held.untyped_storage()._cdata, {})[id(each)] = each
    return [[*group.values()] for group in groups.values()]


def copied(network: nn.Module) -> dict[Any, Any]:
    """Return a memo for `copy.deepcopy` of a network, so that copies share memory as originals do.

    By itself, deepcopy gives each parameter memory of its own, also where a buffer or a plain
    attribute is a view of it.
    """
    storages: dict[int, Any] = {}
    memo: dict[Any, Any] = {"torch": storages}  # where deepcopy looks for copies of storages
    for group in _by_storage(network):
        storage = group[0].untyped_storage()
        if len(group) == 1 and storage.nbytes() != group[0].nbytes:
            continue  # a small part of a large storage, which need not be copied
        storages[storage._cdata] = copy = storage.clone()
        for each in group:
            view = torch.empty(0, dtype=each.dtype, device=each.device)
            view.set_(copy, each.storage_offset(), each.shape, each.stride())
            memo[id(each)] = nn.Parameter(view, False) if isinstance(each, nn.Parameter) else view
    return memo


def in_parameters(network: nn.Module) -> set[int]:
    """Return the ids of the buffers that are parameters, or in the memory of one."""
    buffers = {id(each) for each in network.buffers()}
    if not buffers:
        return set()
    within = {id(each) for each in network.parameters()}
    return buffers & (within | {id(each) for _, each in overlapping(network)})


def check_tensors(network: nn.Module, name: str, device: torch.device | str) -> None:
    """Check that training on `device` can update each number once, and store all of them.

    Raises ValueError, with `name` and the tensor or module, for state outside of parameters and
    buffers, tensors without values, two parameters in the same memory, and a buffer in the
    memory of a parameter if it would lose its place there on the way to `device`.
    """
    check_values(name, network)
    faults = itertools.chain(
        _state_elsewhere(network),
        _several_in_one(network),
        _torn_apart(network, torch.device(device)),
    )
    if fault := next(faults, None):
        raise ValueError(f"{name}: {fault}")


def _state_elsewhere(network: nn.Module) -> Iterator[str]:
    """Yield what is part of a network's state, but cannot be stored and loaded."""
    for key, module in network.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield (
                f"{key or 'it'} has state that is neither a parameter nor a buffer "
                "(get_extra_state), and no file of ffcore's can hold it: keep it in a buffer"
            )
    named = dict(network.named_parameters(remove_duplicate=False))
    state = network.state_dict()
    if missing := sorted(named.keys() - state.keys()):
        try:
            network.load_state_dict(state)
        except RuntimeError:
            yield (
                f"its state_dict() lacks {missing[0]}, and its load_state_dict() does not accept "
                "it, so that no file could hold the network: a hook renames or removes tensors"
            )


def _several_in_one(network: nn.Module) -> Iterator[str]:
    """Yield parameters that an optimizer would update twice."""
    for key, each in network.named_parameters():
        steps = zip(each.shape, each.stride(), strict=True)
        if any(size > 1 and step == 0 for size, step in steps):
            yield (
                f"{key} is an expanded view, of which several numbers are one in memory: clone it "
                "before it becomes a parameter"
            )
    for one, other in overlapping(network):
        if isinstance(other, nn.Parameter):
            yield (
                f"{name_in(network, one)} and {name_in(network, other)} are two parameters in the "
                "same memory, which an optimizer would update twice: assign the same nn.Parameter "
                "to both places, or copy one"
            )


def _torn_apart(network: nn.Module, device: torch.device) -> Iterator[str]:
    """Yield buffers that would leave the memory of a parameter on the way to `device`."""
    for one, buffer in overlapping(network):
        if device.type != one.device.type:
            yield (
                f"the parameter {name_in(network, one)} and the buffer {name_in(network, buffer)} "
                f"are in the same memory on {one.device}, but would be apart on {device}: compute "
                "the buffer in forward"
            )


def overlapping(network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each parameter with the later parameters, and the buffers, that are in its memory."""
    for group in shared(network):  # parameters first
        for one, other in itertools.combinations(group, 2):
            if isinstance(one, nn.Parameter) and _overlap(one, other):
                yield one, other


def name_in(network: nn.Module, tensor: Tensor) -> str:
    """Return the name of one of a network's parameters or buffers."""
    named = (*network.named_parameters(), *network.named_buffers())
    return next(name for name, each in named if each is tensor)


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of the same storage have bytes in common."""
    (low, high), (start, stop) = _range(one), _range(other)
    if not one.numel() or not other.numel() or high <= start or stop <= low:
        return False
    if one.itemsize != other.itemsize:
        return True
    # They may still alternate, as the columns of a matrix do.
    first = min(one.storage_offset(), other.storage_offset())
    taken = torch.zeros((max(high, stop) - min(low, start)) // one.itemsize, dtype=torch.bool)
    taken.as_strided(one.shape, one.stride(), one.storage_offset() - first).fill_(True)
    found = taken.as_strided(other.shape, other.stride(), other.storage_offset() - first)
    return bool(found.any())


def _range(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage, and the one after its last."""
    last = sum(
        (size - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
    first = int(tensor.storage_offset())
    return first * tensor.itemsize, (first + last + 1) * tensor.itemsize
