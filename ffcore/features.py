"""Feature spaces and the Fréchet distance in them, which torch-fidelity computes.

torch-fidelity is imported here only, and only when something is measured.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffcore.interfaces import Features, Teacher
from ffcore.parallel import whole


class Raw(Features):
    """The sample itself, flattened: pixels, latents or vectors."""

    name = "raw"

    def forward(self, samples: Tensor) -> Tensor:
        """Return Float[B, d] of samples Float[B, *S]."""
        return samples.flatten(1)


@attrs.frozen(eq=False)
class Statistics:
    """Mean [D] and covariance [D, D] of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]

    @staticmethod
    def of(features: Tensor) -> Statistics:
        """Return the statistics of Float[N, D], N ≥ 2."""
        found = _fidelity().fid_features_to_statistics(features.detach().cpu().double())
        return Statistics(found["mu"], np.atleast_2d(found["sigma"]))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) (Heusel et al., 1706.08500)."""
    found = _fidelity().fid_statistics_to_metric(attrs.asdict(a), attrs.asdict(b), verbose=False)
    return float(found["frechet_inception_distance"])


def register(features: Features) -> str:
    """Register `features` with torch-fidelity, so that all its metrics can use them.

    Returns:
        The name for `calculate_metrics(feature_extractor=…)`: "ffcore-" and the features' own. Its
        inputs are then samples as `features` takes them, not 8-bit images.
    """
    _fidelity()
    import torch_fidelity
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Extractor(torch_fidelity.FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            del options  # torch-fidelity hands every extractor all of its settings
            super().__init__(name, features_list)
            self.features = features

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (features.name,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            del metric
            return features.name

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, samples: Tensor) -> tuple[Tensor, ...]:
            return (self.features(samples),)

    name = f"ffcore-{features.name}"
    FEATURE_EXTRACTORS_REGISTRY.pop(name, None)  # the latest registration counts
    torch_fidelity.register_feature_extractor(name, Extractor)
    return name


UNKNOWN = "unknown"
"""The fingerprint of a teacher that nothing tells apart from another."""


def fingerprint(network: nn.Module) -> str:
    """Return a digest of a network's class, parameters and buffers.

    A teacher that has none of either, such as a plain function, is UNKNOWN.
    """
    # A sharded network's class has a prefix to its name, and its tensors are cut.
    digest = hashlib.sha256(type(network).__name__.removeprefix("FSDP").encode())
    state = network.state_dict()
    if not state and isinstance(network, Teacher):
        return UNKNOWN
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain: Tensor = whole(tensor.detach()).cpu().clone(memory_format=torch.contiguous_format)
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fidelity() -> Any:
    """Import torch-fidelity's distance, curing torchvision's import where it needs it."""
    try:
        from torch_fidelity import metric_fid
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        declare_torchvision_operators()
        from torch_fidelity import metric_fid
    return metric_fid


_torchvision: torch.library.Library | None = None


def declare_torchvision_operators() -> None:
    """Declare the operators that torchvision's import asks for.

    A torchvision built for CUDA, beside a torch that is not, cannot load its own operators and
    then fails on import over the schema of two of them. Nothing here calls them.
    """
    global _torchvision
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if _torchvision is None:
        _torchvision = torch.library.Library("torchvision", "DEF")
        _torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
