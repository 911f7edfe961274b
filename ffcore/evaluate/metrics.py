"""Distances in feature spaces, computed by torch-fidelity.

Only this module imports torch-fidelity, and only when it measures.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@attrs.frozen(eq=False)
class Statistics:
    """Mean [D] and covariance [D, D] of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]

    @staticmethod
    def of(features: Tensor) -> Statistics:
        """Return the statistics of Float[N, D], N ≥ 2."""
        found = import_torch_fidelity().fid_features_to_statistics(features.detach().cpu().double())
        return Statistics(found["mu"], np.atleast_2d(found["sigma"]))


class Moments:
    """Mean and covariance of features that come in blocks, in the memory of one block.

    Each block is centred by its own mean, and two groups are joined as in Chan, Golub & LeVeque
    (1983), so nothing cancels if the mean is much larger than the spread. float64, on the CPU.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        """Float[D]."""
        self.scatter = torch.zeros(())
        """Sum of the outer products of deviations from the mean, Float[D, D]."""

    def add(self, features: Tensor) -> None:
        """Take a block Float[B, D], B ≥ 1."""
        block = features.detach().cpu().double()
        mean = block.mean(0)
        centred = block - mean
        self.join(len(block), mean, centred.T @ centred)

    def join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Take the moments of other features, at least one."""
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return
        total = self.count + count
        away = mean - self.mean
        share = count / total
        self.scatter += scatter + torch.outer(away, away) * (self.count * share)
        self.mean += away * share
        self.count = total

    @property
    def dimension(self) -> int:
        """D, after the first block."""
        return len(self.mean)

    def statistics(self) -> Statistics:
        """Return the statistics of all features so far, at least two."""
        assert self.count >= 2
        return Statistics(self.mean.numpy(), (self.scatter / (self.count - 1)).numpy())


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) (Heusel et al., 1706.08500)."""
    found = import_torch_fidelity().fid_statistics_to_metric(
        attrs.asdict(a), attrs.asdict(b), verbose=False
    )
    return float(found["frechet_inception_distance"])


SUBSETS, SUBSET = 100, 1000
"""Number of subsets of a kernel distance, and the most samples in each."""
NEIGHBOUR = 3
"""The ball around a sample reaches to its nearest neighbour of this rank."""


def kernel_distance(a: Tensor, b: Tensor) -> tuple[float, float, int]:
    """Return the squared MMD with the kernel (⟨x, y⟩ / D + 1)³ (Bińkowski et al., 1801.01401).

    Args:
        a, b: features Float[N, D] and Float[M, D], at least four of each.

    Returns:
        Mean and standard deviation over SUBSETS random subsets, and the samples in each: SUBSET,
        or half of all samples if that is less, since equal subsets have no spread. The mean is
        unbiased, so it can be slightly below 0 if both distributions are equal.
    """
    size = min(SUBSET, len(a) // 2, len(b) // 2)
    found = import_torch_fidelity("metric_kid").kid_features_to_metric(
        a.double(), b.double(), kid_subsets=SUBSETS, kid_subset_size=size, verbose=False
    )
    mean, spread = (found[f"kernel_inception_distance_{each}"] for each in ("mean", "std"))
    return float(mean), float(spread), size


SPLITS = 10
"""Number of random parts of the samples over which an Inception Score is averaged."""
_LEAST = -700.0
"""Logarithm of a likelihood; float64 has none below −745."""


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Return exp E KL(p(y|x) ‖ p(y)) of a classifier's logits (Salimans et al., 1606.03498).

    Args:
        logits: Float[N, K], N at least SPLITS.

    Returns:
        Mean and standard deviation over SPLITS; from 1 to K.
    """
    # If a class has likelihood 0 in a whole part, torch-fidelity computes 0 · log 0, which is NaN.
    likelihoods = logits.double().log_softmax(1).clamp(min=_LEAST)
    found = import_torch_fidelity("metric_isc").isc_features_to_metric(likelihoods, splits=SPLITS)
    mean, spread = (found[f"inception_score_{each}"] for each in ("mean", "std"))
    return float(mean), float(spread)


def precision_recall(samples: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return precision and recall (1904.06991): the share of samples inside the reference, and
    reverse.

    A point lies inside a set if one of the set's balls holds it; see NEIGHBOUR.

    Args:
        samples, reference: features Float[N, D] and Float[M, D], more than NEIGHBOUR of each.
    """
    found = import_torch_fidelity("metric_prc").prc_features_to_metric(
        samples.double(),
        reference.double(),
        prc_neighborhood=NEIGHBOUR,
        prc_batch_size=1000,  # of which each has a row of distances in memory
        save_cpu_ram=True,
        verbose=False,
    )
    return float(found["precision"]), float(found["recall"])


def import_torch_fidelity(module: str = "metric_fid") -> Any:
    """Import a module of torch-fidelity; work around a broken torchvision if needed."""
    try:
        return import_module(f"torch_fidelity.{module}")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        declare_torchvision_operators()
        return import_module(f"torch_fidelity.{module}")


_torchvision: torch.library.Library | None = None


def declare_torchvision_operators() -> None:
    """Declare the operators that torchvision's import needs.

    A torchvision built for CUDA cannot load its operators beside a torch without CUDA, and then
    fails on import over the schema of two of them. ffcore calls neither.
    """
    global _torchvision
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if _torchvision is None:
        _torchvision = torch.library.Library("torchvision", "DEF")
        _torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
