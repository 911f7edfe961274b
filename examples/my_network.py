"""Stands for your own code: a network, its training and its weights file. It does not know ffcore.

Its conventions differ from ffcore's, as yours may: time runs from 0 (noise) to 1 (data), and the
network returns data - noise.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = 3
NULL = CLASSES  # the label of "no class", which a tenth of the training samples get


class Network(nn.Module):
    """An MLP of a point in the plane, a time and a label."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.label = nn.Embedding(CLASSES + 1, width)
        self.time = nn.Sequential(nn.Linear(9, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(2, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return data - noise at each point."""
        if self.training:  # as published code does: harmless in eval mode only
            label = label.masked_fill(torch.rand(len(label)) < 0.1, NULL)
        angle = time[:, None] * torch.tensor([1.0, 2.0, 3.0, 4.0])
        h = self.enter(x) + self.label(label)
        h = h + self.time(torch.cat([time[:, None], angle.sin(), angle.cos()], 1))
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        out: Tensor = self.leave(nn.functional.silu(h))
        return out


def draw_data(label: Tensor) -> Tensor:
    """Return a sample of each label: a noisy arc, a third of a circle."""
    angle = (label + 0.8 * torch.rand(len(label))) * (2 * torch.pi / CLASSES)
    radius = 2 + 0.1 * torch.randn(len(label))
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def train_network(steps: int = 3000, batch: int = 256) -> Network:
    """Train the network on data by flow matching."""
    network = Network().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        label, time = torch.randint(CLASSES, (batch,)), torch.rand(batch)
        data, noise = draw_data(label), torch.randn(batch, 2)
        point = (1 - time[:, None]) * noise + time[:, None] * data
        loss = (network(point, time, label) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def load_network(path: str) -> Network:
    """Load the weights file; write it first if it is missing, which takes some seconds."""
    if not Path(path).exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(train_network().state_dict(), path)
    network = Network()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network
