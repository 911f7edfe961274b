"""The contents of a checkpoint: every tensor that a distillation resumes from, by name.

The tensors and the step are enough: random draws have no state (ffcore/draws.py), and schedules
depend on the step alone. Names depend neither on the order of parameters nor on wrappers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ffcore.system.distributed import local
from ffcore.training import ema
from ffcore.training.distillation import Distillation
from ffcore.training.learner import Learner

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}
"""What torch.compile and activation checkpointing add to names."""
_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
"""The dtypes that torch reads from a checkpoint's files."""
_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The dtype that stands for any other of this many bytes."""


def tensors_in(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors by their names in a checkpoint; see tensors_of."""
    return {f"{prefix}/{name}": each for name, each in _state(network)}


def tensors_of(distillation: Distillation) -> dict[str, Tensor]:
    """Return the distillation's tensors, not copies: writing to them changes it.

    "student/…", "ema/DECAY/…" and "auxiliary/NAME/…" are networks. "optimizer/…" and
    "auxiliary-optimizer/NAME/…" are AdamW's step and moments of each parameter. Files cannot hold
    every dtype: complex numbers are pairs of real ones here, booleans are bytes.
    """
    found: dict[str, Tensor] = {}
    for prefix, network in _networks(distillation):
        found |= tensors_in(prefix, network)
    for prefix, learner in _learners(distillation):
        found |= {f"{prefix}/{name}": each for name, each in _moments(learner)}
    return found


def part_of(name: str) -> str:
    """Return the part to which a tensor of this name belongs, as in "ema/0.9".

    A run may resume without the EMAs and the auxiliary networks of its checkpoint, or with others.
    The optimizer of an auxiliary network belongs to it; the rest of a distillation is the part "".
    """
    kind, _, rest = name.partition("/")
    if kind not in ("ema", "auxiliary", "auxiliary-optimizer"):
        return ""
    return f"{kind.removesuffix('-optimizer')}/{rest.partition('/')[0]}"


def begin_anew(distillation: Distillation, part: str) -> str:
    """Begin an EMA or an auxiliary network that a checkpoint lacks; return a sentence about it."""
    kind, _, name = part.partition("/")
    if kind == "ema":
        kept = {ema_prefix(decay): each for decay, each in distillation.emas.items()}[part]
        ema.begin(kept, distillation.student)
        return f"the EMA of decay {name} begins at the student's weights: the checkpoint has none"
    auxiliary = distillation.auxiliaries[name]
    if auxiliary.ema_decay is not None:
        ema.begin(auxiliary.network, distillation.student)
        return f"the network {name!r} begins at the student's weights: the checkpoint has none"
    return f"the network {name!r} begins anew: the checkpoint has none of these shapes"


def not_finite(distillation: Distillation) -> list[str]:
    """Return the names of this process's parameters and moments with NaN or infinity.

    Buffers are not checked: a mask may hold infinities. Reads one number from the device, and more
    only if some are not finite.
    """
    named: list[tuple[str, Tensor]] = [
        (f"{prefix}/{name}", each)
        for prefix, network in _networks(distillation)
        for name, each in _parameters(network)
    ]
    named += [
        (f"{prefix}/{name}", each)
        for prefix, learner in _learners(distillation)
        for name, each in _moments(learner)
    ]
    names = [name for name, _ in named]
    held = zip(names, local(_plain_dtype(each.detach()) for _, each in named), strict=True)
    # Checking only the least and the greatest number takes a tenth of `isfinite`'s time.
    bounds = {
        name: torch.stack(each.aminmax()).isfinite().all() for name, each in held if each.numel()
    }
    finite = torch.stack([*bounds.values()])
    if finite.all():
        return []
    return [name for name, fine in zip(bounds, finite.tolist(), strict=True) if not fine]


def ema_prefix(decay: float) -> str:
    """Return how the names of an EMA's tensors begin."""
    return f"ema/{decay}"


def _networks(distillation: Distillation) -> Iterator[tuple[str, nn.Module]]:
    yield "student", distillation.student
    for decay, kept in distillation.emas.items():
        yield ema_prefix(decay), kept
    for name, auxiliary in distillation.auxiliaries.items():
        yield f"auxiliary/{name}", auxiliary.network


def _learners(distillation: Distillation) -> Iterator[tuple[str, Learner]]:
    yield "optimizer", distillation.learner
    for name, learner in distillation.auxiliary_learners.items():
        yield f"auxiliary-optimizer/{name}", learner


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, each in _bare(network).state_dict().items():
        yield _plain(name), _plain_dtype(each.detach())


def _parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, each in _bare(network).named_parameters():
        yield _plain(name), each


def _moments(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Yield AdamW's state by the names of its parameters.

    AdamW makes its state in its first step. Here the same state is made earlier, so that a
    checkpoint has the same tensors at every step.
    """
    own = {id(each): held for each, held in zip(learner.parameters, learner.held, strict=True)}
    for name, parameter in _parameters(learner.network):
        held = own.get(id(parameter))
        if held is None:
            continue
        state = learner.optimizer.state[held]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=held.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(held, memory_format=torch.preserve_format)
        for key, value in state.items():
            yield f"{name}/{key}", value.detach()


def _plain_dtype(tensor: Tensor) -> Tensor:
    """Return the same memory in a dtype that the checkpoint's files can hold."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype in _DTYPES:
        return tensor
    return tensor.view(_OF_SIZE[tensor.itemsize])


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def _plain(name: str) -> str:
    return ".".join(word for word in name.split(".") if word not in _WRAPPERS)
