"""DiT's conventions: from its variance-preserving diffusion to a velocity on our path.

DiT reads x_vp = a x + s ε at a timestep 0 … 999, where linear betas give a² = ᾱ and s² = 1 − ᾱ, and
predicts ε. `ffcore/flow/convert.py` turns this into our velocity, in float32 or wider: at the noisy
end an error of ε counts 157-fold. Students and g_ψ read DiT's inputs, but their output is a
velocity. Outside the schedule, t in [0.0099, 0.9937], they get its nearer end's timestep and scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.flow.convention import Convention
from ffcore.flow.convert import ConvertedVelocity, Relation
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import Preconditioning, TransformerVelocity, trainable

DIT = Convention(prediction="noise", path="vp", time="index", schedule="linear")
"""1000 timesteps of linear betas (Ho et al., 2006.11239)."""


RELATION = Relation.of(DIT)


class DiTPreconditioning(Preconditioning):
    """c_noise(t): the timestep, interpolated in t; c_in(t): the scale of DiT's inputs."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return the timestep in [0, 999], interpolated between those of the schedule."""
        return RELATION.time(t.double().clamp(*RELATION.trained)).float()

    def c_in(self, t: Tensor) -> Tensor:
        """Return a + s, at least in float32."""
        scale = RELATION.scale(t.double().clamp(*RELATION.trained))
        return scale.to(torch.promote_types(t.dtype, torch.float32))


class OwnTerms(Preconditioning):
    """The time and the points are the network's own."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return the timestep."""
        return t

    def c_in(self, t: Tensor) -> None:
        """Return None: the points have their scale."""
        del t


def dit_velocity(transformer: Transformer) -> ConvertedVelocity:
    """Return the velocity of a network that predicts ε."""
    return ConvertedVelocity(TransformerVelocity(transformer, OwnTerms()), DIT)


def new_head(transformer: Transformer, takes_guidance: bool) -> TransformerVelocity:
    """Return a velocity to train: a copy whose head is zero, because u is not ε."""
    velocity = TransformerVelocity(transformer, DiTPreconditioning())
    copied = trainable(velocity, takes_guidance)
    for parameter in copied.transformer.final_layer.linear.parameters():
        nn.init.zeros_(parameter)
    return copied
