"""Small distillations of every kind, built the same each time."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ffcore.flow.exact import GaussianMixture
from ffcore.training.distillation import Distillation
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_mlp.student import MlpAverageVelocity, MlpVelocity
from ffcore_vsd.objective import VsdCorrector

STEPS = 6


def joint(**arguments: Any) -> Distillation:
    """A run of both objectives, with a schedule and a correction that comes late."""
    torch.manual_seed(0)
    given = {
        "teacher": GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.5, labels=[0, 1]),
        "student": MlpAverageVelocity(2, 2, width=8, depth=2),
        "predictor": FreeFlowPredictor(),
        "corrector": VsdCorrector(online=MlpVelocity(2, 2, width=8, depth=2), online_updates=2),
        "balancer": AdaptiveBalancer(correction=0.25, correction_from=1),
        "optimizer": Optimizer(learning_rate=1e-2, warmup=2, schedule="cosine"),
        "steps": STEPS,
        "batch": 16,
        "ema_decays": [0.9],
    }
    return Distillation(**{**given, **arguments})


def alone(**arguments: Any) -> Distillation:
    """A run of prediction alone."""
    torch.manual_seed(0)
    given = {
        "teacher": GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.5),
        "student": MlpAverageVelocity(2, 0, width=8, depth=2),
        "predictor": FreeFlowPredictor(),
        "balancer": AdaptiveBalancer(),
        "steps": STEPS,
        "batch": 16,
    }
    return Distillation(**{**given, **arguments})


def contents(run: Distillation) -> dict[str, Tensor]:
    """Everything that a run consists of, by name, found without `ffcore.training.checkpoint`."""
    networks = {"student": run.student, "ema": run.ema}
    networks |= {name: each.network for name, each in run.auxiliaries.items()}
    found = {
        f"{prefix}/{name}": each.clone()
        for prefix, network in networks.items()
        for name, each in network.state_dict().items()
    }
    learners = {"student": run.learner, **run.auxiliary_learners}
    for prefix, learner in learners.items():
        for index, state in learner.optimizer.state_dict()["state"].items():
            found |= {f"{prefix}/{index}/{name}": each.clone() for name, each in state.items()}
    return found | {"step": torch.tensor(run.step_index)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def final(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint of a run of one process."""
    newest = max(directory.glob("checkpoints/step-*"))
    return {
        name: each
        for path in newest.glob("*.safetensors")
        for name, each in load_file(path).items()
    }


def ends_as(directory: Path, other: Path) -> bool:
    """Whether two runs end in the same student, average, networks and moments, bit for bit."""
    return same(final(directory), final(other))
