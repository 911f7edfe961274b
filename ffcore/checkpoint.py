"""Saving a distillation whole, and resuming it bit for bit.

One safetensors file holds the student, its average, every auxiliary network, every optimizer and
the step. Random draws have no state (ffcore/draws.py), so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ffcore.distill import Distillation
from ffcore.learner import Learner
from ffcore.weights import WeightsError, read_weights, write_weights


def save(path: Path, distillation: Distillation, digest: str = "") -> None:
    """Write a checkpoint whole or not at all; `digest` identifies the run's recipe."""
    tensors: dict[str, Tensor] = {}
    for prefix, network in _networks(distillation):
        tensors |= {f"{prefix}/{name}": each for name, each in network.state_dict().items()}
    for prefix, learner in _learners(distillation):
        for index, state in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}/{index}/{name}": torch.as_tensor(v) for name, v in state.items()}
    # A tensor may be shared by two networks; safetensors wants each to own its memory.
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    write_weights(path, tensors, {"step": distillation.step_index, "digest": digest})


def restore(path: Path, distillation: Distillation, digest: str = "") -> None:
    """Bring a freshly built distillation to where `save` left it.

    Raises WeightsError, and changes nothing, where the file is damaged, belongs to another recipe
    or does not fit the networks.
    """
    file = read_weights(str(path))
    if file.config.get("digest") != digest:
        raise WeightsError(
            f"{path} belongs to another recipe, another teacher or another number of data samples"
        )
    left = dict(file.tensors)
    networks = []
    for prefix, network in _networks(distillation):
        state = {name: left.pop(f"{prefix}/{name}", None) for name in network.state_dict()}
        networks.append((network, state))
        _check(path, prefix, network, state)
    optimizers = []
    for prefix, learner in _learners(distillation):
        moments = _take_moments(path, prefix, learner, left)
        optimizers.append((learner, {**learner.optimizer.state_dict(), "state": moments}))
    if left:
        raise WeightsError(f"{path} holds what this run does not know: {', '.join(sorted(left))}")
    for network, tensors in networks:
        network.load_state_dict(tensors)
    for learner, packed in optimizers:
        learner.optimizer.load_state_dict(packed)
    distillation.step_index = int(file.config["step"])


def _check(path: Path, prefix: str, network: nn.Module, state: dict[str, Tensor | None]) -> None:
    for name, expected in network.state_dict().items():
        _require_shape(path, f"{prefix}/{name}", state[name], expected.shape)


def _take_moments(
    path: Path, prefix: str, learner: Learner, left: dict[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """Move AdamW's state out of `left`; a parameter that was never updated has none."""
    moments = {}
    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        found = {name: left.pop(f"{prefix}/{index}/{name}", None) for name in shapes}
        if any(each is not None for each in found.values()):
            for name, shape in shapes.items():
                _require_shape(path, f"{prefix}/{index}/{name}", found[name], shape)
            moments[index] = {name: each for name, each in found.items() if each is not None}
    return moments


def _require_shape(path: Path, name: str, found: Tensor | None, expected: torch.Size) -> None:
    if found is None or found.shape != expected:
        shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
        raise WeightsError(f"{path}: {name} is {shape}, {tuple(expected)} is expected")


def _networks(distillation: Distillation) -> Iterator[tuple[str, nn.Module]]:
    yield "student", distillation.student
    for decay, average in distillation.averages.items():
        yield f"average/{decay}", average
    for name, auxiliary in distillation.auxiliaries.items():
        yield f"auxiliary/{name}", auxiliary.network


def _learners(distillation: Distillation) -> Iterator[tuple[str, Learner]]:
    yield "optimizer", distillation.learner
    for name, learner in distillation.auxiliary_learners.items():
        yield f"auxiliary-optimizer/{name}", learner
