"""The Inception network of published FIDs, from torch-fidelity.

It enlarges 8-bit RGB to 299 × 299 as TensorFlow 1 did. Its weights are those of 2015-12-05,
converted. Distances with any other Inception network are not comparable.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from ffcore.evaluate.metrics import import_torch_fidelity
from ffcore.interfaces import ClassFeatures, is_image
from ffcore.sample import to_uint8
from ffcore.system.weights import Weights, WeightsError

_LAYER = "2048"


def pixels(who: str, samples: Tensor) -> Tensor:
    """Return Byte[B, 3, H, W] of RGB or grey images in [−1, 1].

    Raises ValueError, which names `who`, for samples of another shape.
    """
    if not is_image(samples.shape[1:]):
        found = tuple(samples.shape[1:])
        raise ValueError(f"{who} reads images with 3 channels or 1, found {found}")
    return to_uint8(samples).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


class InceptionFeatures(ClassFeatures):
    """The activations of the last pool."""

    name = "inception"
    classes = None  # its 1008 classes of 2015 have an order of their own

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.network = _network(weights)

    def forward(self, samples: Tensor) -> Tensor:
        """Return Float[B, 2048] of images Float[B, C, H, W] in [−1, 1], C = 3, or 1 for grey.

        Images are rounded to 8 bits first. Raises ValueError for samples of another shape.
        """
        found: Tensor
        (found,) = self.network(pixels("inception", samples))
        return found

    def logits(self, features: Tensor) -> Tensor:
        """Return Float[B, 1008], without the bias, as published Inception Scores use them."""
        return features.mm(self.network.fc.weight.T)


def _network(weights: Weights) -> Any:
    """Return the network, in eval mode. Raises WeightsError if the weights do not fit."""
    weights.check_finite(name for name in weights.tensors)
    # The network's constructor unpickles any file without checks: it gets one made here.
    file = io.BytesIO()
    torch.save(weights.tensors, file)
    file.seek(0)
    extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    try:
        # The initial random weights are overwritten; they must not shift the run's random numbers.
        with torch.random.fork_rng(devices=[]):
            network = extractor(
                "inception-v3-compat", [_LAYER], feature_extractor_weights_path=file
            )
    except RuntimeError as error:
        said = "\n".join(str(error).splitlines()[:5])
        raise WeightsError(
            f"{weights.label} does not fit torch-fidelity's Inception network: {said}"
        ) from None
    return network.eval()
