"""Stands for your own code: trains the U-Net on scikit-learn's digits, as published code does.

    python train_unet.py    # some minutes on one CPU core; writes unet.pt

The checkpoint holds the raw weights (`model`), their average (`ema`), the optimizer and the step.
"""

import argparse
import copy
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from unet import CLASSES, NULL, TIMESTEPS, UNet, alphas_cumprod


def data() -> tuple[Tensor, Tensor]:
    """Return the 1,797 digits, Float[N, 1, 8, 8] in [−1, 1], and their labels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    assert int(found.target.max()) == CLASSES - 1
    return images, torch.tensor(found.target)


def train(steps: int, batch: int = 128, decay: float = 0.999) -> dict[str, object]:
    """Train to predict the noise; return the checkpoint."""
    images, labels = data()
    model, bar = UNet(), alphas_cumprod()
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun = time.monotonic()
    for step in range(1, steps + 1):
        which, timestep = torch.randint(len(images), (batch,)), torch.randint(TIMESTEPS, (batch,))
        x, label, noise = images[which], labels[which], torch.randn(batch, 1, 8, 8)
        label = label.masked_fill(torch.rand(batch) < 0.1, NULL)
        alpha = bar[timestep][:, None, None, None].sqrt()
        point = alpha * x + (1 - alpha**2).sqrt() * noise
        loss = (model(point, timestep.float(), label) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
                average.lerp_(weight, 1 - min(decay, step / (step + 10)))
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s")
    return {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": steps,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a noise-predicting U-Net on digits.")
    parser.add_argument("--steps", type=int, default=5000, help="Number of training steps.")
    torch.set_num_threads(1)  # small networks are fastest with one
    torch.manual_seed(0)
    torch.save(train(parser.parse_args().steps), "unet.pt")
