"""Verifiers of 8 × 8 digits for `ffd search`: choose with one kind, judge with the other.

`confidence` uses the shipped classifier. `nearness` and `agreement` do not: they compare pixels
with samples of the shipped teacher, which are made once per process.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Context
from ffcore.recipe import component
from ffcore.system.weights import read_weights
from ffcore_digits.classifier import DigitClassifier
from ffcore_digits.tables import CLASSIFIER

TEACHER = "ffcore_digits:teacher.safetensors"
SAMPLES = 500
"""Number of the teacher's samples, equally many per class."""


def confidence(images: Tensor, condition: Condition) -> Tensor:
    """Return the classifier's log-probability of the requested class, Float[B], at most 0."""
    logits: Tensor = _classifier().to(images.device)(images)
    return logits.log_softmax(1).gather(1, _labels(condition)[:, None])[:, 0]


def nearness(images: Tensor, condition: Condition) -> Tensor:
    """Return minus the distance to the teacher's nearest sample of the requested class, Float[B].

    The distance is the root mean square over pixels: it is small for images that look like the
    converged teacher's samples of that class.
    """
    distances, labels = _distances(images)
    other = labels[None] != _labels(condition)[:, None]
    return -distances.masked_fill(other, torch.inf).amin(1)


def agreement(images: Tensor, condition: Condition) -> Tensor:
    """Return 1 where the teacher's nearest sample has the requested class, else 0, Float[B]."""
    distances, labels = _distances(images)
    return (labels[distances.argmin(1)] == _labels(condition)).double()


def _labels(condition: Condition) -> Tensor:
    if condition.label is None:
        raise ValueError("verifiers of digits need the requested class, but these have no classes")
    return condition.label


@functools.cache
def _classifier() -> DigitClassifier:
    classifier = DigitClassifier()
    read_weights(CLASSIFIER).load_into(classifier)
    return classifier.requires_grad_(False).eval()


def _distances(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to each of the teacher's samples, Float[B, SAMPLES], and their labels."""
    samples, labels = (each.to(images.device) for each in _teachers_samples())
    size = samples.shape[1]
    return torch.cdist(images.flatten(1).float(), samples) / size**0.5, labels


@functools.cache
def _teachers_samples() -> tuple[Tensor, Tensor]:
    """Return converged samples Float[SAMPLES, 64], from noise that no search draws, and labels."""
    with torch.random.fork_rng(devices=[]):
        teacher = component("teacher", {"type": "sit", "weights": TEACHER}).build(Context())
    draws = Draws(0, 0, 0, SAMPLES).named("verifiers of digits")
    labels = torch.arange(SAMPLES) % 10
    z = draws.normal("z", teacher.sample_shape)
    samples = [
        integrate(teacher, part, Condition(size=len(part), label=label), Solver("heun", 16))
        for part, label in zip(z.split(100), labels.split(100), strict=True)
    ]
    return torch.cat(samples).clamp(-1, 1).flatten(1), labels
