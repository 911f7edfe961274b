"""DiT's conventions: from its variance-preserving diffusion to a velocity on our path.

DiT reads x_vp = a x + s ε at a timestep 0 … 999, where linear betas give a² = ᾱ and s² = 1 − ᾱ, and
predicts ε. x_vp / (a + s) is on our path at t = s / (a + s), so a change of time and scale turns
its ODE into ours. In our t,

    x_vp = x_t / √((1 − t)² + t²)    and    u = x − ε = (x_t − ε) / (1 − t).

Both are exact at any t; only the embedded timestep is interpolated. The schedule covers t in
[0.0099, 0.9937]. Beyond its ends, the timestep and the divisor are those of the end, but x_t is
unchanged. At the noisy end an error of ε counts 157-fold, so this is computed at least in float32.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, VelocityField
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import Preconditioning, TransformerVelocity, trainable

TIMESTEPS = 1000
BETAS = (1e-4, 0.02)
"""First and last of a linear schedule (Ho et al., 2006.11239)."""


@functools.cache
def schedule(device: torch.device) -> Tensor:
    """Return our time t = s / (a + s) at each of DiT's timesteps, increasing: float64 [1000]."""
    betas = torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return (s / (a + s)).to(device)


def clamp_time(t: Tensor) -> Tensor:
    """Return times clamped to the schedule, at least in float32."""
    times = schedule(torch.device("cpu"))
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    return wide.clamp(float(times[0]), float(times[-1]))


class DiTPreconditioning(Preconditioning):
    """c_noise(t): the timestep, interpolated in t; c_in(t): the scale of DiT's inputs."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return the timestep in [0, 999], interpolated between those of the schedule."""
        times = schedule(t.device)
        t = t.double().clamp(times[0], times[-1])
        above = torch.searchsorted(times, t).clamp(min=1)
        step = (t - times[above - 1]) / (times[above] - times[above - 1])
        return (above - 1 + step).float()

    def c_in(self, t: Tensor) -> Tensor:
        """Return a + s."""
        t = clamp_time(t)
        scale: Tensor = ((1 - t) ** 2 + t**2).rsqrt()
        return scale


class DiTVelocity(VelocityField):
    """u = (x_t − ε) / (1 − t), where the network predicts ε."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.noise = TransformerVelocity(transformer, DiTPreconditioning())

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        epsilon: Tensor = self.noise(x_t, t, condition)
        wide = torch.promote_types(x_t.dtype, torch.float32)
        left = expand_like(1 - clamp_time(t), x_t).to(wide)
        return ((x_t.to(wide) - epsilon.to(wide)) / left).to(x_t.dtype)

    def trainable(self, takes_guidance: bool) -> TransformerVelocity:
        """Return a velocity to train: a copy whose head is zero, because u is not ε."""
        copied = trainable(self.noise, takes_guidance)
        for parameter in copied.transformer.final_layer.linear.parameters():
            nn.init.zeros_(parameter)
        return copied
