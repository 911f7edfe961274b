"""Training of the shipped networks, for `python -m ffcore_digits`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.path import interpolate
from ffcore.interfaces import Condition, VelocityField
from ffcore.training import ema
from ffcore.training.optimizer import Optimizer
from ffcore_digits.classifier import DigitClassifier

Progress = Callable[[int, int, float], None]
"""(step, steps, loss), called once per step."""


def shift(images: Tensor, draws: Draws) -> Tensor:
    """Shift each image by −1, 0 or 1 pixel along both axes; new pixels are background."""
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    rows, columns = draws.integers("rows", 3), draws.integers("columns", 3)
    grid = torch.arange(images.shape[-1])
    index = torch.arange(len(images))[:, None, None]
    return padded[:, 0][
        index, (rows[:, None] + grid)[:, :, None], (columns[:, None] + grid)[:, None, :]
    ][:, None]


def _training(steps: int, batch: int, seed: int, count: int) -> Iterator[tuple[int, Draws, Tensor]]:
    for step in range(steps):
        draws = Draws(seed, step, 0, batch)
        yield step, draws, draws.integers("which", count)


def train_classifier(
    images: Tensor, labels: Tensor, *, steps: int, batch: int, seed: int, progress: Progress
) -> DigitClassifier:
    """Train by cross-entropy on shifted digits with noise of random strength; return the EMA."""
    network = DigitClassifier()
    kept = ema.ema_copy(network)
    table = Optimizer(learning_rate=2e-3, weight_decay=1e-2, schedule="cosine", warmup=50)
    optimizer = table.build(network.parameters())
    for step, draws, which in _training(steps, batch, seed, len(images)):
        optimizer.param_groups[0]["lr"] = table.learning_rate * table.factor(step, steps)
        x = shift(images[which], draws)
        noise = 0.3 * draws.uniform("strength")[:, None, None, None]
        x = x + noise * draws.normal("noise", tuple(x.shape[1:]))
        loss = functional.cross_entropy(network(x), labels[which], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ema.update(kept, network, 0.995, step)
        progress(step, steps, loss.item())
    return kept


def train_teacher(
    network: VelocityField,
    images: Tensor,
    labels: Tensor,
    *,
    null_label: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> VelocityField:
    """Train by flow matching, with one label in ten replaced by the null label; return the EMA."""
    kept = ema.ema_copy(network)
    table = Optimizer(learning_rate=learning_rate, schedule="cosine", warmup=200)
    optimizer = table.build(network.parameters())
    for step, draws, which in _training(steps, batch, seed, len(images)):
        optimizer.param_groups[0]["lr"] = table.learning_rate * table.factor(step, steps)
        x, n = images[which], draws.normal("noise", tuple(images.shape[1:]))
        t = draws.uniform("time")
        label = torch.where(draws.uniform("drop") < 0.1, null_label, labels[which])
        velocity = network(interpolate(x, n, t), t, Condition(size=batch, label=label))
        loss = functional.mse_loss(velocity, x - n)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update(kept, network, 0.999, step)
        progress(step, steps, loss.item())
    return kept
