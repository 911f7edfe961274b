"""The digit classifier. Its penultimate layer gives the features for Fréchet distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.interfaces import ClassFeatures
from ffcore.system.weights import Weights

DIMENSION = 64


class DigitClassifier(nn.Module):
    """Two convolutions and two linear layers: from 8 × 8 digits in [−1, 1] to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, DIMENSION),
            nn.ReLU(),
        )
        self.head = nn.Linear(DIMENSION, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate activations, Float[B, 64], of images Float[B, 1, 8, 8]."""
        out: Tensor = self.body(images.clamp(-1, 1))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, Float[B, 10]."""
        out: Tensor = self.head(self.features(images))
        return out


class DigitFeatures(ClassFeatures):
    """The classifier's penultimate activations."""

    name = "digits"
    classes = 10

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.classifier = DigitClassifier()
        weights.load_into(self.classifier)
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor) -> Tensor:
        """Return Float[B, 64] of digits Float[B, 1, 8, 8]; values outside [−1, 1] are clamped.

        Raises ValueError for samples of another shape.
        """
        if samples.shape[1:] != (1, 8, 8):
            raise ValueError(f"digits reads images (1, 8, 8), found {tuple(samples.shape[1:])}")
        return self.classifier.features(samples)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the ten digits, Float[B, 10]."""
        found: Tensor = self.classifier.head(features)
        return found


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images classified as their label."""
    with torch.no_grad():
        right: Tensor = classifier(images).argmax(1) == labels
    return float(right.double().mean())
